"""The page as a whole."""

from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

from matconvnet.files import write_atomic
from matconvnet.train.curves import Rows, best, curve, number, statistics
from matconvnet.train.page.charts import learning_curves, learning_rate, speed, time_split
from matconvnet.train.page.confusion import confusion_section
from matconvnet.train.page.ratios import ratio_cards
from matconvnet.train.page.signs import signs
from matconvnet.train.page.tables import about_section, epochs_section
from matconvnet.train.text import clock, duration, escape, name_of, short

PAGE_FILE = "run.html"
REFRESH = 10  # seconds, while the run goes on
BATCHES = ("batch", "batches")  # of `live`
RECENT = 5  # epochs that tell how long the rest will take

STATUS = {
    "running": ("\N{BLACK RIGHT-POINTING TRIANGLE}", "Running"),
    "finished": ("\N{CHECK MARK}", "Finished"),
    "stopped": ("\N{BLACK SQUARE}", "Stopped"),
    "failed": ("\N{MULTIPLICATION X}", "Failed"),
}


def write_page(
    folder: Path,
    *,
    rows: Rows,
    about: Mapping[str, Any],
    live: Mapping[str, Any] | None = None,
    confusion: Mapping[str, Any] | None = None,
) -> None:
    """Write `run.html`, atomically: a page without scripts or other files.

    Args:
        folder: of the run.
        rows: the lines of `stats.jsonl`, see `report.write_stats`; there may be none yet.
        about: what `run.json` holds, see `report.write_about`.
        live: the phase that is running: epoch, phase, batch (from 1), batches, statistics, and
            images_per_second.
        confusion: see `Confusion.to_dict`.

    Raises: OSError, if it cannot be written; the page that was there is left.
    """
    text = page(folder.resolve().name, rows, about, live, confusion)
    write_atomic(folder / PAGE_FILE, lambda path: path.write_text(text, encoding="utf-8"))


def page(
    name: str,
    rows: Rows,
    about: Mapping[str, Any],
    live: Mapping[str, Any] | None = None,
    confusion: Mapping[str, Any] | None = None,
) -> str:
    """The text of the page of the run `name`; arguments as of `write_page`."""
    status = about.get("status")
    is_running = status == "running"
    title = name_of(name)
    refresh = f'<meta http-equiv="refresh" content="{REFRESH}">' if is_running else ""
    options = about.get("options")
    options = options if isinstance(options, Mapping) else {}
    monitor = options.get("monitor")
    monitor = monitor if isinstance(monitor, str) else None
    word = STATUS.get(str(status), ("", "Run"))[1]
    style = files("matconvnet.train.page").joinpath("style.css").read_text(encoding="utf-8")
    sections = (
        _header(title, about),
        _progress(rows, options, live) if is_running else "",
        _tiles(rows, options, monitor, is_running),
        _signs(rows),
        _grid("Learning curves", learning_curves(rows, monitor)),
        _grid("Speed", [learning_rate(rows), speed(rows), time_split(rows)]),
        _grid("Updates", ratio_cards(rows)),
        confusion_section(confusion),
        epochs_section(rows, monitor),
        about_section(about),
    )
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        f'<meta name="viewport" content="width=device-width, initial-scale=1">{refresh}'
        f"<title>{word}: {title}</title><style>{style}</style></head>\n<body><main>"
        + "\n".join(section for section in sections if section)
        + "</main></body></html>\n"
    )


def _header(title: str, about: Mapping[str, Any]) -> str:
    status = str(about.get("status", ""))
    sign, word = STATUS.get(status, ("?", "Status unknown"))
    kind = status if status in STATUS else "unknown"
    message = about.get("message")
    told = f'<p class="message">{escape(message)}</p>' if message else ""
    updated = about.get("updated")
    since = f'<span class="when">as of {name_of(clock(updated))}</span>' if updated else ""
    network = _network(about.get("network"))
    under = f'<p class="under">{network}</p>' if network else ""
    return (
        f'<header class="{kind}"><div><h1>{title}</h1>{under}</div>'
        f'<p class="status"><b><span aria-hidden="true">{sign}</span> {word}</b>{since}</p>'
        f"{told}</header>"
    )


