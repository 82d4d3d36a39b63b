"""Where the time of a training goes: layer by layer, data, updates, communication."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from matconvnet.executor import Record
from matconvnet.nets.network import Network
from matconvnet.parallel.server import Traffic
from matconvnet.train.report import write_json

if TYPE_CHECKING:
    from rich.table import Table

PROFILE_FILE = "profile.json"
MOST_LAYERS = 30  # lines of the table; the file holds all
MEGABYTE = 1e6


class Profile:
    """Seconds by layer, and beside the layers; `add` what was measured, then read `table()`.

    On a GPU the times of layers mean something only if the evaluation waited for each (`sync`).

    Args:
        net: the network whose evaluations are measured.
    """

    def __init__(self, net: Network):
        self.types = {node.name: type(node.layer).__name__ for node in net.graph.nodes}
        self.forward = dict.fromkeys(self.types, 0.0)
        self.backward = dict.fromkeys(self.types, 0.0)
        self.evaluations = self.images = 0
        self.wait = self.update = 0.0
        self.traffic = Traffic()

    def add(self, record: Record, images: int) -> None:
        """Add an evaluation of a sub-batch of `images`, after its backward pass if it has one."""
        for name, seconds in record.forward_time.items():
            self.forward[name] += seconds
        for name, seconds in record.backward_time.items():
            self.backward[name] += seconds
        self.evaluations += 1
        self.images += images

    def add_wait(self, seconds: float) -> None:
        """Add time in which the training waited for data."""
        self.wait += seconds

    def add_update(self, seconds: float) -> None:
        """Add time that the solver took to update the parameters."""
        self.update += seconds

    def to_dict(self) -> dict[str, Any]:
        """All of it as JSON can hold it; times in seconds, in total."""
        traffic = self.traffic
        layers = [
            {"name": name, "type": kind, "forward": self.forward[name],
             "backward": self.backward[name]}
            for name, kind in self.types.items()
        ]  # fmt: skip
        return {
            "evaluations": self.evaluations,
            "images": self.images,
            "layers": layers,
            "data_wait": self.wait,
            "update": self.update,
            "communication": {
                "steps": traffic.steps,
                "bytes": traffic.bytes,
                "under_way": traffic.under_way,
                "waited": traffic.waited,
                "overlap": traffic.overlap,
            },
        }

    def write(self, folder: Path) -> None:
        """Write `profile.json`."""
        write_json(folder / PROFILE_FILE, self.to_dict())

    def table(self) -> "Table":
        """The costliest layers in the order of the network, and what else took time.

        ms are per evaluation of a sub-batch; shares are of all the time that was measured.
        """
        from rich.table import Table

        title = f"Profile of {self.evaluations} evaluations, {self.images} images"
        table = Table(title=title, title_justify="left", caption=self._communication())
        for heading in ("layer", "type"):
            table.add_column(heading)
        for heading in ("forward ms", "backward ms", "share"):
            table.add_column(heading, justify="right")
        for name, kind, names in self._groups():
            self._add(table, name, kind, names)
        table.add_section()
        self._add(table, "all layers", "", list(self.types))
        for name, seconds in self._beside().items():
            table.add_row(name, "", self._ms(seconds), "", self._share(seconds))
        return table

    def _groups(self) -> list[tuple[str, str, list[str]]]:
        """The lines on layers: name, type, and which layers; the cheapest ones together."""
        order = sorted(self.types, key=lambda name: -self.forward[name] - self.backward[name])
        shown, others = set(order[:MOST_LAYERS]), order[MOST_LAYERS:]
        groups = [(name, kind, [name]) for name, kind in self.types.items() if name in shown]
        return [*groups, (f"{len(others)} others", "", others)] if others else groups

    def _beside(self) -> dict[str, float]:
        """Seconds that went by outside the layers."""
        beside = {"waiting for data": self.wait, "updates": self.update}
        if self.traffic.bytes:
            beside["waiting for other workers"] = self.traffic.waited
        return beside

    def _add(self, table: "Table", name: str, kind: str, layers: list[str]) -> None:
        forward, backward = (sum(t[n] for n in layers) for t in (self.forward, self.backward))
        share = self._share(forward + backward)
        table.add_row(name, kind, self._ms(forward), self._ms(backward), share)

    def _ms(self, seconds: float) -> str:
        return f"{1e3 * seconds / max(self.evaluations, 1):.2f}"

    def _share(self, seconds: float) -> str:
        parts = (self.forward, self.backward, self._beside())
        total = sum(sum(part.values()) for part in parts)
        return f"{100 * seconds / total if total else 0:.1f} %"

    def _communication(self) -> str | None:
        """How much the workers exchanged; None, if there is one worker."""
        traffic = self.traffic
        if not traffic.bytes:
            return None
        each = traffic.bytes / max(traffic.steps, 1) / MEGABYTE
        return (
            f"exchanged {each:.2f} MB per step, {100 * traffic.overlap:.0f} % hidden by computing"
        )
