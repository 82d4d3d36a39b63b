"""A DagNN as tables of its layers, variables and parameters, and as a drawing by Graphviz."""

import math
import shlex
import shutil
import subprocess
import tempfile
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

from matconvnet.geometry import Size
from matconvnet.layer import Field, Layer
from matconvnet.nets._camel import option_pairs
from matconvnet.nets._views import DagLayer, DagParam, Named, Var
from matconvnet.nets.dagnn import DagNN, Pairs
from matconvnet.nets.tables import Format, Line, dims_text, memory_text, table_text
from matconvnet.window import pair, quad

BYTES = 4
"""Memory of a number, whatever its type."""
Selection = str | int | Sequence[str | int] | None
"""Records to print: "*" for all, a name or a position, or several of either."""
GraphFormat = Literal["dot", "digraph"]
TEMPORARY = "tempname"
"""The name of a figure that goes to a new folder for temporary files."""


@option_pairs
def show(
    net: DagNN,
    input_sizes: Pairs = (),
    *,
    all: bool = False,
    layers: Selection = "*",
    parameters: Selection = None,
    variables: Selection = None,
    dependencies: bool = False,
    memory: bool = True,
    format: Format | GraphFormat = "ascii",
    max_num_columns: int = 18,
    figure_path: str | Path | None = None,
    dot_args: str = "",
) -> None:
    """Print a network, or draw it to a file.

    Args:
        net: the network.
        input_sizes: sizes (H, W, C, N) by variable, a dictionary or a flat list of names and sizes.
        all: print parameters, variables and dependencies too.
        layers, parameters, variables: which to print: "*", a name or position, or a list of these.
            (`net.print` with any argument prints all variables unless told otherwise.)
        dependencies: print receptive fields of the variables in each input of the network.
        memory: print the memory of parameters and variables.
        format: "ascii", "latex" or "csv" tables; "dot" or "digraph", the graph as Graphviz reads
            it.
        max_num_columns: columns of one table, besides the labels.
        figure_path: a file for the drawing, of any type that Graphviz writes; its description is
            put beside it, as `.dot`. "tempname.pdf" means a new temporary file. None: the
            description is printed.
        dot_args: further arguments of the program `dot`.

    Raises: ValueError for an unknown format; KeyError for names that the network does not have.
    Source: DagNN.print. Unlike there, no viewer is opened, records that are not selected leave no
        empty columns, and "digraph" is the same as "dot": text that plotting tools read.
    """
    if format in get_args(GraphFormat):
        text = dot(net, input_sizes)
        if figure_path is None:
            print(text, end="")
        else:
            print(draw(text, figure_path, dot_args))
        return
    print(
        render(
            net, input_sizes, all=all, layers=layers, parameters=parameters, variables=variables,
            dependencies=dependencies, memory=memory, format=format,
            max_num_columns=max_num_columns,
        ), end="",
    )  # fmt: skip


def render(
    net: DagNN,
    input_sizes: Pairs = (),
    *,
    all: bool = False,
    layers: Selection = "*",
    parameters: Selection = None,
    variables: Selection = None,
    dependencies: bool = False,
    memory: bool = True,
    format: Any = "ascii",
    max_num_columns: int = 18,
) -> str:
    """The tables of a network as text, a column for each record; see `show`."""
    if max_num_columns < 1:
        raise ValueError(f"max_num_columns is {max_num_columns}; wanted at least 1")
    if all:
        parameters, variables, dependencies = "*", "*", True
    sizes = net.get_var_sizes(input_sizes)
    shown = _selected(net.vars, variables)
    tables = [
        _layer_lines(_selected(net.layers, layers)),
        _param_lines(_selected(net.params, parameters)),
        _var_lines(shown, sizes),
    ]
    if dependencies:
        names = [var.name for var in shown] or list(net.vars)
        tables += [_field_lines(net, v, names) for v in net.get_inputs()]
    text = ""
    for lines in tables:
        columns = max((len(line) for line in lines if line), default=1) - 1
        for start in range(1, columns + 1, max_num_columns):
            end = start + max_num_columns
            block = [line and [line[0], *line[start:end]] for line in lines]
            text += table_text(block, format) + "\n"
    if memory:
        text += table_text(_memory_lines(net, sizes), format) + "\n"
    return text


def dot(net: DagNN, input_sizes: Pairs = ()) -> str:
    """The graph of variables, layers and parameters in the language of Graphviz."""
    sizes = net.get_var_sizes(input_sizes)
    lines = ["digraph DagNN {", '  node [shape=record, fontname="Helvetica", fontsize=12];']
    for name in net.vars:
        label = _label(name, _dims(sizes[name]), memory_text(_bytes(sizes[name])))
        lines.append(f"  {_quote('var_' + name)} [label={label}, {VAR_STYLE}];")
    for name, param in net.params.items():
        label = _label(name, _dims(_shape(param)), memory_text(_bytes(_shape(param))))
        lines.append(f"  {_quote('par_' + name)} [label={label}, {PARAM_STYLE}];")
    for name, layer in net.layers.items():
        node = _quote(name)
        lines.append(f"  {node} [label={_label(name, _type(layer.block))}, {LAYER_STYLE}];")
        lines += [f"  {_quote('var_' + v)} -> {node} [weight=10];" for v in layer.inputs]
        lines += [f"  {_quote('par_' + p)} -> {node} [weight=1];" for p in layer.params]
        lines += [f"  {node} -> {_quote('var_' + v)} [weight=10];" for v in layer.outputs]
    return "\n".join([*lines, "}\n"])


