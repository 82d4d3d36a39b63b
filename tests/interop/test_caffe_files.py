"""Caffe's files: their forms and phases, meta data, and files that are damaged or hostile."""

import struct

import numpy as np
import pytest
import torch

import matconvnet as mcn
from matconvnet.interop.caffe import binary, load_caffe, schema, text
from tests.helpers import assert_close
from tests.interop.caffe_files import blob, caffemodel, field

RELU = 'layer { name: "relu" type: "ReLU" bottom: "data" top: "data" }\n'
CONV = (
    'layer { name: "conv" type: "Convolution" bottom: "data" top: "conv" '
    "convolution_param { num_output: 2 kernel_size: 1 } }\n"
)
INPUT = 'input: "data" input_shape { dim: 1 dim: 3 dim: 6 dim: 4 }\n'

BYTES = bytes.fromhex(
    "0a03 6e6574"  # name: "net"
    "a206 26"  # layer, 38 bytes
    "0a02 6970"  # name: "ip"
    "120c 496e6e657250726f64756374"  # type: "InnerProduct"
    "3a10 3a04 0a02 0102 2a08 0000803f 000000c0"  # blobs: shape 1 x 2, packed 1, -2
    "5801"  # a field of no interest here
)
"""A caffemodel as bytes, written down from the description of the format."""


@pytest.fixture
def files(tmp_path):
    """Write files by name; their folder."""

    def write(**contents):
        for name, content in contents.items():
            path = tmp_path / name.replace("_", ".")
            path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return tmp_path

    return write


def test_bytes_of_a_caffemodel(files):
    prototxt = 'input: "data" input_dim: 1 input_dim: 2 input_dim: 1 input_dim: 1 ' + (
        'layer { name: "ip" type: "InnerProduct" bottom: "data" top: "ip" '
        "inner_product_param { num_output: 1 bias_term: false } }"
    )
    folder = files(net_prototxt=prototxt, net_caffemodel=BYTES)
    net = load_caffe(folder / "net.prototxt", folder / "net.caffemodel")
    assert net.params["ip_filter"].value.tolist() == [[[[1], [-2]]]]


@pytest.mark.parametrize("old", [False, True])
def test_blobs_of_every_kind(files, old):
    weights = np.arange(6, dtype=np.float32).reshape(2, 3)
    double = struct.pack("<6d", *weights.ravel())
    blobs = {
        "floats": blob(weights, old),
        "doubles": field(7, field(1, b"\2\3")) + field(8, double),
        "pieces": field(7, field(1, 2) + field(1, 3)) + b"".join(
            field(5, struct.pack("<3f", *row)) for row in weights),
        "one by one": field(7, field(1, b"\2\3")) + b"".join(
            bytes([5 << 3 | 5]) + struct.pack("<f", x) for x in weights.ravel()),
    }  # fmt: skip
    for content in blobs.values():
        found = binary.array(content)
        assert found.dtype == np.float32
        assert found.reshape(2, 3).tolist() == weights.tolist()
        assert found.ndim == (4 if old and content is blobs["floats"] else 2)


@pytest.mark.parametrize(
    "declared",
    [
        'input: "data" input_dim: 1 input_dim: 3 input_dim: 6 input_dim: 4\n',
        INPUT,
        'layer { name: "x" type: "Input" top: "data" '
        "input_param { shape { dim: 1 dim: 3 dim: 6 dim: 4 } } }",
        'layer { name: "x" type: "DummyData" top: "data" '
        "dummy_data_param { num: 1 channels: 3 height: 6 width: 4 } }",
        'layer { name: "x" type: "MemoryData" top: "data" top: "label" '
        "memory_data_param { batch_size: 1 channels: 3 height: 6 width: 4 } }",
    ],
)
def test_forms_of_inputs(files, declared):
    net = load_caffe(files(net_prototxt=declared + RELU) / "net.prototxt")
    assert net.meta["inputs"][0] == {"name": "data", "size": [6, 4, 3, 1]}
    assert (net.input, net.prediction) == ("data", "datax")


