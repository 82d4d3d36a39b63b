"""Local response normalisation: a channel is divided by the energy of its neighbour channels."""

import numpy as np


def lrn(x, param):
    """y[d] = x[d] * L[d]^-beta with L[d] = kappa + alpha * sum of x[q]^2 over the window of d.

    param = (size, kappa, alpha, beta). Where L = 0, y = 0.
    """
    beta = param[3]
    y = np.zeros(x.shape)
    for i, j, n in np.ndindex(x.shape[0], x.shape[1], x.shape[3]):
        v = np.asarray(x[i, j, :, n], float)
        for d, L in enumerate(_energies(v, param)):
            y[i, j, d, n] = v[d] * L**-beta if L != 0 else 0
    return y


def lrn_backward(x, dzdy, param):
    """dx[d] = p[d] * L[d]^-beta - 2*alpha*beta * x[d] * sum_k p[k] * x[k] * L[k]^(-beta-1).

    The sum runs over the channels k whose window contains d.
    """
    _, _, alpha, beta = param
    dx = np.zeros(x.shape)
    for i, j, n in np.ndindex(x.shape[0], x.shape[1], x.shape[3]):
        v, p = np.asarray(x[i, j, :, n], float), dzdy[i, j, :, n]
        for k, L in enumerate(_energies(v, param)):
            if L == 0:
                continue
            dx[i, j, k, n] += p[k] * L**-beta
            for d in _window(k, param, v.size):
                dx[i, j, d, n] -= 2 * alpha * beta * v[d] * p[k] * v[k] * L ** (-beta - 1)
    return dx


def _window(d, param, C):
    """Return the channels around d; an even window has one more above than below."""
    below = (int(param[0]) - 1) // 2
    above = int(param[0]) - 1 - below
    return range(max(0, d - below), min(C - 1, d + above) + 1)


def _energies(v, param):
    """Return L of every channel of one pixel."""
    _, kappa, alpha, _ = param
    window_sums = (sum(v[q] ** 2 for q in _window(d, param, v.size)) for d in range(v.size))
    return [kappa + alpha * total for total in window_sums]
