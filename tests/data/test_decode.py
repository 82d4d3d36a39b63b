"""Picture files of every kind decoded, and hostile ones refused."""

import io
import os

import numpy as np
import pytest
import simplejpeg
from PIL import Image

from matconvnet.data.decode import MAX_PIXELS, decode, read_picture
from matconvnet.errors import FormatError
from matconvnet.images import Workspace
from tests.data.pictures import damaged, encoded, flipped, huge, photograph

ORIENTATION = 0x0112  # the EXIF tag
NEAR = 6  # of 255: what JPEG may change


def difference(got, want):
    return np.abs(got.astype(int) - want).max()


@pytest.fixture
def photo():
    return photograph()


@pytest.mark.parametrize(
    "options",
    [{}, {"progressive": True}, {"subsampling": 0}, {"subsampling": 2}, {"optimize": True}],
    ids=["baseline", "progressive", "444", "420", "optimized"],
)
def test_photographs(photo, options):
    pixels = decode(encoded(photo, **options))
    assert pixels.shape == photo.shape
    assert pixels.dtype == np.uint8
    assert difference(pixels, photo) < NEAR


def test_pixels_are_those_of_pillow():
    content = encoded(photograph(375, 500), quality=80)
    with Image.open(io.BytesIO(content)) as image:
        assert np.array_equal(decode(content), np.asarray(image))


def test_grey_photographs_have_one_channel(photo):
    grey = photo[..., :1]
    assert difference(decode(encoded(grey)), grey) < NEAR


def test_adobes_inks_are_inverted(photo):
    content = encoded(photo, mode="CMYK")
    assert b"Adobe" in content
    assert difference(decode(content), photo) < NEAR


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "PPM", "GIF", "WEBP"])
def test_other_formats_whatever_their_name(tmp_path, photo, kind):
    path = tmp_path / "photo.JPEG"
    flat = np.repeat(np.repeat(photo[:4, :4] // 32 * 32, 8, 0), 8, 1)
    path.write_bytes(encoded(flat, kind, **({"lossless": True} if kind == "WEBP" else {})))
    assert np.array_equal(read_picture(path), flat)


def test_palettes_and_deep_pictures(tmp_path, photo):
    palette = encoded(photo // 128 * 255, "PNG", "P")
    assert np.array_equal(decode(palette), photo // 128 * 255)
    deep = tmp_path / "deep.png"
    Image.fromarray(photo[..., 0].astype(np.uint16) << 8).save(deep)
    assert np.array_equal(read_picture(deep), photo[..., :1])


def test_orientation_is_ignored_unless_asked_for(photo):
    exif = Image.Exif()
    exif[ORIENTATION] = 6  # the top of the scene is on the right
    content = encoded(photo, exif=exif)
    assert difference(decode(content), photo) < NEAR
    assert difference(decode(content, upright=True), np.rot90(photo, -1)) < NEAR


def test_harmless_complaints_are_overlooked(photo):
    content = encoded(photo)
    longer = content[:-2] + bytes(range(50)) + content[-2:]
    with pytest.raises(ValueError, match="extraneous bytes"):
        simplejpeg.decode_jpeg(longer)
    assert np.array_equal(decode(longer), decode(content))
    assert np.array_equal(decode(content + b"and more"), decode(content))


def test_memory_is_used_again(photo):
    memory = Workspace()
    first = decode(encoded(photo), memory=memory)
    kept = first.copy()
    second = decode(encoded(photograph(20, 30, 7)), memory=memory)
    assert np.shares_memory(first, second)
    assert np.array_equal(decode(encoded(photo), memory=memory), kept)


@pytest.mark.parametrize("share", [0.02, 0.3, 0.9, 0.999])
def test_truncated_files_are_refused(photo, share):
    content = encoded(photo)
    with pytest.raises(FormatError):
        decode(content[: int(share * len(content))])


def test_reasons_are_told(tmp_path, photo):
    for content, why in [
        (b"", "the file is empty"),
        (b"a text", "not a picture"),
        (encoded(photo)[:-300], "[Pp]remature end"),
        (huge(encoded(photo)), "its header tells of 65000 x 65000 pixels"),
        (huge(encoded(photo), 4000, 4000), "its header tells of 4000 x 4000 pixels"),
    ]:
        with pytest.raises(FormatError, match=why):
            decode(content)
    with pytest.raises(FileNotFoundError):
        read_picture(tmp_path / "none.jpg")


def test_large_pictures_of_other_formats_are_refused_by_their_header():
    content = bytearray(encoded(photograph(4, 4), "BMP"))
    content[18:26] = (30000).to_bytes(4, "little") * 2
    assert MAX_PIXELS < 30000**2
    with pytest.raises(FormatError, match=r"30000 x 30000|900000000 pixels"):
        decode(bytes(content))


def test_what_is_no_regular_file_is_not_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")  # to open it would wait for ever
    with pytest.raises(FormatError, match="no regular file"):
        read_picture(tmp_path / "pipe.jpg")
    with pytest.raises(FormatError, match="no regular file"):
        read_picture(tmp_path)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "TIFF", "BMP", "WEBP", "PPM"])
def test_damaged_files_raise_format_errors_alone(photo, kind):
    content = encoded(photo, kind)
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(60):
        try:
            decode(flipped(content, rng)[: rng.integers(len(content) // 2, 2 * len(content))])
        except FormatError:
            refused += 1
    assert refused > 5
    for number in range(12):
        if number % 6 == 3 and kind != "JPEG":
            continue
        with pytest.raises(FormatError):
            decode(damaged(content, number, rng))
