"""Networks in .safetensors files: round trips, damage, what a file cannot hold."""

import json
import struct

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import matconvnet as mcn
from matconvnet.interop import safetensors
from matconvnet.interop.safetensors import read_file
from matconvnet.values import Cell, Opaque, Sparse, Struct, StructArray


def conv_net(dtype=torch.float32):
    f, b = torch.rand(3, 2, 1, 4, dtype=dtype), torch.rand(4, dtype=dtype)
    layers = [
        {"type": "conv", "weights": [f, b], "pad": [1, 0, 2, 1], "stride": [2, 1], "name": "first",
         "learningRate": [1, 2], "weightDecay": [1, 0], "note": "kept"},
        {"type": "bnorm", "weights": [torch.ones(4, dtype=dtype), torch.zeros(4, dtype=dtype)],
         "learningRate": [1, 1, 0.05]},
        {"type": "pool", "pool": [2, 2], "method": "avg", "precious": True},
        {"type": "conv", "weights": [f[:1, :1].tile(1, 1, 4, 1), []]},
        {"type": "dropout", "rate": 0.25},
        {"type": "softmaxloss", "class": torch.tensor([1, 2])},
    ]  # fmt: skip
    meta = {
        "inputSize": (8, 8, 1), "classes": {"name": ["a", "b"]}, "free": None, "flag": True,
        "normalization": {"averageImage": np.arange(6.0).reshape(2, 3), "scale": float("inf")},
        "tensor": torch.arange(3), "empty": np.zeros((0, 3)), "a.b": np.ones(2), "ä": np.float32(2),
        "a": {"b": np.zeros(2)}, "cell": np.array(["x", ["y"]], dtype=object),
    }  # fmt: skip
    return mcn.SimpleNN.from_struct({"layers": layers, "meta": meta})


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_round_trip(tmp_path, dtype):
    net = conv_net(dtype)
    net.params["l4_1"].train_method = "none"
    mcn.save_network(net, tmp_path / "net.safetensors")
    again = mcn.load_network(tmp_path / "net.safetensors")
    assert [link.layer for link in again.layers] == [link.layer for link in net.layers]
    assert [link.name for link in again.layers] == [link.name for link in net.layers]
    assert [link.precious for link in again.layers] == [False, False, True, False, False, False]
    assert again.layers[0].extra == {"note": "kept"}
    for name, param in net.params.items():
        other = again.params[name]
        rules = (param.learning_rate, param.weight_decay, param.train_method)
        assert (other.learning_rate, other.weight_decay, other.train_method) == rules
        if param.value is None:
            assert other.value is None
        else:
            assert torch.equal(other.value, param.value)
            assert other.value.dtype == dtype
            assert other.value.stride() == param.value.stride()


def test_meta_comes_back_in_kind(tmp_path):
    mcn.save_network(conv_net(), tmp_path / "net.safetensors")
    meta = mcn.load_network(tmp_path / "net.safetensors").meta
    meta = mcn.Struct(meta)
    assert (meta.inputSize, meta.free, meta.flag, meta["ä"]) == ([8, 8, 1], None, True, 2)
    assert meta.cell == ["x", ["y"]]
    assert meta.classes.name == ["a", "b"]
    assert isinstance(meta.normalization.averageImage, np.ndarray)
    assert meta.normalization.averageImage.tolist() == [[0, 1, 2], [3, 4, 5]]
    assert meta.normalization.scale == float("inf")
    assert torch.equal(meta.tensor, torch.arange(3))
    assert meta.empty.shape == (0, 3)
    assert (meta["a.b"].tolist(), meta.a.b.tolist()) == ([1, 1], [0, 0])


def test_labels_are_left_out(tmp_path):
    net = conv_net()
    mcn.save_network(net, tmp_path / "net.safetensors")
    assert mcn.load_network(tmp_path / "net.safetensors").layers[-1].extra == {}
    assert "class" in net.layers[-1].extra
    assert not any("class" in name for name in load_file(tmp_path / "net.safetensors"))


