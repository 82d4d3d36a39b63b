"""Concatenation: maps one after the other along an axis."""

import numpy as np


def concat(inputs, dim=2):
    """y[.., start(k) + r, ..] = inputs[k][.., r, ..], start(k) the sizes of the inputs before k."""
    shape = list(inputs[0].shape)
    shape[dim] = sum(x.shape[dim] for x in inputs)
    y = np.zeros(shape)
    for k, r, at in _elements(inputs, dim):
        y[at] = inputs[k][r]
    return y


def concat_backward(inputs, dzdy, dim=2):
    """Every input gets its own part of dzdy back."""
    ders = [np.zeros(x.shape) for x in inputs]
    for k, r, at in _elements(inputs, dim):
        ders[k][r] = dzdy[at]
    return tuple(ders)


def _elements(inputs, dim):
    """Yield the number of an input, a place in it, and that place in the output."""
    start = 0
    for k, x in enumerate(inputs):
        for at in np.ndindex(x.shape):
            yield k, at, (*at[:dim], start + at[dim], *at[dim + 1 :])
        start += x.shape[dim]
