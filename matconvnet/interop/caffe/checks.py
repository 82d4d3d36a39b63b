"""What layers demand of their inputs, whatever they compute."""

import math
from collections.abc import Sequence

from matconvnet.errors import FormatError
from matconvnet.interop.caffe.importer import Importer
from matconvnet.interop.caffe.wiring import Step


def inputs_of(step: Step, count: int | None) -> tuple[str, ...]:
    """The variables that a layer reads; it writes one.

    Raises: FormatError, if they are not `count` (None: at least one), or not one is written.
    """
    fits = len(step.inputs) == count or (count is None and step.inputs)
    if not fits or len(step.outputs) != 1:
        wanted = "some" if count is None else count
        raise FormatError(
            f"it has {len(step.inputs)} bottoms and {len(step.outputs)} tops; wanted {wanted} and 1"
        )
    return step.inputs


def has_colours(net: Importer, variable: str) -> bool:
    """Whether the channels are the three of an image, which are turned from BGR to RGB."""
    return net.is_colour(variable) and net.size(variable)[2] == 3


def check_colours(net: Importer, variables: Sequence[str], may_have: bool = True) -> None:
    """Raise FormatError, if some maps have colours that are turned, and others have not."""
    kinds = {has_colours(net, v) for v in variables}
    if len(kinds) > 1 or (True in kinds and not may_have):
        raise FormatError(
            "it cannot read the channels of an image, which are turned from BGR to RGB, together "
            "with others; color_format='rgb' leaves them as they are"
        )


def check_sizes(net: Importer, variables: Sequence[str], but: int | None = None) -> None:
    """Raise FormatError, if maps are known to differ in size, along an axis other than `but`."""
    sizes = [net.size(v) for v in variables]
    for axis in range(3):
        known = {size[axis] for size in sizes if not math.isnan(size[axis])}
        if axis != but and len(known) > 1:
            raise FormatError(f"it joins maps of sizes {sizes} (H, W, C, N)")
