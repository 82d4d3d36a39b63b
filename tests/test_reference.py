"""The text-book loops of `tests/reference` against numbers recorded from the original toolbox."""

import ast
import json
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

HERE = Path(__file__).parent
MANIFEST = json.loads((HERE / "golden" / "manifest.json").read_text())
EXACT_TOL = 1e-10  # golden/README.md, of the outputs that the formula gave and not the original

# The original's block: its file here, and the tensors that come before dzdy.
BLOCKS = {
    "dagnn.AffineGridGenerator": ("affine_grid", "x"),
    "dagnn.Scale": ("scale", "x f b"),
    "dagnn.Sum": ("sum", "inputs"),
    "dagnn.UniformScalingGridGenerator": ("uniform_grid", "x"),
    "vl_nnbilinearsampler": ("sampler", "x grid"),
    "vl_nnbnorm": ("bnorm", "x g b"),
    "vl_nnconcat": ("concat", "inputs"),
    "vl_nnconv": ("conv", "x f b"),
    "vl_nnconvt": ("convt", "x f b"),
    "vl_nncrop": ("crop", "x"),
    "vl_nndropout": ("dropout", "x mask"),
    "vl_nnloss": ("loss", "x c"),
    "vl_nnnoffset": ("noffset", "x"),
    "vl_nnnormalize": ("lrn", "x"),
    "vl_nnnormalizelp": ("lpnorm", "x"),
    "vl_nnpdist": ("pdist", "x x0"),
    "vl_nnpool": ("pool", "x"),
    "vl_nnrelu": ("relu", "x"),
    "vl_nnroipool": ("roipool", "x rois"),
    "vl_nnsigmoid": ("sigmoid", "x"),
    "vl_nnsoftmax": ("softmax", "x"),
    "vl_nnsoftmaxloss": ("softmaxloss", "x c"),
    "vl_nnspnorm": ("spnorm", "x"),
}
NOT_RECORDED = {"smooth_l1"}  # a layer of an example, which the recordings left out
KEYWORDS = {
    "Ho": "height",
    "Wo": "width",
    "dimensions": "dims",
    "instanceWeights": "instance_weights",
    "noRoot": "no_root",
    "numGroups": "num_groups",
    "pool": "size",
    "topK": "top_k",
}
WITHOUT_EFFECT = {"NoDerData", "NoDerFilters", "NoDerBiases", "NoCuDNN", "classWeights"}
WITHOUT_EFFECT |= {"rate", "inputSizes", "spatial"}  # the mask, the inputs and dims say it
WITHOUT_EFFECT |= {"size", "hasBias"}  # the factors and biases say it
CASES = [case for case in MANIFEST["cases"] if case["block"] in BLOCKS]


def functions(name):
    """Return the block and its derivative."""
    module = import_module(f"tests.reference.{name}")
    name = "add" if name == "sum" else name
    return getattr(module, name), getattr(module, f"{name}_backward")


def arrays(case):
    """Return inputs and outputs of a case; absent ones are None."""
    with np.load(HERE / "golden" / case["file"]) as archive:
        return [
            {name: None if key is None else archive[key] for name, key in case[side].items()}
            for side in ("inputs", "outputs")
        ]


def from_zero(case, inputs, options):
    """Let everything that the original counts from 1 count from 0."""
    if case["block"] in ("vl_nnconcat", "dagnn.Sum"):
        inputs["inputs"] = [x for name, x in inputs.items() if name.startswith("x")]
    if case["block"] == "vl_nnconcat":
        options["dim"] = options.get("dim", 3) - 1
    elif case["block"] == "vl_nnnormalizelp":
        dims = [1, 2] if "spatial" in case["options"] else options.get("dims", 3)
        options["dims"] = tuple(axis - 1 for axis in np.ravel(dims))
    elif case["block"] == "vl_nnroipool":
        inputs["rois"] = inputs["rois"] - 1
        if np.size(options.get("transform", 1)) == 6:
            A = np.array(options["transform"])
            A[:, 2] += A[:, 0] + A[:, 1] - 1
            options["transform"] = A
    elif case["block"] == "vl_nnsoftmaxloss":
        inputs["c"] = inputs["c"].copy()
        if inputs["c"].size == inputs["x"].shape[3]:
            inputs["c"] -= 1
        else:
            inputs["c"][:, :, 0] -= 1
    elif case["block"] == "vl_nnloss" and not _has_attributes(options):
        inputs["c"] = inputs["c"] - 1


