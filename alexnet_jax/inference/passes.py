"""Passes of images through a trained network: its programs, compiled once, on whatever devices there are."""

import contextlib
import dataclasses
import functools
import operator
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
import xxhash
from tqdm import tqdm

from alexnet_jax import augment, sharding, steps
from alexnet_jax.data.given import Given, ImageInput
from alexnet_jax.data.loader import Batches, Order, Reading
from alexnet_jax.data.records import Images
from alexnet_jax.data.statistics import Statistics
from alexnet_jax.errors import DataError, UserError
from alexnet_jax.inference import activations
from alexnet_jax.run_config import Config

Step = Callable[[Any, Any, Any], Any]  # (params, image, statistics) -> leaves [B, ...]


class Part(NamedTuple):
    """What a network computed for some images of a split."""

    example: np.ndarray  # [n] int32: their indices in the split
    image: np.ndarray  # [n, size, size, 3] uint8
    label: np.ndarray  # [n] int32
    result: Any  # leaves [n, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class Passes:
    """A network's parameters, and what runs images through them. `network.Network` is what users open."""

    config: Config
    statistics: Statistics  # mean image and colours of the training set, on the host
    params: dict[str, dict[str, Any]]  # {layer: {"kernel", "bias"}}, each leaf [tower, ...] float32

    @functools.cached_property
    def mesh(self) -> jax.sharding.Mesh:
        """One device, or one for each tower where there are enough."""
        return sharding.make_mesh(1, 0, self.config.model.towers)

    @functools.cached_property
    def identity(self) -> str:
        """A hash of the parameters: equal only for equal networks."""
        digest = xxhash.xxh3_128()
        for leaf in jax.tree.leaves(self.params):
            digest.update(np.asarray(leaf).tobytes())
        return digest.hexdigest()

    def over(
        self,
        images: Images,
        step: Step,
        max_bad: float | None = None,
        bad: dict[int, str] | None = None,
        progress: bool = True,
    ) -> Iterator[Part]:
        """Apply `step(params, image, statistics)` to all images of a split, each once, in order, batch by batch.

        Damaged images are left out and reported in `bad`, index -> what is wrong (None: on stdout). Raises DataError if
        more than the share `max_bad` is damaged (None: the config's); or all of them, unless `bad` is given.
        """
        data, count = self.config.data, len(images.labels)
        size = min(self.config.train.eval_batch_size, 1 << (count - 1).bit_length())  # few sizes, so few compilations
        order = Order(count, size, seed=None)
        reading = Reading(data.threads, data.prefetch_batches, data.max_bad if max_bad is None else max_bad)
        batches = Batches(images, order, 0, order.steps_per_epoch, reading)
        bar = tqdm(total=count, unit=" images", leave=False, disable=None if progress and count > size else True)
        with contextlib.closing(batches), bar:
            for batch in batches:
                if bad is None:
                    for line in batches.news():
                        print(f"{line}; it is left out", flush=True)
                else:
                    bad.update(batches.bad)
                if batch.mask.any():
                    part = Part(batch.example, batch.image, batch.label, self.ask(step, batch.image))
                    yield jax.tree.map(operator.itemgetter(batch.mask), part)
                bar.update(int(batch.mask.sum()))
        if bad is None and len(batches.bad) == count:
            raise DataError("none of the images can be read")

    def ask(self, step: Step, pixels: np.ndarray) -> Any:
        """`step(params, image, statistics)` for stored images [B, size, size, 3] uint8, as NumPy arrays."""
        params, statistics = self._placed
        return jax.device_get(step(params, sharding.put(pixels, self.mesh, sharding.EXAMPLES), statistics))

    def log_predict(self, views: int) -> Step:
        """As `steps.make_log_predict_step`; compiled once, as the next two."""
        return self._compiled(steps.make_log_predict_step, views)

    def features_step(self, layer: str | None) -> Step:
        """As `activations.make_features_step`."""
        return self._compiled(activations.make_features_step, activations.layer_of(self.config, layer))

    def activations_step(self, kind: str, layers: tuple[str, ...] | None = None) -> Step:
        """As `activations.make_step`."""
        return self._compiled(activations.make_step, kind, layers)

    def centre_crop(self, pixels: np.ndarray) -> np.ndarray:
        """The centre crop that the network sees of stored images: [..., size, size, 3] -> [..., crop, crop, 3]."""
        return augment.centre_crop(pixels, self.config.model.image_size)

    @functools.cached_property
    def _compiled(self) -> Callable[..., Step]:
        config, mesh = self.config, self.mesh
        return functools.cache(lambda make, *arguments: make(config, mesh, *arguments))

    @functools.cached_property
    def _placed(self) -> tuple[Any, Any]:
        """Parameters and statistics on the devices."""
        params = jax.device_put(self.params, sharding.of_state(self.params, self.mesh, "tower"))
        return params, sharding.put(self.statistics, self.mesh, sharding.REPLICATED)

    def over_given(self, images: ImageInput | Sequence[ImageInput], step: Step) -> Any:
        """`step` of images that the caller gives. Raises UserError that names those that cannot be read."""
        given, bad = Given(images, self.config.data.size), dict[int, str]()
        results = [part.result for part in self.over(given, step, max_bad=1.0, bad=bad)]
        if bad:
            raise UserError("; ".join(f"{given.name(i)} cannot be read: {what}" for i, what in sorted(bad.items())))
        return jax.tree.map(lambda *leaves: np.concatenate(leaves), *results)
