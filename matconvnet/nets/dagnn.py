"""DagNN: a network whose layers are wired by named variables."""

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from matconvnet import geometry
from matconvnet.blocks import Dropout
from matconvnet.errors import GraphError
from matconvnet.executor import OnParam, Record
from matconvnet.layer import Field
from matconvnet.nets import dagstruct
from matconvnet.nets._camel import hint, option_pairs
from matconvnet.nets._params import Server, draw, param_shapes
from matconvnet.nets._views import DagLayer, by_name
from matconvnet.nets._wiring import Names, Wiring
from matconvnet.nets.network import Mode
from matconvnet.recompute import Recompute
from matconvnet.values import Struct, StructArray

if TYPE_CHECKING:
    from matconvnet.nets.simplenn import SimpleNN

Pairs = Mapping[str, Any] | Sequence[Any]
"""Values by name: a dictionary, or a flat list of name, value, name, value, ..."""


class DagNN(Wiring):
    """A directed acyclic graph of layers and variables, with parameters.

        net = DagNN()
        net.add_layer("conv1", Conv(size=(5, 5, 3, 20)), "x0", "x1", ("conv1f", "conv1b"))
        net.add_layer("loss", Loss(), ("x1", "label"), "objective")
        net.init_params()
        net.eval({"x0": images, "label": labels}, {"objective": 1})
        net.params["conv1f"].der

    Attributes of the network are what `eval` does unless it is told otherwise:
        mode: "normal" (training; also called "train") or "test".
        conserve_memory: free values and derivatives once they are used up. What is left: values
            and derivatives of inputs and outputs of the network and of precious variables.
        accumulate_param_ders: add to the derivatives of parameters in place of replacing them.
        hold_on: keep derivatives of parameters from the parameter server for now.

    Every name works in MatConvNet's spelling too (`net.addLayer`, `net.conserveMemory = False`).
    Source: dagnn.DagNN.
    """

    conserve_memory: bool = True
    accumulate_param_ders: bool = False
    hold_on: bool = False

    def __init__(self, meta: Mapping[str, Any] | None = None):
        """An empty network with meta data."""
        super().__init__(meta)
        self._mode: Mode = "normal"
        self._server: Server | None = None

    def __repr__(self) -> str:
        counts = f"{len(self.layers)} layers, {len(self.vars)} vars, {len(self.params)} params"
        return f"DagNN: {counts}"

    @property
    def mode(self) -> Mode:
        """Evaluate for training ("normal") or for use ("test")."""
        return self._mode

    @mode.setter
    def mode(self, mode: str) -> None:
        self._mode = _mode(mode)

    @property
    def parameter_server(self) -> Server | None:
        """The server that derivatives of parameters are handed to; see `set_parameter_server`."""
        return self._server

    @property
    def device(self) -> torch.device:
        """Where the parameters are; see `move`."""
        values = (param.value for param in self.params.values())
        return next((v.device for v in values if v is not None), torch.device("cpu"))

    @property
    def input(self) -> str:
        """The variable that takes the data: the first input of the network that is not a label.

        Raises: GraphError, if there is none.
        """
        for v in self.data_inputs:
            return v
        raise GraphError("the network has no input for data; wanted a layer that reads one first")

    @option_pairs
    def eval(
        self,
        inputs: Pairs,
        ders: Pairs | None = None,
        *,
        hold_on: bool | None = None,
        mode: Mode | None = None,
        generator: torch.Generator | None = None,
        record: Record | None = None,
        depth: int | None = None,
        conserve_memory: bool | None = None,
        precious: Iterable[str] = (),
        accumulate: bool | None = None,
        on_param: OnParam | None = None,
        wanted_inputs: Iterable[str] | None = None,
        out: Mapping[str, Tensor] | None = None,
        recompute: Recompute = False,
        sync: bool = False,
    ) -> Record:
        """Evaluate the layers whose inputs are all there; differentiate, if `ders` are given.

        Args:
            inputs: tensors or arrays by variable; any variable may be given. Maps are
                H x W x C x N, labels count from 0. A dictionary, or a flat list of names and
                values.
            ders: derivatives of the objective by variable, in the same form; a number stands for
                that of a scalar. None, or none at all: no derivatives.
            hold_on: keep the derivatives from the parameter server this time.
            mode, conserve_memory, accumulate: None: the attributes of the network.
            record: the evaluation whose parameter derivatives `accumulate` adds to; None: the last.
            on_param: called with the name and derivative of each parameter as it is complete, in
                place of the parameter server.
            generator, depth, precious, wanted_inputs, out, recompute, sync: see `Network.eval`.

        Returns: the new `net.record`, which `net.vars` and `net.params` show too.
        Raises: KeyError for names that are no variables; ValueError for a parameter without value.
        Source: DagNN.eval. Unlike there, nothing of an earlier evaluation is left but the
            derivatives that are accumulated.
        """
        values = self._by_name(inputs, "inputs")
        projections = None if ders is None else self._by_name(ders, "ders") or None
        self._check_params(values)
        accumulate = self.accumulate_param_ders if accumulate is None else accumulate
        if accumulate and record is None:
            record = Record(param_ders=self.record.param_ders)
        hold_on = self.hold_on if hold_on is None else hold_on
        if on_param is None and self._server is not None and not hold_on:
            on_param = self._server.push
        self.record = Record()  # or the values of the last evaluation would outlive it
        self.record = super().eval(
            values, projections, mode=self.mode if mode is None else _mode(mode),
            generator=generator, record=record, depth=depth,
            conserve_memory=self.conserve_memory if conserve_memory is None else conserve_memory,
            precious=precious, accumulate=accumulate, on_param=on_param,
            wanted_inputs=wanted_inputs, out=out, recompute=recompute, sync=sync,
        )  # fmt: skip
        return self.record

    def _evaluated(self, record: Record) -> None:
        """Keep the first mask of every frozen dropout."""
        for layer in self._layers.values():
            block = layer.block
            if isinstance(block, Dropout) and block.frozen and block.mask is None:
                mask = block.mask_of(record.saved.get(layer.name))
                if mask is not None:
                    layer.block = replace(block, mask=mask)

    def _by_name(self, pairs: Any, what: str) -> dict[str, Any]:
        """Values by name of a variable, whichever way they were given."""
        values = by_name(pairs, what)
        known = self.vars
        unknown = [name for name in values if name not in known]
        if unknown:
            hints = "; ".join(f"{name!r}: {hint(name, known)}" for name in unknown)
            raise KeyError(f"{what} names {unknown}, which are no variables ({hints})")
        return values

    def _check_params(self, given: Iterable[str]) -> None:
        """Raise ValueError, if a layer that will be evaluated lacks the value of a parameter."""
        there = set(given)
        for node in self.graph.nodes:
            if not there.issuperset(node.inputs):
                continue
            there.update(node.outputs)
            for name in node.params:
                if self._params[name].value is None:
                    raise ValueError(
                        f"parameter {name!r} of layer {node.name!r} has no value; "
                        "call init_params, or assign one to net.params[...].value"
                    )

    def init_params(self, seed: int = 0) -> None:
        """Draw new values for all parameters, layer by layer; the last user of a shared one wins.

        Raises: ValueError, if a layer does not draw all its parameters.
        Source: DagNN.initParams.
        """
        generator, device = torch.Generator().manual_seed(seed), self.device
        for layer in self._layers.values():
            values = draw(layer.node, generator) if layer.params else []
            if len(values) != len(layer.params):
                raise ValueError(
                    f"layer {layer.name!r} ({type(layer.block).__name__}) draws {len(values)} "
                    f"parameters; it is given {len(layer.params)}: {list(layer.params)}"
                )
            for name, value in zip(layer.params, values, strict=True):
                self._params[name].value = value.to(device)

    def reset(self) -> None:
        """Forget the last evaluation, masks of dropout, and the parameter server."""
        self.clear_parameter_server()
        self.record = Record()
        for layer in self._layers.values():
            if isinstance(layer.block, Dropout) and layer.block.frozen:
                layer.block = replace(layer.block, frozen=False, mask=None)

    def move(self, device: torch.device | str) -> None:
        """Reset, and move the parameters to a device: "cpu", "gpu", or one of PyTorch's.

        Raises: ValueError for anything else.
        """
        try:
            target = torch.device("cuda" if device == "gpu" else device)
        except RuntimeError as error:
            raise ValueError(f"device is {device!r}; wanted 'cpu' or 'gpu'") from error
        self.reset()
        self.to(target)

    def set_parameter_server(self, server: Server) -> None:
        """Declare all parameters to a server, in order, and start it.

        From now on derivatives of parameters are pushed there as soon as they are complete, unless
        on hold, and are not kept.
        """
        self.clear_parameter_server()
        for name, param in self.params.items():
            if param.value is None:
                raise ValueError(f"parameter {name!r} has no value; call init_params first")
            server.register(name, param.value.shape, param.value.dtype, param.value.device)
        server.start()
        self._server = server

    def clear_parameter_server(self) -> None:
        """Stop and forget the parameter server, if there is one."""
        if self._server is not None:
            self._server.stop()
            self._server = None

    def copy(self) -> "DagNN":
        """A network of its own with the same layers and meta data, and copies of the parameters.

        Nothing of the last evaluation is copied, nor how the network is evaluated.
        """
        net = type(self)(copy.deepcopy(self.meta))
        net.extra, net.beside = copy.deepcopy(self.extra), copy.deepcopy(self.beside)
        for layer in self._layers.values():
            block = layer.block
            if isinstance(block, Dropout) and block.mask is not None:
                block = replace(block, mask=None)
            node, extra = layer.node._replace(layer=block), copy.deepcopy(layer.extra)
            net._layers[layer.name] = DagLayer(node, extra, net._latest)
        for name, param in self.params.items():
            value = None if param.value is None else param.value.clone()
            net._params[name] = replace(param, value=value, latest=net._latest)
        for name, var in self.vars.items():
            net._vars[name] = replace(var, latest=net._latest)
        return net

    def get_var_sizes(self, input_sizes: Pairs) -> dict[str, geometry.Size]:
        """Sizes (H, W, C, N) of all variables, from those of some; nan where unknown.

        Args:
            input_sizes: sizes by variable, as a dictionary or a flat list; ones are added to fewer
                than four numbers.

        Raises: KeyError for a name that is no variable.
        Source: DagNN.getVarSizes.
        """
        sizes = self._by_name(input_sizes, "input_sizes")
        found = geometry.variable_sizes(self.graph, sizes, param_shapes(self.graph, self.params))
        return {name: found[name] for name in self.vars}

    def get_var_receptive_fields(self, variables: Names) -> Any:
        """Receptive fields, in `variables`, of the variables computed from them.

        Returns: for one name, a dictionary: `Field(size, stride, offset)` by variable, None where
            there is no sliding window; what does not depend on it is left out. For a list of
            names, the dictionary of such dictionaries.
        Source: DagNN.getVarReceptiveFields; our offsets count from 0.
        """
        shapes = param_shapes(self.graph, self.params)

        def fields_in(name: str) -> dict[str, Field | None]:
            return geometry.receptive_fields(self.graph, name, shapes)

        if isinstance(variables, str):
            return fields_in(variables)
        return {name: fields_in(name) for name in variables}

    @classmethod
    def from_struct(cls, struct: Mapping[str, Any], *, keep_unknown: bool = False) -> "DagNN":
        """Read a struct, as files hold it; the values of parameters are shared with it.

        keep_unknown: put a placeholder in the place of a layer whose class nobody registered.

        Raises: FormatError, naming the layer, parameter or variable.
        Source: DagNN.loadobj.
        """
        meta = struct.get("meta")
        net = cls(meta if isinstance(meta, Mapping) else None)
        for entry in dagstruct.records(struct.get("layers"), "layers"):
            name, block, *wiring, extra = dagstruct.read_layer(entry, keep_unknown)
            net.add_layer(name, block, *wiring)
            net.layers[name].extra = extra
        banks = {node.params[0] for node in net.graph.nodes if "filters" in node.layer.param_names}
        for record in dagstruct.records(struct.get("params"), "params"):
            dagstruct.read_param(record, net.params, banks)
        for record in dagstruct.records(struct.get("vars"), "vars"):
            if record.get("name") in net.vars:
                net.vars[record["name"]].precious = bool(record.get("precious", False))
        net.extra = Struct({k: v for k, v in struct.items() if k not in dagstruct.FIELDS})
        return net

    def to_struct(self) -> Struct:
        """The network as files hold it; the values of parameters are shared with it.

        Source: DagNN.saveobj, which leaves out how parameters are trained.
        """
        layers = (
            dagstruct.write_layer(
                dagstruct.Placed(it.name, it.block, it.inputs, it.outputs, it.params, it.extra)
            )
            for it in self.layers.values()
        )
        names = ({"name": var.name, "precious": var.precious} for var in self.vars.values())
        return Struct(
            vars=StructArray(map(Struct, names), fields=("name", "precious")),
            params=StructArray(
                map(dagstruct.write_param, self.params.values()), fields=dagstruct.PARAM_FIELDS
            ),
            layers=StructArray(layers, fields=dagstruct.LAYER_FIELDS),
            meta=Struct(self.meta),
            **self.extra,
        )

    def print(self, *arguments: Any, **options: Any) -> None:
        """Print tables of layers, variables and parameters, or the graph for Graphviz.

        `print(input_sizes, option=value, ...)`; see `matconvnet.nets.dagdisplay.show`.
        """
        from matconvnet.nets.dagdisplay import show

        if arguments and isinstance(arguments[0], str):  # as MatConvNet: print("All", True)
            arguments = ((), *arguments)
        if arguments or options:
            options.setdefault("variables", "*")
        show(self, *arguments, **options)

    @classmethod
    @option_pairs
    def from_simplenn(
        cls, net: "SimpleNN | Mapping[str, Any]", *, canonical_names: bool = False
    ) -> "DagNN":
        """The same network as a DagNN; weights are shared with it.

        See `matconvnet.nets.from_simplenn.from_simplenn`.
        """
        from matconvnet.nets.from_simplenn import from_simplenn

        return from_simplenn(net, canonical_names=canonical_names, cls=cls)

    def to_simplenn(self) -> "SimpleNN":
        """The same network as a SimpleNN, if it is a chain; weights are shared with it.

        Raises: GraphError, naming the variable at which it is not.
        """
        from matconvnet.nets.from_simplenn import to_simplenn

        return to_simplenn(self)


def _mode(mode: str) -> Mode:
    modes: dict[str, Mode] = {"normal": "normal", "train": "normal", "test": "test"}
    if mode not in modes:
        raise ValueError(f"mode is {mode!r}; wanted 'normal' (or 'train') or 'test'")
    return modes[mode]
