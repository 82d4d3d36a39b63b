"""Fixtures that several files of this folder use."""

import pytest
import torch

from matconvnet.interop.caffe import load_caffe
from tests.interop.caffe_files import caffemodel


@pytest.fixture
def caffe_net(tmp_path):
    """Write files of a network, and read them: the network, in float64 and test mode."""

    def made(text, weights=None, old=False, **options):
        (tmp_path / "net.prototxt").write_text(text)
        model = None
        if weights is not None:
            model = tmp_path / "net.caffemodel"
            model.write_bytes(caffemodel(weights, old))
        net = load_caffe(tmp_path / "net.prototxt", model, **options).to(torch.float64)
        net.mode, net.conserve_memory = "test", False
        return net

    return made