@pytest.mark.parametrize(
    ("rule", "is_in"),
    [
        ("", True),
        ("include { phase: TEST }", True),
        ("include { phase: TRAIN }", False),
        ("exclude { phase: TEST }", False),
        ("exclude { phase: TRAIN }", True),
        ("include { phase: TRAIN } include { phase: TEST }", True),
        ('include { stage: "deploy" }', False),
        ('include { not_stage: "deploy" }', True),
        ("include { min_level: 1 }", False),
        ("include { max_level: 0 }", True),
    ],
)
def test_layers_of_the_phase_test(files, rule, is_in):
    prototxt = INPUT + CONV + RELU.replace("{", "{ " + rule, 1)
    net = load_caffe(files(net_prototxt=prototxt) / "net.prototxt")
    assert ("relu" in net.layers) == is_in


def test_stages_that_the_file_itself_is_in(files):
    prototxt = 'state { stage: "deploy" level: 1 } ' + INPUT + CONV
    prototxt += RELU.replace("{", '{ include { stage: "deploy" min_level: 1 }', 1)
    assert "relu" in load_caffe(files(net_prototxt=prototxt) / "net.prototxt").layers


def test_names_become_identifiers_of_their_own(files):
    prototxt = INPUT + (
        'layer { name: "a/b" type: "ReLU" bottom: "data" top: "5-1" }'
        'layer { name: "a-b" type: "ReLU" bottom: "5-1" top: "5/1" }'
        'layer { name: "" type: "ReLU" bottom: "5/1" top: "5/1" }'
        'layer { name: "a b" type: "ReLU" bottom: "5/1" top: "5/1" }'
    )
    net = load_caffe(files(net_prototxt=prototxt) / "net.prototxt")
    assert list(net.layers) == ["a_b", "a_bx", "x", "a_bxx"]
    assert list(net.vars) == ["data", "x5_1", "x5_1x", "x5_1xx", "x5_1xxx"]


def describe(files, **options):
    folder = files(net_prototxt=INPUT + CONV)
    return load_caffe(folder / "net.prototxt", **options).meta


def test_how_images_are_prepared(files):
    assert describe(files)["normalization"] == {
        "interpolation": "bicubic", "keepAspect": False, "imageSize": [6, 4, 3],
        "border": [250, 252], "cropSize": [6 / 256, 4 / 256],
    }  # fmt: skip
    found = describe(files, preproc="vgg-caffe", full_image_size=(5, 8))["normalization"]
    assert (found["interpolation"], found["keepAspect"]) == ("bilinear", True)
    assert (found["border"], found["cropSize"]) == ([0, 4], [1, 0.5])
    with pytest.raises(ValueError, match="preproc is 'vgg'; wanted one of 'caffe', 'vgg-caffe'"):
        describe(files, preproc="vgg")
    with pytest.raises(ValueError, match="color_format is 'BGR'; wanted one of 'bgr', 'rgb'"):
        describe(files, color_format="BGR")


def test_means(files):
    planes = np.arange(72, dtype=np.float32).reshape(1, 3, 6, 4)
    folder = files(
        mean_binaryproto=blob(planes, old=True), large_binaryproto=blob(np.full((3, 9, 8), 7))
    )
    found = describe(files, mean=folder / "mean.binaryproto")["normalization"]["averageImage"]
    assert found.tolist() == planes[0, ::-1].transpose(1, 2, 0).tolist()
    found = describe(files, mean=folder / "mean.binaryproto", color_format="rgb")
    assert found["normalization"]["averageImage"][5, 3].tolist() == [23, 47, 71]
    found = describe(files, mean=folder / "large.binaryproto")["normalization"]["averageImage"]
    assert_close(torch.from_numpy(found), torch.full((6, 4, 3), 7.0), 1e-6)
    for colour in [(1, 2, 3), np.array([1, 2, 3]), torch.tensor([1.0, 2, 3])]:
        found = describe(files, mean=colour)["normalization"]["averageImage"]
        assert found.tolist() == [[[1, 2, 3]]]
    with pytest.raises(mcn.FormatError, match=r"the mean has shape \(1, 1, 2\); wanted H x W x 3"):
        describe(files, mean=(1, 2))


