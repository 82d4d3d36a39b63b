"""Every tolerance of the tests, relative to the largest number that is wanted."""

import torch

REFERENCE = {
    torch.float64: 1e-12,
    torch.float32: 1e-5,
    torch.float16: 5e-3,
    torch.bfloat16: 4e-2,
}
"""Against the naive loops in float64, by the type of the block."""

CENTRAL_DIFFERENCE = 1e-6
"""Against a numerical derivative in float64."""

PRINTED = 1e-7
"""Against a number that a text gives with eight digits."""

AUTOGRAD = 1e-9
"""Against autograd of our own forward, in float64."""

REORDERED = 1e-11
"""The same sum in another order, in float64."""

HALF = {"bf16": 4e-2, "fp16": 5e-3}
"""Of a layer in a half type, against float32."""

TRAINED = {"bf16": 0.05, "fp16": 0.01}
"""Of a network after some epochs in a half type, against float32."""

MEMORY = 0.15
"""Of a predicted peak of memory, against the one that is measured."""

REWRITTEN = {torch.float64: 1e-11, torch.float32: 1e-4, torch.bfloat16: 8e-2}
"""A network whose layers were joined, against the explicit one: roundings of several layers."""
