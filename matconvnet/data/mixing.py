"""Labels that are mixtures: label smoothing, and images mixed with one another (mixup)."""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from matconvnet.layout import from_pixels, hwcn, nchw

STREAM = zlib.crc32(b"mixup")  # parts these random numbers from others of the same seed


@dataclass(frozen=True)
class Mix:
    """Mix the images of a batch in pairs, and their labels; spread labels over all classes.

        mixup:      x_i = s_i * x_i + (1 - s_i) * x_p(i),  s_i drawn from Beta(mixup, mixup)
        smoothing:  weight of class k = label_smoothing / K + (1 - label_smoothing) * w_k

    w_k is s_i for the class of image i, 1 - s_i for that of its partner p(i), else 0. The partners
    are a random order of the batch. Images without a label (-1) stay without one, and neither they
    nor their partners are mixed.

    The numbers s and the partners depend on the seed and on the images of the (sub-)batch, in their
    order: those of another split of a batch are others.

    Args:
        classes: K, 2 or more.
        label_smoothing: share of the label that is spread over all classes, 0..1; 0: none.
        mixup: parameter of the Beta distribution, such as 0.2; 0: no mixing, 1: all shares s are
            as likely, and larger ones mix more evenly.

    Raises: ValueError, TypeError, naming the option.
    Source: Szegedy et al. 2016 (label smoothing); Zhang et al. 2018 (mixup).
    """

    classes: int
    label_smoothing: float = 0.0
    mixup: float = 0.0

    def __post_init__(self):
        if isinstance(self.classes, bool) or not isinstance(self.classes, (int, np.integer)):
            raise TypeError(f"classes is {self.classes!r}; wanted a whole number")
        if self.classes < 2:
            raise ValueError(f"classes is {self.classes}; wanted 2 or more")
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(
                f"label_smoothing is {self.label_smoothing}; wanted a number from 0 to below 1"
            )
        if not 0 <= self.mixup < float("inf"):
            raise ValueError(f"mixup is {self.mixup}; wanted a finite number >= 0")

    def __call__(
        self, x: Tensor, labels: Any, indices: Sequence[int] | np.ndarray, seed: int
    ) -> tuple[Tensor, Any]:
        """Mix a batch.

        Args:
            x: H x W x C x B floats; not written to.
            labels: B classes 0..K-1, -1 = ignore.
            indices: B places in the database.
            seed: an integer, another one for every epoch.

        Returns: the images, and labels 1 x 1 x 2M x B float32 whose channels alternate a class and
            its weight, of sum 1: M = K with smoothing, else 2. If there is nothing to do, what was
            given.
        Raises: ValueError, if there is not one label per image, or one is out of range.
        """
        if not self.label_smoothing and not self.mixup:
            return x, labels
        c = self._check(torch.as_tensor(labels), x.shape[3]).to(x.device)
        share, partner_c = torch.ones(len(c), device=x.device), c
        if self.mixup:
            drawn, partner = self._draw(indices, seed)
            share, partner = torch.from_numpy(drawn).to(share), torch.from_numpy(partner).to(c)
            partner_c = c[partner]
            share.masked_fill_((c < 0) | (partner_c < 0), 1)
            x = hwcn(nchw(x)[partner]).lerp_(x, share.to(x.dtype))
        if self.label_smoothing:
            classes, weights = self._smooth(c, partner_c, share)
        else:
            classes, weights = torch.stack((c, partner_c), 1), torch.stack((share, 1 - share), 1)
        pairs = torch.stack((classes.to(weights), weights), 2).flatten(1)  # B x 2M
        return x, from_pixels(pairs, 1, 1, len(c))

    def _draw(
        self, indices: Sequence[int] | np.ndarray, seed: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Shares and partners of these images."""
        words = [STREAM, seed % 2**64, *np.asarray(indices).tolist()]
        generator = np.random.default_rng(words)
        shares = generator.beta(self.mixup, self.mixup, len(words) - 2)
        return shares, generator.permutation(len(words) - 2)

    def _smooth(self, c: Tensor, other: Tensor, share: Tensor) -> tuple[Tensor, Tensor]:
        """All classes, and their weights, B x K each."""
        kept = 1 - self.label_smoothing
        even = self.label_smoothing / self.classes
        weights = torch.full((len(c), self.classes), even, device=share.device)
        for label, part in ((c, share), (other, 1 - share)):
            weights.scatter_add_(1, label.clamp(min=0)[:, None], kept * part[:, None])
        classes = torch.arange(self.classes, device=c.device).expand(weights.shape)
        return classes.where(c[:, None] >= 0, -1), weights

    def _check(self, labels: Tensor, count: int) -> Tensor:
        """The labels as a vector of int64."""
        if labels.numel() != count:
            raise ValueError(
                f"labels have shape {tuple(labels.shape)}, and there are {count} images; label "
                "smoothing and mixup want one class per image, no maps and no weights"
            )
        c = labels.reshape(-1).long()
        wrong = (c != labels.reshape(-1)) | (c < -1) | (c >= self.classes)
        if wrong.any():
            found = labels.reshape(-1)[wrong][0].item()
            raise ValueError(f"a label is {found}; wanted 0..{self.classes - 1}, or -1 = ignore")
        return c