def test_classes(files):
    folder = files(words_txt="n01 tench, Tinca\n\nn02 goldfish\n")
    names = describe(files, synsets=folder / "words.txt")["classes"]
    assert names == {"name": ["n01", "n02"], "description": ["tench, Tinca", "goldfish"]}
    assert describe(files, class_names=["a b", "c"])["classes"]["name"] == ["a b", "c"]
    with pytest.raises(ValueError, match="class_names and synsets are both given"):
        describe(files, class_names=["a"], synsets=["a b"])
    with pytest.raises(mcn.FormatError, match="no text in UTF-8"):
        describe(files, class_names=files(bad_txt=b"\xff\xfe\xfa") / "bad.txt")


TEXT = """
# a comment { that is "not closed
name: "net" 'work' state: < stage: "a", stage: 'b\\\\c\\'"'; >
layer { type: "Eltwise" eltwise_param: { operation: PROD coeff: [1, -2.5e-1, .5f] coeff: inf } }
layer {
  bottom: ["a", "b"]  top: "ä"
  convolution_param { kernel_size: [] kernel_size: 0x10 bias_term: f pad: 1 } crop_param {}
}
layers < type: CONVOLUTION blobs_lr: 1e2 >
"""


def test_the_text_format():
    net, parser = schema.Message("NetParameter"), text.Parser(TEXT)
    parser.parse(net)
    assert parser.unknown == {}
    assert (net.name, net.state.stage) == ("network", ["a", "b\\c'\""])
    eltwise, conv = net.layer
    assert eltwise.eltwise_param.operation == "PROD"
    assert eltwise.eltwise_param.coeff == [1, -0.25, 0.5, float("inf")]
    assert (conv.bottom, conv.top) == (["a", "b"], ["ä"])
    assert conv.convolution_param.kernel_size == [16]
    assert (conv.convolution_param.bias_term, conv.convolution_param.group) == (False, 1)
    assert conv.has("crop_param")
    assert not conv.has("pooling_param")
    assert (conv.pooling_param.pool, conv.pooling_param.ceil_mode) == ("MAX", True)
    assert (net.layers[0].type, net.layers[0].blobs_lr) == ("CONVOLUTION", [100])


def test_unknown_fields_of_every_form(files):
    unknown = "a: 1 b { c { d: 'x' 'y' } } e < > f: [1, 2] g: { h: MAX } weight_filler { i: 1 }"
    prototxt = INPUT + CONV.replace("{ num", f"{{ {unknown} num")
    with pytest.warns(UserWarning, match="not part") as caught:
        load_caffe(files(net_prototxt=prototxt) / "net.prototxt")
    assert str(caught[0].message).splitlines()[1:] == [
        f"  layer.convolution_param.{name} (line 2)" for name in "abefg"
    ]
    many = "".join(f"x{i}: 1 " for i in range(30))
    with pytest.warns(UserWarning, match=r"x19 \(line 3\)\n  and more$"):
        load_caffe(files(net_prototxt=INPUT + CONV + many) / "net.prototxt")


