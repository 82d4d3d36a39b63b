"""The part of a DagNN that is edited: layers wired by named variables, with named parameters."""

import operator
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import zip_longest
from typing import Any

from matconvnet.executor import Record
from matconvnet.graph import Graph, Node, build
from matconvnet.nets._camel import CamelCase, hint, option_pairs
from matconvnet.nets._params import name_params
from matconvnet.nets._views import DagLayer, DagParam, Latest, Named, Var
from matconvnet.nets.network import Network
from matconvnet.nets.own import Own, as_layer
from matconvnet.nets.registry import Unknown
from matconvnet.nets.simplenn import MOMENT_RATE
from matconvnet.values import Struct

Names = str | Sequence[str]
"""Names in order; a string is a list of one."""


class Wiring(CamelCase, Network):
    """Layers, variables and parameters, and the methods that change which belong together.

    An edit replaces the nodes that it concerns; the graph is built again when it is next used.
    """

    def __init__(self, meta: Mapping[str, Any] | None = None):
        super().__init__(Struct(meta or {}))
        self._layers: dict[str, DagLayer] = {}
        self._vars: dict[str, Var] = {}
        self._params: dict[str, DagParam] = {}
        self._latest = Latest()
        self._nodes: list[Node] = []  # as last counted
        self._graph: Graph | None = None

    @property
    def layers(self) -> Named[DagLayer]:
        """The layers, in the order in which they were added."""
        return Named("layer", self._layers)

    @property
    def vars(self) -> Named[Var]:
        """The variables that layers read or write."""
        self._count()
        return Named("var", self._vars)

    @property
    def params(self) -> Named[DagParam]:
        """The parameters that layers use."""
        self._count()
        return Named("param", self._params)

    @property
    def graph(self) -> Graph:
        """The structure.

        Raises: GraphError, if layers form a cycle, or two write one variable.
        """
        self._count()
        if self._graph is None:
            self._graph = build(self._nodes)
        return self._graph

    @property
    def precious(self) -> list[str]:
        """Variables that are never freed."""
        return [name for name, var in self.vars.items() if var.precious]

    @property
    def record(self) -> Record:
        """The last evaluation."""
        return self._latest.record

    @record.setter
    def record(self, record: Record) -> None:
        self._latest.record = record

    @option_pairs
    def add_layer(
        self,
        name: str,
        layer: Any,
        inputs: Names,
        outputs: Names,
        params: Names | None = None,
        *,
        skip_rebuild: bool = False,
    ) -> None:
        """Add a layer, and the variables and parameters that it names and that are new.

        Args:
            name: of the layer, a new one.
            layer: a Layer, or what else `as_layer` takes: a function, a pair of functions, a
                torch.nn.Module.
            inputs, outputs: names of the variables that it reads and writes.
            params: names of its parameters, None: all it has, each named by the layer and an ending
                (`conv1f` filters, `conv1b` biases). New ones have no value (see `init_params`),
                except those of functions and modules, which bring theirs.
            skip_rebuild: of no effect; nothing is rebuilt before it is used.

        Raises: ValueError, if a layer has this name, or if there are more parameters than it has;
            TypeError, if a name is not a string.
        Source: DagNN.addLayer.
        """
        _check_name(name, "name")
        if name in self._layers:
            raise ValueError(f"a layer is named {name!r} already; wanted a new name")
        node = Node(name, as_layer(layer), _names(inputs), _names(outputs))
        names = name_params(node) if params is None else _names(params)
        node = node._replace(params=names)
        self._attach(node)
        self._layers[name] = DagLayer(node, latest=self._latest)

    def remove_layer(self, names: Names) -> None:
        """Remove a layer or several; variables and parameters that nothing uses any more go too.

        Raises: KeyError, if there is no such layer.
        """
        gone = [self.layers[name].name for name in _names(names)]
        for name in gone:
            self._layers.pop(name, None)
        self._count()

    @option_pairs
    def rename_layer(self, old: str, new: str, *, quiet: bool = False) -> None:
        """Give a layer a new name; warn if there is no such layer, unless `quiet`.

        Raises: ValueError, if another layer has the new name.
        """
        if self._is_renamed("layer", self._layers, old, new, quiet):
            layer = self._layers[old]
            layer.node = layer.node._replace(name=new)
            self._layers = _renamed(self._layers, old, new)
            record = self.record
            for kept in (record.saved, record.forward_time, record.backward_time):
                _move(kept, old, new)

    @option_pairs
    def rename_var(self, old: str, new: str, *, quiet: bool = False) -> None:
        """Give a variable a new name in all layers; warn if there is none, unless `quiet`.

        If `new` exists, the two become one: so a chain is joined after a layer was removed,
        `net.rename_var(layer.outputs[0], layer.inputs[0])`.
        """
        if not self._is_renamed("var", self._vars, old, new, quiet, may_merge=True):
            return
        for layer in self._layers.values():
            inputs, outputs = (_replaced(v, old, new) for v in (layer.inputs, layer.outputs))
            if (inputs, outputs) != (layer.inputs, layer.outputs):
                layer.node = layer.node._replace(inputs=inputs, outputs=outputs)
        if new not in self._vars:
            self._vars = _renamed(self._vars, old, new)
            self._vars[new].name = new
            for kept in (self.record.values, self.record.ders):
                _move(kept, old, new)
        self._count()

    @option_pairs
    def rename_param(self, old: str, new: str, *, quiet: bool = False) -> None:
        """Give a parameter a new name in all layers; warn if there is none, unless `quiet`.

        Raises: ValueError, if another parameter has the new name.
        """
        if not self._is_renamed("param", self._params, old, new, quiet):
            return
        for layer in self._layers.values():
            if old in layer.params:
                layer.node = layer.node._replace(params=_replaced(layer.params, old, new))
        self._params = _renamed(self._params, old, new)
        self._params[new].name = new
        _move(self.record.param_ders, old, new)

    def set_layer_inputs(self, layer: str, inputs: Names) -> None:
        """Let a layer read other variables."""
        self._rewire(layer, inputs=_names(inputs))

    def set_layer_outputs(self, layer: str, outputs: Names) -> None:
        """Let a layer write other variables."""
        self._rewire(layer, outputs=_names(outputs))

    def set_layer_params(self, layer: str, params: Names) -> None:
        """Let a layer use other parameters."""
        self._rewire(layer, params=_names(params))

    def get_layer_index(self, names: Names) -> Any:
        """Position of a layer, from 0, or None if there is none; a list of them for a list."""
        return _positions(self._layers, names)

    def get_var_index(self, names: Names) -> Any:
        """Position of a variable, from 0, or None if there is none; a list of them for a list."""
        return _positions(self.vars, names)

    def get_param_index(self, names: Names) -> Any:
        """Position of a parameter, from 0, or None if there is none; a list of them for a list."""
        return _positions(self.params, names)

    def get_layer(self, which: str | int | Sequence[str | int]) -> Any:
        """The layer of this name or position, or a list of layers."""
        return self.layers[which]

    def get_var(self, which: str | int | Sequence[str | int]) -> Any:
        """The variable of this name or position, or a list of variables."""
        return self.vars[which]

    def get_param(self, which: str | int | Sequence[str | int]) -> Any:
        """The parameter of this name or position, or a list of parameters."""
        return self.params[which]

    def get_inputs(self) -> list[str]:
        """Names of the variables that no layer writes."""
        return [name for name, var in self.vars.items() if not var.fanin]

    def get_outputs(self) -> list[str]:
        """Names of the variables that no layer reads."""
        return [name for name, var in self.vars.items() if not var.fanout]

    def get_layer_execution_order(self) -> list[str]:
        """Names of the layers in the order in which they are evaluated."""
        return [node.name for node in self.graph.nodes]

    def rebuild(self) -> None:
        """Check the wiring now: what an edit asks for is otherwise done at the first use.

        Raises: GraphError, if layers form a cycle, or two write one variable.
        """
        self._graph = build([layer.node for layer in self._layers.values()])

    def _count(self) -> None:
        """After an edit: count who reads and writes, and drop what nobody does."""
        nodes = [layer.node for layer in self._layers.values()]
        if len(nodes) == len(self._nodes) and all(map(operator.is_, nodes, self._nodes)):
            return
        self._nodes, self._graph = nodes, None
        written = Counter(v for node in nodes for v in node.outputs)
        read = Counter(v for node in nodes for v in node.inputs)
        used = Counter(p for node in nodes for p in node.params)
        for name, var in list(self._vars.items()):
            var.fanin, var.fanout = written[name], read[name]
            if not var.fanin + var.fanout:
                del self._vars[name]
                self.record.values.pop(name, None)
                self.record.ders.pop(name, None)
        for name, param in list(self._params.items()):
            param.fanout = used[name]
            if not param.fanout:
                del self._params[name]
                self.record.param_ders.pop(name, None)

    def _attach(self, node: Node) -> None:
        """Add the variables and parameters of a node that are new."""
        known = node.layer.param_names
        if len(node.params) > len(known) and not isinstance(node.layer, Unknown):
            raise ValueError(
                f"layer {node.name!r} ({type(node.layer).__name__}) is given {len(node.params)} "
                f"parameters, {list(node.params)}; wanted at most {len(known)}: {list(known)}"
            )
        for name in (*node.inputs, *node.outputs):
            if name not in self._vars:
                self._vars[name] = Var(name, latest=self._latest)
        values = node.layer.init_params() if isinstance(node.layer, Own) else ()
        kinds = known[: len(node.params)]
        for name, kind, value in zip_longest(node.params, kinds, values[: len(node.params)]):
            if name not in self._params:
                param = DagParam(name, value, latest=self._latest)
                if kind in node.layer.averaged_params:
                    param.train_method, param.learning_rate = "average", MOMENT_RATE
                self._params[name] = param

    def _rewire(self, name: str, **names: tuple[str, ...]) -> None:
        layer = self.layers[name]
        node = layer.node._replace(**names)
        self._attach(node)
        layer.node = node
        self._count()

    def _is_renamed(
        self, kind: str, records: dict, old: str, new: str, quiet: bool, may_merge: bool = False
    ) -> bool:
        """False, if there is nothing to rename; raises if the new name is not to be had."""
        _check_name(new, "new name")
        self._count()
        if old not in records:
            if not quiet:
                text = f"there is no {kind} {old!r} to rename; {hint(old, records)}"
                warnings.warn(text, stacklevel=4)
            return False
        if new in records and new != old and not may_merge:
            raise ValueError(f"a {kind} is named {new!r} already; wanted a new name for {old!r}")
        return new != old


def _check_name(name: Any, what: str) -> None:
    if not isinstance(name, str):
        raise TypeError(f"{what} is {name!r}; wanted a string")


def _names(names: Any) -> tuple[str, ...]:
    names = (names,) if isinstance(names, str) else names
    if not isinstance(names, Iterable):
        raise TypeError(f"names are {names!r}; wanted a string or a list of strings")
    out = tuple(names)
    for name in out:
        _check_name(name, "name")
    return out


def _positions(records: Mapping[str, Any], names: Names) -> Any:
    at = {name: i for i, name in enumerate(records)}
    return at.get(names) if isinstance(names, str) else [at.get(name) for name in names]


def _replaced(names: tuple[str, ...], old: str, new: str) -> tuple[str, ...]:
    return tuple(new if name == old else name for name in names)


def _renamed(records: dict[str, Any], old: str, new: str) -> dict[str, Any]:
    """The same records in the same order, one under a new key."""
    return {new if name == old else name: record for name, record in records.items()}


def _move(kept: dict[str, Any], old: str, new: str) -> None:
    if old in kept:
        kept[new] = kept.pop(old)
