"""The commands end to end, on forty images of two classes."""

import gzip
import json
import re
import struct

import numpy as np
import pytest
import torch
from PIL import Image

from matconvnet.blocks.conv import Conv
from matconvnet.blocks.relu import ReLU
from matconvnet.blocks.softmaxloss import SoftmaxLoss
from matconvnet.cli import sources
from matconvnet.interop.safetensors import load_network, save_network
from matconvnet.nets.simplenn import SimpleNN
from matconvnet.zoo import NETWORKS
from tests.cli.common import failure, run


def write_idx(path, array, compress):
    header = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
    data = header + array.astype(np.uint8).tobytes()
    path.write_bytes(gzip.compress(data) if compress else data)


def bars(count, seed):
    """Images with a bright bar, upright (class 0) or level (class 1)."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, 2, count)
    images = generator.integers(0, 60, (count, 28, 28))
    for image, label in zip(images, labels, strict=True):
        first = generator.integers(4, 20)
        (image.T if label == 0 else image)[first : first + 4] = 250
    return images, labels


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bars")
    for part, count, seed in (("train", 200, 1), ("t10k", 40, 2)):
        images, labels = bars(count, seed)
        write_idx(folder / f"{part}-images-idx3-ubyte.gz", images, compress=True)
        write_idx(folder / f"{part}-labels-idx1-ubyte", labels, compress=False)
    return folder


@pytest.fixture(scope="module")
def trained(folder, tmp_path_factory):
    """The folder of a trained network, and what the command printed."""
    out = tmp_path_factory.mktemp("runs") / "bars"
    result = run(
        "--debug", "train", "lenet", "--data", folder, "--out", out, "--bnorm",
        "--epochs", 3, "--batch-size", 20, "--learning-rate", 0.01, "--sub-batches", 2,
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    return out, result.output


def test_train_learns_and_leaves_its_files(trained):
    out, printed = trained
    assert {path.name for path in out.iterdir()} == {
        "net-epoch-1.safetensors", "net-epoch-2.safetensors", "net-epoch-3.safetensors",
        "net-train.pdf", "net-train.png", "network.safetensors", "predictions.png", "stats.jsonl",
        "checkpoints.json", "confusion.json", "run.html", "run.json", ".lock",
    }  # fmt: skip
    assert len(re.findall(r"^epoch +\d: train objective", printed, re.MULTILINE)) == 3
    error = re.search(r"^test error ([\d.]+) %", printed, re.MULTILINE)
    assert error
    assert float(error[1]) < 20  # half of the images, if nothing was learned
    with Image.open(out / "predictions.png") as picture:
        assert picture.width > 500


def test_train_writes_what_evaluation_needs(trained):
    net = load_network(trained[0] / "network.safetensors")
    assert net.meta["normalization"]["averageImage"].shape == (28, 28, 1)
    assert net.meta["classes"]["name"] == list("0123456789")
    assert any(link.layer.type_name == "bnorm" for link in net.layers)


def test_train_resumes(trained, folder):
    out, _ = trained
    again = run(
        "train", "lenet", "--data", folder, "--out", out, "--bnorm", "--epochs", 3,
        "--batch-size", 20, "--learning-rate", 0.01, "--sub-batches", 2,
    )  # fmt: skip
    assert again.exit_code == 0
    assert "epoch   1" not in again.output
    assert re.search(r"^test error", again.output, re.MULTILINE)


def test_train_goes_on_from_a_file(trained, folder, tmp_path):
    start = trained[0] / "network.safetensors"
    result = run("train", start, "--data", folder, "--out", tmp_path, "--epochs", 1)
    assert result.exit_code == 0, result.output
    first = json.loads((tmp_path / "stats.jsonl").read_text().splitlines()[0])
    assert first["phase"] == "train"
    assert first["top1err"] < 0.2


def test_a_network_of_the_zoo_is_fresh_beside_a_folder_of_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lenet").mkdir()
    images = np.random.default_rng(0).integers(0, 255, (28, 28, 1, 40)).astype(np.uint8)
    np.savez("two.npz", images=images, labels=np.arange(40) % 2, set=1 + np.arange(40) % 2)
    result = run("train", "lenet", "--data", "two.npz", "--out", "out", "--epochs", 1)
    assert result.exit_code == 0, result.output
    weights = load_network(tmp_path / "out" / "network.safetensors").values()
    assert list(weights.values())[-1].shape == (2,)  # biases: one per class


def test_options_override_the_recipe(folder, tmp_path):
    result = run("train", "lenet", "--data", folder, "--out", tmp_path, "--epochs", 1)
    assert result.exit_code == 0, result.output
    stats = json.loads((tmp_path / "stats.jsonl").read_text().splitlines()[0])
    assert stats["learning_rate"] == NETWORKS["lenet"]().meta["trainOpts"]["learningRate"]
    assert len((tmp_path / "stats.jsonl").read_text().splitlines()) == 2


def test_evaluate_agrees_with_training(trained, folder):
    out, printed = trained
    result = run("evaluate", out / "network.safetensors", "--data", folder)
    assert result.exit_code == 0, result.output
    trained_error = re.search(r"test error ([\d.]+) %", printed)[1]
    assert f"top-1 error  {trained_error} %" in result.output
    assert "40 images of the test set" in result.output
    last = json.loads((out / "stats.jsonl").read_text().splitlines()[-1])
    objective = float(re.search(r"objective +([\d.]+)", result.output)[1])
    assert objective == pytest.approx(last["objective"], abs=6e-5)  # four decimals are printed


def test_evaluate_names_confusions(folder, tmp_path):
    net = NETWORKS["lenet"]()
    net.params["l7_2"].value[3] = 100.0  # everything is a 3
    save_network(net, tmp_path / "three.safetensors")
    result = run("evaluate", tmp_path / "three.safetensors", "--data", folder)
    assert "top-1 error  100.00 % (40 images)" in result.output
    _, labels = bars(40, 2)
    for label in (0, 1):
        count = np.count_nonzero(labels == label)
        assert re.search(rf"{label}\W+3\W+{count}\W+100.0 %", result.output)


def test_evaluate_wants_images_in_the_set(trained, folder):
    message = failure(
        "evaluate", trained[0] / "network.safetensors", "--data", folder, "--set", "val"
    )
    assert "'val'" in message


def save_bar(path, label, mode="L", scale=1, **options):
    images, labels = bars(40, 3)
    image = Image.fromarray(images[labels == label][0].astype(np.uint8)).convert(mode)
    image.resize((28 * scale, 28 * scale)).save(path, **options)
    return path


def predicted(*args):
    """(class, percent) rows of every table that `predict` prints."""
    result = run("predict", *args)
    assert result.exit_code == 0, result.output
    rows = re.findall(r"(\d)\W+([\d.]+) %", result.output)
    return [
        [(int(c), float(share)) for c, share in rows[i : i + 5]] for i in range(0, len(rows), 5)
    ]


def test_predict(trained, tmp_path):
    paths = [
        save_bar(tmp_path / "upright.png", 0),
        save_bar(tmp_path / "level.jpg", 1, mode="RGB", scale=3, quality=95),
    ]
    tables = predicted(trained[0] / "network.safetensors", *paths)
    assert [table[0][0] for table in tables] == [0, 1]
    for table in tables:
        shares = [share for _, share in table]
        assert len(shares) == 5
        assert shares == sorted(shares, reverse=True)
        assert 50 < sum(shares) < 100.05  # rounded


def test_predict_inverts(trained, tmp_path):
    path = save_bar(tmp_path / "level.png", 1)
    with Image.open(path) as image:
        Image.eval(image, lambda value: 255 - value).save(tmp_path / "dark.png")
    network = trained[0] / "network.safetensors"
    assert predicted(network, tmp_path / "dark.png", "--invert") == predicted(network, path)
    assert predicted(network, tmp_path / "dark.png") != predicted(network, path)


def test_predict_prints_as_many_classes_as_asked_for(trained, tmp_path):
    path = save_bar(tmp_path / "level.png", 1)
    result = run("predict", trained[0] / "network.safetensors", path, "--top", 2)
    assert len(re.findall(r"[\d.]+ %", result.output)) == 2


def test_predict_names_the_bad_file(trained, tmp_path):
    network = trained[0] / "network.safetensors"
    (tmp_path / "text.png").write_text("no image")
    assert "text.png" in failure("predict", network, tmp_path / "text.png")
    assert "nowhere.png" in failure("predict", network, tmp_path / "nowhere.png")


def test_predict_refuses_what_classifiers_lack(trained, tmp_path):
    network, path = trained[0] / "network.safetensors", save_bar(tmp_path / "bar.png", 0)
    for options in (("--out", tmp_path / "x.png"), ("--residual",)):
        assert "networks that make images" in failure("predict", network, path, *options)


@pytest.fixture
def small(tmp_path):
    """The file of a network with few parameters."""
    layers = [Conv(size=(3, 3, 1, 2)), ReLU(), Conv(size=(4, 4, 2, 3)), SoftmaxLoss()]
    save_network(SimpleNN(layers, {"inputSize": [6, 6, 1]}), tmp_path / "small.safetensors")
    return tmp_path / "small.safetensors"


def test_check_agrees_on_a_right_network(small):
    result = run("check", small, "--seed", 1)
    assert result.exit_code == 0, result.output
    assert "All derivatives agree." in result.output


def test_check_finds_a_wrong_derivative(small, monkeypatch):
    monkeypatch.setattr(ReLU, "backward", lambda self, call, ders: ((2 * ders[0],), ()))
    result = run("check", small)
    assert result.exit_code == 1
    assert "WRONG" in result.output
    assert "Some derivatives are wrong." in result.output


def test_unknown_networks_and_folders(tmp_path):
    message = failure("show", "lent")
    assert "'lent'" in message
    assert "lenet-bnorm" in message
    (tmp_path / "net.safetensors").write_bytes(b"0" * 100)
    assert "net.safetensors" in failure("show", tmp_path / "net.safetensors")
    assert "fresh weights" in failure("evaluate", "lenet")
    assert "train-images-idx3-ubyte" in failure("train", "lenet", "--data", tmp_path)
    assert "28 x 28 x 1" in failure("train", "cifar-lenet", "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_missing_device_is_reported(tmp_path):
    assert "'cuda'" in failure("train", "lenet", "--device", "cuda", "--out", tmp_path)


def test_debug_shows_the_traceback():
    result = run("--debug", "show", "lent")
    assert isinstance(result.exception, FileNotFoundError)


def test_notes_are_printed(monkeypatch):
    from matconvnet.cli import show

    def fail(name):
        error = KeyError("no such thing")
        error.add_note("in layer 'x'")
        raise error

    monkeypatch.setattr(show, "open_any", fail)
    assert failure("show", "lenet") == "error: no such thing\n  in layer 'x'\n"


@pytest.fixture
def pictures(tmp_path):
    """Files of three classes, none of the size that a network wants."""
    generator = np.random.default_rng(0)
    for part, count in (("train", 4), ("val", 1)):
        for name in ("cat", "dog", "emu"):
            folder = tmp_path / "pictures" / part / name
            folder.mkdir(parents=True)
            for i in range(count):
                pixels = generator.integers(0, 256, (40, 50, 3)).astype(np.uint8)
                Image.fromarray(pixels).save(folder / f"{i}.png")
    return tmp_path / "pictures"


@pytest.mark.parametrize("name", ["resnet-20", "cifar-nin"])
def test_train_on_another_number_of_classes(name, pictures, tmp_path):
    result = run(
        "train", name, "--data", pictures, "--out", tmp_path / "out", "--epochs", 1,
        "--batch-size", 6,
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    net = load_network(tmp_path / "out" / "network.safetensors")
    assert net.meta["classes"]["name"] == ["cat", "dog", "emu"]
    assert net.predict(np.zeros((32, 32, 3), np.uint8)).scores.shape == (3, 1)
    lines = (tmp_path / "out" / "stats.jsonl").read_text().splitlines()
    assert [json.loads(line)["phase"] for line in lines] == ["train", "val"]


def test_a_network_of_maps_is_not_trained_on_classes(pictures):
    message = failure("train", "dncnn", "--data", pictures)
    assert "wanted a network that predicts scores of classes" in message


def test_help_names_the_networks_of_the_zoo():
    plain = [name for name in NETWORKS if not name.endswith("-bnorm")]
    assert ", ".join(plain) in sources.NETWORK_HELP
    normalised = [name.removesuffix("-bnorm") for name in NETWORKS if name.endswith("-bnorm")]
    assert normalised == [name for name in plain if name.startswith(("alexnet", "lenet", "vgg"))]


def test_version():
    import matconvnet

    assert run("--version").stdout == f"matconvnet {matconvnet.__version__}\n"
