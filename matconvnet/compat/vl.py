"""Every block under the name and with the manners that MatConvNet gave it, one row each.

Labels, regions of interest and axes count from 1 here, as in data files of the original; label 0
is ignored. The blocks below count from 0 and ignore -1. `DEFAULTS` lists where a default is
written otherwise than the block writes it.
"""

import warnings
from typing import Any

import torch
from torch import Tensor

from matconvnet.blocks._checks import check_map
from matconvnet.blocks._loss_kinds import KINDS
from matconvnet.blocks._math import check_labels
from matconvnet.blocks.bnorm import bnorm, bnorm_backward
from matconvnet.blocks.concat import concat, concat_backward
from matconvnet.blocks.conv import conv, conv_backward
from matconvnet.blocks.convt import convt, convt_backward
from matconvnet.blocks.crop import crop, crop_backward
from matconvnet.blocks.dropout import dropout, dropout_backward
from matconvnet.blocks.loss import loss, loss_backward
from matconvnet.blocks.lpnorm import lpnorm, lpnorm_backward
from matconvnet.blocks.lrn import lrn, lrn_backward
from matconvnet.blocks.noffset import noffset, noffset_backward
from matconvnet.blocks.pdist import pdist, pdist_backward
from matconvnet.blocks.pool import pool, pool_backward
from matconvnet.blocks.relu import relu, relu_backward
from matconvnet.blocks.roipool import roipool, roipool_backward
from matconvnet.blocks.sampler import bilinear_sampler, bilinear_sampler_backward
from matconvnet.blocks.sigmoid import sigmoid, sigmoid_backward
from matconvnet.blocks.softmax import softmax, softmax_backward
from matconvnet.blocks.softmaxloss import softmaxloss, softmaxloss_backward
from matconvnet.blocks.spnorm import spnorm, spnorm_backward
from matconvnet.compat.facade import Arguments, facade, is_empty
from matconvnet.layout import as4d
from matconvnet.window import integers

DEFAULTS: dict[str, dict[str, Any]] = {
    "vl_nnconcat": {"dim": 3},
    "vl_nnnormalizelp": {"dimensions": (3,)},
}
"""Defaults of the vl_ functions that are not those of the blocks: axes count from 1."""

UNWANTED = {"no_der_data": False, "no_der_filters": False, "no_der_biases": False}


def _derivatives_wanted(a: Arguments) -> None:
    for flag in UNWANTED:
        if a.get(flag):
            a[flag.removeprefix("no_")] = False


def _axes(value: Any, name: str) -> tuple[int, ...]:
    """Axis numbers 1 to 4 as 0 to 3."""
    axes = integers(value, name, range(1, 5), 1)
    if max(axes) > 4:
        raise ValueError(f"{name} is {value!r}; wanted axes from 1 to 4")
    return tuple(axis - 1 for axis in dict.fromkeys(axes))


def _concat_arguments(a: Arguments) -> None:
    if "dim" in a:
        (a["dim"],) = _axes(a["dim"], "dim")
    inputs = list(a["inputs"] or ())
    like = next((x for x in inputs if isinstance(x, Tensor)), None)
    if like is not None:
        inputs = [like.new_zeros(0) if is_empty(x) else x for x in inputs]
    a["inputs"] = inputs


def _lpnorm_arguments(a: Arguments) -> None:
    if a.get("spatial"):
        if "dims" in a:
            raise ValueError("both spatial and dimensions are given; wanted one of them")
        a["dims"] = (0, 1)
    elif "dims" in a:
        a["dims"] = _axes(a["dims"], "dimensions")


def _classes(c: Any, x: Tensor, *, all_negative_ignored: bool = False) -> Tensor:
    """Labels 1..D, 0 = ignore, as 0..D-1, -1 = ignore; the weights in pairs of channels stay."""
    labels, (_, _, count, n) = torch.as_tensor(c), as4d(x, "x").shape
    is_paired = labels.dim() > 2 and labels.shape[2] % 2 == 0 and labels.numel() != n
    classes = labels[:, :, ::2] if is_paired else labels
    if all_negative_ignored:
        classes = classes.clamp(min=0)
    classes = check_labels(classes, x, 0, count, "0 = ignore")[0] - 1
    if not is_paired:
        return classes
    paired = labels.to(torch.float64, copy=True)
    paired[:, :, ::2] = classes
    return paired


