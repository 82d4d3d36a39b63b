"""Which classes are taken for which."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Self

import numpy as np
from torch import Tensor

from matconvnet.layout import as4d, to_numpy, to_tensor


class Confused(NamedTuple):
    """How many images, or pixels of maps, of class `label` were taken for class `guess`."""

    label: int
    guess: int
    images: int


class Confusion:
    """Counts of true class against likeliest class.

        counts[c, d] = number of labels c where d = argmax_k x[k], the first of equal scores

    `counts` is a C x C int64 array; those of several workers are added up.

    Args:
        classes: names of the C classes, or C: then their numbers are their names.
    """

    def __init__(self, classes: int | Sequence[str]):
        if isinstance(classes, int):
            classes = [str(label) for label in range(classes)]
        self.classes = [str(name) for name in classes]
        self.counts = np.zeros((len(self.classes),) * 2, np.int64)

    def add(self, scores: Tensor | np.ndarray, labels: Tensor | np.ndarray) -> None:
        """Count the labels of some images.

        Args:
            scores: H x W x C x N, the largest wins.
            labels: classes from 0, -1 = ignore: N elements, or H x W x 1 x N, or mixtures
                H x W x 2M x N of M pairs of channels (class, weight): the class with the largest
                weight counts, none if no weight is positive. H = W = 1 serves all pixels.

        Raises: ValueError, if `scores` has another number of classes, or `labels` another shape or
            classes that there are none of.
        """
        x = as4d(to_tensor(scores), "scores")
        size = len(self.classes)
        if x.shape[2] != size:
            raise ValueError(f"scores have {x.shape[2]} channels; wanted one per class, {size}")
        guess = x.argmax(2, keepdim=True)
        label = _classes(to_tensor(labels).to(x.device), x).expand(guess.shape)
        counted = label >= 0
        if label.numel() and int(label.max()) >= size:
            raise ValueError(f"labels reach {int(label.max())}; wanted 0 to {size - 1}, or -1")
        pairs = label[counted] * size + guess[counted]
        self.counts += to_numpy(pairs.bincount(minlength=size * size)).reshape(size, size)

    def worst(self, most: int = 5) -> list[Confused]:
        """The most frequent confusions, the worst first."""
        wrong = self.counts.copy()
        np.fill_diagonal(wrong, 0)
        order = np.argsort(-wrong, axis=None, kind="stable")[:most]
        found = [(*divmod(int(i), len(self.classes)), int(wrong.flat[i])) for i in order]
        return [Confused(*entry) for entry in found if entry[2]]

    def to_dict(self) -> dict[str, Any]:
        """Classes and counts (rows: true class) as JSON can hold them."""
        return {"classes": self.classes, "counts": self.counts.tolist()}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Self:
        """The inverse of `to_dict`.

        Raises: ValueError, if `content` is not what `to_dict` makes.
        """
        classes, counts = content.get("classes"), content.get("counts")
        if not isinstance(classes, list) or not isinstance(counts, list):
            raise ValueError(f"a confusion has the fields {list(content)}; wanted classes, counts")
        try:
            array = np.array(counts, np.int64).reshape(len(counts), -1 if counts else 0)
        except (ValueError, TypeError, OverflowError) as error:
            raise ValueError(f"counts of a confusion are no whole numbers: {error}") from None
        if array.shape != (len(classes),) * 2 or (array < 0).any():
            raise ValueError(
                f"counts of a confusion are {array.shape[0]} x {array.shape[1]}; wanted "
                f"{len(classes)} x {len(classes)} numbers >= 0, as there are classes"
            )
        found = cls(classes)
        found.counts = array
        return found


def _classes(c: Tensor, x: Tensor) -> Tensor:
    """Labels of scores `x` as int64, H x W x 1 x N or 1 x 1 x 1 x N; negative: ignore."""
    h, w, _, n = x.shape
    if c.numel() == n:
        return c.permute(*reversed(range(c.dim()))).reshape(1, 1, 1, n).long()  # as `loss` does
    channels = c.shape[2] if c.dim() == 4 else 0
    is_map = c.dim() == 4 and tuple(c.shape[:2]) in ((h, w), (1, 1)) and c.shape[3] == n
    if not is_map or (channels != 1 and (channels % 2 or not channels)):
        raise ValueError(
            f"labels have shape {tuple(c.shape)}, scores {tuple(x.shape)}; wanted {n} labels, or "
            f"{(h, w, 1, n)}, or pairs of channels with classes and weights"
        )
    if channels == 1:
        return c.long()
    weights, heaviest = c[:, :, 1::2].max(2, keepdim=True)
    return c[:, :, ::2].gather(2, heaviest).masked_fill(weights <= 0, -1).long()
