"""ONNX files, out and in: what is H x W x C x N here is N x C x H x W there."""

from matconvnet.interop.onnx.ops import register_onnx as register_onnx
from matconvnet.interop.onnx.reading import load_onnx as load_onnx
from matconvnet.interop.onnx.verify import verify_onnx as verify_onnx
from matconvnet.interop.onnx.writing import save_onnx as save_onnx
