"""Norm-dependent offset: a power of the norm over channels is subtracted from every channel."""

import numpy as np


def noffset(x, param):
    """y = x - alpha * L^beta with L = max(sum_d x[d]^2, 1e-8) and param = (alpha, beta)."""
    alpha, beta = param
    y = np.zeros(x.shape)
    for i, j, n in np.ndindex(x.shape[0], x.shape[1], x.shape[3]):
        v = np.asarray(x[i, j, :, n], float)
        y[i, j, :, n] = v - alpha * max(np.sum(v**2), 1e-8) ** beta
    return y


def noffset_backward(x, dzdy, param):
    """dx = p - 2*alpha*beta * x * (sum_d p[d]) * L^(beta-1), also where L is held at 1e-8."""
    alpha, beta = param
    dx = np.zeros(x.shape)
    for i, j, n in np.ndindex(x.shape[0], x.shape[1], x.shape[3]):
        v, p = np.asarray(x[i, j, :, n], float), np.asarray(dzdy[i, j, :, n], float)
        L = max(np.sum(v**2), 1e-8)
        dx[i, j, :, n] = p - 2 * alpha * beta * v * np.sum(p) * L ** (beta - 1)
    return dx
