"""The tables and the drawing of a DagNN."""

import os
import re
import shutil
import stat
import subprocess

import pytest

from matconvnet.blocks import BatchNorm, Conv, ConvTranspose, Loss, Pooling, ReLU, Sum
from matconvnet.nets.dagdisplay import dot, draw, render
from matconvnet.nets.dagnn import DagNN

SIZES = {"x": (8, 9, 2, 3)}


def network():
    net = DagNN()
    net.add_layer("c1", Conv(size=(3, 3, 2, 3), pad=(1, 1, 0, 2)), "x", "a", ("f1", "b1"))
    net.add_layer("bn", BatchNorm(num_channels=3), "a", "b", ("g", "o", "m"))
    net.add_layer("re", ReLU(), "b", "c")
    net.add_layer("sum", Sum(), ("c", "a"), "d")
    net.add_layer("pool", Pooling(2, stride=(2, 1)), "d", "p")
    net.add_layer("up", ConvTranspose(size=(4, 4, 5, 3), has_bias=False), "p", "u", "f1")
    net.add_layer("loss", Loss(), ("p", "label"), "objective")
    net.set_layer_params("up", "f2")
    net.init_params()
    return net


ALL = """\
   func|     c1|       bn|  re|sum|   pool|           up|     loss|
-------|-------|---------|----|---|-------|-------------|---------|
   type|   Conv|BatchNorm|ReLU|Sum|Pooling|ConvTranspose|     Loss|
 inputs|      x|        a|   b|c a|      d|            p|  p label|
outputs|      a|        b|   c|  d|      p|            u|objective|
 params|  f1 b1|    g o m|    |   |       |           f2|         |
    pad|1x1x0x2|      n/a| n/a|n/a|      0|          n/a|      n/a|
 stride|      1|      n/a| n/a|n/a|    2x1|          n/a|      n/a|

 param|     f1| b1|  g|  o|  m|     f2|
------|-------|---|---|---|---|-------|
  dims|3x3x2x3|  3|  3|  3|3x2|4x4x5x3|
   mem|   216B|12B|12B|12B|24B|   960B|
fanout|      1|  1|  1|  1|  1|      1|

   var|      x|      a|      b|      c|      d|      p|       u|label|objective|
------|-------|-------|-------|-------|-------|-------|--------|-----|---------|
  dims|8x9x2x3|8x9x3x3|8x9x3x3|8x9x3x3|8x9x3x3|4x8x3x3|7x11x5x3|  n/a|        1|
   mem|    2KB|    3KB|    3KB|    3KB|    3KB|    1KB|     5KB|  NaN|       4B|
 fanin|      0|      1|      1|      1|      1|      1|       1|    0|        1|
fanout|      1|      2|      1|      1|      1|      2|       0|    1|        0|

rf in 'x'|x|  a|  b|  c|  d|      p|     u|label|objective|
---------|-|---|---|---|---|-------|------|-----|---------|
     size|1|  3|  3|  3|  3|      4|  10x7|  n/a|      n/a|
   stride|1|  1|  1|  1|  1|    2x1|   2x1|  n/a|      n/a|
   offset|1|1x2|1x2|1x2|1x2|1.5x2.5|-1.5x1|  n/a|      n/a|

rf in 'label'|  x|  a|  b|  c|  d|  p|  u|label|objective|
-------------|---|---|---|---|---|---|---|-----|---------|
         size|n/a|n/a|n/a|n/a|n/a|n/a|n/a|    1|      n/a|
       stride|n/a|n/a|n/a|n/a|n/a|n/a|n/a|    1|      n/a|
       offset|n/a|n/a|n/a|n/a|n/a|n/a|n/a|    1|      n/a|

params| 1KB|
  vars|17KB|
 total|19KB|

"""


def printed(capsys, *arguments, net=None, **options):
    (net or network()).print(*arguments, **options)
    return capsys.readouterr().out


def titles(text):
    """The first cells of the tables: what each is about."""
    return [block.split("|")[0].strip() for block in text.split("\n\n") if block]


def test_all_tables():
    assert render(network(), SIZES, all=True) == ALL


def test_without_arguments_layers_and_memory_are_printed(capsys):
    text = printed(capsys)
    assert titles(text) == ["func", "params"]
    assert "  vars| 4B|" in text  # what is unknown counts as nothing


def test_with_any_argument_variables_are_printed_too(capsys):
    assert titles(printed(capsys, SIZES)) == ["func", "var", "params"]
    assert titles(printed(capsys, memory=False)) == ["func", "var"]
    assert titles(printed(capsys, "Memory", False, "Variables", [])) == ["func"]
    assert titles(printed(capsys, ["x", (8, 9, 2)], "All", True)) == [
        "func", "param", "var", "rf in 'x'", "rf in 'label'", "params"
    ]  # fmt: skip


def test_what_is_selected_is_printed_and_nothing_else(capsys):
    text = printed(capsys, SIZES, layers=["re", 0], parameters="m", variables=-1, memory=False)
    rows = [line.split("|") for line in text.splitlines() if line and "-" not in line[:3]]
    assert rows[0] == ["   func", "  re", "     c1", ""]
    assert [row[1].strip() for row in rows if row[0].strip() in ("param", "var")] == [
        "m", "objective"
    ]  # fmt: skip
    text = printed(capsys, SIZES, "Dependencies", True, "variables", ["d"], "layers", None)
    assert text.count("rf in") == 2
    assert "rf in 'x'|  d|" in text
    with pytest.raises(KeyError, match="there is no layer 'r'; did you mean 're'"):
        network().print(layers=["r"])


