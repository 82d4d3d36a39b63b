"""What the workers of the tests do: each function runs in every worker of a world.

They return arrays and plain data; what these must be is said in the tests.
"""

import os
import signal
import time

import numpy as np
import torch

from matconvnet.layout import channels_last
from matconvnet.parallel.world import join
from tests.parallel.workers import to_test

SHAPES = {"a": (3, 2, 4, 5), "b": (6,), "c": (2, 3)}


def started(world, shapes=SHAPES, dtype=torch.float64, **options):
    server = world.server(**options)
    for name, shape in shapes.items():
        server.register(name, shape, dtype)
    server.start()
    return server


def value(name, rank, step, shape, dtype=torch.float64):
    """What a worker pushes in the tests: random numbers."""
    seed = sum(map(ord, name)) + 1000 * rank + 17 * step
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


def push_all(server, world, step, names=None):
    for name in reversed(server.slots) if names is None else names:
        slot = server.slots[name]
        server.push(name, value(name, world.rank, step, slot.shape, slot.dtype))


def pulled(server):
    return {name: server.pull(name).double().numpy().copy() for name in server.slots}


def sums(world, bucket_bytes):
    """Three steps, everything pulled twice."""
    server, steps = started(world, bucket_bytes=bucket_bytes), []
    for step in range(3):
        push_all(server, world, step)
        server.sync()
        steps.append((pulled(server), pulled(server), server.arrived()))
    return steps


def gpu_sums(world):
    """Three steps on a GPU, some computed into the sums of the step before."""
    server, steps = world.server(bucket_bytes=8), []
    for name, shape in SHAPES.items():
        server.register(name, shape, torch.float64, world.device)
    server.start()
    for step in range(3):
        ders = {name: server.pull(name) for name in SHAPES}
        for name, der in ders.items():
            der.copy_(value(name, world.rank, step, SHAPES[name]))
            server.push(name, der)
        server.sync()
        steps.append({name: server.pull(name).cpu().numpy().copy() for name in SHAPES})
    return steps, server.arrived(), server.traffic.under_way, server.traffic.waited


def other_orders(world):
    """Every worker pushes in an order of its own, which changes from step to step."""
    server, steps, names = started(world, bucket_bytes=8), [], list(SHAPES)
    for step in range(4):
        shift = (world.rank + step) % len(names)
        push_all(server, world, step, names[shift:] + names[:shift])
        server.sync()
        steps.append(pulled(server))
    return steps


def numbers_between(world):
    """Small numbers are added before, between or after the pushes, as every worker likes."""
    server, steps, numbers = started(world, bucket_bytes=8), [], []
    for step in range(4):
        for i, name in enumerate(SHAPES):
            if i == (world.rank + step) % len(SHAPES):
                numbers.append(world.sum(np.array([1.0, step, world.rank])).tolist())
            push_all(server, world, step, [name])
        server.sync()
        steps.append(pulled(server))
    return steps, numbers


def empty_shares(world, absent):
    """`absent[step]` are the ranks that push nothing in that step."""
    server, steps = started(world, bucket_bytes=8), []
    for step, ranks in enumerate(absent):
        if world.rank not in ranks:
            push_all(server, world, step)
        server.sync()
        steps.append((pulled(server), server.arrived()))
    return steps


def one_more_name(world):
    """From the second step on, the last worker alone pushes "c" too."""
    server, steps = started(world), []
    for step in range(3):
        names = ["b", "a", "c"] if step and world.rank == world.size - 1 else ["b", "a"]
        push_all(server, world, step, names)
        server.sync()
        steps.append((pulled(server), server.arrived()))
    return steps


def half_types(world):
    """2048 + 1 + ... + 1 in half types, with other types beside them, in two steps."""
    server = world.server()
    dtypes = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
    for dtype in dtypes:
        server.register(str(dtype), (2,), dtype)
    server.start()
    for _ in range(2):
        for dtype in dtypes:
            big = 256.0 if dtype == torch.bfloat16 else 2048.0
            first = big if world.rank == 0 else 1.0
            server.push(str(dtype), torch.tensor([first, 1.0], dtype=dtype))
        server.sync()
    sums = {name: server.pull(name) for name in server.slots}
    return {name: (str(t.dtype), t.double().tolist()) for name, t in sums.items()}


def bits(world, bucket_bytes):
    """Sums of float32 numbers of very different sizes, whose rounding tells the order of adding."""
    server = started(world, dtype=torch.float32, bucket_bytes=bucket_bytes)
    for name, shape in SHAPES.items():
        server.push(name, value(name, world.rank, 0, shape, torch.float32) * 10**world.rank)
    server.sync()
    return b"".join(pulled(server)[name].tobytes() for name in SHAPES)


