"""`matconvnet predict` with networks that make images."""

import numpy as np
import pytest
import torch
from PIL import Image

from matconvnet.blocks.conv import Conv
from matconvnet.interop.safetensors import save_network
from matconvnet.nets.simplenn import SimpleNN
from tests import models
from tests.cli.common import failure, run


@pytest.fixture
def restorer(tmp_path):
    """The file of a network that divides all values by 4."""
    quarter = torch.full((1, 1, 1, 1), 0.25)
    save_network(SimpleNN([(Conv(), [quarter, None])]), tmp_path / "quarter.safetensors")
    return tmp_path / "quarter.safetensors"


def save_grey(path, seed=0):
    pixels = np.random.default_rng(seed).integers(0, 64, (6, 9)) * 4
    Image.fromarray(pixels.astype(np.uint8)).save(path)
    return path, pixels


def pixels_of(path):
    with Image.open(path) as image:
        assert image.mode == "L"
        return np.asarray(image)


def test_predict_writes_the_images_that_a_network_makes(restorer, tmp_path):
    path, pixels = save_grey(tmp_path / "in.bmp")
    result = run("predict", restorer, path)
    assert result.exit_code == 0, result.output
    assert result.output == f"{path} -> {tmp_path / 'in.out.png'}\n"
    assert np.array_equal(pixels_of(tmp_path / "in.out.png"), pixels // 4)
    assert run("predict", restorer, path, "--out", tmp_path / "new.png").exit_code == 0
    assert np.array_equal(pixels_of(tmp_path / "new.png"), pixels // 4)


def test_predict_writes_many_images_to_a_folder(restorer, tmp_path):
    paths = [save_grey(tmp_path / name, seed)[0] for seed, name in enumerate(("a.png", "b.png"))]
    result = run("predict", restorer, *paths, "--out", tmp_path / "made" / "here")
    assert result.exit_code == 0, result.output
    for seed, name in enumerate("ab"):
        _, pixels = save_grey(tmp_path / f"{name}.png", seed)
        assert np.array_equal(pixels_of(tmp_path / "made/here" / f"{name}.out.png"), pixels // 4)
    clash = [paths[0], save_grey(tmp_path / "a.bmp")[0]]
    assert "would both become" in failure("predict", restorer, *clash)


@pytest.mark.parametrize("scale", ["1/255", "0.00392156862745098"])
def test_predict_scales_there_and_back(tmp_path, scale):
    """The network adds 0.2: a fifth of the range from 0 to 1."""
    weights = [torch.ones(1, 1, 1, 1), torch.tensor([0.2])]
    save_network(SimpleNN([(Conv(), weights)]), tmp_path / "add.safetensors")
    path, pixels = save_grey(tmp_path / "in.png")
    assert run("predict", tmp_path / "add.safetensors", path, "--scale", scale).exit_code == 0
    assert np.array_equal(pixels_of(tmp_path / "in.out.png"), (pixels + 51).clip(0, 255))
    assert "--scale" in run("predict", tmp_path / "add.safetensors", path, "--scale", "big").stderr


def test_predict_subtracts_a_residual(restorer, tmp_path):
    path, pixels = save_grey(tmp_path / "in.png")
    for scale in (1, 1 / 255):
        assert run("predict", restorer, path, "--residual", "--scale", scale).exit_code == 0
        assert np.array_equal(pixels_of(tmp_path / "in.out.png"), pixels - pixels // 4)
    small = SimpleNN([(Conv(stride=2), [torch.ones(1, 1, 1, 1), None])])
    save_network(small, tmp_path / "small.safetensors")
    message = failure("predict", tmp_path / "small.safetensors", path, "--residual")
    assert "(6, 9, 1); found (3, 5, 1)" in message


def test_predict_doubles_an_image_with_a_network_of_matconvnet(tmp_path):
    network, want = models.path("lapsrn_x2"), models.reference("lapsrn_x2")
    pixels = (255 * want["LR"][:, :, 0, 0]).round().astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "small.png")
    result = run("predict", network, tmp_path / "small.png", "--scale", "1/255")
    assert result.exit_code == 0, result.output
    doubled = pixels_of(tmp_path / "small.out.png")
    assert np.abs(doubled - 255 * want["level1_output"][:, :, 0, 0]).max() < 0.501


def test_predict_inverts_before_anything_else(restorer, tmp_path):
    path, pixels = save_grey(tmp_path / "in.png")
    run("predict", restorer, path, "--invert")
    assert np.array_equal(pixels_of(tmp_path / "in.out.png"), np.round((255 - pixels) / 4))
