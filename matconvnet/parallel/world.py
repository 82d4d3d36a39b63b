"""The workers that train one network together, as one of them sees them."""

import json
from types import TracebackType
from typing import Any

import numpy as np
import torch

from matconvnet.parallel.buckets import BUCKET_BYTES
from matconvnet.parallel.distributed import DistributedServer
from matconvnet.parallel.links import Links, Place, connect, device_of, place_of_this_process
from matconvnet.parallel.server import LocalServer, ParameterServer


class World:
    """All workers of a run; `World()` is that of a worker alone, `join` meets the others.

    Every method but `server` and `leave` is a meeting: all workers call it, in the same order, with
    values of the same shape, and get the same answer, bit for bit.

    rank: number of this worker, from 0. size: how many there are. local_rank: number of this worker
    on its machine. device: where it computes.

    Raises (all meetings): ConnectionError, if another worker ended or kept silent for too long.
    """

    def __init__(
        self,
        place: Place = Place(),  # noqa: B008
        device: torch.device | str = "cpu",
        links: Links | None = None,
    ):
        self.rank, self.size, self.local_rank = place
        self.device = torch.device(device)
        self._links = links

    def __repr__(self) -> str:
        return f"World(rank={self.rank}, size={self.size}, device={str(self.device)!r})"

    def __enter__(self) -> "World":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Leave together; after an error at once, as the process is expected to end."""
        if kind is None:
            self.barrier()
            self.leave()
        elif self._links is not None:
            self._links.abandon()
            self._links = None

    @property
    def links(self) -> Links:
        """The connections to the other workers."""
        if self._links is None:
            raise RuntimeError(f"rank {self.rank} of {self.size} has left; call join again")
        return self._links

    def server(self, bucket_bytes: int = BUCKET_BYTES) -> ParameterServer:
        """A new parameter server of these workers; see DistributedServer."""
        return LocalServer() if self.size == 1 else DistributedServer(self, bucket_bytes)

    def sum(self, values: np.ndarray) -> np.ndarray:
        """Add float64 numbers element by element over all workers."""
        total = np.array(values, np.float64, order="C")
        if self.size > 1:
            control = self.links.control
            control.wait(control.sum(torch.from_numpy(total)), "adding numbers")
        return total

    def gather(self, value: Any) -> list[Any]:
        """The values of all workers, by rank: plain data, as JSON has them."""
        text = json.dumps(value).encode()
        if self.size == 1:
            return [json.loads(text)]
        lengths = np.zeros(self.size)
        lengths[self.rank] = len(text)
        lengths = self.sum(lengths).astype(int)
        padded = bytearray(text.ljust(lengths.max()))
        rows = self.links.control.gather(torch.frombuffer(padded, dtype=torch.uint8))
        return [json.loads(row.numpy().tobytes()) for row in rows]

    def broadcast(self, value: Any) -> Any:
        """The value of rank 0: plain data, as JSON has them; those of other ranks do not matter."""
        return self.gather(value if self.rank == 0 else None)[0]

    def agree(self, what: str, value: str) -> None:
        """Make sure that `value` is the same for all workers.

        Raises: ValueError on all of them, that names those which differ from rank 0.
        """
        values = self.gather(value)
        others = [rank for rank, other in enumerate(values) if other != values[0]]
        if others:
            first = others[0]
            raise ValueError(
                f"{what} of rank {', '.join(map(str, others))} differs from that of rank 0: rank "
                f"{first} has {_shortened(values[first])}, rank 0 has {_shortened(values[0])}"
            )

    def barrier(self) -> None:
        """Wait until all workers are here."""
        self.sum(np.zeros(1))

    def leave(self) -> None:
        """Disconnect, if connected; waits for sums that are under way."""
        if self._links is not None:
            self._links.close()
            self._links = None


def join(device: torch.device | str = "cpu", timeout: float = 600.0) -> World:
    """Meet the other workers that `torchrun` started; without torchrun, be alone.

    Args:
        device: "cpu", or "cuda" for the GPU with the number of the local rank.
        timeout: seconds after which a silent worker is given up, in this and in later meetings.

    Returns: the world, with this worker in it.
    Raises: ValueError, if the environment contradicts itself or has fewer GPUs than workers;
        ConnectionError, if the others do not come.
    """
    place = place_of_this_process()
    device = device_of(place, device)
    return World(place, device, connect(place, device, timeout) if place.size > 1 else None)


def _shortened(text: str, most: int = 200) -> str:
    return repr(text if len(text) <= most else text[:most] + "...")
