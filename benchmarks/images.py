"""How fast a folder of JPEG files becomes batches, beside the decoder alone and other loaders.

    python benchmarks/images.py [--images 400] [--workers 2] [--repeats 5] [--steps 4]

Two folders are made of the photographs of scikit-image, with JPEG quality 90: pictures of 500 x 375
pixels, and such with a shorter side of 256. Each is read in turn by

    decoder     decoded in threads, and thrown away
    reader      one thread: decoded, cut, resized; times the workers, what a pipeline could give
    pipeline    Pipeline(FileSource(...)), with the jitter of training
    pillow      torch's DataLoader and processes: Pillow decodes, cuts and resizes in 8 bits
    torchvision the same with its decoder and transforms, if it is installed

Then AlexNet is trained on the CPU, and the time it waits for batches is counted. Rates are medians
of images per second, with batches of 64 to 227 x 227. The CPU time is the least of all rounds, of
all threads and processes together: where others use the machine it tells more.
"""

import argparse
import os
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from statistics import median
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from PIL import Image

import matconvnet as mcn
from matconvnet.data.decode import read_picture
from matconvnet.data.pipeline import Pipeline
from matconvnet.data.reader import FileSource
from matconvnet.images import Workspace
from matconvnet.zoo.alexnet import alexnet

PHOTOGRAPHS = ("astronaut", "chelsea", "coffee", "rocket", "retina", "immunohistochemistry")
BATCH, SIDE, SHARE = 64, 227, 227 / 256
JITTER = {"jitter_flip": True, "jitter_location": True, "crop_size": SHARE}


def make_folder(folder: Path, count: int, shorter: int | None) -> SimpleNamespace:
    """Cuts of 500 x 375 pixels; with `shorter`, resized to that shorter side."""
    from skimage import data

    rng = np.random.default_rng(0)
    photographs = [Image.fromarray(getattr(data, name)()) for name in PHOTOGRAPHS]
    folder.mkdir()
    names = [f"{k:04d}.jpg" for k in range(count)]
    for k, name in enumerate(names):
        image = photographs[k % len(photographs)]
        scale = max(500 / image.width, 375 / image.height) * rng.uniform(1, 1.3)
        size = [max(s, round(scale * t)) for s, t in zip((500, 375), image.size, strict=True)]
        left, top = rng.integers(size[0] - 499), rng.integers(size[1] - 374)
        cut = image.resize(size).crop((left, top, left + 500, top + 375))
        if shorter:
            cut = cut.resize((round(500 * shorter / 375), shorter))
        cut.save(folder / name, quality=90)
    return SimpleNamespace(folder=folder, names=names, labels=np.arange(count) % 1000)


def parts(imdb: SimpleNamespace) -> list[np.ndarray]:
    order = np.random.default_rng(1).permutation(len(imdb.names))
    return [order[i : i + BATCH] for i in range(0, len(order), BATCH)]


def decoder(imdb: SimpleNamespace, workers: int) -> None:
    memory = Workspace()

    def work(names: list[str]) -> None:
        for name in names:
            read_picture(imdb.folder / name, memory=memory)

    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(work, [imdb.names[w::workers] for w in range(workers)]))


def pipeline(imdb: SimpleNamespace, source: FileSource) -> None:
    for _ in Pipeline(source).batches(imdb, parts(imdb), phase="train", seed=1):
        pass


def reader(imdb: SimpleNamespace, source: FileSource) -> None:
    for part in parts(imdb):
        source.batch(imdb, part, training=True, seed=1)


class PillowPictures(torch.utils.data.Dataset):
    """What a PyTorch user writes without torchvision."""

    def __init__(self, imdb: SimpleNamespace):
        self.imdb = imdb

    def __len__(self) -> int:
        return len(self.imdb.names)

    def __getitem__(self, index: int) -> torch.Tensor:
        with Image.open(self.imdb.folder / self.imdb.names[index]) as image:
            side = round(min(image.size) * SHARE)
            left = int(torch.randint(image.width - side + 1, ()))
            top = int(torch.randint(image.height - side + 1, ()))
            box = (left, top, left + side, top + side)
            image = image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BICUBIC, box)
        if torch.rand(()) < 0.5:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return torch.from_numpy(np.array(image)).permute(2, 0, 1).float()


