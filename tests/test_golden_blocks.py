"""Every block, called as in MATLAB, against the numbers recorded from the original toolbox."""

import contextlib
import inspect
from collections import Counter

import numpy as np
import pytest

from matconvnet.compat import vl
from tests.golden_data import arrays, assert_close, cases

COUNTS = {
    "vl_nnbilinearsampler": 17,
    "vl_nnbnorm": 16,
    "vl_nnconcat": 10,
    "vl_nnconv": 49,
    "vl_nnconvt": 25,
    "vl_nncrop": 5,
    "vl_nndropout": 6,
    "vl_nnloss": 119,
    "vl_nnnoffset": 6,
    "vl_nnnormalize": 11,
    "vl_nnnormalizelp": 29,
    "vl_nnpdist": 51,
    "vl_nnpool": 41,
    "vl_nnrelu": 9,
    "vl_nnroipool": 30,
    "vl_nnsigmoid": 5,
    "vl_nnsoftmax": 6,
    "vl_nnsoftmaxloss": 10,
    "vl_nnspnorm": 6,
}
CASES = cases(*COUNTS)
FLAGS = {"NoDerData", "NoDerFilters", "NoDerBiases", "NoCuDNN", "spatial"}
EXACT_TOL = {"double": 1e-10, "single": 2e-5}  # of y_exact, dzdx_exact (README, "Tolerances")
DTYPES = {"double": np.float64, "single": np.float32}


def call(case, inputs, dzdy=None, **keywords):
    """Call the vl_ function of a case with its options as pairs; derivatives given `dzdy`."""
    function = getattr(vl, case["block"])
    positional = list(inspect.signature(function).parameters)
    positional = positional[: positional.index("dzdy")]
    values = {**case["args"], **inputs}
    if case["block"] == "vl_nnconcat":
        values["inputs"] = [x for name, x in inputs.items() if name.startswith("x")]
    given = [values[name] for name in positional if name in values]
    if dzdy is not None:
        keywords["dzdy"] = dzdy
    pairs = []
    for name, value in case["options"].items():
        pairs += [name] if name in FLAGS else [name, value]
    for name in ("mask", "moments", "instanceWeights", "norms"):
        if name in inputs:
            pairs += [name, inputs[name]]
    warned = pytest.warns(UserWarning, match="class_weights has no effect")
    with warned if "classWeights" in case["options"] else contextlib.nullcontext():
        return function(*given, *pairs, **keywords)


def evaluate(case, inputs, outputs):
    """Return what our blocks compute, under the names of the recorded outputs."""
    inputs = dict(inputs)
    dzdy = inputs.pop("dzdy")
    extra = {}
    if "moments_out" in outputs:
        extra["return_moments"] = True
    if "norms_out" in outputs:
        extra["return_norms"] = True
    y = call(case, inputs, **extra)
    ders = call(case, inputs, dzdy, **extra)
    if case["block"] == "vl_nnconcat":
        return {"y": y, **{f"dzdx{k + 1}": der for k, der in enumerate(ders)}}
    ders = ders if isinstance(ders, tuple) else (ders,)
    if "moments_out" in outputs:
        names = ("y", "moments_out", "dzdx", "dzdg", "dzdb", "moments_out_backward")
        return dict(zip(names, (*y, *ders), strict=True))
    if "norms_out" in outputs:
        return {"y": y[0], "norms_out": y[1], "dzdx": ders[0]}
    if case["block"] == "vl_nndropout":
        y, mask = y
        np.testing.assert_array_equal(mask, inputs["mask"])
    got = {"y": y, **{f"dzd{name}": der for name, der in zip(inputs, ders, strict=False)}}
    if "dzdx_from_y" in outputs:
        got["dzdx_from_y"] = call(case, {**inputs, "x": y}, dzdy)
    return got


def expected(case, inputs, outputs):
    """Return the recorded numbers, the right ones in place of those where the original errs."""
    wanted = {k: v for k, v in outputs.items() if k not in case.get("skip_outputs", ())}
    for mark in ("_exact", "_padded"):
        right = {k.removesuffix(mark): v for k, v in wanted.items() if k.endswith(mark)}
        wanted = {k: v for k, v in wanted.items() if not k.endswith(mark)} | right
    if case["block"] == "vl_nnpdist" and inputs["x0"].shape != inputs["x"].shape:
        wanted["dzdx0"] = wanted["dzdx0"].sum((0, 1), keepdims=True)
    if has_tied_pool(case):
        del wanted["dzdx"]  # see test_tied_maxima
    return wanted, EXACT_TOL[case["dtype"]] if "y_exact" in outputs else case["tol"]


def has_tied_pool(case):
    return case["block"] == "vl_nnpool" and case.get("tie", False)