def _network(network: Any) -> str:
    """The name or kind of the network, and its size, if they are known."""
    if not isinstance(network, Mapping):
        return name_of(network) if network else ""
    parts = [name_of(network.get("name") or network.get("kind") or "network")]
    for what in ("layers", "parameters"):
        count = number(network.get(what))
        parts += [f"{count:,.0f} {what}"] if count else []
    return ", ".join(parts)


def _progress(rows: Rows, options: Mapping[str, Any], live: Mapping[str, Any] | None) -> str:
    """How far the running epoch and the run are."""
    done = max((row["epoch"] for row in rows), default=0)
    total = number(options.get("num_epochs"))
    if not live:
        waiting = "Waiting for the first numbers." if not rows else "Between two epochs."
        return f'<section class="progress"><p>{waiting}</p>{_bar("run", done, total)}</section>'
    batch, batches = (number(live.get(name)) or 0 for name in BATCHES)
    measured = {name: number(live[name]) for name in statistics([live]) if name not in BATCHES}
    told = [f"{name_of(name)}&nbsp;{short(v)}" for name, v in measured.items() if v is not None]
    images = number(live.get("images_per_second"))
    told += [f"{short(round(images))} images/s"] if images else []
    phase, epoch = name_of(live.get("phase")), number(live.get("epoch")) or 0
    of = f" of {total:.0f}" if total else ""
    return (
        f'<section class="progress"><p><b>Epoch {epoch:.0f}{of}</b>, {phase}: batch {batch:.0f} of '
        f"{batches:.0f}; {', '.join(told)}</p>"
        f"{_bar(str(live.get('phase')), batch, batches)}{_bar('run', done, total)}</section>"
    )


def _bar(what: str, done: float, total: float | None) -> str:
    if not total:
        return ""
    share = 100 * min(done / total, 1)
    return (
        f'<div class="bar" role="img" aria-label="{escape(what)}: {share:.0f} %">'
        f'<i style="width:{share:.1f}%"></i></div>'
    )


def _tiles(rows: Rows, options: Mapping[str, Any], monitor: str | None, is_running: bool) -> str:
    """The numbers that are asked for first."""
    if not rows:
        return ""
    done, total = max(row["epoch"] for row in rows), number(options.get("num_epochs"))
    tiles = [("epochs", f"{done}" + (f" of {total:.0f}" if total else ""), "")]
    found = best(rows, monitor)
    if found:
        last = curve(rows, found.phase, found.name)[-1][1]
        label = f"{name_of(found.name)} on {found.phase}"
        tiles.append((f"best {label}", short(found.value), f"in epoch {found.epoch}"))
        tiles.append((f"last {label}", short(last), ""))
    seconds: dict[int, float] = {}
    for row in rows:
        seconds[row["epoch"]] = seconds.get(row["epoch"], 0) + (number(row.get("time")) or 0)
    tiles.append(("time", duration(sum(seconds.values())), ""))
    if is_running and total and total > done:
        recent = list(seconds.values())[-RECENT:]
        rest = (total - done) * sum(recent) / len(recent)
        tiles.append(("still to go, about", duration(rest), "at the present speed"))
    speeds = curve(rows, "train", "images_per_second")
    if speeds:
        tiles.append(("training speed", f"{short(round(speeds[-1][1]))}", "images per second"))
    cells = "".join(
        f"<div><dt>{label}</dt><dd>{value}<small>{more}</small></dd></div>"
        for label, value, more in tiles
    )
    return f'<dl class="tiles">{cells}</dl>'


def _signs(rows: Rows) -> str:
    found = "".join(f"<li>{sentence}</li>" for sentence in signs(rows))
    return (
        f'<section class="signs"><h2>Worth a look</h2><ul>{found}</ul></section>' if found else ""
    )


def _grid(title: str, cards: list[str]) -> str:
    content = "".join(cards)
    return (
        f'<section><h2>{title}</h2><div class="grid">{content}</div></section>' if content else ""
    )
