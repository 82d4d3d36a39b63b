"""What is drawn of predictions."""

import numpy as np
from PIL import Image

from matconvnet.cli.gallery import RIGHT, WRONG, choose, save_gallery


def test_the_worst_mistakes_come_first():
    labels = np.array([0, 0, 1, 1, 1, 0])
    likely = np.array([0.9, 0.4, 0.3, 0.1, 0.8, 0.95])  # of class 0
    chosen = choose(labels, np.stack((likely, 1 - likely), 1), mistakes=2, others=2)
    assert chosen.tolist() == [4, 1, 0, 3]
    assert choose(labels, np.stack((likely, 1 - likely), 1), 9, 9).tolist() == [4, 1, 0, 2, 3, 5]


def test_the_gallery_frames_right_and_wrong(tmp_path):
    images = [np.full((28, 28, 1), 128, np.uint8)] * 2
    probabilities = np.array([[0.9, 0.1], [0.8, 0.2]])
    path = tmp_path / "gallery.png"
    save_gallery(path, images, np.array([0, 1]), probabilities, ("no", "yes"), "two")
    with Image.open(path) as picture:
        colours = {colour for _, colour in picture.convert("RGB").getcolors(1 << 16)}
    for wanted in (RIGHT, WRONG):
        assert tuple(bytes.fromhex(wanted[1:])) in colours
