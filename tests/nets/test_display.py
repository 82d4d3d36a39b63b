"""The table of a network: numbers of the original, its printed form, what it got wrong."""

import math
import re

import numpy as np
import pytest
import torch

from matconvnet.blocks import (
    LRN,
    BatchNorm,
    Conv,
    ConvTranspose,
    Dropout,
    Loss,
    Pooling,
    ReLU,
    Sigmoid,
    Softmax,
    SoftmaxLoss,
)
from matconvnet.compat.display import vl_simplenn_display
from matconvnet.layer import Field
from matconvnet.nets.display import describe, render
from matconvnet.nets.simplenn import SimpleNN
from matconvnet.nets.tables import count_text, dims_text, memory_text, table_text

# Printed by the original for its CIFAR-10 network, input 32 x 32 x 3.
CIFAR = """\
     layer|    0|     1|      2|     3|     4|     5|      6|     7|     8|      9|     10|     11|     12|     13|
      type|input|  conv|  mpool|  relu|  conv|  relu|  apool|  conv|  relu|  apool|   conv|   relu|   conv|softmxl|
      name|  n/a|layer1| layer2|layer3|layer4|layer5| layer6|layer7|layer8| layer9|layer10|layer11|layer12|layer13|
----------|-----|------|-------|------|------|------|-------|------|------|-------|-------|-------|-------|-------|
   support|  n/a|     5|      3|     1|     5|     1|      3|     5|     1|      3|      4|      1|      1|      1|
  filt dim|  n/a|     3|    n/a|   n/a|    32|   n/a|    n/a|    32|   n/a|    n/a|     64|    n/a|     64|    n/a|
filt dilat|  n/a|     1|    n/a|   n/a|     1|   n/a|    n/a|     1|   n/a|    n/a|      1|    n/a|      1|    n/a|
 num filts|  n/a|    32|    n/a|   n/a|    32|   n/a|    n/a|    64|   n/a|    n/a|     64|    n/a|     10|    n/a|
    stride|  n/a|     1|      2|     1|     1|     1|      2|     1|     1|      2|      1|      1|      1|      1|
       pad|  n/a|     2|0x1x0x1|     0|     2|     0|0x1x0x1|     2|     0|0x1x0x1|      0|      0|      0|      0|
----------|-----|------|-------|------|------|------|-------|------|------|-------|-------|-------|-------|-------|
   rf size|  n/a|     5|      7|     7|    15|    15|     19|    35|    35|     43|     67|     67|     67|     67|
 rf offset|  n/a|     1|      2|     2|     2|     2|      4|     4|     4|      8|     20|     20|     20|     20|
 rf stride|  n/a|     1|      2|     2|     2|     2|      4|     4|     4|      8|      8|      8|      8|      8|
----------|-----|------|-------|------|------|------|-------|------|------|-------|-------|-------|-------|-------|
 data size|   32|    32|     16|    16|    16|    16|      8|     8|     8|      4|      1|      1|      1|      1|
data depth|    3|    32|     32|    32|    32|    32|     32|    64|    64|     64|     64|     64|     10|      1|
  data num|    1|     1|      1|     1|     1|     1|      1|     1|     1|      1|      1|      1|      1|      1|
----------|-----|------|-------|------|------|------|-------|------|------|-------|-------|-------|-------|-------|
  data mem| 12KB| 128KB|   32KB|  32KB|  32KB|  32KB|    8KB|  16KB|  16KB|    4KB|   256B|   256B|    40B|     4B|
 param mem|  n/a|  10KB|     0B|    0B| 100KB|    0B|     0B| 200KB|    0B|     0B|  256KB|     0B|    3KB|     0B|

parameter memory|569KB (1.5e+05 parameters)|
     data memory|  313KB (for batch size 1)|

"""  # noqa: E501


def conv(height, width, channels, filters, **options):
    weights = [torch.zeros(height, width, channels, filters), torch.zeros(filters)]
    return {"type": "conv", "weights": weights, **options}


