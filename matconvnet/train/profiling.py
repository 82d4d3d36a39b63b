"""The profile of any network, on random data."""

import time

import torch
from torch import Tensor

from matconvnet.fast.evaluator import FastEvaluator
from matconvnet.fast.peaks import measure_peaks
from matconvnet.nets.example import example_inputs
from matconvnet.nets.network import Network
from matconvnet.parallel.world import join
from matconvnet.train.measures import objectives
from matconvnet.train.options import TrainOptions
from matconvnet.train.profile import Profile
from matconvnet.train.update import Updater

WARM_UP = 2  # steps that are not measured: they prepare kernels and touch fresh memory
RATE = 1e-12  # of learning: an update takes its time, and the weights stay what they are


def profile_network(
    net: Network, *, batch: int = 32, steps: int = 10, training: bool = True, seed: int = 0,
    device: torch.device | str = "cpu", fast: bool = True,
) -> Profile:  # fmt: skip
    """Measure steps of training, or evaluations in test mode, on random images.

    Args:
        net: the network, which moves to the device.
        batch: images a step.
        steps: how many are measured, after two that are not.
        training: forward, backward and an update; else a forward pass alone.
        seed: of images, labels and masks.
        device: where to compute.
        fast: as the trainer does by itself, with programs where they serve; else layer by layer.

    Raises: ValueError, if a network that has no loss shall be trained.
    """
    if training and not any(node.layer.is_loss for node in net.graph.nodes):
        raise ValueError("the network has no loss to differentiate; wanted training=False")
    generator = torch.Generator().manual_seed(seed)
    drawn = example_inputs(net, batch=batch, labels=training, generator=generator)
    with join(device) as world, Updater(net, TrainOptions(), world.server()) as updater:
        net.to(world.device)
        inputs = {name: value.to(world.device) for name, value in drawn.items()}
        evaluator = FastEvaluator(net) if fast else net
        profile = Profile(net)
        for step in range(WARM_UP + steps):
            if step == WARM_UP:
                profile = Profile(net)
            if training:
                _train(net, evaluator, inputs, updater, profile, batch)
            else:
                record = evaluator.eval(
                    inputs, mode="test", conserve_memory=True, precious=inputs, sync=True
                )
                profile.add(record, batch)
        profile.peaks = measure_peaks(world.device)
        if isinstance(evaluator, FastEvaluator):
            profile.report = evaluator.report
    return profile


def _train(
    net: Network,
    evaluator: Network | FastEvaluator,
    inputs: dict[str, Tensor],
    updater: Updater,
    profile: Profile,
    batch: int,
) -> None:
    """A step as the trainer takes it."""
    if isinstance(evaluator, FastEvaluator):
        evaluator.stepping = updater.within(batch, RATE)
    record = evaluator.eval(
        inputs, dict(objectives(net, None)), conserve_memory=True, wanted_inputs=(),
        on_param=updater.push, out=updater.spare, sync=True,
    )  # fmt: skip
    profile.add(record, batch)
    ders = updater.pull()
    start = time.perf_counter()
    updater.update(ders, batch, RATE)
    profile.add_update(time.perf_counter() - start)
