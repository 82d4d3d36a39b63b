"""The confusion matrix: a heat map for some classes, the worst of it for many."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from matconvnet.train.confusion import Confusion
from matconvnet.train.text import name_of, percent

MOST_CLASSES = 40  # of a heat map
WITH_NUMBERS = 20  # classes, up to which every cell tells its count
NARROW = 3  # letters of a name that needs no turning above its column
HEAVY = 0.6  # shade, from which text is white
WORST, FEW = 25, 8  # confusions that are listed, of many and of some classes


def confusion_section(content: Mapping[str, Any] | None) -> str:
    """The section on a confusion matrix as `Confusion.to_dict` makes it; empty without one."""
    if not content:
        return ""
    found = Confusion.from_dict(content)
    total, right = int(found.counts.sum()), int(found.counts.trace())
    if not total:
        return ""
    summary = (
        f"{right:,} of {total:,} right, {percent(1 - right / total)} wrong. Rows: the true class; "
        "columns: what it was taken for."
    )
    if len(found.classes) <= MOST_CLASSES:
        body = f'<div class="row"><div>{_heat_map(found)}</div>{_worst(found, FEW)}</div>'
    else:
        body = f'<div class="pair">{_worst(found, WORST)}{_hardest(found)}</div>'
    return f'<section><h2>Confusion matrix</h2><p class="note">{summary}</p>{body}</section>'


def _heat_map(found: Confusion) -> str:
    names = [name_of(name) for name in found.classes]
    heads = "".join(f'<th scope="col"><div><span>{name}</span></div></th>' for name in names)
    rows = []
    for label, name in enumerate(names):
        counts = found.counts[label]
        size = int(counts.sum())
        cells = "".join(
            _cell(int(count), size, f"{name} taken for {names[guess]}", guess == label, len(names))
            for guess, count in enumerate(counts)
        )
        wrong = percent(1 - counts[label] / size) if size else "none there"
        rows.append(
            f'<tr><th scope="row">{name}</th>{cells}'
            f'<td class="sum">{size:,}</td><td class="sum">{wrong}</td></tr>'
        )
    kind = "heat" if len(names) <= WITH_NUMBERS else "heat dense"
    if max(map(len, names)) <= NARROW:
        kind += " upright"
    return (
        f'<div class="scroll"><table class="{kind}"><thead><tr><td></td>{heads}'
        '<th scope="col" class="sum">all</th><th scope="col" class="sum">wrong</th></tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
        '<div class="legend"><span class="key right">right</span>'
        '<span class="key wrong">wrong</span>'
        "<span>stronger: a larger share of the true class</span></div>"
    )


def _cell(count: int, size: int, told: str, is_right: bool, classes: int) -> str:
    if not count:
        return "<td></td>"
    share = count / size
    shade = share**0.5  # the root shows that 1 % is not 0 %
    text = f"{count:,}" if classes <= WITH_NUMBERS else ""
    kind = ("right" if is_right else "wrong") + (" heavy" if shade > HEAVY else "")
    return (
        f'<td class="{kind}" style="--a:{shade:.2f}" title="{told}: {count:,}, {percent(share)}">'
        f"{text}</td>"
    )


def _worst(found: Confusion, most: int) -> str:
    rows = []
    for label, guess, images in found.worst(most):
        share = percent(images / int(found.counts[label].sum()))
        names = (name_of(found.classes[i]) for i in (label, guess))
        rows.append((*names, f"{images:,}", share))
    return _table("Worst confusions", ("true class", "taken for", "images", "of the class"), rows)


def _hardest(found: Confusion) -> str:
    sizes, right = found.counts.sum(1), found.counts.diagonal()
    wrong = np.where(sizes > 0, 1 - right / np.maximum(sizes, 1), -1)
    order = [int(i) for i in np.argsort(-wrong, kind="stable")[:WORST] if wrong[i] > 0]
    rows = [(name_of(found.classes[i]), f"{sizes[i]:,}", percent(wrong[i])) for i in order]
    return _table("Hardest classes", ("class", "images", "wrong"), rows)


def _table(title: str, heads: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """A table; its cells are HTML already."""
    head = "".join(f'<th scope="col">{name}</th>' for name in heads)
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return (
        f'<div class="scroll"><table class="list"><caption>{title}</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )
