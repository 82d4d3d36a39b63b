"""Batch normalisation: every channel is shifted and scaled to the statistics of the batch."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from matconvnet.blocks._checks import acc_dtype, check_map, check_projection, check_same
from matconvnet.layer import Elementwise
from matconvnet.layout import array_api, channels_last, hwcn, nchw

aten: Any = torch.ops.aten


@array_api
def bnorm(
    x: Tensor, g: Tensor, b: Tensor, *, epsilon: float = 1e-4, moments: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Normalise each channel by its mean and deviation over the batch, then scale and shift it.

        mu    = sum of x / M,  M = H*W*N
        sigma = sqrt(sum of (x - mu)^2 / M + epsilon)
        y     = g * (x - mu) / sigma + b

    Args:
        x: H x W x C x N map of floats.
        g: C multipliers, in any shape; of the type of `x`, or float32 for half types.
        b: C biases, likewise.
        epsilon: added to the variance, under the root; no effect when `moments` are given.
        moments: C x 2 (mu, sigma) to use in place of the batch's; sigma is the deviation with
            epsilon, not a variance.

    Returns: (y, moments): H x W x C x N, and the C x 2 moments that were used, in the type of `g`.
    Raises: TypeError, ValueError, if shapes or types do not fit, or epsilon is negative.
    Source: vl_nnbnorm; MatConvNet manual, "Batch normalization".
    """
    x4 = check_map(x)
    _check(x4, g, b, epsilon, moments)
    if acc_dtype(x) != x.dtype and x4.shape[3]:
        return _half_bnorm(x4, g, b, epsilon, moments)
    if moments is None:
        moments = _batch_moments(x4, epsilon)
    mu, sigma = _columns(moments)
    # Centred before it is scaled: x * (g/sigma) + (b - mu*g/sigma) would cancel where mu >> sigma.
    centred = x4 - mu.to(x4.dtype)
    return torch.addcmul(
        b.reshape(-1, 1), centred, (g.reshape(-1, 1) / sigma).to(x4.dtype)
    ), moments


