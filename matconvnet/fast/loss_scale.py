"""The scale that keeps small derivatives within the range of float16."""

from collections.abc import Mapping
from typing import Any

FIRST, LEAST, LARGEST = 2.0**16, 2.0**-16, 2.0**24
PATIENCE = 2000
"""Updates in a row without an overflow, after which the scale is doubled."""


class LossScale:
    """Multiplies the derivatives of an evaluation; a power of two, so that no digit is lost.

        after an overflow:               value = value / 2, and the update is left out
        after PATIENCE updates without:  value = value * 2

    value: the factor now. good: updates since it last changed. Both are all that there is to keep.
    """

    def __init__(self):
        self.value = FIRST
        self.good = 0

    @property
    def is_spent(self) -> bool:
        """True, if derivatives overflow whatever the scale: the training diverged."""
        return self.value < LEAST

    def note(self, is_finite: bool) -> None:
        """Adapt to an update whose derivatives were all finite, or were not."""
        self.good += 1
        if not is_finite:
            self.value, self.good = self.value / 2, 0
        elif self.good == PATIENCE:
            self.value, self.good = min(2 * self.value, LARGEST), 0

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {"value": self.value, "good": self.good}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take up what `state` returned."""
        self.value, self.good = float(state["value"]), int(state["good"])
