"""One image: from the bytes of a file to the stored square."""

import gzip

import cv2
import numpy as np
import pytest
from PIL import Image

from alexnet_jax.data import images
from tests.conftest import encoded


def decoded(content: bytes) -> np.ndarray:
    return images.decode(content).pixels


SMOOTH = np.asarray(Image.fromarray(np.arange(48, dtype=np.uint8).reshape(4, 4, 3) * 5).resize((40, 30)))


@pytest.mark.parametrize(
    ("content", "tolerance"),
    [
        (encoded(SMOOTH, "PNG"), 0),
        (encoded(SMOOTH, "BMP"), 0),
        (encoded(SMOOTH, "WEBP", lossless=True), 0),
        (encoded(Image.fromarray(SMOOTH).convert("RGBA"), "PNG"), 0),
        (encoded(SMOOTH, "JPEG", quality=100, subsampling=0), 3),
        (encoded(Image.fromarray(SMOOTH).convert("CMYK"), "JPEG", quality=100), 6),
        (encoded(Image.fromarray(SMOOTH).convert("P", palette=Image.Palette.ADAPTIVE), "PNG"), 16),
    ],
    ids=["png", "bmp", "webp", "rgba", "jpeg", "cmyk", "palette"],
)
def test_decode_gives_rgb_for_every_format(content, tolerance):
    pixels = decoded(content).astype(int)
    assert pixels.shape == SMOOTH.shape
    assert np.abs(pixels - SMOOTH).max() <= tolerance


def test_grey_images_get_three_equal_channels():
    for kind in ("JPEG", "PNG"):
        pixels = decoded(encoded(Image.fromarray(SMOOTH).convert("L"), kind))
        assert pixels.shape == (30, 40, 3)
        assert (pixels == pixels[..., :1]).all()


def test_16_bit_grey_keeps_its_range_and_floats_are_refused():
    ramp = np.linspace(0, 65535, 256).astype(np.uint16).reshape(16, 16)
    pixels = decoded(encoded(Image.fromarray(ramp), "PNG"))
    np.testing.assert_array_equal(pixels[..., 0].reshape(-1), np.arange(256))
    with pytest.raises(images.CorruptImage, match="floating-point"):
        images.decode(encoded(Image.fromarray(np.ones((4, 4), np.float32)), "TIFF"))


def test_exif_orientation_is_applied():
    for kind in ("JPEG", "PNG"):
        exif = Image.Exif()
        exif[0x0112] = 6  # the camera was turned by 90 degrees
        content = encoded(SMOOTH, kind, exif=exif, **({"quality": 100, "subsampling": 0} if kind == "JPEG" else {}))
        pixels = decoded(content).astype(int)
        assert np.abs(pixels - np.rot90(SMOOTH, -1).astype(int)).max() <= 3


JPEG, PNG = encoded(SMOOTH, "JPEG"), encoded(SMOOTH, "PNG")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"notes on the images",
        JPEG[: len(JPEG) // 2],
        JPEG[:-2],
        JPEG[: len(JPEG) // 2] + bytes(range(60)) + JPEG[len(JPEG) // 2 + 60 :],
        PNG[: len(PNG) // 2],
    ],
    ids=["empty", "text", "half", "no end", "damaged", "half a png"],
)
def test_damaged_images_are_refused(content):
    with pytest.raises(images.CorruptImage):
        images.decode(content)


def test_images_with_too_many_pixels_are_refused():
    bomb = encoded(Image.new("1", (20000, 20000)), "PNG")
    with pytest.raises(images.CorruptImage, match="20000x20000 pixels are more than"):
        images.decode(bomb)


def test_unusual_files_are_accepted_and_reported():
    """ILSVRC has some: CMYK (about 20), a PNG named .JPEG, a gzip-compressed JPEG, grey (1.8 %)."""
    grey = Image.fromarray(SMOOTH).convert("L")
    for content, unusual in (
        (encoded(Image.fromarray(SMOOTH).convert("CMYK"), "JPEG"), ("CMYK",)),
        (encoded(SMOOTH, "PNG"), ("PNG",)),
        (gzip.compress(JPEG), ("gzip",)),
        (encoded(grey, "JPEG"), ("grey",)),
        (encoded(grey, "PNG"), ("grey", "PNG")),
        (encoded(Image.new("RGB", (1, 300)), "JPEG"), ("under 16 pixels",)),
        (JPEG, ()),
    ):
        result = images.decode(content)
        assert result.unusual == unusual
        assert images.to_square(result.pixels, 8).shape == (8, 8, 3)


def test_a_stray_byte_before_the_end_marker_is_ignored():
    stray = JPEG[:-2] + b"\x12" + JPEG[-2:]
    np.testing.assert_array_equal(decoded(stray), decoded(JPEG))
    with pytest.raises(images.CorruptImage, match="extraneous"):
        images.decode(JPEG[:-2] + bytes(40) + JPEG[-2:])


def test_a_gzip_bomb_is_refused(monkeypatch):
    compressed = gzip.compress(JPEG)
    images.decode(compressed)
    monkeypatch.setattr(images, "MAX_BYTES", len(JPEG) - 1)
    with pytest.raises(images.CorruptImage, match="gzip-compressed, and truncated or longer than"):
        images.decode(compressed)


def area_average(square: np.ndarray, size: int) -> np.ndarray:
    """Each output pixel is the mean over its area, to which pixels on its border contribute in part."""
    edges = np.linspace(0, len(square), size + 1)
    starts = np.arange(len(square))
    weights = np.clip(np.minimum(edges[1:, None], starts + 1) - np.maximum(edges[:-1, None], starts), 0, None)
    weights /= weights.sum(axis=1, keepdims=True)
    return np.einsum("ij,jkc,lk->ilc", weights, square.astype(float), weights)


def test_to_square_crops_the_centre_and_averages_areas():
    wide = np.random.default_rng(0).integers(0, 256, (50, 81, 3), dtype=np.uint8)
    centre = wide[:, 15:65]
    np.testing.assert_allclose(images.to_square(wide, 32), area_average(centre, 32), atol=0.51)
    np.testing.assert_allclose(images.to_square(wide, 25), area_average(centre, 25), atol=0.51)
    np.testing.assert_array_equal(images.to_square(wide, 50), centre)
    tall = images.to_square(wide.transpose(1, 0, 2), 80)  # enlarged, by cubic interpolation
    expected = cv2.resize(centre.transpose(1, 0, 2), (80, 80), interpolation=cv2.INTER_CUBIC)
    np.testing.assert_array_equal(tall, expected)
