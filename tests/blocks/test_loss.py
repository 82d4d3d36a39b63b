"""`loss`: ten kinds, their edges, label and weight shapes, errors."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from matconvnet.blocks.loss import Loss, loss, loss_backward
from matconvnet.layer import Call, Context
from tests.helpers import (
    assert_close,
    central_difference,
    in_memory,
    memory_orders,
    randn,
    seeds,
    sizes,
)
from tests.reference import loss as reference
from tests.tolerances import CENTRAL_DIFFERENCE, PRINTED, REFERENCE

CATEGORICAL = ("classerror", "topkerror", "log", "softmaxlog", "mhinge", "mshinge")
ATTRIBUTE = ("binaryerror", "binarylog", "logistic", "hinge")
KINDS = CATEGORICAL + ATTRIBUTE
SMOOTH = ("log", "softmaxlog", "binarylog", "logistic")


def pixel(*scores, dtype=torch.float64):
    """One pixel with these scores."""
    return torch.tensor(scores, dtype=dtype).reshape(1, 1, -1, 1)


def problem(kind, size, seed, dtype=torch.float64):
    """Scores (probabilities for the logs), labels with ignored ones among them, options."""
    rng = np.random.default_rng(seed)
    x = rng.uniform(0.1, 0.9, size) if "log" in kind else rng.normal(size=size)
    h, w, d, n = size
    if kind in ATTRIBUTE:
        c = rng.integers(-1, 2, size)
    else:
        c = rng.integers(-1, d, (h, w, 1, n))
    options = {"loss": kind, "threshold": 0.2, "top_k": min(2, d)}
    return torch.tensor(x).to(dtype), torch.tensor(c), options


@pytest.mark.parametrize(
    ("kind", "value", "slopes"),
    [
        ("log", 1.6094379, (-10, 0, 0)),
        ("softmaxlog", 1.2398311, (-1.4211338, 0.78138767, 0.63974611)),
        ("mhinge", 0.8, (-2, 0, 0)),
        ("mshinge", 1.3, (-2, 2, 0)),
        ("classerror", 1, (0, 0, 0)),
    ],
)
def test_recorded_classes(kind, value, slopes):
    x, c = pixel(0.2, 0.5, 0.3), torch.tensor([0])
    assert_close(loss(x, c, loss=kind), value, PRINTED)
    assert_close(loss_backward(x, c, 2, loss=kind).flatten(), slopes, PRINTED)


@pytest.mark.parametrize(
    ("kind", "label", "value", "slope"),
    [
        ("binarylog", 1, 1.2039728, -6.6666667),
        ("binarylog", -1, 0.35667494, 2.8571429),
        ("logistic", 1, 0.55435524, -0.85111497),
        ("logistic", -1, 0.85435524, 1.148885),
        ("hinge", 1, 0.7, -2),
        ("hinge", -1, 1.3, 2),
        ("binaryerror", 1, 0, 0),
        ("binaryerror", -1, 1, 0),
    ],
)
def test_recorded_attributes(kind, label, value, slope):
    x, c = pixel(0.3), torch.tensor([label])
    assert_close(loss(x, c, loss=kind), value, PRINTED)
    assert_close(loss_backward(x, c, 2, loss=kind).flatten(), [slope], PRINTED)


@settings(deadline=None, max_examples=60)
@given(st.sampled_from(KINDS), sizes(), seeds, memory_orders)
def test_like_the_loops(kind, size, seed, order):
    x, c, options = problem(kind, size, seed)
    weights = randn((*size[:2], c.shape[2]), seed).abs()
    want = reference.loss(x.numpy(), c.numpy(), instance_weights=weights.numpy(), **options)
    der = reference.loss_backward(
        x.numpy(), c.numpy(), -1.7, instance_weights=weights.numpy(), **options
    )
    x = in_memory(x, order)
    assert_close(loss(x, c, instance_weights=weights, **options), want, REFERENCE[x.dtype])
    got = loss_backward(x, c, -1.7, instance_weights=weights, **options)
    assert_close(got, der, REFERENCE[x.dtype])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_type(kind, dtype):
    x, c, options = problem(kind, (3, 2, 4, 2), 0, dtype)
    y, der = loss(x, c, **options), loss_backward(x, c, 1.0, **options)
    assert y.dtype == der.dtype == dtype
    assert y.dim() == 0
    want = reference.loss(x.double().numpy(), c.numpy(), **options)
    assert_close(y, want, REFERENCE[dtype])
    want = reference.loss_backward(x.double().numpy(), c.numpy(), 1.0, **options)
    assert_close(der, want, REFERENCE[dtype])


@pytest.mark.parametrize("kind", SMOOTH)
def test_numerical_derivative(kind):
    x, c, options = problem(kind, (2, 3, 4, 2), 1)
    want = central_difference(lambda x: loss(x, c, **options), x, 1.3)
    assert_close(loss_backward(x, c, 1.3, **options), want, CENTRAL_DIFFERENCE)


@pytest.mark.parametrize("kind", ["mhinge", "mshinge", "hinge"])
def test_numerical_derivative_away_from_kinks(kind):
    size = (2, 3, 4, 2)
    x, c, options = problem(kind, size, 2)
    x = torch.randperm(x.numel(), generator=torch.Generator().manual_seed(0)) * 0.31 - 7.1553
    x = x.double().reshape(size) / 3
    want = central_difference(lambda x: loss(x, c, **options), x, 1.3)
    assert_close(loss_backward(x, c, 1.3, **options), want, CENTRAL_DIFFERENCE)


def test_sum_over_pixels_and_images():
    x, c = torch.zeros(2, 3, 4, 5), torch.zeros(2, 3, 1, 5)
    assert_close(loss(x, c), 30 * math.log(4), REFERENCE[torch.float32])


def test_ties_of_classerror_go_to_the_first_class():
    x = pixel(1, 5, 5)
    assert [loss(x, torch.tensor([c]), loss="classerror").item() for c in range(3)] == [1, 0, 1]


def test_ties_of_topkerror_are_ranked_by_class():
    x = pixel(2, 5, 5, 5)
    errors = [loss(x, torch.tensor([c]), loss="topkerror", top_k=2).item() for c in range(4)]
    assert errors == [1, 0, 0, 1]


def test_ties_of_mshinge_go_to_the_first_class():
    der = loss_backward(pixel(0, 2, 2), torch.tensor([0]), 1, loss="mshinge")
    assert der.flatten().tolist() == [-1, 1, 0]


def test_nan_is_not_among_the_best():
    x = pixel(math.nan, math.nan, math.nan)
    assert loss(x, torch.tensor([0]), loss="topkerror", top_k=2) == 1


def test_log_is_clamped_in_the_derivative_only():
    x, c = pixel(0, -0.5), torch.tensor([0])
    assert loss(x, c, loss="log") == math.inf
    assert_close(loss_backward(x, c, 2, loss="log").flatten(), [-2e8, 0], PRINTED)
    assert_close(loss_backward(x, c + 1, 2, loss="log").flatten(), [0, -2e8], PRINTED)


def test_binarylog_is_not_clamped():
    x, c = pixel(0), torch.tensor([1])
    assert loss(x, c, loss="binarylog") == math.inf
    assert loss_backward(x, c, 1, loss="binarylog") == -math.inf


@pytest.mark.parametrize(
    ("kind", "scores", "label"),
    [("mhinge", (1, 0), 0), ("mshinge", (2, 1), 0), ("hinge", (1,), 1), ("hinge", (-1,), -1)],
)
def test_no_slope_at_a_margin_of_one(kind, scores, label):
    x, c = pixel(*scores), torch.tensor([label])
    assert not loss_backward(x, c, 1, loss=kind).any()
    towards = torch.zeros_like(x)
    towards[0, 0, 0] = -0.25 if label >= 0 else 0.25
    assert loss_backward(x + towards, c, 1, loss=kind)[0, 0, 0, 0] == (-1 if label >= 0 else 1)


def test_score_at_the_threshold_is_an_error():
    for label in (-1, 1):
        assert loss(pixel(0.5), torch.tensor([label]), loss="binaryerror", threshold=0.5) == 1


def test_threshold():
    x, c = pixel(0.3), torch.tensor([1])
    assert loss(x, c, loss="binaryerror", threshold=0.2) == 0
    assert loss(x, c, loss="binaryerror", threshold=0.4) == 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_stable(dtype):
    x = pixel(1000, 0, -1000, dtype=dtype)
    assert loss(x, torch.tensor([2])) == 2000
    assert loss(pixel(0, -math.inf, dtype=dtype), torch.tensor([0])) == 0
    for label in (1, -1):
        x = pixel(-1000 * label, dtype=dtype)
        assert loss(x, torch.tensor([label]), loss="logistic") == 1000
        assert loss_backward(x, torch.tensor([label]), 1, loss="logistic") == -label
        assert loss_backward(-x, torch.tensor([label]), 1, loss="logistic") == 0


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 0.5])
def test_ignored_pixels_count_nothing_whatever_their_scores(kind, bad):
    x, c, options = problem(kind, (2, 2, 3, 2), 3)
    c[0, 1] = 0 if kind in ATTRIBUTE else -1
    want, der = loss(x, c, **options), loss_backward(x, c, 1, **options)
    x[0, 1] = bad
    assert loss(x, c, **options) == want
    assert torch.equal(loss_backward(x, c, 1, **options), der)
    assert not der[0, 1].any()


def test_mshinge_with_one_class_is_zero():
    x, c = pixel(0.3), torch.tensor([0])
    assert loss(x, c, loss="mshinge") == 0
    assert loss_backward(x, c, 1, loss="mshinge") == 0


@pytest.mark.parametrize("kind", CATEGORICAL)
@pytest.mark.parametrize("shape", [(6,), (1, 6), (6, 1), (1, 1, 1, 6), (2, 3), (3, 1, 2)])
def test_one_label_per_image(kind, shape):
    x, _, options = problem(kind, (2, 3, 4, 6), 4)
    flat = torch.tensor([0, 3, -1, 1, 2, 2])
    c = flat.reshape(shape[::-1]).permute(tuple(reversed(range(len(shape)))))  # column-major
    everywhere = flat.expand(2, 3, 1, 6)
    assert loss(x, c, **options) == loss(x, everywhere, **options)
    got, want = (loss_backward(x, labels, 1, **options) for labels in (c, everywhere))
    assert torch.equal(got, want)


def test_attributes_per_image_if_there_is_one_channel():
    x, c = randn((2, 3, 1, 4)), torch.tensor([1, -1, 0, 1])
    assert loss(x, c, loss="hinge") == loss(x, c.expand(2, 3, 1, 4), loss="hinge")


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int32, torch.float16])
def test_labels_of_any_type(dtype):
    x, c = randn((2, 3, 4, 2)), torch.tensor([1, 3])
    assert loss(x, c.to(dtype)) == loss(x, c)
    assert torch.equal(loss_backward(x, c.to(dtype), 1), loss_backward(x, c, 1))


@pytest.mark.parametrize("kind", ["softmaxlog", "logistic"])
@pytest.mark.parametrize("shape", [(), (2, 3), (2, 3, -1), (2, 3, -1, 5), (1, 1, 1, 5), (2, 1)])
def test_weights_broadcast(kind, shape):
    x, c, options = problem(kind, (2, 3, 4, 5), 5)
    shape = [c.shape[2] if size == -1 else size for size in shape]
    weights = randn(shape).abs()
    full = weights.reshape(*shape, *[1] * (4 - len(shape))).expand(c.shape)
    want = reference.loss(x.numpy(), c.numpy(), instance_weights=full.numpy(), **options)
    assert_close(loss(x, c, instance_weights=weights, **options), want, REFERENCE[x.dtype])
    want = reference.loss_backward(
        x.numpy(), c.numpy(), 1.0, instance_weights=full.numpy(), **options
    )
    got = loss_backward(x, c, 1.0, instance_weights=weights, **options)
    assert_close(got, want, REFERENCE[x.dtype])


def test_weights_of_zero():
    x, c, options = problem("softmaxlog", (2, 3, 4, 5), 6)
    assert loss(x, c, instance_weights=0, **options) == 0
    assert not loss_backward(x, c, 1, instance_weights=0, **options).any()


@pytest.mark.parametrize("dzdy", [2, 2.0, np.float32(2), torch.tensor(2.0), torch.tensor([[2.0]])])
def test_projection_is_one_number(dzdy):
    x, c = randn((2, 3, 4, 2)), torch.tensor([1, 3])
    assert torch.equal(loss_backward(x, c, dzdy), 2 * loss_backward(x, c, 1))


@pytest.mark.parametrize("kind", KINDS)
def test_no_images(kind):
    x, c = torch.zeros(2, 3, 4, 0), torch.zeros(2, 3, 4 if kind in ATTRIBUTE else 1, 0)
    assert loss(x, c, loss=kind, top_k=1) == 0
    assert loss_backward(x, c, 1, loss=kind, top_k=1).shape == x.shape


def test_labels_are_not_looked_at_while_a_program_is_traced(monkeypatch):
    x, c = randn((2, 3, 4, 2)), torch.tensor([1, 3])
    want = loss(x, c)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    monkeypatch.setattr(torch, "aminmax", None)
    assert loss(x, c) == want


def test_fewer_axes():
    x, c = randn((2, 3, 4)), torch.tensor([1])
    assert loss(x, c) == loss(x[..., None], c)
    assert loss_backward(x, c, 1).shape == x.shape


def test_case_of_the_kind_does_not_matter():
    x, c = randn((2, 3, 4, 2)), torch.tensor([1, 3])
    assert loss(x, c, loss="MHinge") == loss(x, c, loss="mhinge")


def test_arrays():
    x, c = randn((2, 3, 4, 2)), torch.tensor([1, 3])
    y = loss(x.numpy(), c.numpy(), top_k=np.int64(3), threshold=np.float64(0))
    assert isinstance(y, np.ndarray)
    assert y == loss(x, c).numpy()
    assert isinstance(loss_backward(x.numpy(), c.numpy(), np.float64(1)), np.ndarray)


X, C = torch.zeros(2, 3, 4, 5), torch.zeros(2, 3, 1, 5)


@pytest.mark.parametrize(
    ("x", "c", "options", "error", "message"),
    [
        (X, C, {"loss": "l2"}, ValueError, "loss is 'l2'; wanted one of classerror, topkerror"),
        (X, C, {"loss": None}, ValueError, "loss is None"),
        (X, C + 4, {}, ValueError, "c holds labels between 4 and 4; .*from -1 to 3"),
        (X, C - 2, {}, ValueError, "c holds labels between -2 and -2"),
        (X, C + 4, {"loss": "classerror"}, ValueError, "c holds labels"),
        (X, C + 0.5, {}, ValueError, "whole numbers"),
        (X, C * math.nan, {}, ValueError, "between nan and nan"),
        (X, X + 2, {"loss": "hinge"}, ValueError, "from -1 to 1"),
        (X, X + 0.5, {"loss": "hinge"}, ValueError, "whole numbers"),
        (X, C[:, :2], {}, ValueError, r"c has shape \(2, 2, 1, 5\); wanted \(2, 3, 1, 5\), or 5"),
        (X, X[:, :, :3], {}, ValueError, r"c has shape \(2, 3, 3, 5\); .* or pairs of channels"),
        (X, X[:1], {}, ValueError, r"c has shape \(1, 3, 4, 5\)"),
        (X, X[..., :2], {}, ValueError, r"c has shape \(2, 3, 4, 2\)"),
        (X, X + 4, {}, ValueError, "c holds labels between 4 and 4"),
        (
            X,
            X,
            {"loss": "mhinge"},
            ValueError,
            "c has 4 channels, mixtures .*'mhinge'; .* log, sof",
        ),
        (X, X, {"loss": "mshinge"}, ValueError, "c has 4 channels, mixtures"),
        (X, C, {"loss": "hinge"}, ValueError, r"wanted \(2, 3, 4, 5\)"),
        (X, C[0, 0, 0], {"loss": "hinge"}, ValueError, r"c has shape \(5,\)"),
        (X, C[0, 0, 0, 0], {}, ValueError, r"c has shape \(\)"),
        (X, C, {"loss": "topkerror"}, ValueError, "top_k is 5, x has 4 classes"),
        (X, C, {"loss": "topkerror", "top_k": 0}, ValueError, "top_k is 0"),
        (X, C, {"loss": "topkerror", "top_k": 1.5}, ValueError, "top_k is 1.5"),
        (X, C, {"threshold": math.nan}, ValueError, "threshold is nan"),
        (X, C, {"instance_weights": X}, ValueError, "instance_weights has shape"),
        (X, C, {"instance_weights": X[:, :2]}, ValueError, r"broadcasts to \(2, 3, 1, 5\)"),
        (X, C, {"instance_weights": C.double()}, TypeError, "instance_weights holds torch.float64"),
        (X.long(), C, {}, TypeError, "x holds torch.int64"),
        (X[None], C, {}, ValueError, "x has shape"),
        (X, [0] * 5, {}, TypeError, "c is list"),
        (X, C.to(torch.complex64), {}, TypeError, "c is torch.complex64"),
        (X, C.to("meta"), {}, TypeError, "c is on meta"),
    ],
)
def test_errors(x, c, options, error, message):
    with pytest.raises(error, match=message):
        loss(x, c, **options)
    with pytest.raises(error, match=message):
        loss_backward(x, c, 1, **options)


@pytest.mark.parametrize(
    ("dzdy", "error", "message"),
    [
        (torch.ones(3), ValueError, r"dzdy has shape \(3,\); wanted one number"),
        (None, TypeError, "dzdy is None"),
        (math.nan, ValueError, "dzdy is nan"),
    ],
)
def test_projection_errors(dzdy, error, message):
    with pytest.raises(error, match=message):
        loss_backward(X, C, dzdy)


def test_layer():
    layer = Loss(loss="logistic")
    x, c, options = problem("logistic", (2, 3, 4, 2), 7)
    weights = randn(x.shape).abs()
    for inputs in ((x, c), (x, c, weights)):
        weight = inputs[2] if len(inputs) == 3 else None
        (y,), saved = layer.forward(inputs, (), Context())
        assert y == loss(x, c, instance_weights=weight, **options)
        call = Call(inputs, (), (None,), saved, Context(), (True,) + (False,) * len(inputs[1:]))
        ders, param_ders = layer.backward(call, (torch.tensor(2.0),))
        want = loss_backward(x, c, 2, instance_weights=weight, **options)
        assert torch.equal(ders[0], want)
        assert ders[1:] == (None,) * (len(inputs) - 1)
        assert param_ders == ()
    assert layer.output_sizes([(2, 3, 4, 2), (2, 3, 4, 2)], []) == ((1, 1, 1, 1),)
    assert layer.receptive_fields(3, []) == (None,) * 3
    for count in (1, 4):
        with pytest.raises(ValueError, match=f"Loss has {count} inputs; wanted x, its labels"):
            layer.forward((x,) * count, (), Context())
    assert Loss.is_loss
    assert Loss.label_inputs == 1
