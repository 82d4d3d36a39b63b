"""Networks in `.mat` files: every layout that was ever written, and the one that we write."""

import numpy as np
import pytest
import scipy.io
import torch

import matconvnet as mcn
from matconvnet.interop.mat import write_mat
from matconvnet.values import Cell, Opaque, Struct, StructArray

FILTERS = np.arange(24, dtype="f4").reshape(3, 2, 1, 4)  # whole numbers: sums are exact
BIASES = np.arange(4, dtype="f4")


def conv(**fields):
    return Struct(type="conv", weights=Cell([FILTERS, BIASES[:, None]]), **fields)


def file(tmp_path, **variables):
    write_mat(tmp_path / "net.mat", variables)
    return tmp_path / "net.mat"


def is_that_conv(net):
    x = torch.arange(30.0).reshape(6, 5, 1, 1)
    y = net.eval({net.input: x}, mode="test").values[net.prediction]
    wanted = mcn.conv(x, torch.from_numpy(FILTERS), torch.from_numpy(BIASES))
    return torch.equal(y, wanted)


LAYOUTS = {
    "bare layers": {"layers": Cell([conv()])},
    "a variable net": {"net": Struct(layers=Cell([conv()]))},
    "another variable": {"model": Struct(layers=Cell([conv()])), "info": 1.0},
    "a column of layers": {"layers": Cell([conv()], (1, 1)), "meta": np.zeros((0, 0))},
    "filters and biases": {"layers": Cell([Struct(type="conv", filters=FILTERS, biases=BIASES)])},
    "everything else missing": {"layers": Cell([conv(), Struct(type="relu", leak=1.0)])},
    "empty arrays for what is empty": {
        "layers": Cell([conv(opts=np.zeros((0, 0))), Struct(type="relu", weights=np.zeros((0, 0)))])
    },
    "tidied": {"net": mcn.vl_simplenn_tidy({"layers": [conv()]})},
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layout_is_read(name, tmp_path):
    assert is_that_conv(mcn.load(file(tmp_path, **LAYOUTS[name])))


def dagnn(**fields):
    layer = Struct(name="c", type="dagnn.Conv", inputs=Cell(["input"]), outputs=Cell(["y"]),
                   params=Cell(["f", "b"]), block=Struct(size=[3, 2, 1, 4]))  # fmt: skip
    params = StructArray([Struct(name="f", value=FILTERS), Struct(name="b", value=BIASES[None])])
    return Struct(layers=StructArray([layer]), params=params) | fields


@pytest.mark.parametrize("nested", [False, True])
def test_a_dagnn_alone_or_in_a_checkpoint(nested, tmp_path):
    variables = {"net": dagnn(), "stats": Struct(train=1.0)} if nested else dagnn()
    net = mcn.load(file(tmp_path, **variables))
    assert isinstance(net, mcn.DagNN)
    assert net.beside == ({"stats": {"train": 1.0}} if nested else None)
    assert is_that_conv(net)


def test_old_fields_move_to_the_meta_data(tmp_path):
    normalization = Struct(imageSize=np.array([[224.0, 224, 3]]), border=np.array([[32.0, 32]]))
    net = mcn.load(
        file(tmp_path, layers=Cell([conv()]), normalization=normalization, classes=Struct(name="a"))
    )
    assert net.meta.normalization.cropSize == [0.875, 0.875]
    assert net.meta.classes.name == "a"
    assert net.beside is None
    assert net.extra == {}


def test_objects_say_how_to_save_them_again(tmp_path):
    path = file(tmp_path, net=Opaque("object", "dagnn.DagNN", np.arange(6)))
    with pytest.raises(mcn.FormatError, match=r"'net' is a dagnn\.DagNN.*net\.saveobj\(\)"):
        mcn.load(path)
    layer = conv()
    layer.weights = Cell([Opaque("object", "gpuArray", np.arange(6)), BIASES])
    with pytest.raises(mcn.FormatError, match=r"gpuArray.*vl_simplenn_move\(net, 'cpu'\)"):
        mcn.load(file(tmp_path, net=Struct(layers=Cell([layer]))))


def test_what_is_no_network_is_listed(tmp_path):
    with pytest.raises(mcn.FormatError, match=r"a \(float\), b \(1 x 2 array\); wanted a network"):
        mcn.load(file(tmp_path, a=1.0, b=np.zeros((1, 2))))
    with pytest.raises(mcn.FormatError, match="no variables"):
        mcn.load(file(tmp_path))
    broken = Struct(layers=Cell([Struct(type="pool")]))
    with pytest.raises(mcn.FormatError, match=r"net\.mat holds a network that.*a pool without"):
        mcn.load(file(tmp_path, net=broken))
    with pytest.raises(mcn.FormatError, match="layer 1 has no field 'type'"):
        mcn.load(file(tmp_path, net=Struct(layers=Cell([Struct(a=1.0)]))))


def test_an_image_database_comes_as_it_is(tmp_path):
    images = Struct(data=np.zeros((4, 3, 1, 2), "f4"), labels=np.array([[1.0, 2.0]]))
    imdb = mcn.load(file(tmp_path, images=images, meta=Struct(sets=Cell(["train", "val"]))))
    assert imdb.images.data.shape == (4, 3, 1, 2)
    assert imdb.images.labels.tolist() == [[1, 2]]
    assert imdb.meta.sets == ["train", "val"]


def written(net, tmp_path):
    mcn.save(net, tmp_path / "net.mat")
    return scipy.io.loadmat(tmp_path / "net.mat", struct_as_record=True)


def test_classes_and_orientations_of_a_simplenn(tmp_path):
    net = mcn.SimpleNN(
        [
            {"type": "conv", "weights": [FILTERS, BIASES], "pad": (1, 0, 2, 1), "stride": [2, 1]},
            {"type": "pool", "pool": 2, "method": "avg", "precious": True},
            {"type": "lrn", "param": (5, 1, 2e-5, 0.75)},
            {"type": "conv", "weights": [np.ones((1, 1, 4, 1), "f4"), []], "learningRate": [1, 2]},
            {"type": "softmaxloss", "class": np.array([[1.0, 2.0]])},
        ],
        {"inputSize": [6, 5, 1, 10], "classes": {"name": ["a", "b"]}},
    )
    found = written(net, tmp_path)
    layers = found["layers"]
    assert layers.shape == (1, 5)
    first, pool, lrn, last, loss = (layer[0, 0] for layer in layers[0])
    assert first["weights"].shape == (1, 2)
    assert [w.dtype for w in first["weights"][0]] == [np.float32, np.float32]
    np.testing.assert_array_equal(first["weights"][0, 0], FILTERS)
    np.testing.assert_array_equal(first["pad"], [[1, 0, 2, 1]])
    np.testing.assert_array_equal(first["stride"], [[2, 1]])
    assert first["pad"].dtype == first["learningRate"].dtype == np.float64
    assert first["opts"].dtype == object
    assert pool["precious"].dtype == bool or pool["precious"].dtype == np.uint8
    assert str(lrn["type"][0]) == "lrn"
    np.testing.assert_allclose(lrn["param"], [[5, 1, 2e-5, 0.75]])
    assert last["weights"].shape == (1, 2)
    assert last["weights"][0, 1].size == 0
    np.testing.assert_array_equal(last["learningRate"], [[1, 2]])
    np.testing.assert_array_equal(loss["class"], [[1, 2]])
    meta = found["meta"][0, 0]
    np.testing.assert_array_equal(meta["inputSize"], [[6, 5, 1, 10]])
    assert [str(name[0]) for name in meta["classes"][0, 0]["name"][0]] == ["a", "b"]


def test_classes_and_orientations_of_a_dagnn(tmp_path):
    net = mcn.DagNN.from_struct(dagnn())
    net.add_layer("relu", mcn.ReLU(), "y", "z")
    net.params["f"].train_method = "none"
    found = written(net, tmp_path)
    layers, params, variables = found["layers"], found["params"], found["vars"]
    assert (layers.shape, params.shape, variables.shape) == ((1, 2), (1, 2), (1, 3))
    names = ("name", "type", "inputs", "outputs", "params", "block")
    assert layers.dtype.names == names
    assert str(layers[0, 0]["type"][0]) == "dagnn.Conv"
    assert layers[0, 0]["inputs"].shape == (1, 1)
    assert layers[0, 1]["params"].size == 0
    block = layers[0, 0]["block"][0, 0]
    np.testing.assert_array_equal(block["size"], [[3, 2, 1, 4]])
    assert block["hasBias"].dtype in (bool, np.uint8)
    assert params[0, 0]["value"].dtype == np.float32
    assert str(params[0, 0]["trainMethod"][0]) == "none"
    assert params[0, 1]["learningRate"].dtype == np.float64


def test_a_checkpoint_stays_one(tmp_path):
    net = mcn.load(file(tmp_path, net=dagnn(), state=Struct(solver=Cell([0.0, 1.0]))))
    found = written(net, tmp_path)
    assert {"net", "state"} <= set(found)
    assert found["state"][0, 0]["solver"].dtype == object


def test_functions_cannot_be_written(tmp_path):
    net = mcn.SimpleNN([{"type": "custom", "forward": lambda layer, before, after: after}])
    with pytest.raises(TypeError, match="forward"):
        mcn.save(net, tmp_path / "net.mat")
    assert not (tmp_path / "net.mat").exists()


def test_other_suffixes_are_refused(tmp_path):
    with pytest.raises(mcn.FormatError, match=r"suffix '\.pkl'; wanted one of \.mat"):
        mcn.save(mcn.SimpleNN([mcn.ReLU()]), tmp_path / "net.pkl")
