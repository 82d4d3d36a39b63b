"""Softmax: the channels of every pixel become positive and sum to one."""

import numpy as np


def softmax(x):
    """y[d] = exp(x[d] - m) / sum_k exp(x[k] - m) with m = max_k x[k], at every pixel and image."""
    y = np.zeros(x.shape)
    for i, j, n in np.ndindex(x.shape[0], x.shape[1], x.shape[3]):
        scores = np.asarray(x[i, j, :, n], float)
        e = np.exp(scores - scores.max())
        y[i, j, :, n] = e / e.sum()
    return y


def softmax_backward(x, dzdy):
    """dx[d] = y[d] * (dzdy[d] - sum_k dzdy[k] * y[k])."""
    y, dx = softmax(x), np.zeros(x.shape)
    for i, j, n in np.ndindex(x.shape[0], x.shape[1], x.shape[3]):
        q, p = y[i, j, :, n], dzdy[i, j, :, n]
        dx[i, j, :, n] = q * (p - np.sum(p * q))
    return dx