def memory(world):
    """Strides and addresses: who pushes rows first and who channels last, and values in place."""
    shape = SHAPES["a"]
    server = started(world, {"a": shape, "1x1": (1, 1, 3, 2)}, torch.float32)
    facts = {}
    for step in range(3):
        mine = value("a", world.rank, step, shape, torch.float32)
        server.push("1x1", torch.ones(1, 1, 3, 2))
        server.push("a", channels_last(mine) if world.rank else mine.contiguous())
        server.sync()
        total = server.pull("a")
        facts[step] = (total.numpy().copy(), total.stride(), total.data_ptr())
    total.copy_(value("a", world.rank, 3, shape))  # the next derivative, written in place
    server.push("a", total)
    server.sync()
    facts[3] = (total.numpy().copy(), server.pull("a").stride(), server.pull("a").data_ptr())
    total.copy_(value("a", world.rank, 4, shape))
    flipped = total.flip(0).contiguous()
    server.push("a", flipped.flip(0))
    server.sync()
    square = started(world, {"s": (3, 3)}, torch.float32)
    square.push("s", value("s", world.rank, 0, (3, 3), torch.float32))
    square.sync()
    square.pull("s").copy_(value("s", world.rank, 1, (3, 3)))
    square.push("s", square.pull("s").T)  # overlaps with where it must go
    square.sync()
    return facts, server.pull("a").numpy().copy(), square.pull("s").numpy().copy()


def begins_early(world):
    """Bytes under way after each push of the second step, and after the sync."""
    server = started(world, bucket_bytes=8)
    push_all(server, world, 0, ["c", "b", "a"])
    server.sync()
    start, moved = server.traffic.bytes, []
    for name in ("c", "b", "a"):
        push_all(server, world, 1, [name])
        moved.append(server.traffic.bytes - start)
    server.sync()
    traffic = server.traffic
    times = (traffic.under_way, traffic.waited, traffic.overlap)
    return moved, server.traffic.bytes - start, traffic.steps, times


def one_fast(world):
    """Rank 0 runs ahead; the others look at their sums late."""
    server, seen = started(world, {"a": (4,)}), []
    for step in range(5):
        mine = torch.full((4,), float(step + 1), dtype=torch.float64)
        server.push("a", mine)
        mine.zero_()  # the value was taken when it was pushed
        server.sync()
        if world.rank:
            time.sleep(0.02)
        seen.append(server.pull("a")[0].item())
    return seen


def push_what_you_pulled(world, cycles):
    """The test of vl_tmove: tensors of several ranks and types, from the rank of the worker."""
    shapes = [(), (5,), (2, 3), (2, 3, 2), (3, 1, 2, 4), (0, 3), (2, 2, 2, 2, 2)]
    server = world.server(64)
    for dtype in (torch.float32, torch.float64):
        for i, shape in enumerate(shapes):
            server.register(f"{dtype} {i}", shape, dtype)
    server.start()
    tensors = {n: torch.full(s.shape, world.rank + 1, dtype=s.dtype)
               for n, s in server.slots.items()}  # fmt: skip
    for _ in range(cycles):
        for name, tensor in tensors.items():
            server.push(name, tensor)
        server.sync()
        tensors = {name: server.pull(name) for name in tensors}
    return [(tuple(t.shape), set(t.flatten().tolist())) for t in tensors.values()]


def disagreements(world):
    """Errors of start, where the last worker registers something else; then a world that works."""
    last = world.rank == world.size - 1
    usual = ({"a": (3, 3), "b": (6,)}, torch.float32)
    changes = [
        ({"a": (3, 2), "b": (6,)}, torch.float32),
        ({"a": (3, 3), "B": (6,)}, torch.float32),
        ({"a": (3, 3), "b": (6,)}, torch.float64),
        ({"a": (3, 3)}, torch.float32),
        ({"a": (3, 3), "b": (6,), "c": ()}, torch.float32),
    ]
    messages = []
    for shapes, dtype in changes:
        try:
            started(world, *((shapes, dtype) if last else usual))
        except ValueError as error:
            messages.append(str(error))
    try:
        started(world, bucket_bytes=100 + last)
    except ValueError as error:
        messages.append(str(error))
    server = started(world)
    push_all(server, world, 0)
    server.sync()
    return messages, pulled(server)


