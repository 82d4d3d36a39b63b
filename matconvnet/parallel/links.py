"""Connections between workers: who this process is, its process groups, and waiting for them.

Where this worker stands comes from the environment that `torchrun` sets: RANK, WORLD_SIZE,
LOCAL_RANK, MASTER_ADDR and MASTER_PORT.
"""

import os
from datetime import timedelta
from threading import Event, Thread
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

c10d: Any = dist  # its stores are not in its __all__

WANTED = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
SLICE = timedelta(seconds=1)  # how long a signal may wait for its Python handler


class Place(NamedTuple):
    """Where a worker stands: among all, and on its machine."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0


class Link:
    """A group of workers that sums tensors of one kind of device.

    timeout: seconds after which a worker that keeps silent is given up.
    """

    def __init__(self, group: "dist.ProcessGroup", place: Place, timeout: float):
        self.group, self.place, self.timeout = group, place, timeout

    def sum(self, tensor: Tensor) -> "dist.Work":
        """Begin to put into a tensor its sum over all workers, the same bits for all of them."""
        work = dist.all_reduce(tensor, group=self.group, async_op=True)
        assert work is not None
        return work

    def gather(self, tensor: Tensor) -> list[Tensor]:
        """The tensors of all workers, which have the same shape, by rank."""
        rows = [torch.empty_like(tensor) for _ in range(self.place.size)]
        work = dist.all_gather(rows, tensor, group=self.group, async_op=True)
        assert work is not None
        self.wait(work, "gathering values")
        return rows

    def wait(self, work: "dist.Work", doing: str) -> None:
        """Wait until `work` is done; on a GPU, let what comes next on its stream wait.

        Raises: ConnectionError, if another worker ended or kept silent.
        """
        try:
            if dist.get_backend(self.group) == "nccl":
                work.wait()
            else:
                _wait_in_slices(work)
        except RuntimeError as error:
            rank, size, _ = self.place
            raise ConnectionError(
                f"rank {rank} of {size} lost another worker while {doing}: one ended, or kept "
                f"silent for {self.timeout:g} s; its own log tells why"
            ) from error


class Links(NamedTuple):
    """The process groups of a worker.

    control: for small numbers, on the CPU. data: for derivatives, by type of device; a group of
    their own, because workers may begin sums of derivatives and of small numbers in different
    order. owner: the process groups of PyTorch were set up here.
    """

    control: Link
    data: dict[str, Link]
    owner: bool

    def close(self) -> None:
        """Disconnect."""
        if self.owner:
            dist.destroy_process_group()
            return
        for link in (*self.data.values(), self.control):
            dist.destroy_process_group(link.group)

    def abandon(self) -> None:
        """Disconnect when the process ends, without waiting for sums for which nobody may come.

        A group that is destroyed waits for what it has under way, so a thread keeps all of them.
        """
        Thread(target=lambda _: Event().wait(), args=(self,), daemon=True).start()


def place_of_this_process() -> Place:
    """Where this worker stands, by its environment; alone, if that says nothing."""
    given = [name for name in ("RANK", "WORLD_SIZE") if name in os.environ]
    if not given:
        return Place()
    missing = [name for name in WANTED if name not in os.environ]
    if missing:
        raise ValueError(
            f"the environment has {' and '.join(given)} but not {', '.join(missing)}; start "
            f"workers with `torchrun --nproc-per-node=N`, or set {', '.join(WANTED)} for each"
        )
    rank, size = _whole_number("RANK"), _whole_number("WORLD_SIZE")
    if not 0 <= rank < size:
        raise ValueError(f"RANK is {rank}; wanted 0 to {size - 1}, as WORLD_SIZE is {size}")
    local_rank = _whole_number("LOCAL_RANK") if "LOCAL_RANK" in os.environ else rank
    return Place(rank, size, local_rank)


def device_of(place: Place, device: torch.device | str) -> torch.device:
    """The device of a worker: of several workers with GPUs each takes that of its local rank."""
    device = torch.device(device)
    if place.size == 1:
        return device
    if device.type not in ("cpu", "cuda") or device.index is not None:
        raise ValueError(
            f"device is {str(device)!r} for {place.size} workers; wanted 'cpu', or 'cuda' for the "
            "GPU that has the number of the local rank"
        )
    if device.type == "cpu":
        return device
    workers = int(os.environ.get("LOCAL_WORLD_SIZE", place.local_rank + 1))
    gpus = torch.cuda.device_count()
    if workers > gpus:
        raise ValueError(
            f"this machine has {gpus} GPUs for {workers} workers with device 'cuda'; wanted a GPU "
            "for each (torchrun --nproc-per-node)"
        )
    return torch.device("cuda", place.local_rank)


def connect(place: Place, device: torch.device, timeout: float) -> Links:
    """Meet the other workers.

    Raises: ConnectionError, if they do not all come within `timeout` seconds; RuntimeError, if
        PyTorch cannot connect workers.
    """
    if not dist.is_available():
        raise RuntimeError("this PyTorch was built without torch.distributed; wanted one with it")
    limit = timedelta(seconds=timeout)
    owner = not dist.is_initialized()

    def link(backend: str) -> Link:
        group = dist.new_group(backend=backend, timeout=limit)
        assert isinstance(group, dist.ProcessGroup)
        return Link(group, place, timeout)

    try:
        if owner:
            dist.init_process_group(
                "gloo", store=_store(place, limit), rank=place.rank, world_size=place.size,
                timeout=limit,
            )  # fmt: skip
        links = Links(link("gloo"), {"cpu": link("gloo")}, owner)
        if device.type == "cuda":
            torch.cuda.set_device(device)
            links.data["cuda"] = link("nccl")
        return links
    except RuntimeError as error:
        where = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        raise ConnectionError(
            f"rank {place.rank} of {place.size} did not meet the others at {where} within "
            f"{timeout:g} s: {str(error).splitlines()[0]}; wanted MASTER_ADDR and MASTER_PORT "
            f"to be a free port of the machine of rank 0 that all can reach, and {place.size} "
            "workers started at about the same time"
        ) from error


def _store(place: Place, limit: timedelta) -> Any:
    """Where the workers of this start find each other's addresses.

    torchrun keeps one store over all its restarts, and PyTorch (seen in 2.13) looks there under the
    same names each time: without a prefix, restarted workers call those that died.
    """
    host, port = os.environ["MASTER_ADDR"], _whole_number("MASTER_PORT")
    is_torchrun = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    is_host = place.rank == 0 and not is_torchrun
    store = c10d.TCPStore(
        host, port, place.size, is_master=is_host, timeout=limit, wait_for_workers=False,
        multi_tenant=True,
    )  # fmt: skip
    return c10d.PrefixStore(f"start-{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", store)


def _wait_in_slices(work: "dist.Work") -> None:
    """Wait on the CPU, and let Python handle signals now and then."""
    while True:
        try:
            work.wait(SLICE)
            return
        except RuntimeError:
            if work.is_completed():
                work.wait()  # raises what went wrong, unless it was done in this very moment
                return


def _whole_number(name: str) -> int:
    text = os.environ[name]
    if not text.isdecimal():
        raise ValueError(f"{name} is {text!r} in the environment; wanted a whole number")
    return int(text)
