"""Entries of the networks' tables: a layer with its name, weights and multipliers."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from matconvnet.layer import Layer
from matconvnet.layout import hwcn
from matconvnet.nets.struct import write_layer
from matconvnet.values import Struct


def entry(
    layer: Layer,
    name: str | None = None,
    weights: Sequence[Tensor | None] = (),
    learning_rate: Sequence[float] = (),
    weight_decay: Sequence[float] = (),
) -> Struct:
    """The struct of a layer; names and multipliers that are left out get their defaults."""
    given: dict[str, Any] = {
        "name": name,
        "weights": list(weights),
        "learningRate": list(learning_rate),
        "weightDecay": list(weight_decay),
    }
    return Struct(write_layer(layer), **{key: value for key, value in given.items() if value})


def gaussian(
    size: Sequence[int], deviation: float, generator: torch.Generator, biases: bool = True
) -> tuple[Tensor, Tensor | None]:
    """FH x FW x FC x K filters, normal with mean zero, in channels-last memory; K zero biases."""
    fh, fw, fc, k = size
    filters = deviation * torch.randn(k, fh, fw, fc, generator=generator)
    return hwcn(filters.permute(0, 3, 1, 2)), torch.zeros(k) if biases else None


def new_moments(channels: int) -> list[Tensor]:
    """Weights of a batch normalisation: multipliers one, biases zero, moments zero."""
    return [torch.ones(channels), torch.zeros(channels), torch.zeros(channels, 2)]
