"""The tables of the page: epochs, options, and what the run ran on."""

import math
from collections.abc import Mapping
from typing import Any

from matconvnet.train.curves import Rows, best, number, statistics
from matconvnet.train.text import clock, described, duration, escape, name_of, percent, short

MOST_EPOCHS = 60
LATEST = 20


def epochs_section(rows: Rows, monitor: str | None) -> str:
    """A table of epochs, the latest first: all, or the latest, the best and some between."""
    epochs = sorted({row["epoch"] for row in rows}, reverse=True)
    if not epochs:
        return ""
    found = best(rows, monitor)
    shown = _thinned(epochs, found.epoch if found else None)
    both = {(row["epoch"], row["phase"]): row for row in rows}
    names = statistics(rows)
    heads = ["epoch", "learning rate"]
    heads += [f"{name_of(name)}<br>{phase}" for name in names for phase in ("train", "val")]
    heads += ["images/s", "waiting", "time"]
    body = []
    for epoch in shown:
        train, val = (both.get((epoch, phase), {}) for phase in ("train", "val"))
        cells = [str(epoch), short(number((train or val).get("learning_rate")))]
        cells += [short(number(row.get(name))) for name in names for row in (train, val)]
        cells += _speeds(train or val, (train, val))
        kind = ' class="best"' if found and epoch == found.epoch else ""
        body.append(f"<tr{kind}>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>")
    note = []
    if found:
        note.append(
            f"The best epoch by {name_of(found.name)} on {found.phase}, {found.epoch}, is marked."
        )
    if len(shown) < len(epochs):
        note.append(f"{len(shown)} of {len(epochs)} epochs; stats.jsonl holds all.")
    head = "".join(f'<th scope="col">{name}</th>' for name in heads)
    return (
        f'<section><h2>Epochs</h2><p class="note">{" ".join(note)}</p><div class="scroll">'
        f'<table class="numbers"><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(body)}</tbody></table></div></section>"
    )


def about_section(about: Mapping[str, Any]) -> str:
    """Two lists: the options of the run, and everything else that is known of it."""
    options = about.get("options")
    options = options if isinstance(options, Mapping) else {}
    others = {k: v for k, v in about.items() if k not in ("options", "status", "message")}
    for name in ("started", "updated"):
        if name in others:
            others[name] = clock(others[name])
    lists = "".join(
        f"<div><h2>{title}</h2><dl>{_entries(values)}</dl></div>"
        for title, values in (("Options", options), ("Run", others))
        if values
    )
    return f'<section class="pair">{lists}</section>' if lists else ""


def _entries(values: Mapping[str, Any]) -> str:
    return "".join(
        f"<dt>{name_of(name)}</dt><dd>{escape(described(value), 400)}</dd>"
        for name, value in values.items()
    )


def _thinned(epochs: list[int], best_epoch: int | None) -> list[int]:
    every = math.ceil(max(len(epochs) - LATEST, 1) / (MOST_EPOCHS - LATEST))
    kept = {*epochs[:LATEST], *epochs[LATEST::every], epochs[-1]}
    return sorted(kept | ({best_epoch} if best_epoch else set()), reverse=True)


def _speeds(train: Mapping[str, Any], both: tuple[Mapping[str, Any], ...]) -> list[str]:
    """Images per second of training, share of the time waited for data, time of both phases."""
    seconds, waited = number(train.get("time")), number(train.get("data_time"))
    share = percent(min(waited / seconds, 1)) if seconds and waited is not None else short(None)
    times = [number(row.get("time")) for row in both]
    total = sum(time for time in times if time is not None)
    return [short(number(train.get("images_per_second"))), share, duration(total)]
