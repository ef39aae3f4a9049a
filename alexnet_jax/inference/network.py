"""A trained network: opened from a workdir or an exported file, and used through one interface."""

import contextlib
import dataclasses
import functools
import operator
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from alexnet_jax import augment, sharding, steps, trainer
from alexnet_jax.data.datasets import Dataset, ImageInput, given
from alexnet_jax.data.loader import Batches, Order, Reading
from alexnet_jax.data.records import Images
from alexnet_jax.data.statistics import Statistics
from alexnet_jax.errors import DataError, UserError, keeping
from alexnet_jax.inference import activations, predictions
from alexnet_jax.inference.activations import Activation
from alexnet_jax.inference.predictions import Answers, Part, Prediction, Predictions
from alexnet_jax.run import checkpoint, checksums, run_data, workdir
from alexnet_jax.run_config import Config

Step = Callable[[Any, Any, Any], Any]  # (params, image, statistics) -> leaves [B, ...]
Bad = dict[int, str]  # index of an image that cannot be read -> what is wrong with it


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Network:
    """A trained network and what it needs to look at images. `alexnet_jax.load` opens one.

    Attributes:
        config: the run's config.
        statistics: mean image and colours of the training set, on the host.
        params: {layer: {"kernel", "bias"}}, each leaf [tower, ...] float32.
        classes: label -> name.
        step: the number of training steps taken.
        path: the workdir or file that it was opened from.
    """

    config: Config
    statistics: Statistics
    params: dict[str, dict[str, Any]]
    classes: list[str]
    step: int
    path: Path

    def __repr__(self) -> str:
        return f"Network({self.path}, step {self.step}, {self.config.model.towers} towers, {len(self.classes)} classes)"

    def predict(self, images: ImageInput | Sequence[ImageInput], views: int = 1) -> Prediction:
        """Classify images.

        Args:
            images: one image or a sequence of them: paths, PIL images, or arrays [H, W, 3] uint8 of any size. A
                folder stands for all files in it.
            views: 1 for the centre crop, 10 for the mean over the paper's ten views (section 4.1), 5 for those of the
                ten that are not mirrored.

        Returns:
            The probabilities [N, classes] float32, with the names of the best classes.

        Raises:
            UserError: if an image cannot be read; the message names each.
        """
        log_probabilities = self._over_given(images, self.log_predict(views))
        return Prediction(np.exp(log_probabilities[:, : len(self.classes)]), self.classes)

    def features(self, images: ImageInput | Sequence[ImageInput], layer: str | None = None) -> np.ndarray:
        """The output of a layer for the centre crop of images, as vectors (paper 6.1).

        Args:
            images: as for `predict`.
            layer: conv1, ..., fc8, or several separated by commas; None is the last layer before fc8. Of a hidden fully
                connected layer the units are taken after the activation, without dropout; of a convolutional one after
                all that follows it.

        Returns:
            [N, D] float32, with both towers of a layer side by side.

        Raises:
            UserError: if an image cannot be read, or there is no such layer.
        """
        return self._over_given(images, self.features_step(layer))

    def activations(self, image: ImageInput, kind: str = "output") -> dict[str, Activation]:
        """What every layer computes for the centre crop of one image.

        Args:
            image: as for `predict`.
            kind: "output" for layers after all that follows them (activation, normalization, pooling), or "response"
                for convolutions with their biases alone.

        Returns:
            Layer -> array with named axes: (tower, height, width, channel) of a convolutional layer, (tower, unit)
            of a fully connected one; fc8's are logits.

        Raises:
            UserError: if the image cannot be read, or there is no such kind.
        """
        arrays = self._over_given([image], self.activations_step(kind))
        return {name: Activation(values[0]) for name, values in arrays.items()}

    def evaluate(
        self, data: str | Path | None = None, views: int = 1, split: str | None = None, max_bad: float | None = None
    ) -> dict[str, Any]:
        """Errors on a split, with their intervals.

        Args:
            data: the folder of prepared images; None is what the network was trained on.
            views: as for `predict`.
            split: its name; None is the config's `data.eval_split`.
            max_bad: the share of records that may be damaged; None is the config's.

        Returns:
            loss (nats); top1_error and top5_error (fractions) with top1_interval and top5_interval (Wilson, 95 %);
            count, views, split, step; and bad_records, the number of damaged images left out, if any.

        Raises:
            UserError: if the data or the split is missing. DataError: if too many records are damaged.
        """
        return self.answers(data, views, split, max_bad).score()

    def answers(
        self, data: str | Path | None = None, views: int = 1, split: str | None = None, max_bad: float | None = None
    ) -> Answers:
        """The network's predictions for each image of a split; arguments and errors as for `evaluate`.

        They are kept in a workdir that can be written, and used again unless it was trained on or the data is other.
        """
        dataset = self.dataset(data)
        split = split or self.config.data.eval_split
        images = run_data.images(dataset, self.config, split, "--split")
        kept, now = self.path / f"predictions-{split}-{views}.npz", (self.step, dataset.fingerprint)
        found = predictions.load(kept)
        if found is None or (found.step, found.data) != now or len(found.label) != len(images.labels):
            parts = self.over(images, self.log_predict(views), max_bad)
            columns = zip(*((part.result, part.label, part.example) for part in parts), strict=True)
            log_probabilities, label, example = map(np.concatenate, columns)
            found = Predictions(log_probabilities, label, example, *now)
            if self.path.is_dir():  # else it was opened from an exported file
                with keeping(kept):
                    predictions.save(kept, found)
        return Answers(found, images, split, views)

    def dataset(self, data: str | Path | None = None) -> Dataset:
        """Its training data, from the folder `data` if given. UserError if it is missing or has other classes."""
        return run_data.of_network(self.config, self.classes, data)

    @property
    def name(self) -> str:
        return self.path.resolve().name

    @functools.cached_property
    def mesh(self) -> jax.sharding.Mesh:
        """One device, or one for each tower where there are enough."""
        return sharding.make_mesh(1, 0, self.config.model.towers)

    @functools.cached_property
    def identity(self) -> str:
        """A hash of the parameters: equal only for equal networks."""
        return checksums.of_json(checksums.of_arrays(self.params))

    def over(
        self, images: Images, step: Step, max_bad: float | None = None, bad: Bad | None = None, progress: bool = True
    ) -> Iterator[Part]:
        """Apply `step(params, image, statistics)` to all images of a split, each once, in order, batch by batch.

        Damaged images are left out and reported in `bad` (None: on stdout). Raises DataError if more than the share
        `max_bad` is damaged (None: the config's); or all of them, unless `bad` is given.
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

    def _over_given(self, images: ImageInput | Sequence[ImageInput], step: Step) -> Any:
        """`step` of images that the caller gives. Raises UserError that names those that cannot be read."""
        inputs, bad = given(images, self.config.data.size), Bad()
        results = [part.result for part in self.over(inputs, step, max_bad=1.0, bad=bad)]
        if bad:
            raise UserError("; ".join(f"{inputs.name(i)} cannot be read: {what}" for i, what in sorted(bad.items())))
        return jax.tree.map(lambda *leaves: np.concatenate(leaves), *results)

    def log_predict(self, views: int) -> Step:
        """As `steps.make_log_predict_step`; warns of views that training had none of. UserError as `check_views`."""
        predictions.check_views(views, self.config.augment)
        return _made(steps.make_log_predict_step, self.config, self.mesh, views)

    def features_step(self, layers: str | None, pool: str = "none") -> Step:
        """As `activations.make_features_step`."""
        layers_of = activations.layers_of(self.config, layers)
        return _made(activations.make_features_step, self.config, self.mesh, layers_of, pool)

    def activations_step(self, kind: str, layers: tuple[str, ...] | None = None) -> Step:
        """As `activations.make_step`."""
        return _made(activations.make_step, self.config, self.mesh, kind, layers)

    def centre_crop(self, pixels: np.ndarray) -> np.ndarray:
        """The centre crop that the network sees of stored images: [..., size, size, 3] -> [..., crop, crop, 3]."""
        return augment.centre_crop(pixels, self.config.model.image_size)

    @functools.cached_property
    def _placed(self) -> tuple[Any, Any]:
        """Parameters and statistics on the devices."""
        params = jax.device_put(self.params, sharding.of_state(self.params, self.mesh, "tower"))
        return params, sharding.put(self.statistics, self.mesh, sharding.REPLICATED)


@functools.lru_cache(maxsize=16)
def _made(make: Callable[..., Step], config: Config, mesh: jax.sharding.Mesh, *arguments: Any) -> Step:
    """A step, compiled once for all networks of a config: those of the steps of a run."""
    return make(config, mesh, *arguments)


def open_workdir(directory: Path, step: int | None = None) -> Network:
    """The network of a workdir's newest intact checkpoint, or that of `step` (0: untrained). UserError if none."""
    opened = workdir.open_finished(directory)
    mesh, kept = sharding.make_mesh(1, 0, opened.config.model.towers), workdir.saved_steps(directory)
    if step not in (None, 0, *kept):
        raise UserError(f"{directory} keeps no network of step {step}, only 0 and {kept}; see train.keep_every_steps")
    if step == 0 and step not in kept:
        params = trainer.first_state(opened.config, mesh).params
    else:
        wanted = steps.abstract_state(opened.config, mesh).params
        step, params = checkpoint.restore_params(directory / workdir.CHECKPOINTS, wanted, step)
    return Network(opened.config, opened.statistics, params, opened.classes, step, directory)
