"""Sums over workers with the original's manners: `ParameterServer` and `vl_tmove`."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from torch import Tensor

from matconvnet.compat.options import parse_options
from matconvnet.layout import to_numpy, to_tensor
from matconvnet.parallel import server
from matconvnet.parallel.world import World, join

CLASSES = {"single": torch.float32, "double": torch.float64}
OPTIONS = {"prefix": "mcn", "method": "tmove", "pinned_memory": True, "inplace": True,
           "tmove_opts": None}  # fmt: skip
METHODS = ("tmove", "mmap")


class ParameterServer(server.ParameterServer):
    """Sums of tensors over all workers that torchrun started; alone, what was pushed.

    `ParameterServer('method', 'tmove')`; then `register(name, shape, 'single', 'cpu')` for every
    tensor and `start()`; in every step `push` each, `sync()`, and `pull` the sums; at last
    `stop()`. Tensors are named, or numbered from 1 in the order in which they were registered.
    NumPy arrays are answered in kind.

    Options prefix, method, pinnedMemory, inplace and tmoveOpts are checked, and of no effect: the
    exchange is that of `matconvnet.parallel` in either case. A pull without `sync` makes it, so all
    workers pull equally often between pushes.

    Source: ParameterServer. Unlike there, a second pull gives the same sum.
    """

    def __init__(self, *pairs: Any, **options: Any):
        super().__init__()
        opts = parse_options(OPTIONS, pairs, options)
        if opts["method"] not in METHODS:
            raise ValueError(f"method is {opts['method']!r}; wanted one of {', '.join(METHODS)}")
        self.world: World | None = None
        self._inner: server.ParameterServer | None = None
        self._arrays: set[str] = set()
        self._is_pushing = False

    def register(
        self,
        name: str,
        shape: Sequence[int],
        dtype: torch.dtype | str = "single",
        device: torch.device | str = "cpu",
    ) -> None:
        """Declare a tensor: its class, 'single' or 'double', and its device, 'cpu' or 'gpu'."""
        if isinstance(dtype, str):
            if dtype not in CLASSES:
                raise ValueError(f"dtype is {dtype!r}; wanted 'single' or 'double'")
            dtype = CLASSES[dtype]
        sizes = [int(n) for n in np.ravel(shape)]
        super().register(name, sizes, dtype, "cuda" if device == "gpu" else device)

    def start(self) -> None:
        """Open the exchange; all workers have registered the same tensors in the same order."""
        super().start()
        device = "cuda" if any(s.device.type == "cuda" for s in self.slots.values()) else "cpu"
        self.world = join(device)
        self._inner = self.world.server()
        self.traffic = self._inner.traffic
        for name, slot in self.slots.items():
            self._inner.register(name, *slot)
        self._inner.start()

    def push(self, name: str, value: Any) -> None:
        """Hand over this worker's value; returns at once."""
        tensor = to_tensor(value)
        if not isinstance(tensor, Tensor):
            tensor = torch.as_tensor(tensor)
        if name in self.slots and tensor.numel() == np.prod(self.slots[name].shape):
            tensor = tensor.reshape(self.slots[name].shape)
        self.check(name, tensor)
        (self._arrays.discard if isinstance(value, Tensor) else self._arrays.add)(name)
        self._is_pushing = True
        self._running().push(name, tensor)

    def push_with_index(self, index: int, value: Any) -> None:
        """`push` by number, from 1."""
        self.push(self._name(index), value)

    def sync(self) -> None:
        """End the step: wait until all sums are there."""
        self._is_pushing = False
        self._running().sync()

    def pull(self, name: str) -> Any:
        """The sum over all workers of what they pushed under `name` in this step."""
        if self._is_pushing:
            self.sync()
        value = self._running().pull(name)
        return to_numpy(value) if name in self._arrays else value

    def arrived(self) -> list[str]:
        """Names that some worker pushed in the step that ended, in the order of registration."""
        return self._running().arrived()

    def pull_with_index(self, index: int) -> Any:
        """`pull` by number, from 1."""
        return self.pull(self._name(index))

    def stop(self) -> None:
        """Close the exchange; what was registered is forgotten."""
        if self._inner is not None:
            self._inner.stop()
        if self.world is not None:
            self.world.leave()
        self._inner = self.world = None
        self.slots.clear()
        super().stop()

    pushWithIndex, pullWithIndex = push_with_index, pull_with_index  # noqa: N815

    def _running(self) -> server.ParameterServer:
        if self._inner is None:
            raise RuntimeError("the server is not started; call start after the last register")
        return self._inner

    def _name(self, index: int) -> str:
        if not 1 <= index <= len(self.slots):
            raise IndexError(f"index is {index}; wanted 1 to {len(self.slots)}")
        return list(self.slots)[index - 1]


_open: list[ParameterServer] = []
"""The server of `vl_tmove`, if it is started: a process has one."""


def vl_tmove(command: str, *arguments: Any) -> Any:
    """Sum tensors over the workers that torchrun started.

        vl_tmove("init", format, labindex, numlabs)    format: rows of class ("single", "double"),
                                                       shape, name, and "cpu" or "gpu" if given
        vl_tmove("push", name, value)                  every worker, once for each tensor
        x = vl_tmove("pull", name)                     the sum over all workers
        vl_tmove("stats")                              a dict: bytes, seconds, steps so far
        vl_tmove("reset")                              leave the others

    Args:
        command: one of those above.
        *arguments: of the command; labindex counts from 1. Options after them ("InPlace",
            "Verbose", "prefix" and its value) are of no effect.

    Raises: ValueError for another command, or if labindex and numlabs are not this worker's;
        RuntimeError before init, and for a second one; KeyError for an unknown name.
    Source: vl_tmove.
    """
    name = command.lower() if isinstance(command, str) else command
    if name == "init":
        _start(*arguments[:3])
        return None
    if name not in ("push", "pull", "stats", "reset"):
        raise ValueError(f"command is {command!r}; wanted init, push, pull, stats or reset")
    if name == "reset":
        while _open:
            _open.pop().stop()
        return None
    if not _open:
        raise RuntimeError(f"vl_tmove({command!r}) before vl_tmove('init', ...)")
    if name == "push":
        return _open[0].push(*arguments[:2])
    return _open[0].pull(arguments[0]) if name == "pull" else asdict(_open[0].traffic)


def _start(rows: Sequence[Sequence[Any]], labindex: int = 1, numlabs: int = 1) -> None:
    if _open:
        raise RuntimeError("vl_tmove is started already; call vl_tmove('reset') first")
    new = ParameterServer()
    for kind, shape, name, *device in rows:
        new.register(name, shape, kind, *device)
    new.start()
    assert new.world is not None
    rank, size = new.world.rank + 1, new.world.size
    if (rank, size) != (labindex, numlabs):
        new.stop()
        raise ValueError(f"labindex is {labindex} of {numlabs}; torchrun says {rank} of {size}")
    _open.append(new)
