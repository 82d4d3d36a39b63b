"""Spatial normalisation: a pixel is divided by the mean energy around it, channel by channel."""

import numpy as np


def spnorm(x, param):
    """y = x * F^-beta with F = 1 + alpha * mean of x^2 over the window around the pixel.

    param = (height, width, alpha, beta).
    """
    x, y = np.asarray(x, float), np.zeros(x.shape)
    for at, _, F in _windows(x, param):
        y[at] = x[at] * F ** -param[3]
    return y


def spnorm_backward(x, dzdy, param):
    """dx = p * F^-beta - 2*alpha*beta * x * T.

    T sums p * x * F^(-beta-1) / count over the windows that contain the pixel.
    """
    _, _, alpha, beta = param
    x, dx = np.asarray(x, float), np.zeros(x.shape)
    for at, window, F in _windows(x, param):
        dx[at] += dzdy[at] * F**-beta
        share = dzdy[at] * x[at] * F ** (-beta - 1) / x[window].size
        dx[window] -= 2 * alpha * beta * x[window] * share
    return dx


def _windows(x, param):
    """Yield every pixel, its window in the map, and F; even windows reach one pixel further on."""
    PH, PW, alpha, _ = param
    PH, PW = int(PH), int(PW)
    for i, j, c, n in np.ndindex(x.shape):
        u, v = i - (PH - 1) // 2, j - (PW - 1) // 2
        window = slice(max(0, u), u + PH), slice(max(0, v), v + PW), c, n
        yield (i, j, c, n), window, 1 + alpha * np.sum(x[window] ** 2) / x[window].size
