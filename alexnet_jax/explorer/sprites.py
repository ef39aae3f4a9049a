"""Pictures for a page, many in one, as data URLs."""

import base64

import cv2
import numpy as np

from alexnet_jax.inference.network import Network
from alexnet_jax.run import pictures

SIDE = 48  # most of a patch, pixels
BLOCK = 8  # side of the blocks of a JPEG, which must not hold parts of two pictures
HIGHEST = 65_500  # most rows of a JPEG
JPEG = (cv2.IMWRITE_JPEG_QUALITY, 85, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444)


def side_of(size: int, rows: int, most: int = SIDE) -> int:
    """The side at which square pictures of `size` pixels are shown, in so many rows: their own if it is small."""
    if size < 2 * BLOCK:
        return size
    return max(BLOCK, min(most, round(size / BLOCK) * BLOCK, HIGHEST // rows // BLOCK * BLOCK))


def data_url(pixels: np.ndarray, side: int = 0) -> str:
    """An image [H, W, 3] or [H, W] uint8 as a data URL.

    It is a PNG; of pictures whose `side` is that of whole blocks, a JPEG.
    """
    kind, options = ("jpeg", JPEG) if side and side % BLOCK == 0 else ("png", ())
    content = cv2.imencode(f".{kind}", pixels[..., ::-1] if pixels.ndim == 3 else pixels, options)[1].tobytes()
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def conv1_row(network: Network) -> str:
    """The kernels of conv1 in one row, the towers' shares one after another, as a data URL."""
    kernels = conv1(network)
    return data_url(np.concatenate([*kernels.reshape(-1, *kernels.shape[2:])], axis=1))


def conv1(network: Network) -> np.ndarray:
    """The kernels of conv1, or those of its middle place: [tower, F, k, k, 3] uint8."""
    kernels = np.asarray(network.params["conv1"]["kernel"], np.float32)
    return pictures.as_images(pictures.at_one_place(kernels, network.config.model.conv1.kernel))
