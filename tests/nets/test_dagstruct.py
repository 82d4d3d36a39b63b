"""DagNN structs: every class there and back, and what files of all ages may hold."""

import numpy as np
import pytest
import torch

import matconvnet as mcn
from matconvnet.interop.mat import read_mat, write_mat
from matconvnet.nets import dagstruct
from matconvnet.nets.registry import TYPES, Unknown
from matconvnet.values import Cell, Struct, StructArray

ROW = np.array([[1.0, 2.0]])

# What the original saves of each class, with values that are not the defaults, and our layer.
BLOCKS = [
    ("Conv", {"size": [3.0, 3, 1, 64], "hasBias": 0.0, "pad": [1.0, 2, 3, 4], "stride": [2.0, 1],
              "dilate": [1.0, 2], "opts": Cell(["cuDNN"])},
     mcn.Conv(size=(3, 3, 1, 64), has_bias=False, pad=(1, 2, 3, 4), stride=(2, 1), dilate=(1, 2))),
    ("ConvTranspose", {"size": [4.0, 4, 2, 6], "hasBias": True, "upsample": [2.0, 3],
                       "crop": [0.0, 1, 0, 2], "numGroups": 2.0},
     mcn.ConvTranspose(size=(4, 4, 2, 6), upsample=(2, 3), crop=(0, 1, 0, 2), num_groups=2)),
    ("Pooling", {"method": "avg", "poolSize": [3.0, 2], "pad": [0.0, 1, 0, 1], "stride": [2.0, 2]},
     mcn.Pooling((3, 2), method="avg", pad=(0, 1, 0, 1), stride=(2, 2))),
    ("BatchNorm", {"numChannels": 7.0, "epsilon": 1e-4}, mcn.BatchNorm(1e-4, 7)),
    ("ReLU", {"leak": 0.2, "useShortCircuit": True}, mcn.ReLU(0.2)),
    ("Sigmoid", {}, mcn.Sigmoid()),
    ("SoftMax", {}, mcn.Softmax()),
    ("DropOut", {"rate": 0.25, "frozen": True}, mcn.Dropout(0.25, frozen=True)),
    ("LRN", {"param": [5.0, 2, 0.1, 0.5]}, mcn.LRN((5, 2, 0.1, 0.5))),
    ("NormOffset", {"param": [2.0, 0.25]}, mcn.NormOffset((2, 0.25))),
    ("SpatialNorm", {"param": [3.0, 2, 1, 0.5]}, mcn.SpNorm((3, 2, 1, 0.5))),
    ("Sum", {}, mcn.Sum()),
    ("Concat", {"dim": 4.0, "numInputs": 2.0}, mcn.Concat(3)),
    ("Scale", {"size": [1.0, 1, 8], "hasBias": False}, mcn.Scale((1, 1, 8), False)),
    ("Crop", {"crop": [1.0, 2]}, mcn.Crop((1, 2))),
    ("Loss", {"loss": "topkerror", "ignoreAverage": False, "opts": Cell(["topK", 3.0])},
     mcn.Loss("topkerror", top_k=3)),
    ("PDist", {"p": 1.0, "aggregate": False, "loss": "pdist", "opts": Cell(["noRoot", True])},
     mcn.PDist(1, no_root=True, epsilon=1e-6, aggregate=False)),
    ("PDist", {"p": 2.0}, mcn.PDist(2, epsilon=1e-6, aggregate=True)),
    ("LossSmoothL1", {"sigma": 3.0}, mcn.SmoothL1(3)),
    ("ROIPooling", {"method": "avg", "subdivisions": [7.0, 6], "transform": 0.5, "flatten": True},
     mcn.RoiPool("avg", (7, 6), 0.5, True)),
    ("BilinearSampler", {}, mcn.BilinearSampler()),
    ("AffineGridGenerator", {"Ho": 5.0, "Wo": 6.0}, mcn.AffineGrid(5, 6)),
    ("UniformScalingGridGenerator", {"Ho": 5.0, "Wo": 6.0}, mcn.UniformGrid(5, 6)),
]  # fmt: skip
IDS = [f"{i}-{block[0]}" for i, block in enumerate(BLOCKS)]


def entry(kind, block, inputs=("x", "c"), params=()):
    return Struct(name="it", type=f"dagnn.{kind}", inputs=Cell(inputs), outputs=Cell(["y"]),
                  params=Cell(params), block=Struct(block))  # fmt: skip


def as_in_files(block):
    """Lists of numbers as MATLAB's rows."""
    return {k: np.array([v]) if type(v) is list else v for k, v in block.items()}


def test_every_class_of_the_original_is_here():
    assert {f"dagnn.{kind}" for kind, _, _ in BLOCKS} <= set(TYPES)


@pytest.mark.parametrize(("kind", "block", "layer"), BLOCKS, ids=IDS)
def test_blocks_are_read(kind, block, layer):
    placed = dagstruct.read_layer(entry(kind, as_in_files(block)))
    assert placed.layer == layer
    assert (placed.name, placed.inputs, placed.outputs) == ("it", ("x", "c"), ("y",))
    assert placed.extra.keys() <= {"opts", "useShortCircuit", "numInputs", "ignoreAverage", "loss"}


