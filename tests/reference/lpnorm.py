"""Lp normalisation: x divided by its p-norm over chosen axes."""

import numpy as np


def lpnorm(x, exponent=2, epsilon=1e-2, dims=(2,), norms=None):
    """y = x / n with n = (sum of x^P over dims + epsilon)^(1/P); returns y and n.

    n has the size of x, but 1 along dims. Norms that are given take the place of n.
    """
    x = np.asarray(x, float)
    n, y = _norms(x, exponent, epsilon, dims, norms), np.zeros(x.shape)
    for at, vector in _vectors(n, dims):
        y[vector] = x[vector] / n[at]
    return y, n


def lpnorm_backward(x, dzdy, exponent=2, epsilon=1e-2, dims=(2,), norms=None):
    """dx = p / n - (sum of p * x over dims) * x^(P-1) / n^(P+1)."""
    x, p = np.asarray(x, float), np.asarray(dzdy, float)
    n, dx = _norms(x, exponent, epsilon, dims, norms), np.zeros(x.shape)
    for at, vector in _vectors(n, dims):
        v, total = x[vector], np.sum(p[vector] * x[vector])
        dx[vector] = p[vector] / n[at] - total * v ** (exponent - 1) / n[at] ** (exponent + 1)
    return dx


def _norms(x, exponent, epsilon, dims, norms):
    if norms is not None:
        return np.asarray(norms, float)
    n = np.zeros([1 if axis in dims else size for axis, size in enumerate(x.shape)])
    for at, vector in _vectors(n, dims):
        n[at] = (np.sum(x[vector] ** exponent) + epsilon) ** (1 / exponent)
    return n


def _vectors(n, dims):
    """Yield the place of every norm, and the elements of x that it is the norm of."""
    for at in np.ndindex(n.shape):
        yield at, tuple(slice(None) if axis in dims else k for axis, k in enumerate(at))