def test_a_tensor_used_twice_is_stored_twice(tmp_path):
    f = torch.ones(1, 1, 2, 2)
    net = mcn.SimpleNN([(mcn.Conv(), [f, None]), (mcn.Conv(), [f, None])])
    mcn.save_network(net, tmp_path / "net.safetensors")
    again = mcn.load_network(tmp_path / "net.safetensors")
    assert torch.equal(again.params["l2_1"].value, f)


def test_extra_data(tmp_path):
    extra = {"state": {"l1_1": torch.ones(2, 2).T, "t": 3}, "list": [1, [np.ones(1)]], "no": None}
    mcn.save_network(conv_net(), tmp_path / "net.safetensors", extra)
    found = read_file(tmp_path / "net.safetensors").extra_meta
    assert torch.equal(found.state.l1_1, torch.ones(2, 2))
    assert (found.state.t, found.list, found.no) == (3, [1, [np.ones(1)]], None)


def double(layer, before, after):
    after.x = layer.weights[0] * before.x
    return after


def test_functions_are_named_but_not_stored(tmp_path):
    layer = {"type": "custom", "forward": double, "backward": None, "weights": [torch.ones(1)]}
    net = mcn.SimpleNN([layer])
    net.params["l1_1"].value = torch.full((1,), 5.0)
    mcn.save_network(net, tmp_path / "net.safetensors")
    again = mcn.load_network(tmp_path / "net.safetensors")
    assert again.params["l1_1"].value.tolist() == [5]
    assert again.layers[0].layer.struct["forward"] == {"$function": "double"}
    with pytest.raises(TypeError, match=r"forward of a custom layer is .*double.*; wanted a func"):
        again.eval({"x0": torch.ones(1, 1, 1, 1)})


@pytest.mark.parametrize(
    ("meta", "match"),
    [
        ({"x": {"y": [1, {2}]}}, r"meta.x.y.1 is set; wanted numbers"),
        ({"x": {3: 4}}, "meta.x has the key 3"),
        ({"x": {"$tensor": 4}}, r"meta.x has the key '\$tensor'"),
        ({"x": np.zeros(1, "M8[s]")}, "meta.x is an array of datetime64"),
        ({"x": torch.zeros(2, dtype=torch.complex64)}, "meta.x is an array of torch.complex64"),
        ({"x": 1j}, "meta.x is complex"),
    ],
)
def test_what_a_file_cannot_hold(tmp_path, meta, match):
    net = conv_net()
    net.meta = meta
    path = tmp_path / "net.safetensors"
    path.write_bytes(b"old")
    with pytest.raises(TypeError, match=match):
        mcn.save_network(net, path)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def saved(tmp_path):
    path = tmp_path / "net.safetensors"
    mcn.save_network(conv_net(), path)
    return path


def test_every_truncated_file_is_refused(tmp_path):
    path = saved(tmp_path)
    content = path.read_bytes()
    for length in [*range(0, 64), *range(64, len(content), 97), len(content) - 1]:
        path.write_bytes(content[:length])
        with pytest.raises(mcn.FormatError, match="is no whole safetensors file"):
            mcn.load_network(path)


def test_every_flipped_bit_is_noticed(tmp_path):
    path = saved(tmp_path)
    content = path.read_bytes()
    rng = np.random.default_rng(0)
    for place in rng.choice(len(content), 300, replace=False):
        broken = bytearray(content)
        broken[place] ^= 1 << rng.integers(8)
        path.write_bytes(broken)
        try:
            again = mcn.load_network(path)
        except mcn.FormatError:
            continue
        # What is left are the names of the checksums' keys and spaces that end the header.
        assert again.params.keys() == conv_net().params.keys()
        assert content[place : place + 1] == b" "


def test_other_files_are_refused(tmp_path):
    path = tmp_path / "other.safetensors"
    with pytest.raises(FileNotFoundError):
        mcn.load_network(path)
    path.write_text("<html>")
    with pytest.raises(mcn.FormatError, match="is no whole safetensors file"):
        mcn.load_network(path)
    save_file({"w": torch.ones(2)}, path)
    with pytest.raises(mcn.FormatError, match="has format None; wanted a network file, '2'"):
        mcn.load_network(path)
    save_file({}, path, {"matconvnet": "3"})
    with pytest.raises(mcn.FormatError, match="has format '3'"):
        mcn.load_network(path)


