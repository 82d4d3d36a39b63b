"""`dropout`: statistics of the mask, its use and reuse, the extremes of the rate."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from matconvnet.blocks.dropout import Dropout, dropout, dropout_backward
from matconvnet.layer import Call, Context
from matconvnet.nets.fields import write_options
from tests.helpers import assert_close, in_memory, memory_orders, randn, seeds, sizes
from tests.reference import dropout as reference
from tests.tolerances import REFERENCE


@settings(deadline=None, max_examples=30)
@given(sizes(), seeds, memory_orders, st.floats(0, 1))
def test_like_the_loops(size, seed, order, rate):
    x = in_memory(randn(size, seed), order)
    y, mask = dropout(x, rate=rate)
    assert_close(y, reference.dropout(x.numpy(), mask.numpy()), REFERENCE[x.dtype])
    p = randn(size, seed + 1)
    want = reference.dropout_backward(p.numpy(), mask.numpy())
    assert_close(dropout_backward(p, mask), want, REFERENCE[x.dtype])


@pytest.mark.parametrize("rate", [0.1, 0.25, 0.5, 0.9])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16])
def test_statistics(rate, dtype):
    number = 100_000
    x = torch.ones(number, dtype=dtype)
    y, mask = dropout(x, rate=rate, generator=torch.Generator().manual_seed(0))
    assert y.dtype == mask.dtype == dtype
    kept = torch.tensor(1 / (1 - rate), dtype=dtype)
    assert torch.equal(mask.unique(), torch.stack((torch.zeros_like(kept), kept)))
    six_sigma = 6 * math.sqrt(rate * (1 - rate) / number)
    assert abs((mask == 0).double().mean() - rate) < six_sigma
    neighbours = ((mask[1:] == 0) & (mask[:-1] == 0)).double().mean()
    assert abs(neighbours - rate**2) < 2 * six_sigma


def test_rate_zero_keeps_everything():
    x = randn((4, 5, 10, 3))
    y, mask = dropout(x, rate=0)
    assert torch.equal(mask, torch.ones_like(x))
    assert torch.equal(y, x)


def test_rate_one_drops_everything():
    y, mask = dropout(randn((4, 5, 10, 3)), rate=1)
    assert not mask.any()
    assert not y.any()


def test_generator_decides():
    x = randn((4, 5, 10, 3))
    masks = [dropout(x, generator=torch.Generator().manual_seed(s))[1] for s in (1, 1, 2)]
    assert torch.equal(masks[0], masks[1])
    assert not torch.equal(masks[0], masks[2])


def test_mask_is_used_as_it_is():
    x = torch.tensor([1.0, 2.0, 3.0])
    given_mask = torch.tensor([7.0, 0.0, 0.5])
    y, mask = dropout(x, rate=0.1, mask=given_mask)
    assert y.tolist() == [7, 0, 1.5]
    assert mask is given_mask
    assert dropout_backward(x, mask).tolist() == [7, 0, 1.5]


def test_memory_order_is_kept():
    x = in_memory(randn((4, 5, 10, 3)), "channels last")
    y, mask = dropout(x)
    assert y.stride() == mask.stride() == x.stride()


@pytest.mark.parametrize("shape", [(), (3,), (4, 5, 3, 0)])
def test_any_shape(shape):
    y, mask = dropout(torch.ones(shape))
    assert y.shape == mask.shape == shape
    assert dropout_backward(y, mask).shape == shape


def test_arrays():
    y, mask = dropout(np.ones((3, 2), np.float32))
    assert isinstance(y, np.ndarray)
    assert mask.dtype == np.float32


X = torch.ones(3, 2)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"rate": -0.1}, ValueError, "rate is -0.1; wanted a number from 0 to 1"),
        ({"rate": 2}, ValueError, "rate is 2"),
        ({"rate": math.nan}, ValueError, "rate is nan"),
        ({"rate": "half"}, TypeError, "rate is 'half'"),
        ({"mask": torch.ones(2, 3)}, ValueError, r"mask has shape \(2, 3\); .* of x, \(3, 2\)"),
        ({"mask": X.double()}, TypeError, "mask holds torch.float64"),
    ],
)
def test_errors(options, error, message):
    with pytest.raises(error, match=message):
        dropout(X, **options)


def test_derivative_wants_the_mask():
    with pytest.raises(ValueError, match="mask is None"):
        dropout_backward(X, None)
    with pytest.raises(ValueError, match="dzdy has shape"):
        dropout_backward(X, torch.ones(2, 3))
    with pytest.raises(TypeError, match=r"x holds torch\.int64"):
        dropout(X.long())


def test_layer():
    x, layer, random = randn((4, 5, 10, 3)), Dropout(rate=0.3), torch.Generator()
    training = Context(True, random.manual_seed(1))
    (y,), saved = layer.forward((x,), (), training)
    want, mask = dropout(x, rate=0.3, generator=random.manual_seed(1))
    assert torch.equal(y, want)
    assert torch.equal(layer.mask_of(saved), mask)
    assert saved.elements.element_size() == 1
    call = Call((None,), (), (None,), saved, training, (True,))
    (dzdx,), _ = layer.backward(call, (x,))
    assert torch.equal(dzdx, y)
    assert layer.needs == frozenset()
    with pytest.raises(ValueError, match="mask is None"):
        layer.backward(call._replace(saved=None), (x,))


def test_layer_in_test_mode_is_the_identity():
    x, layer, test = randn((4, 5, 10, 3)), Dropout(), Context(training=False)
    (y,), saved = layer.forward((x,), (), test)
    assert torch.equal(y, x)
    assert saved is None
    (dzdx,), _ = layer.backward(Call((None,), (), (None,), None, test, (True,)), (x,))
    assert torch.equal(dzdx, x)


def test_layer_with_a_mask_draws_none():
    x, mask = randn((4, 5, 10, 3)), randn((4, 5, 10, 3), 1)
    layer = Dropout(rate=1.0, mask=mask)
    (y,), saved = layer.forward((x,), (), Context())
    assert torch.equal(y, mask * x)
    assert saved is mask
    assert torch.equal(layer.forward((x,), (), Context(training=False))[0][0], x)
    with pytest.raises(ValueError, match="mask has shape"):
        layer.forward((x[:1],), (), Context())


def test_layer_with_a_mask_can_be_compared_printed_and_hashed():
    plain, masked = Dropout(0.3), Dropout(0.3, mask=torch.ones(2, 2))
    assert plain == masked
    assert {plain, masked} == {plain}
    assert repr(plain) == repr(masked) == "Dropout(rate=0.3, frozen=False)"
    assert Dropout(0.3, frozen=True) != plain


def test_frozen_alone_draws_a_new_mask_every_time():
    x, layer, random = torch.ones(100), Dropout(frozen=True), torch.Generator()
    y1, y2 = (layer.forward((x,), (), Context(True, random))[0][0] for _ in range(2))
    assert not torch.equal(y1, y2)


def test_names_in_files():
    layer = Dropout(0.3, frozen=True, mask=torch.ones(2, 2))
    assert write_options(layer, "dag") == {"rate": 0.3, "frozen": True}
    assert "mask" not in write_options(layer, "chain")
    assert write_options(Dropout(0.3), "chain") == {"rate": 0.3}
