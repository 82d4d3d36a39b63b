"""Scale: a map times factors plus biases, each of which serves a group of elements."""

import numpy as np


def scale(x, a, b=None):
    """y = a * x + b, where a and b have index 0 along their axes of size 1; no b: y = a * x."""
    y = np.zeros(x.shape)
    for at in np.ndindex(x.shape):
        y[at] = float(a[_of(a, at)]) * float(x[at])
        if b is not None:
            y[at] += float(b[_of(b, at)])
    return y


def scale_backward(x, a, b, dzdy):
    """Return dx, da, db: what serves many elements gets the sum of what they give."""
    dx, da = np.zeros(x.shape), np.zeros(a.shape)
    db = None if b is None else np.zeros(b.shape)
    for at in np.ndindex(x.shape):
        p = float(dzdy[at])
        dx[at] = float(a[_of(a, at)]) * p
        da[_of(a, at)] += float(x[at]) * p
        if db is not None:
            db[_of(b, at)] += p
    return dx, da, db


def _of(a, at):
    """The element of a that serves the element of x at this place."""
    return tuple(i if size > 1 else 0 for i, size in zip(at, a.shape, strict=True))