def _has_attributes(options):
    return options.get("loss") in ("binaryerror", "binarylog", "logistic", "hinge")


def evaluate(case, inputs):
    """Return what our loops compute for a case, under the original's names."""
    name, tensor_names = BLOCKS[case["block"]]
    options = {**case["args"], **case["options"]}
    options = {KEYWORDS.get(k, k): v for k, v in options.items() if k not in WITHOUT_EFFECT}
    if name == "lpnorm" and "p" in options:
        options["exponent"] = options.pop("p")
    from_zero(case, inputs, options)
    for optional in ("instanceWeights", "moments", "norms"):
        if optional in inputs:
            options[KEYWORDS.get(optional, optional)] = inputs[optional]
    forward, backward = functions(name)
    tensors, dzdy = [inputs[tensor] for tensor in tensor_names.split()], inputs["dzdy"]
    y = forward(*tensors, **options)
    if name == "dropout":
        return {"y": y, "dzdx": backward(dzdy, inputs["mask"])}
    ders = backward(*tensors, dzdy, **options)
    match name:
        case "bnorm":
            values = (*y, *ders)
            names = ("y", "moments_out", "dzdx", "dzdg", "dzdb", "moments_out_backward")
            return dict(zip(names, values, strict=True))
        case "concat" | "sum":
            return {"y": y, **{f"dzdx{k + 1}": der for k, der in enumerate(ders)}}
        case "lpnorm":
            return {"y": y[0], "norms_out": y[1], "dzdx": ders}
        case "relu":
            return {"y": y, "dzdx": ders, "dzdx_from_y": backward(y, dzdy, **options)}
    if not isinstance(ders, tuple):
        ders = (ders,)
    names = [f"dzd{tensor}" for tensor in tensor_names.split()]
    return {"y": y, **dict(zip(names, ders, strict=False))}


def expected(case, inputs, outputs):
    """Return the recorded numbers, the right ones where the original errs, and their tolerance."""
    wanted = {k: v for k, v in outputs.items() if k not in case.get("skip_outputs", ())}
    for mark in ("_exact", "_padded"):
        right = {k.removesuffix(mark): v for k, v in wanted.items() if k.endswith(mark)}
        wanted = {k: v for k, v in wanted.items() if not k.endswith(mark)} | right
    if case["block"] == "vl_nnpdist" and inputs["x0"].shape != inputs["x"].shape:
        wanted["dzdx0"] = wanted["dzdx0"].sum((0, 1), keepdims=True)
    tol = EXACT_TOL if case["block"] == "vl_nnnormalize" else case["tol"]
    return {k: v for k, v in wanted.items() if v is not None}, tol


def deviation(got, want):
    """Return the largest difference, relative to the largest wanted number (at least 0.01)."""
    got, want = np.asarray(got, float), np.asarray(want, float)
    assert got.size == want.size, f"shape {got.shape}; wanted {want.shape}"
    return np.abs(got.reshape(want.shape) - want).max() / max(np.abs(want).max(), 0.01)


@pytest.mark.parametrize("case", CASES, ids=[case["id"] for case in CASES])
def test_recorded(case):
    inputs, outputs = arrays(case)
    wanted, tol = expected(case, inputs, outputs)
    got = evaluate(case, inputs)
    assert "y" in wanted
    for name, want in wanted.items():
        assert deviation(got[name], want) <= tol, name
        argument = inputs.get(name.removeprefix("dzd"))
        if argument is not None:
            assert got[name].shape == argument.shape, name


