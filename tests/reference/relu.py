"""Rectifier: negative numbers become zero, or a fraction `leak` of themselves."""

import numpy as np


def relu(x, leak=0):
    """y = x where x > 0, leak * x elsewhere."""
    x, y = np.asarray(x, float), np.zeros(x.shape)
    for at in np.ndindex(x.shape):
        y[at] = x[at] if x[at] > 0 else leak * x[at]
    return y


def relu_backward(x, dzdy, leak=0):
    """dx = dzdy where x > 0, leak * dzdy elsewhere, x = 0 included."""
    dzdy, dx = np.asarray(dzdy, float), np.zeros(x.shape)
    for at in np.ndindex(x.shape):
        dx[at] = dzdy[at] if x[at] > 0 else leak * dzdy[at]
    return dx
