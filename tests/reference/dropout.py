"""Dropout: a mask of zeros and 1 / (1 - rate), drawn by the forward pass, serves both passes."""

import numpy as np


def dropout(x, mask):
    """y = mask * x."""
    x, y = np.asarray(x, float), np.zeros(x.shape)
    for at in np.ndindex(x.shape):
        y[at] = mask[at] * x[at]
    return y


def dropout_backward(dzdy, mask):
    """dx = mask * dzdy."""
    dzdy, dx = np.asarray(dzdy, float), np.zeros(dzdy.shape)
    for at in np.ndindex(dzdy.shape):
        dx[at] = mask[at] * dzdy[at]
    return dx