def test_long_tables_are_cut():
    text = render(network(), SIZES, max_num_columns=4)
    assert titles(text) == ["func", "func", "params"]
    assert [len(block.splitlines()[0].split("|")) - 2 for block in text.split("\n\n")[:2]] == [4, 3]
    with pytest.raises(ValueError, match="max_num_columns is 0; wanted at least 1"):
        render(network(), max_num_columns=0)


def test_other_formats(capsys):
    assert '"type","Conv",' in printed(capsys, "Format", "csv")
    assert "\\begin{tabular}{cc}\nparams&" in printed(capsys, "Format", "latex", "layers", None)
    with pytest.raises(ValueError, match="format is 'html'; wanted one of"):
        network().print(format="html")
    with pytest.raises(TypeError, match="show has no option 'Formats'; did you mean 'format'"):
        network().print("Formats", "csv")


def test_an_empty_network_prints_its_memory(capsys):
    assert printed(capsys, net=DagNN(), all=True) == "params|0B|\n  vars|0B|\n total|0B|\n\n"


def test_parameters_without_values_are_printed():
    net = DagNN()
    net.add_layer("c1", Conv(size=(3, 3, 2, 3)), "x", "a")
    text = render(net, SIZES, parameters="*", variables="*")
    assert re.search(r"dims\|n/a\|n/a\|\n +mem\| +0B\| +0B\|", text)
    assert "6x7x3x3" in text


def test_the_graph_has_every_node_and_edge(capsys):
    net = network()
    text = dot(net, SIZES)
    assert printed(capsys, SIZES, format="dot", layers="re", net=net) == text
    assert printed(capsys, SIZES, format="digraph", net=net) == text
    assert text.startswith("digraph DagNN {\n")
    assert text.endswith("}\n")
    assert '  "var_u" [label="{u | 7x11x5x3 | 5KB}", style="filled,rounded"' in text
    assert '  "par_f1" [label="{f1 | 3x3x2x3 | 216B}", style="filled,rounded"' in text
    assert '  "pool" [label="{pool | dagnn.Pooling}", style="filled,bold", fillcolor=tomato' in text
    assert '  "var_c" -> "sum" [weight=10];' in text
    assert '  "sum" -> "var_d" [weight=10];' in text
    assert '  "par_f2" -> "up" [weight=1];' in text
    inputs, params = 9, 6
    assert text.count("->") == inputs + params + len(net.layers)
    assert text.count("[label=") == len(net.vars) + len(net.params) + len(net.layers)


def test_names_are_escaped():
    net = DagNN()
    net.add_layer('a "b" {c|d}', ReLU(), "in <x> \\ y", "out")
    text = dot(net)
    assert r'"var_in <x> \\ y" [label="{in\ \<x\>\ \\\ y | n/a | NaN}"' in text
    assert r'"a \"b\" {c|d}" [label="{a\ \"b\"\ \{c\|d\} | dagnn.ReLU}"' in text
    assert r'  "a \"b\" {c|d}" -> "var_out" [weight=10];' in text


@pytest.mark.skipif(shutil.which("dot") is None, reason="Graphviz is not installed")
def test_graphviz_reads_it():
    net = network()
    net.rename_layer("c1", 'a "b" {c|d} <\\>')
    done = subprocess.run(["dot", "-Tplain"], input=dot(net), text=True, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\nnode ") == len(net.vars) + len(net.params) + len(net.layers)


def fake_graphviz(folder, monkeypatch, script):
    """A program called `dot`, the only one there is."""
    program = folder / "dot"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}/bin{os.pathsep}/usr/bin")


def test_a_figure_is_drawn_by_graphviz(tmp_path, monkeypatch, capsys):
    fake_graphviz(tmp_path, monkeypatch, """printf '%s\\n' "$@" > "$4" """)
    figure, source = tmp_path / "my net.svg", tmp_path / "my net.dot"
    out = printed(capsys, SIZES, "Format", "dot", "FigurePath", figure, "DotArgs", "-Gsize='3, 4'")
    assert out == f"{figure}\n"
    assert figure.read_text().splitlines() == [
        "-Tsvg", "-Gsize=3, 4", "-o", str(figure), str(source)
    ]  # fmt: skip
    assert source.read_text() == dot(network(), SIZES)


def test_a_temporary_figure_has_a_name_of_its_own(tmp_path, monkeypatch):
    fake_graphviz(tmp_path, monkeypatch, "exit 0")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    first, second = draw("digraph {}", "tempname.pdf"), draw("digraph {}", "tempname.pdf")
    assert first != second
    assert first.suffix == ".pdf"
    assert first.with_suffix(".dot").read_text() == "digraph {}"
    assert draw("digraph {}", tmp_path / "net") == tmp_path / "net.pdf"


def test_without_graphviz_there_is_a_warning(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PATH", str(tmp_path))
    figure = tmp_path / "net.pdf"
    with pytest.warns(UserWarning, match="Graphviz is not installed"):
        out = printed(capsys, format="dot", figure_path=figure)
    assert out == f"{tmp_path / 'net.dot'}\n"
    assert (tmp_path / "net.dot").read_text() == dot(network())


def test_what_graphviz_complains_of_is_a_warning(tmp_path, monkeypatch):
    fake_graphviz(tmp_path, monkeypatch, "echo no such format >&2; exit 1")
    with pytest.warns(UserWarning, match="dot did not draw .*no such format"):
        assert draw("digraph {}", tmp_path / "net.xyz") == tmp_path / "net.dot"