def pool(method="max", size=3, pad=(0, 1, 0, 1)):
    return {"type": "pool", "pool": size, "stride": 2, "pad": list(pad), "method": method}


def cifar():
    relu = {"type": "relu"}
    layers = [
        conv(5, 5, 3, 32, pad=2), pool(), relu,
        conv(5, 5, 32, 32, pad=2), relu, pool("avg"),
        conv(5, 5, 32, 64, pad=2), relu, pool("AVG"),
        conv(4, 4, 64, 64), relu, conv(1, 1, 64, 10), {"type": "softmaxloss"},
    ]  # fmt: skip
    return {"layers": layers, "meta": {"inputSize": [32, 32, 3]}}


def lenet():
    layers = [
        conv(5, 5, 1, 20), pool(size=2, pad=(0,)), conv(5, 5, 20, 50), pool(size=2, pad=(0,)),
        conv(4, 4, 50, 500), {"type": "relu"}, conv(1, 1, 500, 10), {"type": "softmaxloss"},
    ]  # fmt: skip
    return SimpleNN.from_struct({"layers": layers})


def column(text, index, separator="|"):
    """Column `index` of the first table, by row label."""
    lines = [line.split(separator) for line in text.split("\n\n")[0].splitlines()]
    return {cells[0].strip(): cells[index].strip() for cells in lines if "-" not in cells[0][:1]}


def test_the_printed_table_is_the_original_with_our_rows():
    lines = render(describe(SimpleNN.from_struct(cifar()))).splitlines(keepends=True)
    ours = [line for line in lines if line.lstrip().startswith("mult-adds|")]
    assert "".join(line for line in lines if line not in ours) == CIFAR
    assert ours == [
        " mult-adds|  n/a| 2.46M|      0|     0| 6.55M|     0|      0| 3.28M|     0|      0|"
        "  65.5K|      0|    640|      0|\n",
        "       mult-adds|  12.4M (for batch size 1)|\n",
    ]
    assert lines.index(ours[0]) == lines.index(CIFAR.splitlines(keepends=True)[20]) + 1


def test_the_worked_example():
    table = describe(lenet(), (28, 28, 1), 100)
    rows = table.rows
    assert [row.field.size[0] for row in rows] == [5, 6, 14, 16, 28, 28, 28, 28]
    assert [row.field.offset[0] + 1 for row in rows] == [3, 3.5, 7.5, 8.5] + [14.5] * 4
    assert [row.field.stride for row in rows] == [(s, s) for s in (1, 2, 2, 4, 4, 4, 4, 4)]
    assert [size[0] for size in table.sizes] == [28, 24, 12, 8, 4, 1, 1, 1, 1]
    assert [size[2] for size in table.sizes] == [1, 20, 20, 50, 50, 500, 500, 10, 1]
    assert [size[3] for size in table.sizes] == [100] * 8 + [1]
    assert table.num_params == 520 + 25050 + 400500 + 5010
    assert table.data_memory == 4 * sum(math.prod(size) for size in table.sizes)
    work = [
        100 * 24 * 24 * 20 * 25,
        0,
        100 * 8 * 8 * 50 * 500,
        0,
        100 * 500 * 800,
        0,
        100 * 5000,
        0,
    ]
    assert [row.multiply_adds for row in rows] == work
    assert table.multiply_adds == sum(work)


def test_directions_differ():
    layer = Conv(size=(3, 2, 4, 6), pad=(1, 0, 3, 2), stride=(2, 1), dilate=(1, 4))
    net = SimpleNN([layer, Pooling((2, 3), stride=(1, 2), method="avg")])
    first, second = describe(net, (9, 11, 8, 5)).rows
    assert (first.support, first.stride, first.pad) == ((3, 5), (2, 1), (1, 0, 3, 2))
    assert (first.filter_dim, first.num_filters, first.dilate) == (4, 6, (1, 4))
    assert first.size == (4, 12, 6, 5)
    assert first.field == Field((3, 5), (2, 1), (0, -1))
    assert second.field == Field((5, 7), (2, 2), (1, 0))
    assert (second.type, second.dilate, second.filter_dim) == ("apool", None, None)
    text = column(render(describe(net, (9, 11, 8, 5))), 2)
    assert (text["support"], text["pad"], text["filt dilat"]) == ("3x5", "1x0x3x2", "1x4")
    assert (text["rf offset"], text["data size"], text["num filts"]) == ("1x0", "4x12", "6")


