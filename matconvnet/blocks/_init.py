"""Initial values of filters."""

from collections.abc import Sequence

import torch
from torch import Tensor

from matconvnet.layout import hwcn


def gaussian_filters(
    size: Sequence[int], fan: int, biases: int, generator: torch.Generator | None
) -> list[Tensor]:
    """Filters of the shape `size`, deviation sqrt(2 / (size[0]*size[1]*fan)); zero biases, if any.

    Memory is channels-last. Source: He et al. 2015; dagnn.Conv.
    """
    fh, fw, fc, k = size
    drawn = torch.randn(k, fh, fw, fc, generator=generator) * (2 / (fh * fw * fan)) ** 0.5
    return [hwcn(drawn.permute(0, 3, 1, 2)), *([torch.zeros(biases)] if biases else [])]