VAR_STYLE = 'style="filled,rounded", fillcolor=beige, color=cornsilk4'
PARAM_STYLE = 'style="filled,rounded", fillcolor=lightsteelblue, color=lightsteelblue4'
LAYER_STYLE = 'style="filled,bold", fillcolor=tomato, color=tomato4'


def draw(text: str, path: str | Path, dot_args: str = "") -> Path:
    """Write a graph beside `path` as `.dot`, and let Graphviz draw it to `path`.

    Returns: the path of the drawing, or of the description if Graphviz did not draw it, which a
        warning explains.
    """
    path = Path(path)
    if path.stem == TEMPORARY:
        path = Path(tempfile.mkdtemp()) / f"net{path.suffix}"
    path = path if path.suffix else path.with_suffix(".pdf")
    source = path.with_suffix(".dot")
    source.write_text(text, encoding="utf-8")
    program = shutil.which("dot")
    if program is None:
        warnings.warn(f"Graphviz is not installed; {source} is not drawn", stacklevel=3)
        return source
    arguments = [program, f"-T{path.suffix[1:]}", *shlex.split(dot_args), "-o", path, source]
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    if done.returncode:
        warnings.warn(f"dot did not draw {source}: {done.stderr.strip()}", stacklevel=3)
        return source
    return path


def _selected(records: Named[Any], which: Selection) -> list[Any]:
    if which is None or (isinstance(which, (list, tuple)) and not which):
        return []
    if isinstance(which, str) and which == "*":
        return list(records.values())
    return records[which] if isinstance(which, (list, tuple)) else [records[which]]


def _rows(
    records: Iterable[Any], first: tuple[str, str], rest: Mapping[str, Callable[[Any], str]]
) -> list[Line]:
    """Lines of a table: a row of names, a separator, and the others; none without records."""
    records = list(records)
    if not records:
        return []
    label, attribute = first
    names = [label, *(getattr(record, attribute) for record in records)]
    return [names, None, *([row, *map(cell, records)] for row, cell in rest.items())]


def _layer_lines(layers: list[DagLayer]) -> list[Line]:
    return _rows(layers, ("func", "name"), {
        "type": lambda layer: _type(layer.block).removeprefix("dagnn."),
        "inputs": lambda layer: " ".join(layer.inputs),
        "outputs": lambda layer: " ".join(layer.outputs),
        "params": lambda layer: " ".join(layer.params),
        "pad": lambda layer: _window(layer.block, "pad", quad),
        "stride": lambda layer: _window(layer.block, "stride", pair),
    })  # fmt: skip


def _param_lines(params: list[DagParam]) -> list[Line]:
    return _rows(params, ("param", "name"), {
        "dims": lambda param: _dims(_shape(param)),
        "mem": lambda param: memory_text(_bytes(_shape(param))),
        "fanout": lambda param: str(param.fanout),
    })  # fmt: skip


def _var_lines(variables: list[Var], sizes: Mapping[str, Size]) -> list[Line]:
    return _rows(variables, ("var", "name"), {
        "dims": lambda var: _dims(sizes[var.name]),
        "mem": lambda var: memory_text(_bytes(sizes[var.name])),
        "fanin": lambda var: str(var.fanin),
        "fanout": lambda var: str(var.fanout),
    })  # fmt: skip


def _memory_lines(net: DagNN, sizes: Mapping[str, Size]) -> list[Line]:
    """Memory of all parameters and variables; what is unknown counts as none."""
    params = _known(_bytes(_shape(param)) for param in net.params.values())
    variables = _known(_bytes(size) for size in sizes.values())
    total = params + variables
    amounts = {"params": params, "vars": variables, "total": total}
    return [[name, memory_text(amount)] for name, amount in amounts.items()]


def _field_lines(net: DagNN, base: str, names: list[str]) -> list[Line]:
    """Receptive fields in one input; offsets count from 1, as those of the original."""
    found = net.get_var_receptive_fields(base)
    fields = [found.get(name) for name in names]

    def row(label: str, cell: Callable[[Field], Sequence[float]]) -> list[str]:
        return [label, *("n/a" if f is None else dims_text(cell(f)) for f in fields)]

    return [
        [f"rf in '{base}'", *names],
        None,
        row("size", lambda f: f.size),
        row("stride", lambda f: f.stride),
        row("offset", lambda f: [o + 1 for o in f.offset]),
    ]


def _type(layer: Layer) -> str:
    return f"dagnn.{layer.dag_type}"


def _window(layer: Layer, name: str, parse: Callable[[Any, str], tuple[int, ...]]) -> str:
    return dims_text(parse(getattr(layer, name), name)) if hasattr(layer, name) else "n/a"


def _shape(param: DagParam) -> tuple[float, ...]:
    return () if param.value is None else tuple(param.value.shape)


def _dims(size: Sequence[float]) -> str:
    return "n/a" if all(math.isnan(d) for d in size) else dims_text(size)


def _bytes(size: Sequence[float]) -> float:
    """Memory of a tensor; nan for an unknown size, none for no tensor."""
    return BYTES * math.prod(size) if size else 0


def _known(amounts: Iterable[float]) -> float:
    return sum(amount for amount in amounts if not math.isnan(amount))


def _quote(text: str) -> str:
    """A name in the language of Graphviz."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _label(*parts: str) -> str:
    """A label of parts one below the other; what has a meaning in labels is escaped."""
    safe = ("".join(f"\\{c}" if c in '\\{}|<>" ' else c for c in part) for part in parts)
    return '"{' + " | ".join(safe) + '}"'
