"""Conversion between formats: what is mapped, what is left out, and that nothing wrong is left."""

import math
from collections import Counter

import pytest
import torch

import matconvnet as mcn
from matconvnet.interop import formats, proof
from matconvnet.interop.convert import convert
from matconvnet.interop.mapping import Mapped
from matconvnet.nets.example import input_sizes
from matconvnet.nets.own import FunctionLayer
from tests import models
from tests.helpers import assert_close, randn
from tests.interop import caffe_files
from tests.interop.samples import LENET, WEIGHTS, chain
from tests.tolerances import REFERENCE

BAR = REFERENCE[torch.float32]
FORMATS = (".mat", ".safetensors", ".onnx")
every_format = pytest.mark.parametrize("suffix", FORMATS)


def graph():
    """A branch, a convolution that batch normalisation follows, and a softmax loss."""
    net = mcn.DagNN({"inputSize": [6.0, 5.0, 2.0]})
    net.add_layer("conv/1", mcn.Conv(size=(3, 3, 2, 4), pad=1), "x", "a", ("f", "b"))
    net.add_layer("bn", mcn.BatchNorm(num_channels=4), "a", "n", ("g", "o", "m"))
    net.add_layer("relu", mcn.ReLU(), "n", "r")
    net.add_layer("sum", mcn.Sum(), ("n", "r"), "prediction")
    net.add_layer("loss", mcn.Loss(), ("prediction", "label"), "objective")
    net.init_params()
    net.params["m"].value = torch.stack((randn((4,), 5), randn((4,), 6).abs() + 0.5), 1).float()
    net.params["b"].value = randn((4,), 7).float()
    return net


def saved(net, path):
    mcn.save(net, path)
    return path


@every_format
@pytest.mark.parametrize("make", [chain, graph])
def test_a_file_becomes_another(make, suffix, tmp_path):
    source = saved(make(), tmp_path / "source.mat")
    done = convert(source, tmp_path / f"target{suffix}")
    net, back, x = mcn.load(source), mcn.load(tmp_path / f"target{suffix}"), randn((6, 5, 2, 3), 9)
    wanted = net.eval({net.input: x.float()}, mode="test", precious=[net.prediction]).values
    found = back.eval({back.input: x.float()}, mode="test", precious=[back.prediction]).values
    is_exact = suffix != ".onnx"
    assert_close(found[back.prediction], wanted[net.prediction], 0 if is_exact else BAR)
    assert done.deviation <= (0 if is_exact else BAR)
    assert [layer.name for layer in done.mapping] == [node.name for node in net.graph.nodes]
    assert {path.name for path in tmp_path.iterdir()} == {"source.mat", f"target{suffix}"}


@every_format
@pytest.mark.parametrize("make", [chain, graph])
def test_a_deployed_network(make, suffix, tmp_path):
    net, x = make(), randn((6, 5, 2, 3), 9).float()
    done = convert(net, tmp_path / f"target{suffix}", deploy=True)
    back = mcn.load(tmp_path / f"target{suffix}")
    before = net.eval({net.input: x}, mode="test", precious=[net.prediction]).values
    after = back.eval({back.input: x}, mode="test").values
    wanted = mcn.softmax(before[net.prediction])
    assert_close(after[back.prediction], wanted, BAR)
    assert len(done.proofs) == 2
    assert 0 < done.proofs[0].deviation <= BAR
    kinds = {layer.name: layer.became for layer in done.mapping}
    assert kinds["loss"] == ""
    assert list(kinds)[-1] == "prob"
    assert any("'loss'" in line for line in done.left_out)