def test_convolution_transpose():
    layer = ConvTranspose(size=(4, 6, 7, 3), upsample=(2, 3), crop=(1, 0, 2, 1))
    net = SimpleNN([Pooling(2, stride=2), layer])
    pooled, row = describe(net, (10, 12, 3, 2)).rows
    assert pooled.size == (5, 6, 3, 2)
    assert row.size == (2 * 4 + 4 - 1, 3 * 5 + 6 - 3, 7, 2)
    assert row.type == "convt"
    assert row.field.stride == pytest.approx((1, 2 / 3))
    assert row.field.size == pytest.approx((2 * 1.5 + 2, 2 * 5 / 3 + 2))
    own = layer.receptive_field([(4, 6, 7, 3)])
    assert row.field.offset == pytest.approx([0.5 + 2 * offset for offset in own.offset])
    for axis in range(2):  # the formulas of a window hold for the one in the table
        (before, after), stride = row.pad[2 * axis : 2 * axis + 2], row.stride[axis]
        assert own.offset[axis] == pytest.approx((row.support[axis] - 1) / 2 - before)
        room = pooled.size[axis] + before + after - row.support[axis]
        assert row.size[axis] == pytest.approx(room / stride + 1)


def test_values_of_losses_are_numbers():
    net = SimpleNN([Softmax(), Loss()])
    softmax, loss = describe(net, (5, 7, 3, 4)).rows
    assert (softmax.size, loss.size) == ((5, 7, 3, 4), (1, 1, 1, 1))
    assert loss.field == Field()


def test_pads_of_two_numbers():
    net = SimpleNN.from_struct({"layers": [pool(pad=(1, 0)), conv(3, 3, 2, 2, pad=[0, 2])]})
    first, second = describe(net, (9, 9, 2)).rows
    assert (first.pad, first.size) == ((1, 1, 0, 0), (5, 4, 2, 1))
    assert (second.pad, second.size) == ((0, 0, 2, 2), (3, 6, 2, 1))


def test_a_convolution_without_filters():
    net = SimpleNN.from_struct(
        {"layers": [{"type": "conv", "weights": [[], np.ones(4)], "stride": 2}]}
    )
    (row,) = describe(net, (5, 6, 4)).rows
    assert (row.support, row.size, row.num_params) == ((1, 1), (3, 3, 4, 1), 4)
    assert (row.filter_dim, row.num_filters, row.multiply_adds) == (1, 1, 0)


@pytest.mark.parametrize(
    ("meta", "options", "want"),
    [
        ({}, {}, "NaN NaN NaN 1"),
        ({"inputSize": [9]}, {}, "9 NaN NaN 1"),
        ({"inputSize": np.array([[9.0, 8.0, 2.0, 7.0]])}, {}, "9 8 2 7"),
        ({"inputSize": []}, {"batch_size": 3}, "NaN NaN NaN 3"),
        ({"inputSize": ["input", [9, 8, 2]]}, {"batch_size": 3}, "9 8 2 3"),
        ({"inputSize": ("input", np.array([9, 8, 2, 6]))}, {"batch_size": []}, "9 8 2 6"),
        ({"normalization": {"imageSize": [9, 8, 2]}}, {}, "9 8 2 1"),
        ({"inputSize": [9, 8], "normalization": {"imageSize": [1, 1, 1]}}, {}, "9 8 NaN 1"),
        ({"inputSize": [9, 8, 2]}, {"input_size": (4, 5, 6, 7)}, "4 5 6 7"),
        ({"inputSize": [9, 8, 2]}, {"input_size": (4, 5, 6, 7), "batch_size": 1}, "4 5 6 1"),
    ],
)
def test_input_size(meta, options, want):
    table = describe(SimpleNN([ReLU()], meta), **options)
    assert " ".join("NaN" if n != n else str(n) for n in table.input_size) == want
    assert [dims_text(size) for size in table.sizes] == [dims_text(table.input_size)] * 2


