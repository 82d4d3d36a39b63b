"""Reads MATLAB 7.3 files in a process of its own, where libhdf5 may crash, hang or eat memory.

`server73` runs it: `python -m matconvnet.interop.mat.worker73`. It answers requests on standard
input with frames on standard output, as `protocol73` says. Each file is read in a fork of its own,
or by a process that ends after it, so that what one file does to libhdf5 never meets another.
"""

import json
import math
import os
import signal
import sys
import time
from typing import TYPE_CHECKING, Any, BinaryIO

from matconvnet.interop.mat.protocol73 import FRAME, REQUEST, blocks

if TYPE_CHECKING:
    from matconvnet.interop.mat.walk73 import Data, Walk

SECONDS = 2.0
"""Time of the processor for one value, or one block of data of no size."""

BYTES_PER_SECOND = 5e6
"""The slowest inflating that is waited for."""

SPARE_MEMORY = 1 << 28
"""Bytes that the process may take beyond the budget of the values."""

LONGEST = 1000
"""Letters of each part of a report."""


def main() -> None:
    """Answer requests until the other side is gone."""
    answers = os.dup(1)
    os.dup2(2, 1)  # whatever a library prints is no answer
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    missing = None
    try:
        from matconvnet.interop.mat import walk73  # noqa: F401
    except ImportError as error:
        missing = str(error)
    while len(head := read(REQUEST.size)) == REQUEST.size:
        request = json.loads(read(*REQUEST.unpack(head)))
        if not request["fork"]:
            answer(request, answers, missing)
            return
        child = os.fork()
        if not child:
            answer(request, answers, missing)
            os._exit(0)
        signal.signal(signal.SIGTERM, lambda *_, child=child: stop(child))
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        if status:
            os._exit(abs(status))


def stop(child: int) -> None:
    """End with the process that reads; nobody else could collect it."""
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    os._exit(signal.SIGTERM)


def read(count: int) -> bytes:
    """So many bytes of standard input, or fewer at its end."""
    data = b""
    while len(data) < count and (part := os.read(0, count - len(data))):
        data += part
    return data


def answer(request: dict[str, Any], answers: int, missing: str | None) -> None:
    """Send the frames for one file."""
    with open(answers, "wb", closefd=False) as pipe:
        if missing is not None:
            send(pipe, b"E", {"missing": missing})
            return
        limit(request["budget"])
        read_file(request, pipe)


def read_file(request: dict[str, Any], pipe: BinaryIO) -> None:
    """Send the tree and the data of a file, or why that cannot be."""
    from matconvnet.interop.mat.guards73 import RefusalError
    from matconvnet.interop.mat.walk73 import Walk

    place: list[str] = []
    try:
        walk = Walk(request["path"], request["budget"], pulse)
        place = walk.place
        tree = walk.variables()
        send(pipe, b"T", {"bytes": walk.budget.budget - walk.budget.left, "tree": tree})
        for data in walk.arrays:
            place[:] = [data.place]
            send_array(pipe, walk, data)
        send(pipe, b"Z", None)
        return
    except RefusalError as error:
        found, wanted, cause = error.args
    except Exception as error:  # libhdf5 has many
        found = f"{type(error).__name__}: {error}"
        wanted, cause = (
            "what libhdf5 can read",
            "was the download cut short, or is the file damaged?",
        )
    report = {"place": "".join(place) or "/", "found": found, "wanted": wanted, "cause": cause}
    send(pipe, b"E", {key: value[:LONGEST] for key, value in report.items()})


def send(pipe: BinaryIO, kind: bytes, content: Any) -> None:
    """Send a frame of JSON."""
    data = json.dumps(content).encode()
    pipe.write(FRAME.pack(kind, len(data)))
    pipe.write(data)


def send_array(pipe: BinaryIO, walk: "Walk", data: "Data") -> None:
    """Send the blocks of one data set."""
    import numpy as np
    from h5py import h5s, h5t

    number = np.dtype(data.node["type"])
    dtype = np.dtype([("real", number), ("imag", number)]) if data.node["complex"] else number
    dataset = walk.open(data.reference)
    space = dataset.get_space()
    for start, size in blocks(space.get_simple_extent_dims(), data.node["block"]):
        values = np.empty(size, dtype)
        pulse(values.nbytes)
        memory = None
        if size:  # a scalar has no axes to select from
            space.select_hyperslab(tuple(start), tuple(size))
            memory = h5s.create_simple(tuple(size))
        dataset.read(memory or h5s.ALL, space, values, h5t.py_create(dtype))
        pipe.write(FRAME.pack(b"D", values.nbytes))
        pipe.write(values.reshape(-1).view("u1").data)


def pulse(count: int) -> None:
    """Let this process live on for the time that `count` bytes may take, where it can be set."""
    if sys.platform != "linux":
        return
    import resource

    most = resource.getrlimit(resource.RLIMIT_CPU)[1]
    seconds = math.ceil(time.process_time() + SECONDS + count / BYTES_PER_SECOND)
    value = seconds if most == resource.RLIM_INFINITY else min(seconds, most)
    resource.setrlimit(resource.RLIMIT_CPU, (value, most))


def limit(budget: int) -> None:
    """Bound what this process can do to the machine, where the system can."""
    if sys.platform != "linux":
        return
    import resource

    with open("/proc/self/statm") as file:
        used = int(file.read().split()[0]) * resource.getpagesize()
    for kind, value in (
        (resource.RLIMIT_AS, used + budget + SPARE_MEMORY),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, 0),
    ):
        most = resource.getrlimit(kind)[1]
        value = min(value, sys.maxsize if most == resource.RLIM_INFINITY else most)
        resource.setrlimit(kind, (value, most))


if __name__ == "__main__":
    main()