def mistakes(world):
    """Messages of calls that are wrong on every worker, which none of the others waits for."""
    server, messages = started(world, {"a": (2,)}, torch.float32), {}

    def attempt(what, function, *args):
        try:
            function(*args)
        except (ValueError, TypeError, KeyError, RuntimeError) as error:
            messages[what] = f"{type(error).__name__}: {error}"

    one = torch.ones(2)
    attempt("name", server.push, "b", one)
    attempt("shape", server.push, "a", torch.ones(3))
    attempt("type", server.push, "a", one.double())
    attempt("pull of unknown", server.pull, "b")
    server.push("a", one)
    attempt("twice", server.push, "a", one)
    attempt("no sync", server.pull, "a")
    attempt("late register", server.register, "c", (1,))
    server.sync()
    server.stop()
    attempt("stopped", server.push, "a", one)
    attempt("sync", server.sync)
    fresh = world.server()
    attempt("whole numbers", fresh.register, "n", (1,), torch.int64)
    attempt("device", fresh.register, "n", (1,), torch.float32, "meta")
    server.start()
    server.push("a", one)
    server.sync()
    return messages, server.pull("a").tolist()


def meetings(world):
    """All of the control plane."""
    numbers = np.array([[0.1, 1e16, 1.0], [np.pi, -1e16, 1e-9]]) * (world.rank + 1) ** 3
    before = numbers.copy()
    total = world.sum(numbers)
    assert (numbers == before).all()
    gathered = world.gather({"rank": world.rank, "text": "ä" * 10 * world.rank, "none": None})
    told = world.broadcast([1, "two", {"x": 3.5}] if world.rank == 0 else "ignored")
    messages = []
    world.agree("the weather", "fine")
    for value in ("same" if world.rank == 0 else "other", "x" * 500 + str(world.rank)):
        try:
            world.agree("the weather", value)
        except ValueError as error:
            messages.append(str(error))
    world.barrier()
    return total.tobytes(), gathered, told, messages, repr(world)


def in_step(world):
    """Which rank came how late to a barrier."""
    if world.rank == 0:
        time.sleep(0.5)
    slept = time.monotonic()
    world.barrier()
    return slept, time.monotonic()


def world_in_world(world):
    """Leaving a second world: when rank 0 was about to, when all had, and what the first does."""
    with join() as inner:
        total, slept = inner.sum(np.ones(1)).item(), 0.0
        if inner.rank == 0:
            time.sleep(0.5)
            slept = time.monotonic()
    return slept, time.monotonic(), total, world.sum(np.ones(1)).item()


def network_share(world, whole):
    """Derivatives of a small network, whose batch is shared out in turns."""
    import matconvnet as mcn

    weights = [value(n, 0, 0, s) for n, s in (("f", (3, 3, 2, 4)), ("h", (4, 4, 4, 3)))]
    net = mcn.SimpleNN(
        [
            {"type": "conv", "weights": [weights[0], torch.zeros(4, dtype=torch.float64)]},
            {"type": "relu"},
            {"type": "conv", "weights": [weights[1], torch.zeros(3, dtype=torch.float64)]},
            {"type": "softmaxloss"},
        ]
    )
    x = value("x", 0, 0, (6, 6, 2, 5))
    labels = torch.tensor([0, 2, 1, 1, 0])
    share = slice(None) if whole else slice(world.rank, None, world.size)
    server = world.server() if not whole else mcn.LocalServer()
    for name, param in net.params.items():
        server.register(name, param.value.shape, param.value.dtype)
    server.start()
    out = None
    for _ in range(2):
        inputs = {net.input: x[..., share], "label": labels[share]}
        if len(labels[share]):
            net.eval(inputs, {net.output: 1}, on_param=server.push, out=out)
        server.sync()
        out = {name: server.pull(name) for name in server.arrived()}
    return {name: der.numpy().copy() for name, der in out.items()}


def train_until(world, last, fate):
    """Push and sync; in step `last` the last worker meets its fate in the middle of the pushes."""
    server = started(world, bucket_bytes=8)
    for step in range(1000):
        for name in SHAPES:
            server.push(name, value(name, world.rank, step, SHAPES[name]))
            if step == last and world.rank == world.size - 1 and name == "b":
                fate()
        server.sync()
        to_test[0].send(step)


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def halt():
    os.kill(os.getpid(), signal.SIGSTOP)


def interrupt():
    raise KeyboardInterrupt


def keep_waiting(world):
    """Rank 0 waits in a sync, and says when; the other comes when the test says so."""
    server, heard = started(world, {"a": (2,)}), []
    signal.signal(signal.SIGTERM, lambda *_: (heard.append("term"), to_test[0].send("handled")))
    push_all(server, world, 0)
    if world.rank:
        to_test[0].recv()
    to_test[0].send("ready")
    server.sync()
    return heard, server.pull("a").tolist()


def leave_early(world):
    """Rank 0 leaves a world that the others still use among themselves, then asks for more."""
    if world.rank == 0:
        world.leave()
        world.leave()
    world.sum(np.zeros(1))