def test_an_input_size_with_too_many_numbers():
    with pytest.raises(ValueError, match=r"input size is \[1, 2, 3, 4, 5\]; wanted up to 4"):
        describe(SimpleNN([ReLU()]), (1, 2, 3, 4, 5))


def test_unknown_numbers_are_printed():
    net = SimpleNN([Conv(size=(3, 3, 2, 4)), ReLU()])
    text = render(describe(net))
    first = column(text, 2)
    assert (first["data size"], first["data depth"], first["data num"]) == ("NaNxNaN", "4", "1")
    assert (first["data mem"], first["mult-adds"], first["param mem"]) == ("NaN", "NaN", "304B")
    assert column(text, 1)["data depth"] == "NaN"
    assert re.search(r"\n     data memory\| *NaN \(for batch size 1\)\|\n", text)


def test_abbreviations_and_names():
    layers = [LRN(), Pooling(2), Softmax(), ReLU(), Sigmoid(), Dropout(), SoftmaxLoss()]
    rows = describe(SimpleNN(layers)).rows
    types = ["norm", "mpool", "softmx", "relu", "sigmoid", "dropout", "softmxl"]
    assert [row.type for row in rows] == types
    assert [row.name for row in rows] == [f"layer{i}" for i in range(1, 8)]
    assert describe(SimpleNN([(BatchNorm(), [np.ones(3)] * 3)])).rows[0].num_params == 9


def test_custom_layers():
    def size(layer, before):
        return np.array([before[0] * layer["factor"], before[1], 2])

    layers = [
        {"type": "custom", "name": "mine", "weights": [np.ones((2, 5))]},
        {"type": "custom", "getForwardSize": size, "factor": 3},
    ]
    table = describe(SimpleNN.from_struct({"layers": layers}), (4, 5, 6, 7))
    assert (table.rows[0].type, table.rows[0].name, table.rows[0].num_params) == (
        "custom",
        "mine",
        10,
    )
    assert str(table.rows[0].size) == "(4, 5, nan, 7)"
    assert table.rows[1].size == (12, 5, 2, 1)


def test_a_network_without_layers():
    assert describe(SimpleNN([]), (4, 5, 6)).sizes == ((4, 5, 6, 1),)
    assert render(describe(SimpleNN([]), (4, 5, 6))).startswith("     layer|    0|\n")


def test_long_tables_are_broken():
    table = describe(SimpleNN([ReLU()] * 5), (4, 5, 6))
    parts = render(table, max_num_columns=4).split("\n\n")
    assert [part.splitlines()[0] for part in parts[:2]] == [
        "     layer|    0|     1|     2|     3|",
        "     layer|     4|     5|",
    ]
    assert len(parts) == 4
    assert parts[3] == ""
    assert all(part.splitlines()[-1].startswith(" mult-adds|") for part in parts[:2])
    assert len(render(table, max_num_columns=6).split("\n\n")) == 3
    with pytest.raises(ValueError, match="max_num_columns is 0; wanted at least 1"):
        render(table, max_num_columns=0)


def test_csv():
    net = SimpleNN.from_struct({"layers": [{"type": "relu", "name": 'a "b", c'}]})
    lines = render(describe(net, (4, 5, 6)), "csv").splitlines()
    assert lines[:4] == [
        '"layer","0","1",',
        '"type","input","relu",',
        '"name","n/a","a ""b"", c",',
        '"support","n/a","1",',
    ]
    assert len(lines) == 18 + 1 + 3 + 1
    assert lines[18] == lines[-1] == ""
    assert lines[-2] == '"mult-adds","0 (for batch size 1)",'


