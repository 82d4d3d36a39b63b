"""The messages of Caffe's text files: their fields, as far as a network needs them.

A field is written `type name`, with `*` after the name if it is repeated and ` = value` for a
default that is not 0 (or "", or false). A `word` is any value of an enum. What a file has beside
these is reported.
"""

import re
from typing import Any, NamedTuple

ENUMS = {
    "Phase": "TRAIN TEST",
    "PoolMethod": "MAX AVE STOCHASTIC",
    "RoundMode": "CEIL FLOOR",
    "EltwiseOp": "SUM PROD MAX",
    "NormRegion": "ACROSS_CHANNELS WITHIN_CHANNEL",
}
"""Values of enums; the first one is the default."""

PARAMETERS = """
    BatchNormParameter batch_norm_param, ConcatParameter concat_param,
    ConvolutionParameter convolution_param, CropParameter crop_param, DataParameter data_param,
    DataParameter image_data_param, DataParameter window_data_param, DropoutParameter dropout_param,
    DummyDataParameter dummy_data_param, EltwiseParameter eltwise_param,
    FlattenParameter flatten_param, InnerProductParameter inner_product_param,
    InputParameter input_param, LossParameter loss_param, LRNParameter lrn_param,
    MemoryDataParameter memory_data_param, PoolingParameter pooling_param, ReLUParameter relu_param,
    ReshapeParameter reshape_param, ROIPoolingParameter roi_pooling_param,
    ScaleParameter scale_param, SoftmaxParameter softmax_param,
    TransformationParameter transform_param"""
"""Options of layers by type, the same for layers of all ages."""

MESSAGES = {
    "BlobShape": "int64 dim*",
    "NetState": "Phase phase, int32 level, string stage*",
    "NetStateRule": """
        Phase phase, int32 min_level, int32 max_level, string stage*, string not_stage*""",
    "ParamSpec": "string name, float lr_mult = 1, float decay_mult = 1",
    "TransformationParameter": """
        float scale = 1, uint32 crop_size, string mean_file, float mean_value*""",
    "ConcatParameter": "int32 axis = 1, uint32 concat_dim = 1",
    "ConvolutionParameter": """
        uint32 num_output, bool bias_term = true, uint32 pad*, uint32 kernel_size*,
        uint32 group = 1, uint32 stride*, uint32 pad_h, uint32 pad_w, uint32 kernel_h,
        uint32 kernel_w, uint32 stride_h, uint32 stride_w, int32 axis = 1, uint32 dilation*""",
    "CropParameter": "int32 axis = 2, uint32 offset*",
    "DataParameter": "uint32 crop_size",
    "DropoutParameter": "float dropout_ratio = 0.5",
    "DummyDataParameter": """
        uint32 num*, uint32 channels*, uint32 height*, uint32 width*, BlobShape shape*""",
    "EltwiseParameter": "EltwiseOp operation, float coeff*",
    "FlattenParameter": "int32 axis = 1, int32 end_axis = -1",
    "InnerProductParameter": """
        uint32 num_output, bool bias_term = true, int32 axis = 1, bool transpose""",
    "InputParameter": "BlobShape shape*",
    "LossParameter": "int32 ignore_label",
    "LRNParameter": """
        uint32 local_size = 5, float alpha = 1, float beta = 0.75,
        NormRegion norm_region, float k = 1""",
    "MemoryDataParameter": "uint32 batch_size, uint32 channels, uint32 height, uint32 width",
    # ceil_mode is what forks have in place of round_mode.
    "PoolingParameter": """
        PoolMethod pool, uint32 kernel_size, uint32 stride = 1, uint32 pad, uint32 kernel_h,
        uint32 kernel_w, uint32 stride_h, uint32 stride_w, uint32 pad_h, uint32 pad_w,
        bool global_pooling, RoundMode round_mode, bool ceil_mode = true""",
    "ReLUParameter": "float negative_slope",
    "ReshapeParameter": "BlobShape shape, int32 axis, int32 num_axes = -1",
    "ROIPoolingParameter": "uint32 pooled_h, uint32 pooled_w, float spatial_scale = 1",
    "ScaleParameter": "int32 axis = 1, int32 num_axes = 1, bool bias_term",
    "SoftmaxParameter": "int32 axis = 1",
    "BatchNormParameter": "bool use_global_stats, float eps = 1e-5",
    "V0LayerParameter": "string name, string type",
    "V1LayerParameter": f"""
        V0LayerParameter layer, string bottom*, string top*, string name, word type, string param*,
        float blobs_lr*, float weight_decay*, float loss_weight*, NetStateRule include*,
        NetStateRule exclude*, {PARAMETERS}""",
    "LayerParameter": f"""
        string name, string type, string bottom*, string top*, float loss_weight*,
        ParamSpec param*, NetStateRule include*, NetStateRule exclude*, Phase phase,
        {PARAMETERS}""",
    "NetParameter": """
        string name, V1LayerParameter layers*, string input*, int32 input_dim*, NetState state,
        BlobShape input_shape*, LayerParameter layer*""",
}
"""Fields of each message (source: caffe.proto of BVLC, and of Fast R-CNN for its ROIs)."""

HARMLESS = frozenset((
    "accuracy_param", "backend", "batch_size", "bias_filler", "debug_info", "engine", "filler",
    "force_backward", "force_nd_im2col", "hdf5_data_param", "is_color", "mirror",
    "moving_average_fraction", "new_height", "new_width", "prefetch", "propagate_down",
    "rand_skip", "root_folder", "share_mode", "shuffle", "source", "stable_prod_grad",
    "weight_filler",
))  # fmt: skip
"""Fields that say nothing of what a trained network computes."""

FIELD = re.compile(r"(\w+) (\w+)(\*?)(?: = ([^,\s]+))?")

ZEROS = {"string": "", "word": "", "bool": False, "float": 0.0, "int32": 0, "int64": 0, "uint32": 0}


class Field(NamedTuple):
    """A field: its type, whether it is repeated, and what it is where a file is silent."""

    kind: str
    is_repeated: bool
    default: Any

    @property
    def is_message(self) -> bool:
        """Whether its values are messages."""
        return self.kind in MESSAGES


def _fields(content: str) -> dict[str, Field]:
    found = {}
    for kind, name, repeated, text in FIELD.findall(content):
        default: Any = ENUMS[kind].split()[0] if kind in ENUMS else ZEROS.get(kind)
        if text:
            default = text == "true" if kind == "bool" else type(default)(text)
        found[name] = Field(kind, bool(repeated), default)
    return found


FIELDS = {name: _fields(content) for name, content in MESSAGES.items()}
VALUES = {name: frozenset(content.split()) for name, content in ENUMS.items()}


class Message:
    """A message of a kind: its fields are attributes, enums the names of their values."""

    def __init__(self, kind: str):
        self._kind = kind
        self._values: dict[str, Any] = {}

    @property
    def kind(self) -> str:
        """The name of its kind."""
        return self._kind

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        if name in self._values:
            return self._values[name]
        field = FIELDS[self._kind].get(name)
        if field is None:
            raise AttributeError(f"{self._kind} has no field {name!r}")
        if field.is_repeated:
            return []
        return Message(field.kind) if field.is_message else field.default

    def has(self, name: str) -> bool:
        """Whether the field was given."""
        return name in self._values

    def give(self, name: str, value: Any) -> None:
        """Give a field its value, or a repeated one a further value."""
        if FIELDS[self._kind][name].is_repeated:
            self._values.setdefault(name, []).append(value)
        else:
            self._values[name] = value
