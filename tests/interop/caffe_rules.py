"""What Caffe's layers compute, on N x C x H x W in float64, in the words of its sources."""

import math

import numpy as np
import torch
import torch.nn.functional as F


def conv(x, w, b=None, stride=1, pad=0, dilation=1, group=1):
    w, b = (None if v is None else torch.from_numpy(np.asarray(v)).double() for v in (w, b))
    return F.conv2d(x, w, b, stride, pad, dilation, group)


def deconv(x, w, b=None, stride=1, pad=0, group=1):
    """Every pixel adds its filter; blobs are C x K/group x h x w."""
    w, b = (None if v is None else torch.from_numpy(np.asarray(v)).double() for v in (w, b))
    return F.conv_transpose2d(x, w, b, stride, pad, groups=group)


def inner_product(x, w, b=None):
    w, b = (None if v is None else torch.from_numpy(np.asarray(v)).double() for v in (w, b))
    return F.linear(x.flatten(1), w, b)[:, :, None, None]


def pool(x, kernel, stride=(1, 1), pad=(0, 0), method="MAX", floor=False):
    """PoolingLayer::Reshape and Forward_cpu."""
    n, c, height, width = x.shape
    sides = []
    for size, k, s, p in zip((height, width), kernel, stride, pad, strict=True):
        count = (size + 2 * p - k) / s
        sides.append((math.floor if floor else math.ceil)(count) + 1)
    if any(pad):
        for i, size in enumerate((height, width)):
            if (sides[i] - 1) * stride[i] >= size + pad[i]:
                sides[i] -= 1
    y = x.new_zeros(n, c, *sides)
    for i, j in np.ndindex(*sides):
        top, left = i * stride[0] - pad[0], j * stride[1] - pad[1]
        bottom, right = min(top + kernel[0], height + pad[0]), min(left + kernel[1], width + pad[1])
        area = (bottom - top) * (right - left)
        window = x[:, :, max(top, 0) : min(bottom, height), max(left, 0) : min(right, width)]
        y[:, :, i, j] = window.amax((2, 3)) if method == "MAX" else window.sum((2, 3)) / area
    return y


def lrn(x, size=5, alpha=1.0, beta=0.75, k=1.0):
    y, half = torch.zeros_like(x), size // 2
    for c in range(x.shape[1]):
        near = x[:, max(c - half, 0) : c + half + 1]
        y[:, c] = x[:, c] * (k + alpha / size * (near**2).sum(1)) ** -beta
    return y


def batch_norm(x, mean, variance, factor, eps=1e-5):
    by = 0 if factor[0] == 0 else 1 / float(factor[0])
    mean, variance = (torch.from_numpy(v).double()[:, None, None] * by for v in (mean, variance))
    return (x - mean) / (variance + eps).sqrt()


def scale(x, a, b=None):
    """Along the channels."""
    y = x * torch.from_numpy(a).double()[:, None, None]
    return y if b is None else y + torch.from_numpy(b).double()[:, None, None]


def roi_pool(x, rois, pooled, spatial_scale):
    """ROIPoolingLayer::Forward_cpu of Fast R-CNN; rois are R x 5."""
    c, height, width = x.shape[1:]
    y = x.new_zeros(len(rois), c, *pooled)
    for r, (image, *corners) in enumerate(rois.tolist()):
        w0, h0, w1, h1 = (math.floor(v * spatial_scale + 0.5) for v in corners)
        bin_h, bin_w = max(h1 - h0 + 1, 1) / pooled[0], max(w1 - w0 + 1, 1) / pooled[1]
        for i, j in np.ndindex(*pooled):
            top = min(max(math.floor(i * bin_h) + h0, 0), height)
            bottom = min(max(math.ceil((i + 1) * bin_h) + h0, 0), height)
            left = min(max(math.floor(j * bin_w) + w0, 0), width)
            right = min(max(math.ceil((j + 1) * bin_w) + w0, 0), width)
            if bottom > top and right > left:
                y[r, :, i, j] = x[int(image), :, top:bottom, left:right].amax((1, 2))
    return y


def crop(x, reference, offset):
    (y0, x0), (h, w) = offset, reference.shape[2:]
    return x[:, :, y0 : y0 + h, x0 : x0 + w]
