"""Networks of torchvision: the same architectures in plain torch.nn, with its names, but slim."""

import pytest
import torch
from torch import nn

import matconvnet as mcn
from matconvnet.interop.torch_state import state_dict
from matconvnet.layout import hwcn
from matconvnet.zoo.torchvision import ARCHITECTURES, MEAN, RESNET, STD, VGG, from_torch
from tests.helpers import assert_close, randn
from tests.tolerances import REFERENCE

CLASSES = 7


class Chain(nn.Module):
    """AlexNet or VGG: features, an adaptive pooling, a classifier."""

    def __init__(self, features, side, classifier):
        super().__init__()
        self.features = nn.Sequential(*features)
        self.avgpool = nn.AdaptiveAvgPool2d(side)
        self.classifier = nn.Sequential(*classifier)

    def forward(self, x):
        return self.classifier(self.avgpool(self.features(x)).flatten(1))


def alexnet():
    def conv(c, k, size, **options):
        return [nn.Conv2d(c, k, size, **options), nn.ReLU(inplace=True)]

    pool = nn.MaxPool2d(3, 2)
    features = [
        *conv(3, 4, 11, stride=4, padding=2), pool, *conv(4, 6, 5, padding=2), pool,
        *conv(6, 8, 3, padding=1), *conv(8, 5, 3, padding=1), *conv(5, 5, 3, padding=1), pool,
    ]  # fmt: skip
    linear = [nn.Dropout(), nn.Linear(180, 9), nn.ReLU(), nn.Dropout(), nn.Linear(9, 8), nn.ReLU()]
    return Chain(features, 6, [*linear, nn.Linear(8, CLASSES)])


def vgg(counts, with_bnorm):
    features, c = [], 3
    for k, count in enumerate(counts, 3):
        for _ in range(count):
            norm = [nn.BatchNorm2d(k)] if with_bnorm else []
            features += [nn.Conv2d(c, k, 3, padding=1), *norm, nn.ReLU(inplace=True)]
            c = k
        features.append(nn.MaxPool2d(2, 2))
    linear = [nn.Linear(c * 49, 9), nn.ReLU(), nn.Dropout(), nn.Linear(9, 8), nn.ReLU()]
    return Chain(features, 7, [*linear, nn.Dropout(), nn.Linear(8, CLASSES)])


class Block(nn.Module):
    """A residual block of two convolutions, or of three, of which the last widens fourfold."""

    def __init__(self, c, k, stride, count):
        super().__init__()
        self.count, out = count, k if count == 2 else 4 * k
        shapes = {2: [(c, k, 3), (k, k, 3)], 3: [(c, k, 1), (k, k, 3), (k, out, 1)]}[count]
        for i, (c_in, c_out, size) in enumerate(shapes, 1):
            step = stride if i == count - 1 else 1
            conv = nn.Conv2d(c_in, c_out, size, step, size // 2, bias=False)
            self.add_module(f"conv{i}", conv)
            self.add_module(f"bn{i}", nn.BatchNorm2d(c_out))
        self.downsample = None
        if stride > 1 or c != out:
            self.downsample = nn.Sequential(
                nn.Conv2d(c, out, 1, stride, bias=False), nn.BatchNorm2d(out)
            )

    def forward(self, x):
        y = x
        for i in range(1, self.count + 1):
            y = getattr(self, f"bn{i}")(getattr(self, f"conv{i}")(y))
            y = y.relu() if i < self.count else y
        return (y + (self.downsample(x) if self.downsample else x)).relu()


class Residual(nn.Module):
    def __init__(self, stages, count):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 2, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(2)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        c = 2
        for stage, blocks in enumerate(stages, 1):
            layer = nn.Sequential()
            for i in range(blocks):
                layer.append(Block(c, 1 + stage, 2 if stage > 1 and i == 0 else 1, count))
                c = (1 + stage) * (1 if count == 2 else 4)
            self.add_module(f"layer{stage}", layer)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(c, CLASSES)

    def forward(self, x):
        x = self.maxpool(self.bn1(self.conv1(x)).relu())
        for stage in range(1, 5):
            x = getattr(self, f"layer{stage}")(x)
        return self.fc(self.avgpool(x).flatten(1))


def theirs(architecture):
    torch.manual_seed(0)
    if architecture in RESNET:
        is_small = architecture in ("resnet18", "resnet34")
        module = Residual(RESNET[architecture], 2 if is_small else 3)
    elif architecture == "alexnet":
        module = alexnet()
    else:
        module = vgg(VGG[architecture[:5]], architecture.endswith("_bn"))
    for name, tensor in [*module.named_buffers(), *module.named_parameters()]:
        if "bn" in name or "downsample.1" in name or tensor.dim() == 1:
            noise = 0.1 * torch.randn(tensor.shape)
            tensor.data = tensor if name.endswith("tracked") else tensor.data + noise.abs()
    return module.eval()


def predict(net, x):
    record = net.eval({net.input: hwcn(x)}, mode="test", conserve_memory=True)
    return record.values[net.prediction][0, 0].T


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_architectures(architecture):
    module = theirs(architecture)
    state = module.state_dict()
    net = from_torch(state, architecture)
    x = randn((2, 3, 224, 224), dtype=torch.float32)
    with torch.no_grad():
        assert_close(predict(net, x), module(x), REFERENCE[torch.float32])
    linear = [name for name, part in module.named_modules() if isinstance(part, nn.Linear)]
    back = state_dict(net, linear=linear)
    assert back.keys() == state.keys()
    for name, tensor in state.items():
        assert_close(back[name], tensor, REFERENCE[torch.float32], name)


@pytest.mark.parametrize("architecture", ["alexnet", "resnet18"])
def test_pixels(architecture):
    module = theirs(architecture)
    net = from_torch(module.state_dict(), architecture, pixels=True)
    x = 255 * torch.rand(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    mean, std, average = (
        torch.tensor(v)[:, None, None]
        for v in (MEAN, STD, net.meta["normalization"]["averageImage"])
    )
    with torch.no_grad():
        want = module((x / 255 - mean) / std)
    assert_close(predict(net, x - average), want, REFERENCE[torch.float32])
    images = [image.permute(1, 2, 0).numpy() for image in x]
    assert_close(net.predict(images).scores.T, want, REFERENCE[torch.float32])


def test_a_file_is_read_without_running_code(tmp_path):
    state = theirs("resnet18").state_dict()
    torch.save(state, tmp_path / "resnet18.pt")
    net = from_torch(tmp_path / "resnet18.pt", "resnet18")
    assert torch.equal(net.params["fcb"].value, state["fc.bias"])
    torch.save(theirs("resnet18"), tmp_path / "module.pt")
    with pytest.raises(Exception, match=r"[Ww]eights.only"):
        from_torch(tmp_path / "module.pt", "resnet18")
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(mcn.FormatError, match=r"no dict of tensors by name; wanted model\.state"):
        from_torch(tmp_path / "list.pt", "resnet18")


def test_a_state_of_another_architecture_is_told():
    state = theirs("resnet18").state_dict()
    with pytest.raises(mcn.FormatError, match=r"missing: layer1\.2\.conv1\.weight, .*layer4\.2"):
        from_torch(state, "resnet34")
    with pytest.raises(mcn.FormatError, match=r"left over: layer1\.2\.conv1\.weight"):
        from_torch(theirs("resnet34").state_dict(), "resnet18")
    with pytest.raises(mcn.FormatError, match=r"missing: features\.0\.weight"):
        from_torch(state, "vgg11")
    with pytest.raises(ValueError, match="architecture is 'resnet19'; wanted one of"):
        from_torch(state, "resnet19")