def in_order(order, inputs):
    """Return the inputs with their memory in C or in MATLAB's (Fortran) order."""
    return {k: None if a is None else np.array(a, order=order) for k, a in inputs.items()}


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("case", CASES, ids=[case["id"] for case in CASES])
def test_recorded(case, order):
    case = arrays(case)
    inputs, outputs = in_order(order, case["inputs"]), case["outputs"]
    wanted, tol = expected(case, inputs, outputs)
    got = evaluate(case, inputs, outputs)
    assert got.keys() >= wanted.keys()
    for name, want in wanted.items():
        if want is None:
            assert got[name] is None, name
            continue
        assert isinstance(got[name], np.ndarray), name
        assert got[name].dtype == DTYPES[case["dtype"]], name
        assert_close(got[name], want, tol, name)
        argument = inputs.get(name.removeprefix("dzd"))
        assert got[name].shape == (want if argument is None else argument).shape, name


TIED = [case for case in CASES if has_tied_pool(case)]


@pytest.mark.parametrize("case", TIED, ids=[case["id"] for case in TIED])
def test_tied_maxima(case):
    """Each window's derivative goes whole to one pixel of the window that has its maximum."""
    inputs = arrays(case)["inputs"]
    x, dzdy = inputs["x"], inputs.pop("dzdy")
    y, total = call(case, inputs), np.zeros_like(x)
    for i, j, c, n in np.ndindex(dzdy.shape):
        p = np.zeros_like(dzdy)
        p[i, j, c, n] = dzdy[i, j, c, n]
        dzdx = call(case, inputs, p)
        (winner,) = np.argwhere(dzdx)
        assert dzdx[tuple(winner)] == dzdy[i, j, c, n]
        assert x[tuple(winner)] == y[i, j, c, n]
        assert is_in_window(case, winner[:2], (i, j))
        assert tuple(winner[2:]) == (c, n)
        total += dzdx
    assert_close(call(case, inputs, dzdy), total, case["tol"])


def is_in_window(case, pixel, output):
    stride, pad = case["options"].get("stride", 1), case["options"].get("pad", 0)
    top, _, left, _ = np.broadcast_to(pad, 4)
    first = np.multiply(output, stride) - (top, left)
    return (first <= pixel).all() and (pixel < first + case["args"]["pool"]).all()


MOMENTS = [c for c in CASES if c["block"] == "vl_nnbnorm" and c["original_defect"]]


@pytest.mark.parametrize("case", MOMENTS, ids=[case["id"] for case in MOMENTS])
def test_frozen_moments(case):
    """The true derivative with constant moments, which the original cannot compute."""
    case = arrays(case)
    inputs = case["inputs"]
    dzdx = call(case, inputs, inputs.pop("dzdy"), frozen=True)[0]
    dzdy, sigma = arrays(cases_by_id(case["id"]))["inputs"]["dzdy"], inputs["moments"][:, 1]
    assert_close(dzdx, dzdy * (inputs["g"].ravel() / sigma)[:, None], case["tol"])


def cases_by_id(name):
    (case,) = (case for case in CASES if case["id"] == name)
    return case


SIZES = [c for c in CASES if c["block"] == "vl_nncrop" or "inputSizes" in c["options"]]


@pytest.mark.parametrize("case", SIZES, ids=[case["id"] for case in SIZES])
def test_derivative_from_sizes_alone(case):
    case = arrays(case)
    dzdy = case["inputs"]["dzdy"]
    if case["block"] == "vl_nncrop":
        size = case["inputs"]["x"].shape
        got = [vl.vl_nncrop([], case["args"]["crop"], dzdy, size)]
    else:
        sizes = case["options"]["inputSizes"]
        got = vl.vl_nnconcat([], case["args"]["dim"], dzdy, "inputSizes", sizes)
    wanted = [value for name, value in case["outputs"].items() if name.startswith("dzd")]
    for der, want in zip(got, wanted, strict=True):
        np.testing.assert_array_equal(der, want)


def test_every_case_is_run():
    recorded = [case for case in cases() if case["block"].startswith("vl_nn")]
    assert Counter(case["block"] for case in recorded) == COUNTS
    assert [case["id"] for case in CASES] == [case["id"] for case in recorded]
    assert {name for name in dir(vl) if name.startswith("vl_nn")} == COUNTS.keys()


def test_only_ambiguous_outputs_are_left_out():
    left_out = {case["id"]: case["skip_outputs"] for case in CASES if case.get("skip_outputs")}
    assert left_out == {"bilinearsampler_p016": ["dzdgrid"]}
    assert len(TIED) == 3


def test_the_comparison_can_fail():
    want = np.array([1.0, -2.0])
    assert_close(want + 1e-11, want, 1e-10)
    for wrong in (-want, want[::-1], 0 * want, want * np.nan, want[:1]):
        with pytest.raises(AssertionError):
            assert_close(wrong, want, 1e-10)