def _loss_arguments(a: Arguments) -> None:
    if a.get("class_weights") is not None:
        warnings.warn("class_weights has no effect in vl_nnloss", UserWarning, stacklevel=5)
    kind = KINDS.get(str(a.get("loss", "softmaxlog")).lower())
    if kind is not None and not kind.is_attribute:
        a["c"] = _classes(a["c"], check_map(a["x"]))


def _softmaxloss_arguments(a: Arguments) -> None:
    a["c"] = _classes(a["c"], check_map(a["x"]), all_negative_ignored=True)


def _regions_from_one(a: Arguments) -> None:
    if isinstance(a["rois"], Tensor):
        a["rois"] = a["rois"] - 1
    matrix = torch.as_tensor(a.get("transform", 1), dtype=torch.float64)
    if matrix.shape == (2, 3):
        at_first_pixel = matrix.sum(1) - 1
        a["transform"] = torch.column_stack((matrix[:, :2], at_first_pixel)).tolist()


def _mask_or_none(a: Arguments) -> None:
    a.setdefault("mask", None)


def _without_moments(answer: Any, given: Arguments) -> Any:
    if given.get("return_moments"):
        return answer
    return answer[:-1] if len(answer) > 2 else answer[0]


vl_nnconv = facade(
    "vl_nnconv",
    conv,
    conv_backward,
    extra=UNWANTED,
    prepare=_derivatives_wanted,
    notes="An absent or unwanted derivative is None (flags NoDerData, NoDerFilters, NoDerBiases).",
)
vl_nnconvt = facade(
    "vl_nnconvt",
    convt,
    convt_backward,
    extra=UNWANTED,
    prepare=_derivatives_wanted,
    notes="An absent or unwanted derivative is None (flags NoDerData, NoDerFilters, NoDerBiases).",
)
vl_nnpool = facade("vl_nnpool", pool, pool_backward, names={"pool": "size"})
vl_nnrelu = facade("vl_nnrelu", relu, relu_backward)
vl_nnsigmoid = facade("vl_nnsigmoid", sigmoid, sigmoid_backward)
vl_nnsoftmax = facade("vl_nnsoftmax", softmax, softmax_backward)
vl_nnnormalize = facade("vl_nnnormalize", lrn, lrn_backward)
vl_nnspnorm = facade("vl_nnspnorm", spnorm, spnorm_backward)
vl_nnnoffset = facade("vl_nnnoffset", noffset, noffset_backward)
vl_nnpdist = facade("vl_nnpdist", pdist, pdist_backward)
vl_nnbilinearsampler = facade("vl_nnbilinearsampler", bilinear_sampler, bilinear_sampler_backward)
vl_nncrop = facade("vl_nncrop", crop, crop_backward, optional=("dzdy", "input_size"))
vl_nnconcat = facade(
    "vl_nnconcat",
    concat,
    concat_backward,
    optional=("dim", "dzdy"),
    defaults=DEFAULTS["vl_nnconcat"],
    prepare=_concat_arguments,
    notes="`dim` counts from 1: rows, columns, channels (3), images.",
)
vl_nnbnorm = facade(
    "vl_nnbnorm",
    bnorm,
    bnorm_backward,
    extra={"return_moments": False},
    finish=_without_moments,
    notes="The moments are returned, after the other results, only with return_moments=True.",
)
vl_nnnormalizelp = facade(
    "vl_nnnormalizelp",
    lpnorm,
    lpnorm_backward,
    names={"dimensions": "dims", "exponent": "exponent", "p": "exponent"},
    extra={"spatial": False},
    defaults=DEFAULTS["vl_nnnormalizelp"],
    prepare=_lpnorm_arguments,
    notes="`dimensions` count from 1; `spatial` is short for (1, 2), `p` for exponent.",
)
vl_nndropout = facade(
    "vl_nndropout",
    dropout,
    dropout_backward,
    prepare=_mask_or_none,
    notes="The value comes as (y, mask); the derivative needs that mask.",
)
vl_nnloss = facade(
    "vl_nnloss",
    loss,
    loss_backward,
    extra={"class_weights": None},
    prepare=_loss_arguments,
    notes="Classes are 1..D and 0 = ignore; attributes +1, -1 and 0 = ignore.",
)
vl_nnsoftmaxloss = facade(
    "vl_nnsoftmaxloss",
    softmaxloss,
    softmaxloss_backward,
    prepare=_softmaxloss_arguments,
    notes="Classes are 1..D; zero and negative ones are ignored.",
)
vl_nnroipool = facade(
    "vl_nnroipool",
    roipool,
    roipool_backward,
    prepare=_regions_from_one,
    notes="Images and pixels count from 1 in `rois`; so `transform` maps numbers from 1.",
)
