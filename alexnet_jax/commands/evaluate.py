"""Errors of trained networks: alexnet evaluate --workdir DIR [--views 1|10]

Writes to DIR/evaluation.json: loss (nats), top1_error and top5_error (fractions) with their intervals (bootstrap over
the images, 95 %), count, views, split, step, and bad_records, how many images were left out as damaged, if any. What
the network said of each image stays in DIR/predictions-SPLIT-VIEWS.npz (4 bytes an image and class).

--details writes classes.csv, confusion.csv and mistakes.png there too; see confusion.py.
--ensemble A B C averages the probabilities of several workdirs, as the paper's Table 2 has it.
"""

import argparse
import json
from pathlib import Path

from alexnet_jax import sharding, steps
from alexnet_jax.data.datasets import split_of
from alexnet_jax.data.manifest import write_text
from alexnet_jax.data.records import Images, Some
from alexnet_jax.errors import UserError
from alexnet_jax.inference import confusion, predictions
from alexnet_jax.inference.predictions import Predictions
from alexnet_jax.run import checkpoint, config_files, workdir

RESULT = "evaluation.json"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--workdir", type=Path, help="folder of a run of alexnet_jax.main")
    which.add_argument("--ensemble", type=Path, nargs="+", metavar="DIR", help="several of them, averaged")
    parser.add_argument("--views", type=int, choices=(1, 10), default=1, help="centre crop, or the paper's ten views")
    parser.add_argument("--split", help="of the data (default: the config's eval_split)")
    parser.add_argument("--max_bad", type=float, help="share of records that may be bad (default: the config's)")
    parser.add_argument("--data", help="folder of the prepared data, if it has moved since training")
    parser.add_argument("--details", action="store_true", help="also which classes are taken for which; see above")
    parser.add_argument("--mistakes", type=int, default=24, metavar="N", help="pictures in mistakes.png (default: 24)")
    parser.add_argument(
        "--tune_weights",
        action="store_true",
        help="of --ensemble: also the weights that are best on these images, which tells nothing of others",
    )


def run(arguments: argparse.Namespace) -> None:
    if arguments.tune_weights and arguments.ensemble is None:
        raise UserError("--tune_weights is of --ensemble: one network has nothing to weigh")
    if arguments.details and arguments.ensemble is not None:
        raise UserError("--details is of one network: give --workdir")
    if arguments.mistakes < 0:
        raise UserError(f"--mistakes {arguments.mistakes} is less than none")
    if arguments.ensemble is None:
        mistakes = arguments.mistakes if arguments.details else None
        evaluate(arguments.workdir, arguments.views, arguments.split, arguments.data, arguments.max_bad, mistakes)
        return
    several, split = [], arguments.split
    for directory in arguments.ensemble:
        found, split, _, _ = predicted(directory, arguments.views, split, arguments.data, arguments.max_bad)
        several.append(found)
        score = predictions.score(found)
        low, high = score["top1_interval"]
        print(f"{directory}  top-1 error {score['top1_error']:.2%}  [{low:.2%}, {high:.2%}]", flush=True)
    print(f"the mean of {len(several)} networks: split {split}, {arguments.views} view(s)")
    _tell(predictions.score(predictions.average(several)))
    if arguments.tune_weights:
        weights = predictions.tuned(several)
        print(
            f"with the weights {', '.join(f'{weight:.2f}' for weight in weights)}, TUNED on the split {split} itself:"
        )
        _tell(predictions.score(predictions.average(several, weights)))


def evaluate(
    directory: Path,
    views: int,
    split: str | None = None,
    data: str | None = None,
    max_bad: float | None = None,
    mistakes: int | None = None,
) -> dict:
    """Tells the errors of the network of a workdir, writes them to RESULT there, and returns them.

    With a number of `mistakes` to show, also which classes are taken for which."""
    found, split, left_out, images = predicted(directory, views, split, data, max_bad)
    result = predictions.score(found)
    result |= {"views": views, "split": split, "step": found.step}
    result |= {"bad_records": left_out} if left_out else {}
    write_text(directory / RESULT, json.dumps(result, indent=2) + "\n")
    more = f", {left_out} left out as damaged" if left_out else ""
    print(f"split {split}, {views} view(s), step {found.step}, {result['count']} images{more}")
    _tell(result)
    if mistakes is not None:
        classes = workdir.open_finished(directory).classes
        print("\n".join(confusion.write(directory, found, classes, images, mistakes)))
        print(f"wrote classes.csv, confusion.csv and mistakes.png in {directory}")
    return result


def predicted(
    directory: Path, views: int, split: str | None, data: str | None, max_bad: float | None
) -> tuple[Predictions, str, int, Images]:
    """What the network of a workdir says of a split, the split's name, how many images are missing, and all of them.

    It is asked again only if it has been trained on since, or the data is another."""
    finished = workdir.open_finished(directory)
    config = finished.config
    if max_bad is not None:
        values = config.model_dump(mode="json")
        values["data"]["max_bad"] = max_bad
        config = config_files.from_json(json.dumps(values))
    dataset = workdir.open_data(finished, data)
    split = split or config.data.eval_split
    images: Images = split_of(dataset, split, "--split")
    if split == config.data.train_split and config.data.train_examples:
        images = Some(images, config.data.train_examples)  # those it was trained on
    mesh = sharding.make_mesh(1, 0, config.model.towers)
    step, params = checkpoint.restore_params(directory / workdir.CHECKPOINTS, steps.abstract_state(config, mesh).params)
    path = directory / f"predictions-{split}-{views}.npz"
    known = predictions.load(path)
    if known and (known.step, known.data) == (step, dataset.fingerprint) and len(known.label) == len(images.labels):
        return known, split, 0, images
    statistics = sharding.put(finished.statistics, mesh, sharding.REPLICATED)
    found = predictions.collect(config, mesh, params, statistics, images, views, step, dataset.fingerprint)
    predictions.save(path, found)
    return found, split, len(images.labels) - len(found.label), images


def _tell(result: dict) -> None:
    print(f"loss         {result['loss']:.4f}")
    for name in ("top1", "top5"):
        error, (low, high) = result[f"{name}_error"], result[f"{name}_interval"]
        wrong = round(error * result["count"])
        print(
            f"{name[:-1]}-{name[-1]} error  {error:.2%}  [{low:.2%}, {high:.2%}]  "
            f"({wrong} of {result['count']}; {1 - error:.2%} right)"
        )
