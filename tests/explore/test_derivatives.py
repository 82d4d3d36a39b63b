"""The derivative checker is checked: it must see every kind of wrong derivative, and no other."""

import numpy as np
import pytest
import torch

import matconvnet as mcn


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


X, F, B = randn(7, 6, 4, 2), randn(3, 3, 2, 6, seed=1), randn(6, seed=2)

WRONG = {
    "sign": lambda dx, df, db: (-dx, df, db),
    "zeros": lambda dx, df, db: (dx, 0 * df, db),
    "missing factor": lambda dx, df, db: (dx, df, db / 2),
    "transposed filters": lambda dx, df, db: (dx, df.transpose(0, 1), db),
    "one element": lambda dx, df, db: (dx, df, db + torch.tensor([0, 0, 1e-4, 0, 0, 0])),
}


def wrong_conv_backward(spoil):
    return lambda *args, **options: spoil(*mcn.conv_backward(*args, **options))


def test_right_derivatives_pass():
    report = mcn.check_derivatives(mcn.conv, X, F, B, stride=(2, 1), pad=1)
    assert report.ok
    assert [row.name for row in report.rows] == ["x", "f", "b"]
    assert max(row.relative_error for row in report.rows) < 1e-9


@pytest.mark.parametrize("kind", WRONG)
def test_wrong_derivatives_are_seen(kind):
    report = mcn.check_derivatives((mcn.conv, wrong_conv_backward(WRONG[kind])), X, F, B, pad=1)
    assert not report.ok
    wrong = {"sign": "x", "zeros": "f", "transposed filters": "f"}.get(kind, "b")
    assert [row.name for row in report.rows if not row.ok] == [wrong]


def test_the_worst_element_is_named_with_both_values():
    spoil = WRONG["one element"]
    report = mcn.check_derivatives((mcn.conv, wrong_conv_backward(spoil)), X, F, B)
    row = report.rows[2]
    assert row.at == (2,)
    assert row.analytic - row.numeric == pytest.approx(1e-4, rel=1e-4)
    assert "WRONG" in str(report).splitlines()[3]


def test_zero_function_with_a_derivative_is_wrong():
    report = mcn.check_derivatives((lambda x: 0 * x, lambda x, p: 0 * x + 1e-8), X)
    assert not report.ok


def test_kinks_are_stepped_around():
    x = randn(6, 6, 3, 2)
    x[0] = 0  # on the corner itself
    x[1] = 3e-6  # so close that the first steps cross it
    x[2] = -3e-6
    report = mcn.check_derivatives(mcn.relu, x, leak=0.1, max_elements=1000)
    assert report.ok
    assert report.rows[0].kinks == 36
    wrong = mcn.check_derivatives((mcn.relu, lambda x, p: p * (x >= -1e-5)), x, max_elements=1000)
    assert not wrong.ok  # close to a corner is not on it


def test_maxima_that_nearly_tie_are_stepped_around():
    x = torch.zeros(4, 4, 1, 1)
    x[::2, ::2] = 2e-6
    assert mcn.check_derivatives(mcn.pool, x, 2, stride=2).ok
    wrong = (mcn.pool, lambda x, p, size, stride: mcn.pool_backward(-x, p, size, stride=stride))
    assert not mcn.check_derivatives(wrong, x, 2, stride=2).ok


def test_blocks_under_their_original_names():
    assert mcn.check_derivatives(mcn.vl_nnconv, X, F, B, pad=1).ok
    assert mcn.check_derivatives(mcn.vl_nnpool, X, 3, pad=1, method="avg").ok
    assert mcn.check_derivatives(mcn.vl_nnnormalize, X, [3, 1, 0.5, 0.75]).ok


def test_layers_and_their_parameters():
    params = [randn(4), randn(4, seed=1), torch.ones(4, 2)]
    report = mcn.check_derivatives(mcn.BatchNorm(), X, params=params)
    assert report.ok
    assert [row.name for row in report.rows] == ["x", "multipliers", "biases"]
    assert mcn.check_derivatives(mcn.BatchNorm(), X, params=params, training=False).ok
    assert mcn.check_derivatives(mcn.Dropout(), X).ok


def test_a_network_draws_its_inputs():
    layers = [mcn.Conv(size=(3, 3, 2, 4)), mcn.ReLU(), mcn.Pooling(2), mcn.Dropout(),
              mcn.Conv(size=(3, 2, 4, 5)), mcn.SoftmaxLoss()]  # fmt: skip
    net = mcn.SimpleNN(layers, meta={"inputSize": [6, 5, 2]})
    report = mcn.check_derivatives(net, max_elements=20)
    assert report.ok
    assert [row.name for row in report.rows] == ["x0", "l1_1", "l1_2", "l5_1", "l5_2"]
    found = mcn.check_derivatives(mcn.SimpleNN(layers), max_elements=20)  # the smallest that fits
    assert found.ok
    assert [row.name for row in found.rows] == ["x0", "l1_1", "l1_2", "l5_1", "l5_2"]


def test_a_network_whose_layer_is_wrong():
    class Half(mcn.ReLU):
        def backward(self, call, der_outputs):
            (dx,), none = super().backward(call, der_outputs)
            return (dx / 2,), none

    net = mcn.SimpleNN([mcn.Conv(size=(3, 3, 2, 4)), Half(), mcn.Conv(size=(4, 3, 4, 5))])
    report = mcn.check_derivatives(net, {"x0": randn(6, 5, 2, 2)})
    assert [row.name for row in report.rows if not row.ok] == ["x0", "l1_1", "l1_2"]


def test_missing_and_misshapen_derivatives_are_errors():
    with pytest.raises(ValueError, match="no derivative for 'b'"):
        mcn.check_derivatives((lambda a, b: a + b, lambda a, b, p: p), X, X)
    with pytest.raises(ValueError, match="shape"):
        mcn.check_derivatives((torch.sin, lambda x, p: p[0]), X)
    with pytest.raises(TypeError, match="_backward"):
        mcn.check_derivatives(lambda x: x, X)
    with pytest.raises(TypeError, match="subject is int"):
        mcn.check_derivatives(3, X)


def test_numpy_arrays_are_checked_too():
    assert mcn.check_derivatives(mcn.sigmoid, np.asarray(X)).ok