def test_the_mapping_of_a_deployed_network(tmp_path):
    done = convert(chain(), tmp_path / "net.onnx", deploy=True, softmax=False)
    assert done.mapping == (
        Mapped("conv1", "conv", "Conv", ((3, 3, 2, 4), (4,))),
        Mapped("bn1", "bnorm", "part of conv1", ((4,), (4,), (4, 2))),
        Mapped("layer3", "relu", "Relu", ()),
        Mapped("drop", "dropout", "", ()),
        Mapped("layer5", "conv", "Conv", ((1, 1, 4, 3), (3,))),
        Mapped("loss", "softmaxloss", "", ()),
    )
    assert [line.split(",")[0] for line in done.left_out] == [
        "layer 'drop' (dropout)",
        "layer 'loss' (softmaxloss)",
        "how it is trained: learning rates",
    ]


def test_no_softmax_is_added_to_one_channel(tmp_path):
    weights = [randn((1, 1, 2, 1), dtype=torch.float32), []]
    net = mcn.SimpleNN([{"type": "conv", "weights": weights}, {"type": "loss"}])
    for softmax, last in ((None, "layer2"), (True, "prob")):
        done = convert(net, tmp_path / "net.mat", deploy=True, softmax=softmax)
        assert done.mapping[-1].name == last


def test_what_is_left_out_of_each_format(tmp_path):
    net = chain()
    net.extra["imageMean"] = 0.5
    net.beside = {"stats": 1.0}
    source = saved(net, tmp_path / "source.mat")
    assert convert(source, tmp_path / "again.mat").left_out == ()
    assert convert(source, tmp_path / "a.safetensors").left_out == ("the field 'class' of 1 layer",)
    assert convert(source, tmp_path / "a.onnx").left_out == (
        "layer 'loss' (softmaxloss), which compares with what is known in training alone",
        "what is beside the network: stats",
        "of the network the fields imageMean",
        "how it is trained: learning rates, weight decays, state of solvers",
    )
    lost = convert(source, tmp_path / "deployed.mat", deploy=True).left_out
    assert "what is beside the network: stats" in lost
    assert "the field 'momentum' of 1 layer" in lost
    assert not any("imageMean" in line for line in lost)
    assert mcn.load(tmp_path / "deployed.mat").extra["imageMean"] == 0.5


def test_names_that_matlab_lacks_are_told(tmp_path):
    done = convert(graph(), tmp_path / "net.mat")
    assert done.mapping[0].became == "dagnn.Conv as conv_1"
    assert mcn.load(tmp_path / "net.mat").graph.nodes[0].name == "conv_1"


def test_layers_of_one_name_are_told_apart(tmp_path):
    entry = {"type": "relu", "name": "same"}
    done = convert(mcn.SimpleNN([entry, entry]), tmp_path / "net.mat", deploy=True)
    assert [(layer.name, layer.became) for layer in done.mapping] == [
        ("same (1)", "relu"),
        ("same (2)", "relu"),
    ]


def test_the_size_of_the_input(tmp_path):
    import onnx

    net = mcn.SimpleNN([{"type": "conv", "weights": [randn((9, 9, 2, 4)).float(), []]}])
    convert(net, tmp_path / "free.onnx")
    convert(net, tmp_path / "fixed.onnx", input_size=(12, 10, 2))
    shapes = []
    for name in ("free", "fixed"):
        value = onnx.load(tmp_path / f"{name}.onnx").graph.input[0]
        shapes.append([d.dim_value for d in value.type.tensor_type.shape.dim])
    assert shapes == [[0, 2, 0, 0], [0, 2, 12, 10]]
    convert(tmp_path / "free.onnx", tmp_path / "net.mat", input_size=(12, 10, 2))
    with pytest.raises(ValueError, match="filters extend over") as caught:
        convert(net, tmp_path / "small.mat", input_size=(3, 3, 2))
    assert "(3, 3, 2, 2)" in caught.value.__notes__[-1]


def test_regions_of_interest(tmp_path):
    net = mcn.DagNN()
    net.add_layer("conv", mcn.Conv(size=(3, 3, 2, 3)), "image", "a", ("f", "b"))
    net.add_layer("pool", mcn.RoiPool(method="max", subdivisions=(2, 2)), ("a", "rois"), "y")
    net.init_params()
    assert input_sizes(net, 2) == {"image": (8, 8, 2, 2), "rois": (5, 3, 1, 1)}
    for suffix in FORMATS:
        assert convert(net, tmp_path / f"net{suffix}").deviation <= BAR


