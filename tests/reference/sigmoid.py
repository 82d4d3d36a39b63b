"""Logistic function: any number into (0, 1)."""

import math

import numpy as np


def sigmoid(x):
    """y = 1 / (1 + exp(-x)); for x < 0 the same as exp(x) / (1 + exp(x)), which cannot overflow."""
    y = np.zeros(x.shape)
    for at in np.ndindex(x.shape):
        e = math.exp(-abs(x[at]))
        y[at] = 1 / (1 + e) if x[at] >= 0 else e / (1 + e)
    return y


def sigmoid_backward(x, dzdy):
    """dx = dzdy * y * (1 - y)."""
    y, dx = sigmoid(x), np.zeros(x.shape)
    for at in np.ndindex(x.shape):
        dx[at] = dzdy[at] * y[at] * (1 - y[at])
    return dx
