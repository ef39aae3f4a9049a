"""One image: from the bytes of a file to RGB pixels, and on to the stored square (paper section 2)."""

import io
import re
import zlib
from typing import NamedTuple

import cv2
import numpy as np
import simplejpeg
from PIL import Image, ImageOps

JPEG_MAGIC, GZIP_MAGIC = b"\xff\xd8", b"\x1f\x8b"
MAX_PIXELS = 100_000_000  # per image: a small file can claim any number
MAX_BYTES = 2**28  # of a file after decompression
TINY = 16  # pixels on the short side: hardly a picture
# The formats of photos. Pillow knows forty more and hands one of them to another program (EPS, to Ghostscript).
FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
MAX_PASSES = 20  # how often the scans of a JPEG may go over MAX_PIXELS pixels
Image.MAX_IMAGE_PIXELS = None  # Pillow's own limit only warns, through a channel that threads share
cv2.setNumThreads(1)  # the threads here each take whole images


class CorruptImage(Exception):
    """Bytes that do not decode to a whole image without warnings. The message says why."""


class Decoded(NamedTuple):
    pixels: np.ndarray  # [H, W, 3] uint8, RGB
    unusual: tuple[str, ...]  # what is odd about the file, if anything


def decode(content: bytes, max_pixels: int = MAX_PIXELS) -> Decoded:
    """Decode an image file in any of FORMATS to RGB, turned upright if its EXIF data asks for that.

    Grey, palette, CMYK, transparent and gzip-compressed images become RGB. Raises CorruptImage for a JPEG that is
    truncated or makes the decoder warn of damage, and for an image of more than `max_pixels`.
    """
    try:
        unusual = []
        if content.startswith(GZIP_MAGIC):  # one image of ILSVRC-2010 is
            decompressor = zlib.decompressobj(wbits=31)
            content = decompressor.decompress(content, MAX_BYTES)
            if not decompressor.eof:
                raise CorruptImage(f"gzip-compressed, and truncated or longer than {MAX_BYTES:,} bytes")
            unusual.append("gzip")
        image: Image.Image = Image.open(io.BytesIO(content), formats=FORMATS)  # reads only the header
        _check_size(image.width, image.height, max_pixels)
        if image.mode in ("CMYK", "1", "L", "LA", "I;16", "I"):
            unusual.append("CMYK" if image.mode == "CMYK" else "grey")
        if image.format != "JPEG":
            unusual.append(str(image.format))
        if min(image.size) < TINY:
            unusual.append(f"under {TINY} pixels")
        orientation = image.getexif().get(0x0112, 1)
        if content.startswith(JPEG_MAGIC):
            pixels = _decode_jpeg_file(content, max_pixels)
        elif image.mode.startswith("I"):  # 16-bit grey, which Pillow would clip to white
            grey = (np.clip(np.asarray(image), 0, 65535) // 257).astype(np.uint8)
            pixels = np.repeat(grey[..., None], 3, axis=-1)
        elif image.mode == "F":
            raise CorruptImage("the pixels are floating-point numbers of unknown range")
        else:
            image = (image.convert("RGBA") if "transparency" in image.info else image).convert("RGB")
            pixels = np.asarray(image)
    except CorruptImage:
        raise
    except Exception as error:  # decoders can raise anything on bad bytes
        reason = str(error).split("<_io")[0].strip() or type(error).__name__
        raise CorruptImage(f"not a valid image: {reason}") from None
    if orientation != 1:
        upright = Image.fromarray(pixels)
        upright.getexif()[0x0112] = orientation
        pixels = np.asarray(ImageOps.exif_transpose(upright))
    return Decoded(pixels, tuple(unusual))


def claimed_pixels(content: bytes) -> int:
    """How many pixels `decode` would decode, by the file's header; 0 if it has none that can be read."""
    try:
        width, height = Image.open(io.BytesIO(content), formats=FORMATS).size
        rows, columns, *_ = simplejpeg.decode_jpeg_header(content) if content.startswith(JPEG_MAGIC) else (0, 0)
        return max(width * height, rows * columns)
    except Exception:  # `decode` says what is wrong
        return 0


def _check_size(width: int, height: int, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise CorruptImage(f"{width}x{height} pixels are more than {max_pixels:,}")


def _decode_jpeg_file(content: bytes, max_pixels: int) -> np.ndarray:
    height, width, _, _ = simplejpeg.decode_jpeg_header(content)  # this decoder may read another size than Pillow
    _check_size(width, height, max_pixels)
    scans = content.count(b"\xff\xda")  # each can change every pixel, in a few bytes
    if scans * width * height > MAX_PASSES * max_pixels:
        raise CorruptImage(f"{scans} scans of {width}x{height} pixels take too long")
    try:
        return simplejpeg.decode_jpeg(content, colorspace="RGB", strict=True)
    except ValueError as error:
        # A few stray bytes between the image data and the end marker are harmless; two images of ILSVRC-2010 have one.
        if not re.search(r"\b[1-4] extraneous bytes before marker 0xd9", str(error)):
            raise
    return simplejpeg.decode_jpeg(content, colorspace="RGB", strict=False)


def to_square(pixels: np.ndarray, size: int) -> np.ndarray:
    """Crop to the central square and scale it: [H, W, 3] uint8 -> [size, size, 3] uint8.

    The interpolation is that of the authors' code. They scaled first and cropped afterwards; cropping first, at whole
    pixels, gives the same up to a shift of less than a pixel and is a quarter faster.
    """
    height, width, _ = pixels.shape
    short = min(height, width)
    top, left = (height - short) // 2, (width - short) // 2
    square = pixels[top : top + short, left : left + short]
    return cv2.resize(square, (size, size), interpolation=cv2.INTER_AREA if short > size else cv2.INTER_CUBIC)


def stored_pixels(content: bytes | np.ndarray, size: int, max_pixels: int = MAX_PIXELS) -> Decoded:
    """An image file, or RGB pixels, as stored: [size, size, 3] uint8. Raises CorruptImage as `decode` does."""
    decoded = decode(content, max_pixels) if isinstance(content, bytes) else Decoded(content, ())
    return decoded._replace(pixels=to_square(decoded.pixels, size))


def encode_jpeg(pixels: np.ndarray, quality: int) -> bytes:
    """Encode [H, W, 3] uint8 as a JPEG of quality 1..100."""
    pixels = np.ascontiguousarray(pixels)
    return simplejpeg.encode_jpeg(pixels, quality=quality, colorspace="RGB", colorsubsampling="420")


def decode_jpeg(content: bytes, out: np.ndarray) -> None:
    """Decode what `encode_jpeg` wrote into `out` [size, size, 3] uint8. Raises ValueError if it does not fit."""
    simplejpeg.decode_jpeg(content, colorspace="RGB", buffer=out, strict=True)