class TorchvisionPictures(PillowPictures):
    """The same with torchvision's decoder and transforms."""

    def __getitem__(self, index: int) -> torch.Tensor:
        from torchvision import io
        from torchvision.transforms import v2

        image = io.decode_image(str(self.imdb.folder / self.imdb.names[index]))
        side = round(min(image.shape[1:]) * SHARE)
        left = int(torch.randint(image.shape[2] - side + 1, ()))
        top = int(torch.randint(image.shape[1] - side + 1, ()))
        bicubic = v2.InterpolationMode.BICUBIC
        image = v2.functional.resized_crop(image, top, left, side, side, [SIDE, SIDE], bicubic)
        return (v2.functional.hflip(image) if torch.rand(()) < 0.5 else image).float()


def data_loader(imdb: SimpleNamespace, pictures: type[PillowPictures], workers: int) -> None:
    loader = torch.utils.data.DataLoader(
        pictures(imdb), BATCH, shuffle=True, num_workers=workers, multiprocessing_context="fork"
    )
    for _ in loader:
        pass


def rates(
    functions: dict[str, Callable[[], None]], count: int, repeats: int
) -> dict[str, tuple[float, float]]:
    """Images per second of every function, taken in turn, and CPU milliseconds per image.

    The first round is not counted.
    """
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in functions}
    for _ in range(repeats + 1):
        for name, function in functions.items():
            start, busy = time.perf_counter(), sum(os.times()[:4])
            function()
            times = time.perf_counter() - start, sum(os.times()[:4]) - busy
            seconds[name].append(times)
    found = {}
    for name, pairs in seconds.items():
        wall, cpu = zip(*pairs[1:], strict=True)
        found[name] = count / median(wall), 1000 * min(cpu) / count
    return found


def compare(title: str, imdb: SimpleNamespace, workers: int, repeats: int) -> None:
    source = FileSource(num_threads=workers, **JITTER)
    functions: dict[str, Callable[[], None]] = {
        "decoder, 1 thread": partial(decoder, imdb, 1),
        f"decoder, {workers} threads": partial(decoder, imdb, workers),
        "reader, 1 thread": partial(reader, imdb, FileSource(num_threads=1, **JITTER)),
        f"pipeline, {workers} threads": partial(pipeline, imdb, source),
        f"pillow, {workers} processes": partial(data_loader, imdb, PillowPictures, workers),
    }
    try:
        import torchvision  # noqa: F401
    except (ImportError, RuntimeError) as error:  # the latter: built for another torch
        print(f"without torchvision: {error}")
    else:
        peer = partial(data_loader, imdb, TorchvisionPictures, workers)
        functions[f"torchvision, {workers} processes"] = peer
    found = rates(functions, len(imdb.names), repeats)
    print(f"\n{title}: images/s, CPU ms per image")
    for name, (rate, cpu) in found.items():
        print(f"  {name:27s} {rate:7.0f} {cpu:7.2f}")
    ours, _ = found.pop(f"pipeline, {workers} threads")
    bounds = {"decoder, 1 thread": workers, "reader, 1 thread": workers}
    for name, (rate, _) in found.items():
        times = bounds.get(name, 1)
        shown = f"{times} x ({name})" if times > 1 else name
        print(f"  pipeline / {shown:35s} {ours / rate / times:5.2f}")


def train(imdb: SimpleNamespace, workers: int, steps: int) -> None:
    """Steps of AlexNet on the CPU, with the time that it waits for each batch."""
    net = alexnet()
    source = FileSource(num_threads=workers, subtract_average=120.0, **JITTER)
    some: list[Any] = parts(imdb)[: steps + 1]
    with source:
        batches: Iterator[Any] = Pipeline(source).batches(imdb, some, phase="train", seed=1)
        next(batches)
        waited, start = [], time.perf_counter()
        while True:
            asked = time.perf_counter()
            batch = next(batches, None)
            waited.append(time.perf_counter() - asked)
            if batch is None:
                break
            inputs = dict(zip((net.input, "label"), batch, strict=True))
            net.eval(inputs, {net.output: 1.0}, conserve_memory=True)
        total = time.perf_counter() - start
    print(
        f"\nAlexNet: {BATCH * (len(some) - 1) / total:.0f} images/s; waited for data "
        f"{1000 * sum(waited):.1f} ms of {total:.1f} s, {1000 * max(waited):.1f} ms at most"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=400)
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--steps", type=int, default=4)
    args = parser.parse_args()
    warnings.filterwarnings("ignore", message=".*fork")
    torch.manual_seed(0)
    print(f"matconvnet {mcn.__version__}, torch {torch.__version__}, {args.workers} workers")
    with tempfile.TemporaryDirectory() as folder:
        for title, shorter in (("500 x 375", None), ("shorter side 256", 256)):
            imdb = make_folder(Path(folder) / str(shorter), args.images, shorter)
            compare(title, imdb, args.workers, args.repeats)
        train(imdb, args.workers, args.steps)


if __name__ == "__main__":
    main()
