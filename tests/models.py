"""Real networks that strangers trained, and what the original makes of them; not in this project.

They are looked for in the folder `../shared/models` beside the project, or in `MATCONVNET_MODELS`.
"""

import os
from pathlib import Path

import numpy as np
import pytest

BESIDE = Path(__file__).resolve().parents[2] / "shared" / "models"
FOLDER = Path(os.environ.get("MATCONVNET_MODELS", BESIDE))

NETWORKS = (
    "charscnn_oldformat",
    "cifar_lenet_epoch20",
    "dcfnet_net7",
    "dncnn_dagnn_epoch50",
    "dncnn_s25_bnorm",
    "ffdnet_gray_retrained",
    "landcover_now_epoch100",
    "lapsrn_x2",
    "mscnn_dehaze_coarse",
    "plate_epoch50",
)


def path(name):
    """The file of a network or database; skips the test where there is none."""
    file = FOLDER / f"{name}.mat"
    if not file.is_file():
        pytest.skip(f"{file} is not here; it holds a network for tests only")
    return file


def reference(name):
    """What the original computes, by array name; skips the test where there is none."""
    file = FOLDER / "reference" / f"{name}.npz"
    if not file.is_file():
        pytest.skip(f"{file} is not here; it holds results of the original")
    with np.load(file) as archive:
        return {key: archive[key] for key in archive.files}