def test_latex():
    net = SimpleNN.from_struct({"layers": [{"type": "relu", "name": "a_b\\c"}, {"type": "relu"}]})
    lines = render(describe(net, (4, 5, 6)), "latex").splitlines()
    assert lines[:6] == [
        r"\begin{tabular}{cccc}",
        r"     layer&    0&    1&     2\\",
        r"      type&input& relu&  relu\\",
        r"      name&  n/a&a\char`_b\\c&layer2\\",
        r"\hline",
        r"   support&  n/a&    1&     1\\",
    ]
    assert lines.count(r"\end{tabular}") == 2
    assert lines[-6] == r"\begin{tabular}{cc}"
    assert lines[-3] == r"       mult-adds&  0 (for batch size 1)\\"


def test_an_unknown_format():
    with pytest.raises(ValueError, match="format is 'html'; wanted one of ascii, latex, csv"):
        table_text([["a"]], "html")  # pyright: ignore[reportArgumentType]


def test_numbers_as_text():
    assert dims_text((2, 2)) == "2"
    assert dims_text((0, 1, 0, 1)) == "0x1x0x1"
    assert dims_text((2.5, 1 / 3)) == "2.5x0.3333"
    assert dims_text((math.nan, math.nan)) == "NaNxNaN"
    sizes = [0, 1023, 1024, 1024**2 - 1, 1024**2, 5.4 * 1024**3, 3000 * 1024**3, math.nan]
    assert [memory_text(size) for size in sizes] == [
        "0B", "1023B", "1KB", "1024KB", "1MB", "5GB", "3000GB", "NaN",
    ]  # fmt: skip
    counts = [0, 7, 999, 999.6, 1000, 12345, 999_700, 2.5e9, 3e12, 4e15, math.nan]
    assert [count_text(count) for count in counts] == [
        "0", "7", "999", "1K", "1K", "12.3K", "1M", "2.5G", "3T", "4e+03T", "NaN",
    ]  # fmt: skip


def test_vl_simplenn_display(capsys):
    info = vl_simplenn_display(cifar(), "BATCHSIZE", 2, {"inputsize": [32, 40, 3]}, Format="csv")
    assert capsys.readouterr().out == info.text
    assert info.text.startswith('"layer","0","1",')
    assert {key: value.shape for key, value in info.items() if key != "text"} == {
        "support": (2, 13), "stride": (2, 13), "pad": (4, 13), "receptiveFieldSize": (2, 13),
        "receptiveFieldOffset": (2, 13), "receptiveFieldStride": (2, 13), "dataSize": (4, 14),
    }  # fmt: skip
    assert info.support[:, 1].tolist() == [3, 3]
    assert info.stride[0, :3].tolist() == [1, 2, 1]
    assert info.pad[:, 1].tolist() == [0, 1, 0, 1]
    assert info.receptiveFieldSize[1, -1] == 67
    assert info.receptiveFieldOffset[0, :4].tolist() == [1, 2, 2, 2]
    assert info.receptiveFieldStride[0, -1] == 8
    assert info.dataSize[:, 0].tolist() == [32, 40, 3, 2]
    assert info.dataSize[:, 1].tolist() == [32, 40, 32, 2]
    assert info.dataSize[:, -1].tolist() == [1, 1, 1, 1]


def test_vl_simplenn_display_in_silence(capsys):
    net = SimpleNN.from_struct(cifar())
    info = vl_simplenn_display(net, print_table=False, maxNumColumns=7)
    assert capsys.readouterr().out == ""
    assert info.text == render(describe(net), max_num_columns=7)
    with pytest.raises(TypeError, match="Unknown parameter 'colour'"):
        vl_simplenn_display(net, "colour", "red")


def test_vl_simplenn_display_tells_both_names_of_lrn():
    net = {"layers": [{"type": "lrn"}, {"type": "normalize"}]}
    text = vl_simplenn_display(net, print_table=False).text
    assert [column(text, i)["type"] for i in (2, 3)] == ["lrn", "norm"]
    assert net == {"layers": [{"type": "lrn"}, {"type": "normalize"}]}