@pytest.mark.parametrize(
    ("prototxt", "message"),
    [
        ("", "has no layers"),
        ("<html><body>404</body></html>", "line 1: there is '<'; wanted the name of a field"),
        ("layer { ", "line 1: the file ends within 'layer'"),
        ("layer { " * 5000, "layer is too deep; wanted at most 32 levels"),
        ("layer {} }", "line 1: there is '}'; wanted the name of a field"),
        ("layer { name: 'a\n' }", "line 1: there is .*; wanted a value"),
        ("layer { name: 'a' name: 'b' }", "layer.name is given twice"),
        ("layer { name { } }", "name is a message; wanted a value"),
        ("layer { param: 3 }", "param is a value; wanted `{`"),
        ("layer { name 'a' }", "after 'name' there is no `:` and no `{`"),
        ("layer { name: ['a' 'b', 'c'] }", "name has 2 values; wanted one"),
        ("layer { top: ['a' b] }", "there is 'b'; wanted `,` or `]`"),
        ("layer { pooling_param { pool: MIN } }", "pool is 'MIN', a word; wanted PoolMethod"),
        ("layer { relu_param { negative_slope: x } }", "is 'x', a word; wanted float"),
        ("layer { eltwise_param { coeff: } }", "there is '}'; wanted a value"),
        ("\n\ninput_dim: 1\ninput_dim: 3000000000", "line 4: .* wanted int32"),
        (INPUT + "layer { name: 'a' type: 3 }", "line 2: type is '3', a word; wanted string"),
        (INPUT + RELU.replace('m: "data"', 'm: "date"'), r"layer 'relu' reads \['date'\]"),
        (INPUT + CONV + CONV, r"layer 'conv' .*writes \['conv'\] that one does"),
        (INPUT, "has no layers"),
        (INPUT + INPUT + 'input: "b"' + RELU, r"declares inputs \['data', 'data', 'b'\]"),
        (INPUT + RELU.replace("data", "datas", 0) + "layers { name: 'a' }", "both `layer` and"),
        ('layers { layer { name: "a" type: "conv" } }', "upgrade_net_proto_text"),
        (INPUT.replace("dim: 6", "dim: -6") + RELU, r"has size \(-6, 4, 3, 1\)"),
        (INPUT.replace("dim: 6", "dim: 100000000") + RELU, r"has size \(100000000, 4, 3, 1\)"),
        (INPUT + CONV.replace("num_output: 2", "num_output: 0"), "it has 0 outputs; wanted"),
        (INPUT + CONV.replace("num_output: 2", "num_output: 4000000000"), "4000000000 outputs"),
        (INPUT + CONV.replace("kernel_size: 1", ""), r"its kernel_size is \[0\]"),
        (INPUT + CONV.replace("kernel_size: 1", "kernel_size: 7"), r"'conv' would have size \(0,"),
        (INPUT + CONV.replace("kernel_size: 1", "kernel_size: [1, 2, 3]"), r"\[1, 2, 3\]; "),
        (INPUT + CONV.replace("size: 1", "size: 1 group: 2"), "groups do not divide"),
        (INPUT + CONV.replace("size: 1", "size: 1 stride: 0"), r"its stride is \[0\]"),
        (INPUT + CONV.replace("size: 1", "size: 1 axis: 2"), "it has axis 2"),
        (INPUT + CONV.replace('top: "conv"', ""), "1 bottoms and 0 tops; wanted 1 and 1"),
        (INPUT + RELU[:-2] + "relu_param { negative_slope: -1 } }", "slope is -1.0; wanted 0 or"),
        (INPUT + RELU.replace("ReLU", "Dropout")[:-2] + "dropout_param { dropout_ratio: 1 } }",
         "its dropout_ratio is 1.0; wanted less than 1"),
        (INPUT + 'layer { type: "Accuracy" bottom: "data" }', "no layer that computes anything"),
    ],
)  # fmt: skip
def test_bad_descriptions(files, prototxt, message):
    folder = files(net_prototxt=prototxt)
    with pytest.raises(mcn.FormatError, match=message) as caught:
        load_caffe(folder / "net.prototxt")
    assert "net.prototxt" in str(caught.value)


def test_a_description_too_long(files):
    folder = files(net_prototxt=" " * (text.LIMIT + 1))
    with pytest.raises(mcn.FormatError, match=f"has {text.LIMIT + 1} bytes; wanted a text file"):
        load_caffe(folder / "net.prototxt")


def test_too_many_layers(files):
    prototxt = INPUT + RELU * (binary.MOST_LAYERS + 1)
    with pytest.raises(mcn.FormatError, match=f"{binary.MOST_LAYERS + 1} layers; wanted at most"):
        load_caffe(files(net_prototxt=prototxt) / "net.prototxt")


HUGE = b"\x80\x80\x80\x80\x80\x80\x80\x40"
"""2 ** 55, seven bits a byte."""

WEIGHTS = {"conv": [np.ones((2, 3, 1, 1)), np.ones(2)]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no caffemodel, .*: it has no layers"),
        (b"<!DOCTYPE html><html>", r"no caffemodel.* begin with b'<!DOCTYPE html>"),
        (caffemodel(WEIGHTS)[:-3], r"no caffemodel, or not the whole of it \(59 bytes.* are left"),
        (b"\x89HDF\r\n\x1a\n", "is an HDF5 file"),
        (b"\x0b" * 9, "at byte 0 there is 11, which begins no field"),
        (b"\x0a\xff\xff", "at byte 0 there is a number without an end"),
        (b"\xff" * 12, "at byte 0 there is a number without an end"),
        (field(2, field(1, field(1, "conv"))), "upgrade_net_proto_binary"),
        (field(100, b"") * (binary.MOST_LAYERS + 1), "it has more than 10000 layers"),
        (field(100, field(7, b"") * (binary.MOST_FIELDS + 1)), "at byte 5 has more than 10000"),
        (field(100, field(1, "conv") + field(7, b"\x0b\x0b")), "at byte 0 there is 11, which"),
        (field(100, field(1, "conv") + field(7, field(7, field(1, b"\2\3")) + field(5, b"1234"))),
         r"'conv' \(Convolution\): a blob of shape \(2, 3\) holds 4 bytes of numbers of 4"),
        (field(100, field(1, "conv") + field(7, field(7, field(1, b"\xff" * 9 + b"\1")))),
         r"a blob of shape \(-1,\) holds 0 bytes"),
        (field(100, field(1, "conv") + field(7, field(7, field(1, HUGE * 2)))),
         r"a blob of shape \(36028797018963968, 36028797018963968\) holds 0 bytes"),
        (field(100, field(1, "conv") + field(7, field(7, field(1, b"\1" * 40)))),
         "a blob has more than 32 axes"),
        (field(100, field(1, "conv") + field(7, field(5, b"") * (binary.MOST_FIELDS + 1))),
         "what begins at byte 0 has more than 10000 fields"),
    ],
)  # fmt: skip
def test_bad_weights(files, content, message):
    folder = files(net_prototxt=INPUT + CONV, net_caffemodel=content)
    with pytest.raises(mcn.FormatError, match=message):
        load_caffe(folder / "net.prototxt", folder / "net.caffemodel")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\xff\xff", "no mean image"),
        (b"", r"holds \(0, 0, 0, 0\) numbers; wanted one image"),
        (blob(np.ones((2, 3, 6, 4))), r"holds \(2, 3, 6, 4\) numbers; wanted one image"),
    ],
)
def test_bad_means(files, content, message):
    folder = files(mean_binaryproto=content)
    with pytest.raises(mcn.FormatError, match=message):
        describe(files, mean=folder / "mean.binaryproto")


def test_mutated_files_fail_as_files_do(files, recwarn):
    """Flip, cut and repeat bytes: a network, or FormatError; UserWarning for what is ignored."""
    prototxt = (INPUT + CONV + RELU.replace("data", "conv")).encode()
    random = np.random.default_rng(0)
    for content, name in [(prototxt, "net.prototxt"), (caffemodel(WEIGHTS), "net.caffemodel")]:
        failed = 0
        for _ in range(150):
            mutant = bytearray(content)
            for at in random.integers(0, len(content), random.integers(1, 4)):
                mutant[at] = random.integers(0, 256)
            if random.random() < 0.3:
                del mutant[random.integers(0, len(content)) :]
            folder = files(net_prototxt=prototxt, net_caffemodel=caffemodel(WEIGHTS))
            (folder / name).write_bytes(mutant)
            try:
                load_caffe(folder / "net.prototxt", folder / "net.caffemodel")
            except mcn.FormatError:
                failed += 1
        assert failed > 40
    assert all(issubclass(w.category, UserWarning) for w in recwarn)
