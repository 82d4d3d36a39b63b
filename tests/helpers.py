"""What the tests share: random maps in every memory order, comparisons, numerical derivatives."""

import numpy as np
import torch
from hypothesis import strategies as st

MEMORY_ORDERS = ("rows first", "channels last", "channels first", "with gaps")

seeds = st.integers(0, 2**31 - 1)
memory_orders = st.sampled_from(MEMORY_ORDERS)


def sizes(height=4, width=4, channels=5, images=3):
    """Strategy: sizes (H, W, C, N) up to the given ones."""
    return st.tuples(*(st.integers(1, most) for most in (height, width, channels, images)))


def randn(size, seed=0, dtype=torch.float64):
    """Gaussian numbers, the same ones for the same seed."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(tuple(size), generator=generator, dtype=torch.float64).to(dtype)


def in_memory(t, order):
    """Copy a tensor of four axes to memory of the given order; its values stay."""
    if order == "with gaps":
        gaps = t.new_full([2 * size for size in t.shape], float("nan"))
        view = gaps[1::2, ::2, 1::2, ::2]
        return view.copy_(t)
    axes = {
        "rows first": (0, 1, 2, 3),
        "channels last": (3, 0, 1, 2),
        "channels first": (3, 2, 0, 1),
    }[order]
    back = [axes.index(axis) for axis in range(4)]
    return t.permute(axes).contiguous().permute(back)


def assert_close(got, want, tol, name="value"):
    """Check shape, and max|got - want| <= tol * max|want| (or tol * 0.01, if that is larger)."""
    got = np.asarray(got.detach().double() if isinstance(got, torch.Tensor) else got, float)
    want = np.asarray(want.detach().double() if isinstance(want, torch.Tensor) else want, float)
    assert got.shape == want.shape, f"{name} has shape {got.shape}; wanted {want.shape}"
    if want.size == 0:
        return
    deviation = np.abs(got - want).max()
    bound = tol * max(np.abs(want).max(), 0.01)
    assert deviation <= bound, f"{name} is {deviation:.3g} off; allowed are {bound:.3g}"


def central_difference(f, x, projection, step=1e-5):
    """Derivative of sum(projection * f(x)) with respect to each element of `x`, numerically."""
    der = torch.zeros_like(x)
    for at in np.ndindex(*x.shape):
        values = []
        for sign in (1, -1):
            moved = x.clone()
            moved[at] += sign * step
            values.append((projection * f(moved)).sum())
        der[at] = (values[0] - values[1]) / (2 * step)
    return der
