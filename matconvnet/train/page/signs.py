"""What an experienced eye would see in the numbers of a run, in sentences."""

from collections.abc import Sequence

from matconvnet.train.curves import Rows, curve, number, statistics
from matconvnet.train.page.ratios import ratios_of
from matconvnet.train.text import escape, name_of, percent, short

MUCH_WAITING = 0.2  # of the time of an epoch
PATIENCE = 3  # epochs after the best one
STILL, THROWN = 1e-6, 1e-1  # update ratios
FEW = 4  # names in a sentence


def signs(rows: Rows) -> list[str]:
    """Sentences in HTML on what should be looked at; none, if all looks well."""
    found = (
        _not_finite(rows),
        _diverging(rows),
        _overfitting(rows),
        *_ratios(rows),
        _waiting(rows),
    )
    return [sentence for sentence in found if sentence]


def _not_finite(rows: Rows) -> str:
    """A statistic that has a value in some epochs, but null or NaN in others."""
    for name in statistics(rows):
        bad = [row["epoch"] for row in rows if name in row and number(row[name]) is None]
        if bad:
            return (
                f"<b>{name_of(name)}</b> is not a finite number in epoch {bad[0]}: "
                "the learning rate may be too high, or an image or a label broken."
            )
    return ""


def _diverging(rows: Rows) -> str:
    points = curve(rows, "train", "objective")
    if len(points) < 2 or points[-1][1] <= points[0][1]:
        return ""
    first, last = points[0][1], points[-1][1]
    return (
        f"The <b>objective on train rose</b> from {short(first)} to {short(last)}: "
        "the learning rate is probably too high; try a tenth of it, or clip the derivatives."
    )


def _overfitting(rows: Rows) -> str:
    val, train = curve(rows, "val", "objective"), dict(curve(rows, "train", "objective"))
    if not val:
        return ""
    (epoch, value), (last_epoch, last) = min(val, key=lambda point: point[1]), val[-1]
    fell = train.get(last_epoch, 0) < train.get(epoch, 0)
    if last_epoch < epoch + PATIENCE or last < 1.05 * value or not fell:
        return ""
    return (
        f"The <b>objective on val was lowest in epoch {epoch}</b> ({short(value)}) and has risen "
        f"to {short(last)}, while on train it went on falling: the network overfits. Stop early, "
        "or use more data, augmentation, weight decay or dropout."
    )


def _ratios(rows: Rows) -> list[str]:
    last = {name: line[-1][1] for name, line in ratios_of(rows).items()}
    still = [name for name, ratio in last.items() if ratio < STILL]
    thrown = [name for name, ratio in last.items() if ratio > THROWN]
    found = []
    if still:
        found.append(
            f"{_names(still)} hardly move (update ratio below 1e-6): dead or frozen layers?"
        )
    if thrown:
        found.append(
            f"{_names(thrown)} move by more than a tenth of their size with one update: "
            "the learning rate may be too high for them."
        )
    return found


def _waiting(rows: Rows) -> str:
    seconds, waited = (curve(rows, "train", name) for name in ("time", "data_time"))
    if not seconds or not waited or not seconds[-1][1]:
        return ""
    share = waited[-1][1] / seconds[-1][1]
    if share <= MUCH_WAITING:
        return ""
    return (
        f"<b>{percent(min(share, 1))} of the last epoch went by waiting for data</b>: use more "
        "threads to load images, smaller files, or a faster disk."
    )


def _names(names: Sequence[str]) -> str:
    more = f" and {len(names) - FEW} more" if len(names) > FEW else ""
    return f"<b>{', '.join(name_of(name) for name in names[:FEW])}{escape(more)}</b>"