def test_every_file_has_recorded_cases():
    files = {path.stem for path in (HERE / "reference").glob("*.py")} - {"__init__"}
    assert files == {BLOCKS[case["block"]][0] for case in CASES} | NOT_RECORDED


def test_files_import_nothing_but_numpy():
    for path in (HERE / "reference").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                assert {alias.name for alias in node.names} <= {"numpy", "math"}, path.name
            assert not isinstance(node, ast.ImportFrom), path.name


def test_deviation_sees_a_wrong_sign():
    assert deviation([1.0, 2.0], [1.0, 2.0]) == 0
    assert deviation([1.0, -2.0], [1.0, 2.0]) == 2


@pytest.mark.parametrize(
    ("dtype", "length", "tiles", "last"),
    [(np.float32, 7, 13, 8), (np.float64, 7, 13, 7), (np.float64, 25, 11, 26)],
)
def test_roipool_overshoots_as_the_type_rounds(dtype, length, tiles, last):
    x = np.arange(1, 41, dtype=dtype).reshape(40, 1, 1, 1)
    rois = np.array([[0, 0, 0, 0, length - 1]], dtype).T
    y = functions("roipool")[0](x, rois, subdivisions=(tiles, 1))
    assert y[-1, 0, 0, 0] == last


def test_roipool_rounds_halves_away_from_zero():
    x = np.arange(1.0, 65).reshape(8, 8, 1, 1).transpose(1, 0, 2, 3)
    rois = np.array([[0.0, 0, 0, 7, 7]]).T
    y = functions("roipool")[0](x, rois, "avg", transform=0.5)
    assert y.item() == 19


@pytest.mark.parametrize("name", ["log", "softmaxlog", "mhinge", "mshinge"])
def test_loss_without_label_is_zero_whatever_the_scores(name):
    loss, loss_backward = functions("loss")
    x = np.array([np.nan, np.inf, 0]).reshape(1, 1, 3, 1)
    assert loss(x, [-1], name) == 0
    assert not loss_backward(x, [-1], 1.0, name).any()


@pytest.mark.parametrize(("name", "scores"), [("mhinge", [1.0, 3, 0]), ("mshinge", [2.0, 0, 1])])
def test_loss_at_a_margin_of_one_has_no_slope(name, scores):
    loss_backward = functions("loss")[1]
    x = np.array(scores).reshape(1, 1, 3, 1)
    assert not loss_backward(x, [0], 1.0, name).any()
    assert loss_backward(x - [[[[0.5], [0], [0]]]], [0], 1.0, name)[0, 0, 0, 0] == -1


def test_mshinge_with_one_class_is_zero():
    loss, loss_backward = functions("loss")
    x = np.full((1, 1, 1, 1), 0.3)
    assert loss(x, [0], "mshinge") == 0
    assert loss_backward(x, [0], 1.0, "mshinge") == 0


def test_lrn_without_energy_is_zero():
    lrn, lrn_backward = functions("lrn")
    x = np.array([0.0, 0, 0, 2]).reshape(1, 1, 4, 1)
    param = (3, 0, 1, 0.5)
    assert lrn(x, param).ravel().tolist() == [0, 0, 0, 1]
    assert lrn_backward(x, np.ones(x.shape), param).ravel().tolist() == [0, 0, 0.5, 0]


def test_sampler_gives_zero_where_the_grid_is_not_finite():
    sampler, sampler_backward = functions("sampler")
    x, grid = np.ones((3, 4, 2, 1)), np.array([np.nan, 0.0]).reshape(2, 1, 1, 1)
    dx, dgrid = sampler_backward(x, grid, np.ones((1, 1, 2, 1)))
    assert not sampler(x, grid).any()
    assert not dx.any()
    assert not dgrid.any()
