"""Sum: maps of one size added element by element."""

import numpy as np


def add(inputs):
    """y = inputs[0] + inputs[1] + .. + inputs[K-1]."""
    y = np.zeros(inputs[0].shape)
    for x in inputs:
        for at in np.ndindex(y.shape):
            y[at] += float(x[at])
    return y


def add_backward(inputs, dzdy):
    """Every input gets dzdy."""
    return [np.array(dzdy, float) for _ in inputs]
