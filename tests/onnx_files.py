"""What the tests of ONNX files share: making them, running them, and the order of their axes."""

import numpy as np
import torch

from tests.helpers import randn


def to_nchw(x):
    """N x C x H x W, as an array, of a map H x W x C x N of up to four axes."""
    array = np.asarray(x, np.float32)
    array = array.reshape(array.shape + (1,) * (4 - array.ndim))
    return np.ascontiguousarray(array.transpose(3, 2, 0, 1))


def to_hwcn(x):
    """H x W x C x N of an array N x C x H x W, or 1 x 1 x K x N of rows N x K."""
    array = np.asarray(x, np.float32)
    array = array.reshape(array.shape + (1,) * (4 - array.ndim))
    return np.ascontiguousarray(array.transpose(2, 3, 1, 0))


def run(path, inputs):
    """What onnxruntime computes, by name, with `inputs` as the file has them."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, dict(inputs)), strict=True))


def evaluate(net, inputs):
    """All values of a network in test mode."""
    return net.eval(inputs, mode="test", conserve_memory=False).values


def write(path, nodes, inputs, weights=None, outputs=(("y", 4),), opset=17):
    """Make a file.

    nodes: (kind, inputs, output) or (kind, inputs, output, attributes), names separated by spaces.
    inputs: shapes by name. weights: arrays by name. outputs: names and numbers of axes.
    """
    from onnx import TensorProto, helper, numpy_helper

    made = []
    for kind, names, output, *attributes in nodes:
        inputs_ = ["" if name == "-" else name for name in names.split()]
        made.append(helper.make_node(kind, inputs_, output.split(), **dict(*attributes)))
    tensors = [numpy_helper.from_array(np.asarray(a), name) for name, a in (weights or {}).items()]
    graph = helper.make_graph(
        made, "graph",
        [helper.make_tensor_value_info(v, TensorProto.FLOAT, shape) for v, shape in inputs.items()],
        [helper.make_tensor_value_info(v, TensorProto.FLOAT, [None] * n) for v, n in outputs],
        tensors,
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    path.write_bytes(model.SerializeToString())
    return path


def array(*size, seed=0):
    return randn(size, seed + 13 * len(size), torch.float32).numpy()


X = {"x": (2, 4, 9, 7)}
FREE = {"x": ("n", 4, "h", "w")}
F = {"f": array(6, 4, 3, 2), "b": array(6)}
T = {"f": array(4, 3, 3, 4), "b": array(3)}
FULL = {"w": array(5, 4 * 9 * 7), "b": array(5)}
PADS = {"pads": np.array([0, 0, 1, 0, 0, 0, 2, 3])}


def maps(*sizes, offset=0.0):
    """Random maps H x W x C x N in single precision."""
    return [randn(size, i, torch.float32) + offset for i, size in enumerate(sizes)]


def filters(*size):
    """Filters, or other parameters, in single precision."""
    return randn(size, 7, torch.float32)


def moments(channels, low=0.5):
    """Moments of batch normalisation, with sigma in low .. low + 1."""
    sigma = torch.rand(channels, 1, generator=torch.Generator().manual_seed(3)) + low
    return torch.cat((randn((channels, 1), 5, torch.float32), sigma), 1)


def run_maps(path, inputs):
    """What onnxruntime computes, by name; `inputs` are maps H x W x C x N by name."""
    return run(path, {name: to_nchw(x) for name, x in inputs.items()})


def operators(path):
    """The kinds of operators in a file."""
    from onnx import load

    return [node.op_type for node in load(str(path)).graph.node]