@pytest.mark.parametrize(("kind", "block", "layer"), BLOCKS, ids=IDS)
def test_blocks_are_written_as_they_were(kind, block, layer, tmp_path):
    written = dagstruct.write_layer(dagstruct.read_layer(entry(kind, as_in_files(block))))
    write_mat(tmp_path / "it.mat", {"it": written})
    again = read_mat(tmp_path / "it.mat")["it"]
    assert again.type == f"dagnn.{kind}"
    assert dagstruct.read_layer(again).layer == layer
    for key, value in as_in_files(block).items():
        np.testing.assert_array_equal(again.block[key], value, err_msg=key)


def test_options_without_a_property_are_written_as_pairs():
    layer = mcn.PDist(2, no_root=True, aggregate=True)  # epsilon is 1e-3, not that of the original
    written = dagstruct.write_layer(dagstruct.Placed("d", layer, ("x", "c"), ("y",), (), {}))
    assert written.block.opts == Cell(["noRoot", True, "epsilon", 1e-3])
    assert dagstruct.read_layer(written).layer == layer


@pytest.mark.parametrize("block", [np.zeros((0, 0)), Struct(), StructArray(), None])
def test_blocks_without_properties(block):
    made = dagstruct.read_layer(entry("Sum", {}) | {"block": block})
    assert made.layer == mcn.Sum()


def test_names_in_every_form():
    made = dagstruct.read_layer(entry("ReLU", {}) | {"inputs": "x", "params": np.zeros((0, 0))})
    assert (made.inputs, made.params) == (("x",), ())
    with pytest.raises(mcn.FormatError, match=r"inputs of layer 'it' is \[1.0\]; wanted a cell"):
        dagstruct.read_layer(entry("ReLU", {}) | {"inputs": [1.0]})
    with pytest.raises(mcn.FormatError, match="a layer has name None"):
        dagstruct.read_layer({"type": "dagnn.ReLU"})


def test_unknown_classes():
    mine = entry("MyLayer", {"depth": 2.0})
    with pytest.raises(mcn.FormatError, match=r"register\('dagnn.MyLayer', layer\)"):
        dagstruct.read_layer(mine)
    placed = dagstruct.read_layer(mine, keep_unknown=True)
    assert placed.layer == Unknown("dagnn.MyLayer")
    assert dagstruct.write_layer(placed) == mine


def struct(**fields):
    layers = StructArray([entry("Conv", {"size": np.array([[2.0, 2]])}, ["x"], ["f", "b"])])
    params = StructArray([Struct(name="f", value=np.ones((2, 2), "single")),
                          Struct(name="b", value=np.ones((1, 1), "single"))])  # fmt: skip
    return Struct(layers=layers, params=params) | fields


def test_a_net_without_vars_rates_or_meta():
    net = mcn.DagNN.from_struct(struct(meta=np.zeros((0, 0)), own=1.0))
    assert net.params["f"].value.shape == (2, 2, 1, 1)  # trailing axes are not in files
    assert net.params["b"].value.shape == (1, 1)
    assert (net.params["f"].learning_rate, net.params["f"].weight_decay) == (1, 1)
    assert net.extra == {"own": 1.0}
    assert net.eval({"x": torch.ones(3, 3, 1, 1)}).values["y"].unique().tolist() == [5]


def test_how_parameters_are_trained_is_kept():
    given = struct(vars=StructArray([Struct(name="y", precious=1.0), Struct(name="gone")]))
    given["params"][0] |= {"learningRate": 0.5, "weightDecay": 0.0, "trainMethod": "none"}
    net = mcn.DagNN.from_struct(given)
    for _ in range(2):
        param = net.params["f"]
        assert (param.learning_rate, param.weight_decay, param.train_method) == (0.5, 0, "none")
        assert net.precious == ["y"]
        net = mcn.DagNN.from_struct(net.to_struct())


def test_wrong_structs():
    with pytest.raises(mcn.FormatError, match="layers is list; wanted a struct array"):
        mcn.DagNN.from_struct(struct(layers=[1.0]))
    with pytest.raises(mcn.FormatError, match="param 'f' is str; wanted an array"):
        mcn.DagNN.from_struct(struct(params=StructArray([Struct(name="f", value="a")])))


def test_names_that_matlab_cannot_use_are_changed(tmp_path):
    net = mcn.DagNN()
    net.add_layer("a/b", mcn.ReLU(), "1", "a.b")
    net.add_layer("a_b", mcn.ReLU(), "a.b", "y" * 80)
    net.add_layer("conv", mcn.Conv(size=(1, 1, 1, 1)), "y" * 80, "out", ["f", "b-1"])
    net.init_params()
    mcn.save(net, tmp_path / "net.mat")
    back = mcn.load(tmp_path / "net.mat")
    names = [*back.layers, *back.vars, *back.params]
    assert all(name.isidentifier() and name.isascii() and len(name) <= 63 for name in names)
    assert len(set(back.layers)) == 3
    assert list(back.layers)[1] == "a_b"
    x = torch.randn(2, 3, 1, 1)
    y = net.eval({"1": x}).values["out"]
    assert torch.equal(back.eval({back.input: x}).values["out"], y)
