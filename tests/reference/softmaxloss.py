"""Softmax and log loss in one; a second channel of `c` may hold the weight of each label."""

import numpy as np


def softmaxloss(x, c):
    """y = sum over labelled pixels of weight * (log sum_d exp x[d] - x[c]); c < 0 is no label."""
    y = 0.0
    for i, j, n, label, weight in _labelled_pixels(x, c):
        scores = np.asarray(x[i, j, :, n], float)
        m = scores.max()
        y += weight * (m + np.log(np.sum(np.exp(scores - m))) - scores[label])
    return y


def softmaxloss_backward(x, c, dzdy):
    """dx[d] = dzdy * weight * (softmax(x)[d] - [d = c])."""
    dx = np.zeros(x.shape)
    for i, j, n, label, weight in _labelled_pixels(x, c):
        scores = np.asarray(x[i, j, :, n], float)
        e = np.exp(scores - scores.max())
        p = float(dzdy) * weight
        dx[i, j, :, n] = p * e / e.sum()
        dx[i, j, label, n] -= p
    return dx


def _labelled_pixels(x, c):
    """Yield row, column, image, label, weight; c is one label per image or a map of labels."""
    H, W, _, N = x.shape
    if np.size(c) == N:
        c = np.reshape(c, (1, 1, 1, N))
    c = np.broadcast_to(c, (H, W, *c.shape[2:]))
    for i, j, n in np.ndindex(H, W, N):
        if c[i, j, 0, n] >= 0:
            weight = float(c[i, j, 1, n]) if c.shape[2] == 2 else 1.0
            yield i, j, n, int(c[i, j, 0, n]), weight
