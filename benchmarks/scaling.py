"""What eight GPUs would gain over one: a model of a step, no measurement.

    python benchmarks/scaling.py [--gpus 8] [--images 256] [--rate 10] [--latency 10]

A layer takes (multiply-adds of its images) / rate forward, and twice as long backward. Buckets are
filled as the server fills them, from the last layer to the first, and summed one after the other,
each as soon as it is full, around a ring of N GPUs:

    time of a bucket = 2 (N - 1) latency + 2 (N - 1) / N * bytes / bandwidth

A step ends when the backward pass and the last sum have ended; reading images and the update are
left out. The total batch is the same for one GPU and for N.
"""

import argparse
from typing import NamedTuple

from matconvnet.parallel.buckets import BUCKET_BYTES

LINKS = {"NVLink": 100e9, "PCIe": 10e9, "10 Gbit/s": 1.1e9}
"""Bytes a second that a GPU sends, and receives at the same time; usual figures."""


class Layer(NamedTuple):
    """A convolution: numbers that are summed over the GPUs, multiply-adds for an image."""

    numbers: int
    work: int


def conv(size: int, channels: int, filters: int, pixels: int, normalised: bool = False) -> Layer:
    """Filters of size x size x channels, with biases, or with what batch normalisation learns."""
    weights = size**2 * channels * filters
    return Layer(weights + (4 if normalised else 1) * filters, weights * pixels)


def cifar_quick() -> list[Layer]:
    return [conv(5, 3, 32, 32**2), conv(5, 32, 32, 16**2), conv(5, 32, 64, 8**2),
            conv(4, 64, 64, 1), conv(1, 64, 10, 1)]  # fmt: skip


def alexnet() -> list[Layer]:
    return [conv(11, 3, 96, 55**2), conv(5, 48, 256, 27**2), conv(3, 256, 384, 13**2),
            conv(3, 192, 384, 13**2), conv(3, 192, 256, 13**2), conv(6, 256, 4096, 1),
            conv(1, 4096, 4096, 1), conv(1, 4096, 1000, 1)]  # fmt: skip


def vgg_16() -> list[Layer]:
    layers, channels = [], 3
    for depth, repeats, width in ((64, 2, 224), (128, 2, 112), (256, 3, 56), (512, 3, 28),
                                  (512, 3, 14)):  # fmt: skip
        for _ in range(repeats):
            layers.append(conv(3, channels, depth, width**2))
            channels = depth
    return [*layers, conv(7, 512, 4096, 1), conv(1, 4096, 4096, 1), conv(1, 4096, 1000, 1)]


def resnet_50() -> list[Layer]:
    layers, channels = [conv(7, 3, 64, 112**2, True)], 64
    for depth, repeats, width in ((64, 3, 56), (128, 4, 28), (256, 6, 14), (512, 3, 7)):
        for i in range(repeats):
            before = width * (2 if i == 0 and depth > 64 else 1)  # the second has the stride
            layers += [conv(1, channels, depth, before**2, True),
                       conv(3, depth, depth, width**2, True),
                       conv(1, depth, 4 * depth, width**2, True)]  # fmt: skip
            if i == 0:
                layers.append(conv(1, channels, 4 * depth, width**2, True))
            channels = 4 * depth
    return [*layers, conv(1, 2048, 1000, 1)]


NETWORKS = {"CIFAR-quick": cifar_quick(), "AlexNet": alexnet(), "VGG-16": vgg_16(),
            "ResNet-50": resnet_50()}  # fmt: skip


class Step(NamedTuple):
    """Seconds of a step, of the sums in it, and of those that computation did not hide."""

    total: float
    sums: float
    waited: float


def step(layers: list[Layer], images: float, gpus: int, rate: float, latency: float,
         bandwidth: float) -> Step:  # fmt: skip
    """Walk through a step on one of the GPUs."""
    now = sum(layer.work for layer in layers) * images / rate
    free = sums = filled = 0.0
    for i, layer in reversed([*enumerate(layers)]):
        now += 2 * layer.work * images / rate
        filled += 4 * layer.numbers
        if gpus > 1 and (i == 0 or filled + 4 * layers[i - 1].numbers > BUCKET_BYTES):
            hops = 2 * (gpus - 1)
            duration = hops * latency + hops / gpus * filled / bandwidth
            free = max(free, now) + duration
            sums, filled = sums + duration, 0.0
    return Step(max(now, free), sums, max(0.0, free - now))


def main() -> None:
    """Print a table of all networks and links."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gpus", type=int, default=8)
    parser.add_argument("--images", type=int, default=256, help="in a batch, over all GPUs")
    parser.add_argument("--rate", type=float, default=10, help="10^12 multiply-adds a second")
    parser.add_argument("--latency", type=float, default=10, help="of a message, microseconds")
    args = parser.parse_args()
    print(f"estimates for {args.gpus} GPUs, {args.images} images a step in all")
    print(f"{'network':12} {'MB':>7} {'one GPU':>9} {'link':>10} {'step':>8} {'sums':>8} "
          f"{'waited':>8} {'overlap':>8} {'speed-up':>8}")  # fmt: skip
    for name, layers in NETWORKS.items():
        rest = args.rate * 1e12, args.latency * 1e-6
        alone = step(layers, args.images, 1, *rest, 1.0).total
        megabytes = 4e-6 * sum(layer.numbers for layer in layers)
        for link, bandwidth in LINKS.items():
            s = step(layers, args.images / args.gpus, args.gpus, *rest, bandwidth)
            total, sums, waited = (1e3 * t for t in s)
            print(f"{name:12} {megabytes:7.2f} {1e3 * alone:6.1f} ms {link:>10} {total:5.1f} ms "
                  f"{sums:5.1f} ms {waited:5.1f} ms {1 - waited / sums:8.0%} "
                  f"{1e3 * alone / total:8.1f}")  # fmt: skip


if __name__ == "__main__":
    main()