def unknown(tmp_path):
    """The file of a network whose second layer nobody knows."""
    struct = chain().to_struct()
    struct["layers"][2] = {"type": "Odd", "name": "odd", "scale": 2.0}
    mcn.save(mcn.SimpleNN.from_struct(struct, keep_unknown=True), tmp_path / "odd.mat")
    return tmp_path / "odd.mat"


@pytest.mark.parametrize("deploy", [False, True])
@pytest.mark.parametrize("suffix", [".mat", ".safetensors"])
def test_unknown_layers_are_kept_without_being_evaluated(suffix, deploy, tmp_path):
    done = convert(unknown(tmp_path), tmp_path / f"new{suffix}", deploy=deploy)
    assert "not evaluated: 'odd' and what follows" in done.proofs[-1].text
    back = mcn.load(tmp_path / f"new{suffix}")
    assert back.unknown == {"odd": "Odd"}
    odd = next(entry for entry in back.to_struct()["layers"] if entry["name"] == "odd")
    assert odd["scale"] == 2.0
    assert ("odd", "Odd", "Odd", ()) in done.mapping


def test_unknown_layers_have_no_form_in_onnx(tmp_path):
    with pytest.raises(ValueError, match=r"no form of layers 'odd' \(Odd\)"):
        convert(unknown(tmp_path), tmp_path / "new.onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["odd.mat"]


@pytest.mark.parametrize("size", [None, (9, 8, 3)])
def test_a_program_of_torch(size, tmp_path):
    net = mcn.SimpleNN(
        [mcn.Conv(size=(3, 2, 3, 4)), mcn.BatchNorm(num_channels=4), mcn.ReLU(), mcn.Dropout(),
         mcn.SoftmaxLoss()], {"inputSize": [6, 7, 3]},
    )  # fmt: skip
    net.params["l2_3"].value[:, 1] = 2  # deviations of 0 would give infinity
    done = convert(net, tmp_path / "net.pt2", deploy=True, input_size=size)
    assert [layer.became for layer in done.mapping] == [
        "traced", "part of layer1", "traced", "", "", "traced"
    ]  # fmt: skip
    assert done.deviation <= 1e-5
    x = torch.randn(*(size or (6, 7, 3)), 5)
    program = torch.export.load(tmp_path / "net.pt2").module()
    wanted = mcn.softmax(net.eval({"x0": x}, mode="test").values["x4"])
    y = program(x.permute(3, 2, 0, 1))
    torch.testing.assert_close(y.permute(2, 3, 1, 0), wanted, rtol=1e-4, atol=1e-6)
    with pytest.raises(mcn.FormatError, match="cannot be read back"):
        mcn.load(tmp_path / "net.pt2")


def test_an_unknown_loss_is_left_out(tmp_path):
    net = graph()
    net.add_layer("odd", FunctionLayer(lambda x, y: (x - y).abs().sum()), ("r", "target"), "d")
    struct = net.to_struct()
    struct["layers"][-1]["type"] = "dagnn.Odd"
    odd = mcn.DagNN.from_struct(struct, keep_unknown=True)
    done = convert(odd, tmp_path / "net.onnx")
    assert any("'odd' (dagnn.Odd)" in line for line in done.left_out)


@every_format
def test_a_network_of_caffe(suffix, tmp_path):
    (tmp_path / "net.prototxt").write_text(LENET)
    with pytest.raises(ValueError, match="'c_1' has no value"):
        convert(tmp_path / "net.prototxt", tmp_path / f"net{suffix}")
    weights = tmp_path / "weights.caffemodel"
    weights.write_bytes(caffe_files.caffemodel(WEIGHTS))
    done = convert(
        tmp_path / "net.prototxt", tmp_path / f"net{suffix}", load_options={"caffemodel": weights}
    )
    assert [layer[:2] for layer in done.mapping] == [
        ("c_1", "Convolution"), ("relu", "ReLU"), ("fc", "InnerProduct"),
    ]  # fmt: skip


def test_without_onnxruntime_the_file_is_read_back(tmp_path, monkeypatch):
    monkeypatch.setattr(proof, "find_spec", lambda name: None)
    for number, net in enumerate((chain(), graph())):
        done = convert(net, tmp_path / f"{number}.onnx")
        assert "onnxruntime" in done.proofs[0].text
        assert "not installed" in done.proofs[0].text
        assert list(done.proofs[0].deviations) == [net.prediction]


def spoiled(write):
    """A writer that changes one number of the first filters, and what else it is told to."""

    def spoil(net, path, **options):
        copy = mcn.SimpleNN.from_struct(net.to_struct())
        copy.params["l1_1"].value = net.params["l1_1"].value.clone()
        copy.params["l1_1"].value[1, 1, 1, 1] += 0.01
        write(copy, path, **options)

    return spoil


@every_format
@pytest.mark.parametrize("has_runtime", [True, False])
def test_a_wrong_file_takes_no_ones_place(suffix, has_runtime, tmp_path, monkeypatch):
    target = tmp_path / f"net{suffix}"
    target.write_bytes(b"what was there")
    kind = formats.FORMATS[suffix]
    monkeypatch.setitem(formats.FORMATS, suffix, kind._replace(save=spoiled(kind.save)))
    if not has_runtime:
        monkeypatch.setattr(proof, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"is not written.*('l1_1'|'x1'|'x5')") as caught:
        convert(chain(), target)
    assert str(caught.value).startswith(str(target))
    assert f".{target.name}." not in str(caught.value)
    assert target.read_bytes() == b"what was there"
    assert [path.name for path in tmp_path.iterdir()] == [target.name]


def test_a_wrong_deployment_is_named(tmp_path, monkeypatch):
    from matconvnet.nets import deploy

    def wrong(net, **options):
        made = deploy.insert_bnorm(net)
        made.params["b"].value += 1
        return made

    monkeypatch.setattr(deploy, "deploy", wrong)
    with pytest.raises(ValueError, match=r"'a', written by layer 'conv/1', departs by 0\.\d+"):
        convert(graph(), tmp_path / "net.mat", deploy=True)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("change", ["options", "wiring", "layers", "type"])
def test_what_departs_is_named(change):
    net = graph()
    read = net.copy()
    if change == "options":
        read.layers["relu"].block = mcn.ReLU(leak=0.5)
        message = "variable 'r', written by layer 'relu', departs"
    elif change == "wiring":
        read.set_layer_inputs("sum", ["r", "r"])
        message = r"layer 'sum' is wired to \['r', 'r', 'prediction'\]; wanted \['n', 'r'"
    elif change == "layers":
        read.remove_layer("loss")
        message = "it holds 4 layers; wanted 5"
    else:
        read.layers["relu"].block = mcn.Sigmoid()
        message = "'relu' is there of type Sigmoid; wanted ReLU"
    with pytest.raises(mcn.FormatError, match=message):
        proof.prove_equal(net, read, proof.random_inputs(net))


def test_numbers_that_are_not_finite_prove_nothing(tmp_path):
    net = graph()
    net.params["m"].value = torch.zeros(4, 2)
    for options in ({"deploy": True}, {}):
        with pytest.raises(ValueError, match=r"'(n|r)', written by layer .* is not finite"):
            convert(net, tmp_path / "net.onnx", **options)
    convert(net, tmp_path / "net.safetensors")  # the same bits all the same


def test_deviations():
    a = torch.tensor([1.0, -4.0, math.nan])
    assert proof.deviation(a, a) == 0
    assert proof.deviation(a[:2], a[:1]) == math.inf
    assert proof.deviation(torch.tensor([1.0, -3.0]), torch.tensor([1.0, -4.0])) == 0.25
    assert proof.deviation(torch.tensor([0.5]), torch.tensor([0.0])) == 0.5
    assert proof.deviation(torch.tensor([math.nan, 1]), torch.tensor([2.0, 1])) == math.inf
    assert proof.deviation(torch.tensor([math.inf, 1]), torch.tensor([2.0, 1])) == math.inf


def test_targets_that_cannot_be(tmp_path):
    net = chain()
    with pytest.raises(mcn.FormatError, match=r"suffix '.h5'; wanted one of .mat, .safetensors"):
        convert(net, tmp_path / "net.h5")
    with pytest.raises(mcn.FormatError, match=r"suffix '.prototxt'"):
        convert(net, tmp_path / "net.prototxt")
    with pytest.raises(FileNotFoundError, match="nowhere is no folder"):
        convert(net, tmp_path / "nowhere" / "net.mat")
    (tmp_path / "net.mat").mkdir()
    with pytest.raises(IsADirectoryError, match=r"net.mat is a folder; wanted a file"):
        convert(net, tmp_path / "net.mat")
    with pytest.raises(ValueError, match="softmax is given without deploy"):
        convert(net, tmp_path / "net.onnx", softmax=True)


def test_a_folder_that_nothing_can_be_written_to(tmp_path, monkeypatch):
    def refuse(prefix, dir):
        raise PermissionError(13, "Permission denied", f"{dir}/{prefix}abc")

    monkeypatch.setattr("tempfile.mkdtemp", refuse)
    with pytest.raises(PermissionError) as caught:
        convert(chain(), tmp_path / "net.mat")
    assert caught.value.filename == str(tmp_path / "net.mat")


def test_an_image_database_is_no_network(tmp_path):
    from matconvnet.interop.mat import write_mat

    write_mat(tmp_path / "imdb.mat", {"images": {"data": torch.zeros(2, 2, 1, 3)}})
    with pytest.raises(mcn.FormatError, match="holds an image database"):
        convert(tmp_path / "imdb.mat", tmp_path / "net.mat")


def test_weights_beside_a_file_come_with_it(tmp_path, monkeypatch):
    from matconvnet.interop.onnx import writing

    monkeypatch.setattr(writing, "LIMIT", 100)
    monkeypatch.setattr(writing, "SMALL", 10)
    assert convert(chain(), tmp_path / "net.onnx").deviation <= BAR
    assert {path.name for path in tmp_path.iterdir()} == {"net.onnx", "net.onnx.data"}
    monkeypatch.setattr(proof, "find_spec", lambda name: None)
    assert convert(chain(), tmp_path / "other.onnx").deviation <= BAR
    back = mcn.load(tmp_path / "net.onnx", external_data=True)
    x = randn((6, 5, 2, 1), 9).float()
    wanted = chain().eval({"x0": x}, mode="test").values["x5"]
    assert_close(back.eval({"x0": x}, mode="test").values["x5"], wanted, BAR)


@every_format
@pytest.mark.parametrize("deploy", [False, True])
@pytest.mark.parametrize("name", models.NETWORKS)
def test_real_networks(name, suffix, deploy, tmp_path):
    path = models.path(name)
    if suffix == ".onnx" and name in ("ffdnet_gray_retrained", "mscnn_dehaze_coarse"):
        with pytest.raises(ValueError, match="ONNX has no form of layers"):
            convert(path, tmp_path / "net.onnx", deploy=deploy)
        return
    done = convert(path, tmp_path / f"net{suffix}", deploy=deploy)
    assert done.deviation <= (BAR if deploy or suffix == ".onnx" else 0)
    found = Counter(layer.became for layer in done.mapping)
    has_bnorm = any(layer.kind in ("bnorm", "dagnn.BatchNorm") for layer in done.mapping)
    if deploy:
        assert not {"bnorm", "dagnn.BatchNorm", "softmaxloss"} & set(found)
        assert has_bnorm == any(text.startswith("part of ") for text in found)
    if not deploy and suffix != ".onnx":
        assert found[""] == 0
