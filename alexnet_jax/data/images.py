"""One image: from the bytes of a file to RGB pixels, and to the stored square (paper section 2)."""

import io

import numpy as np
import simplejpeg
from PIL import Image, ImageOps

JPEG_MAGIC = b"\xff\xd8"
MAX_PIXELS = 100_000_000  # of one image: a small file can claim to hold any number
Image.MAX_IMAGE_PIXELS = None  # Pillow's own limit only warns, through a channel that threads share


class CorruptImage(Exception):
    """Bytes that do not decode, whole and without a warning, to an image. The message says why."""


def decode(content: bytes) -> Image.Image:
    """The image in a file of any format Pillow reads, as RGB, turned upright if its EXIF data says so.

    What it is called does not count, only what is in it. Grey, palette, CMYK and transparent images become RGB.
    A JPEG that is cut short or whose decoder warns of damage is refused: its pixels would be part garbage.
    """
    try:
        image: Image.Image = Image.open(io.BytesIO(content))  # reads no more than the header
        if image.width * image.height > MAX_PIXELS:
            raise CorruptImage(f"{image.width}x{image.height} pixels are more than {MAX_PIXELS:,}")
        orientation = image.getexif().get(0x0112, 1)
        if content.startswith(JPEG_MAGIC):
            image = Image.fromarray(simplejpeg.decode_jpeg(content, colorspace="RGB", strict=True))
        elif image.mode.startswith("I"):  # 16-bit grey, which Pillow would clip to white
            image = Image.fromarray((np.clip(np.asarray(image), 0, 65535) // 257).astype(np.uint8)).convert("RGB")
        elif image.mode == "F":
            raise CorruptImage("pixels are floating-point numbers of unknown range")
        else:
            image = (image.convert("RGBA") if "transparency" in image.info else image).convert("RGB")
    except CorruptImage:
        raise
    except Exception as error:  # decoders raise all sorts on bad bytes
        reason = str(error).split("<_io")[0].strip() or type(error).__name__
        raise CorruptImage(f"not a sound image: {reason}") from None
    if orientation != 1:
        image.getexif()[0x0112] = orientation
        image = ImageOps.exif_transpose(image)
    return image


def to_square(image: Image.Image, size: int) -> np.ndarray:
    """Scales the short side to `size` and cuts out the centre: [size, size, 3] uint8.

    Shrinks by area averaging as the authors' code did, enlarges by cubic interpolation.
    """
    width, height = image.size
    short = min(width, height)
    left, top = (width - short) / 2, (height - short) / 2
    resample = Image.Resampling.BOX if short > size else Image.Resampling.BICUBIC
    return np.asarray(image.resize((size, size), resample, box=(left, top, left + short, top + short)))


def encode_jpeg(pixels: np.ndarray, quality: int) -> bytes:
    return simplejpeg.encode_jpeg(
        np.ascontiguousarray(pixels), quality=quality, colorspace="RGB", colorsubsampling="420"
    )


def decode_jpeg(content: bytes, out: np.ndarray) -> None:
    """Decodes what `encode_jpeg` wrote into `out` [size, size, 3] uint8."""
    simplejpeg.decode_jpeg(content, colorspace="RGB", buffer=out, strict=True)
