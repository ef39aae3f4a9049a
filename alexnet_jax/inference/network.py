"""A trained network: opened from a workdir or an exported file, and used through one interface."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from alexnet_jax import sharding, steps
from alexnet_jax.data.datasets import Dataset, split_of
from alexnet_jax.data.given import ImageInput
from alexnet_jax.data.records import Images, spread
from alexnet_jax.inference import predictions
from alexnet_jax.inference.activations import Activation
from alexnet_jax.inference.passes import Passes
from alexnet_jax.inference.predictions import Prediction, Predictions
from alexnet_jax.run import checkpoint, workdir


@dataclasses.dataclass(frozen=True, eq=False)
class Network(Passes):
    """A trained network and what it needs to look at images. `alexnet_jax.load` opens one.

    Attributes:
        config: the run's config.
        classes: label -> name.
        statistics: mean image and colours of the training set, on the host.
        params: {layer: {"kernel", "bias"}}, each leaf [tower, ...] float32.
        step: the number of training steps taken.
        path: the workdir or file that it was opened from.
    """

    classes: list[str]
    step: int
    path: Path

    @property
    def name(self) -> str:
        return self.path.resolve().name

    def predict(self, images: ImageInput | Sequence[ImageInput], views: int = 1) -> Prediction:
        """Classify images.

        Args:
            images: one image or a sequence of them: paths, PIL images, or arrays [H, W, 3] uint8 of any size. A
                folder stands for all files in it.
            views: 1 for the centre crop, 10 for the mean over the paper's ten views (section 4.1).

        Returns:
            The probabilities [N, classes] float32, with the names of the best classes.

        Raises:
            UserError: if an image cannot be read; the message names each.
        """
        log_probabilities = self.over_given(images, self.log_predict(views))
        return Prediction(np.exp(log_probabilities[:, : len(self.classes)]), self.classes)

    def features(self, images: ImageInput | Sequence[ImageInput], layer: str | None = None) -> np.ndarray:
        """The output of a layer for the centre crop of images, as vectors (paper 6.1).

        Args:
            images: as for `predict`.
            layer: conv1, ..., fc7; None is the last layer before fc8. Of a fully connected layer the units are taken
                after the activation, without dropout; of a convolutional one after all that follows it.

        Returns:
            [N, D] float32, both towers side by side.

        Raises:
            UserError: if an image cannot be read, or there is no such layer.
        """
        return self.over_given(images, self.features_step(layer))

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
        found = self.over_given([image], self.activations_step(kind))
        return {name: Activation(values[0]) for name, values in found.items()}

    def evaluate(
        self, data: str | Path | None = None, views: int = 1, split: str | None = None, max_bad: float | None = None
    ) -> dict[str, Any]:
        """Errors on a split, with their intervals.

        Args:
            data: the folder of prepared images; None is what the network was trained on.
            views: 1 for the centre crop, 10 for the paper's ten views (section 4.1).
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
    ) -> "Answers":
        """The network's predictions for each image of a split; arguments and errors as for `evaluate`.

        The answers of a workdir are kept there and used again, unless it was trained on or the data is other.
        """
        dataset = self.dataset(data)
        split = split or self.config.data.eval_split
        images = split_of(dataset, split, "--split")
        if split == self.config.data.train_split and self.config.data.train_examples:
            images = spread(images, self.config.data.train_examples)  # those that it was trained on
        kept, now = self.path / f"predictions-{split}-{views}.npz", (self.step, dataset.fingerprint)
        found = predictions.load(kept)
        if found is None or (found.step, found.data) != now or len(found.label) != len(images.labels):
            parts = self.over(images, self.log_predict(views), max_bad)
            columns = zip(*((part.result, part.label, part.example) for part in parts), strict=True)
            log_probabilities, label, example = map(np.concatenate, columns)
            found = Predictions(log_probabilities, label, example, *now)
            if self.path.is_dir():  # else it was opened from an exported file
                predictions.save(kept, found)
        return Answers(found, images, split, views)

    def dataset(self, data: str | Path | None = None) -> Dataset:
        """The data that it was trained on, from the folder `data` if given.

        Raises UserError if it is missing or has other classes.
        """
        return workdir.open_data(self.config, self.classes, data)


class Answers(NamedTuple):
    """A network's predictions for a split."""

    predictions: Predictions
    images: Images  # all of the split, the damaged too
    split: str
    views: int

    def score(self) -> dict[str, Any]:
        """As `Network.evaluate` returns."""
        left_out = len(self.images.labels) - len(self.predictions.label)
        about = {"views": self.views, "split": self.split, "step": self.predictions.step}
        return predictions.score(self.predictions) | about | ({"bad_records": left_out} if left_out else {})


def open_workdir(directory: Path) -> Network:
    """The network of the newest intact checkpoint in a workdir.

    Raises UserError if there is none, DataError if the workdir is damaged.
    """
    opened = workdir.open_finished(directory)
    mesh = sharding.make_mesh(1, 0, opened.config.model.towers)
    wanted = steps.abstract_state(opened.config, mesh).params
    step, params = checkpoint.restore_params(directory / workdir.CHECKPOINTS, wanted)
    return Network(opened.config, opened.statistics, params, opened.classes, step, directory)