@array_api
def bnorm_backward(
    x: Tensor,
    g: Tensor,
    b: Tensor,
    dzdy: Tensor,
    *,
    epsilon: float = 1e-4,
    moments: Tensor | None = None,
    frozen: bool = False,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Derivatives of `bnorm` projected on `dzdy`: (dzdx, dzdg, dzdb, moments).

        dzdb = sum of dzdy
        dzdg = sum of dzdy * (x - mu) / sigma
        dzdx = g / sigma * (dzdy - dzdb / M - (x - mu) / sigma * dzdg / M)

    The moments are functions of x here, also when they are given: they are meant to be those that
    the forward pass returned. With `frozen` they are constants, as in test mode:

        dzdx = g / sigma * dzdy

    Returns: derivatives with the shapes of `x`, `g`, `b`, and the C x 2 moments that were used.
    """
    x4 = check_map(x)
    _check(x4, g, b, epsilon, moments)
    dzdy = check_projection(dzdy, x4.shape, x)
    if moments is None:
        moments = _batch_moments(x4, epsilon).to(g.dtype)
    mu, sigma = moments.t().contiguous().to(acc_dtype(x))
    if x4.shape[3] == 0:
        return torch.zeros_like(x), torch.zeros_like(g), torch.zeros_like(b), moments
    # The CPU kernel takes vectors for contiguous, and maps with an axis of size 1 for alike in
    # memory order even where they are not (torch 2.13).
    if x4.stride() != dzdy.stride():
        x4, dzdy = channels_last(x4), channels_last(dzdy)
    dzdx, dzdg, dzdb = aten.native_batch_norm_backward(
        nchw(dzdy), nchw(x4), _exact(g, x), mu, sigma**2 if frozen else None, mu,
        1 / sigma, not frozen, 0.0, (True, True, True),
    )  # fmt: skip
    dzdg, dzdb = dzdg.to(g.dtype).reshape(g.shape), dzdb.to(b.dtype).reshape(b.shape)
    return hwcn(dzdx).reshape(x.shape), dzdg, dzdb, moments


def _half_bnorm(
    x: Tensor, g: Tensor, b: Tensor, epsilon: float, moments: Tensor | None
) -> tuple[Tensor, Tensor]:
    """`bnorm` of half types by the kernel of torch, with float32 in between.

    It does not centre before it scales; what float32 loses then, half types do not have.
    """
    known = (None, None) if moments is None else moments.t().contiguous().to(acc_dtype(x))
    mu, variance = known[0], None if known[1] is None else known[1] ** 2
    y, mean, inverse = aten.native_batch_norm(
        nchw(x), _exact(g, x), _exact(b, x), mu, variance, moments is None, 0.0,
        epsilon if moments is None else 0.0,
    )  # fmt: skip
    if moments is None:
        moments = torch.stack((mean, 1 / inverse), 1).to(g.dtype)
    return hwcn(y), moments


def _exact(p: Tensor, x: Tensor) -> Tensor:
    """C parameters in the type of sums over `x`."""
    return p.reshape(-1).contiguous().to(acc_dtype(x))


def _check(x: Tensor, g: Tensor, b: Tensor, epsilon: float, moments: Tensor | None) -> None:
    exact = acc_dtype(x)
    for name, value in (("g", g), ("b", b)):
        if not (isinstance(value, Tensor) and (value.dtype, value.device) == (exact, x.device)):
            check_same(x, **{name: value})
    channels = x.shape[2]
    for name, value in (("g", g), ("b", b)):
        if value is None or value.numel() != channels:
            found = "nothing" if value is None else f"{value.numel()} elements"
            raise ValueError(f"{name} has {found}; wanted {channels}, one per channel of x")
    if not epsilon >= 0:
        raise ValueError(f"epsilon is {epsilon}; wanted a number >= 0")
    if moments is not None and tuple(moments.shape) != (channels, 2):
        raise ValueError(f"moments has shape {tuple(moments.shape)}; wanted ({channels}, 2)")


def _batch_moments(x: Tensor, epsilon: float) -> Tensor:
    """C x 2: mean and deviation of the batch, accumulated in `acc_dtype`."""
    if x.shape[3] == 0:
        return torch.full((x.shape[2], 2), torch.nan, dtype=x.dtype, device=x.device)
    rows = x.permute(3, 0, 1, 2).to(acc_dtype(x)).reshape(-1, x.shape[2])
    mu = rows.mean(0)
    variance = (rows - mu).square_().mean(0)
    return torch.stack((mu, (variance + epsilon).sqrt_()), 1).to(x.dtype)


def _columns(moments: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and deviation, C x 1 each, ready to broadcast over H x W x C x N."""
    return moments[:, :1], moments[:, 1:]


@dataclass(frozen=True)
class BatchNorm(Elementwise):
    """Layer form of `bnorm`. Its third parameter is the running average of the batch moments.

    In training the "derivative" of that parameter is the moments of the batch times its number of
    images, so that those of several sub-batches or workers can simply be added.
    """

    type_name = "bnorm"
    param_names = ("multipliers", "biases", "moments")
    averaged_params = ("moments",)
    struct_names = {"num_channels": None}  # noqa: RUF012
    epsilon: float = 1e-5
    num_channels: int | None = None

    def init_params(self, generator=None):
        """Multipliers one, biases zero, moments zero."""
        channels = self.num_channels
        if channels is None:
            raise ValueError("BatchNorm has no num_channels; wanted the number of channels of x")
        return [torch.ones(channels), torch.zeros(channels), torch.zeros(channels, 2)]

    def forward(self, inputs, params, ctx):
        """See `bnorm`; test mode uses the stored moments."""
        given = None if ctx.training else params[2]
        y, moments = bnorm(inputs[0], params[0], params[1], epsilon=self.epsilon, moments=given)
        return (y,), moments

    def backward(self, call, der_outputs):
        """See `bnorm_backward`; in test mode the moments are constants and are not averaged."""
        (x,), (g, b, stored) = call.inputs, call.params
        training = call.ctx.training
        dzdx, dzdg, dzdb, moments = bnorm_backward(
            x, g, b, der_outputs[0], epsilon=self.epsilon,
            moments=call.saved if training else stored, frozen=not training,
        )  # fmt: skip
        images = 1 if x.dim() < 4 else x.shape[3]
        return (dzdx,), (dzdg, dzdb, moments * images if training else moments)