@pytest.mark.parametrize(
    "structure",
    [
        "", "[]", "{}", "null", '{"layers": 3, "meta": {}, "train_methods": {}, "extra": {}}',
        '{"layers": [{"type": "conv", "weights": [{"$tensor": "gone"}]}], "meta": {}}',
        '{"layers": [], "meta": {}, "train_methods": {"l9_9": "none"}, "extra": {}}',
        "[" * 100000,
    ],
)  # fmt: skip
def test_hostile_structures_are_refused(tmp_path, structure):
    import zlib

    path = tmp_path / "net.safetensors"
    crc = f"{zlib.crc32(structure.encode()):08x}"
    save_file({}, path, {"matconvnet": "1", "structure": structure, "crc32": crc})
    with pytest.raises(mcn.FormatError, match=r"net\.safetensors"):
        mcn.load_network(path)


def test_the_file_is_plain_safetensors(tmp_path):
    """The header is JSON behind its length, so any tool can read the arrays."""
    path = saved(tmp_path)
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    assert header["layers.0.weights.0"]["shape"] == [3, 2, 1, 4]
    layers = json.loads(header["__metadata__"]["structure"])["net"]["layers"]
    assert layers[0]["weights"] == [
        {"$tensor": "layers.0.weights.0"},
        {"$tensor": "layers.0.weights.1"},
    ]


def test_files_of_the_first_version_are_read(tmp_path):
    """They held the fields of a chain beside everything else."""
    path = tmp_path / "old.safetensors"
    filters = torch.arange(6.0).reshape(1, 1, 2, 3)
    structure = json.dumps(
        {
            "layers": [{"type": "conv", "weights": [{"$tensor": "layers.0.weights.0"}, []]}],
            "meta": {"inputSize": [1, 1, 2]},
            "train_methods": {"l1_1": "none"},
            "extra": {"epoch": 3},
        }
    )
    tensors = {"layers.0.weights.0": filters}
    crc = f"{safetensors._checksum(structure, tensors):08x}"
    save_file(tensors, path, {"matconvnet": "1", "structure": structure, "crc32": crc})
    net, extra = safetensors.read_file(path)
    assert torch.equal(net.params["l1_1"].value, filters)
    assert net.params["l1_1"].train_method == "none"
    assert (net.meta, extra) == ({"inputSize": [1, 1, 2]}, {"epoch": 3})


def test_matlab_values_survive(tmp_path):
    net = mcn.DagNN({"cell": Cell([1.0, "a"], (2, 1)), "array": StructArray([Struct(a=1.0)] * 2)})
    net.add_layer("c", mcn.Conv(size=(3, 2, 1, 4)), "x", "y", ["f", "b"])
    net.init_params()
    net.params["b"].train_method = "none"
    net.vars["y"].precious = True
    net.extra, net.beside = {"own": Opaque("object", "gpuArray", np.arange(3))}, {"state": 5.0}
    net.meta["sparse"] = Sparse((2, 2), np.array([1]), np.array([0]), np.array([2.5]))
    mcn.save(net, tmp_path / "net.safetensors")
    back = mcn.load(tmp_path / "net.safetensors")
    assert isinstance(back, mcn.DagNN)
    assert back.meta["cell"].shape == (2, 1)
    assert back.meta["cell"] == net.meta["cell"]
    assert back.meta["array"].shape == (1, 2)
    assert back.extra["own"].class_name == "gpuArray"
    assert back.beside == {"state": 5.0}
    assert back.meta["sparse"].shape == (2, 2)
    assert torch.equal(back.params["f"].value, net.params["f"].value)
    assert back.params["b"].train_method == "none"
    assert back.precious == ["y"]
    x = torch.randn(5, 4, 1, 1)
    y, z = (n.eval({"x": x}).values["y"] for n in (net, back))
    assert torch.equal(y, z)
