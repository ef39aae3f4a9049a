"""Measure the errors of a trained network: alexnet evaluate --workdir DIR [--views 1|5|10]

Writes DIR/evaluation.json: loss (nats), top1_error and top5_error (fractions) with their 95 % Wilson intervals, count,
views, split, step, and bad_records, the number of damaged images left out, if any. The predictions for all images are
kept in DIR/predictions-SPLIT-VIEWS.npz (4 bytes for each image and class) and used again.

--details also writes, to DIR or to the folder that it names, classes.csv, the errors of each class; confusion.csv,
which classes are taken for which; and mistakes.png, the worst mistakes.
--ensemble DIR DIR... averages the probabilities of several networks, as in Table 2 of the paper, and writes nothing
but the predictions of each.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from alexnet_jax.augment import VIEWS
from alexnet_jax.data.files import write_text
from alexnet_jax.errors import UserError, check_writable, keeping
from alexnet_jax.inference import confusion, network, predictions
from alexnet_jax.run import workdir

RUNS_OWN = object()  # `--details` without a folder


def add_arguments(parser: argparse.ArgumentParser) -> None:
    networks = parser.add_mutually_exclusive_group(required=True)
    networks.add_argument("--workdir", type=Path, help="folder of the run")
    networks.add_argument("--ensemble", type=Path, nargs="+", metavar="DIR", help="folders of several runs, to average")
    views = "crops of an image: the centre (default), the corners too, and the mirror images of these (paper 4.1)"
    parser.add_argument("--views", type=int, choices=VIEWS, default=1, help=views)
    parser.add_argument("--split", help="split of the data (default: the config's eval_split)")
    parser.add_argument("--max_bad", type=float, help="share of images that may be damaged (default: the config's)")
    parser.add_argument("--data", help="folder of the prepared data, if it has moved since training")
    details = "also write which classes are taken for which, to this folder (default: the run's)"
    parser.add_argument("--details", type=Path, nargs="?", const=RUNS_OWN, metavar="DIR", help=details)
    parser.add_argument(
        "--mistakes", type=int, default=24, metavar="N", help="images in --details' sheet (default: 24)"
    )
    tune = "with --ensemble: also use the weights that are best on these very images; no estimate for others"
    parser.add_argument("--tune_weights", action="store_true", help=tune)


def run(arguments: argparse.Namespace) -> None:
    if arguments.tune_weights and arguments.ensemble is None:
        raise UserError("--tune_weights needs --ensemble: a single network has no weights to tune")
    if arguments.details and arguments.ensemble is not None:
        raise UserError("--details describes a single network: give --workdir instead of --ensemble")
    if arguments.mistakes < 0:
        raise UserError(f"--mistakes {arguments.mistakes} is negative; give 0 or more")
    if arguments.max_bad is not None and not 0 <= arguments.max_bad <= 1:
        raise UserError(f"--max_bad {arguments.max_bad} is not a share; give a number from 0 to 1")
    (_evaluate_one if arguments.ensemble is None else _evaluate_ensemble)(arguments)


def _evaluate_one(arguments: argparse.Namespace) -> None:
    net = network.open_workdir(arguments.workdir)
    details = arguments.workdir if arguments.details is RUNS_OWN else arguments.details
    if details:
        details.mkdir(parents=True, exist_ok=True)
        check_writable(details, "give another folder, as --details DIR")
    answers = net.answers(arguments.data, arguments.views, arguments.split, arguments.max_bad)
    score = answers.score()
    with keeping(arguments.workdir / workdir.EVALUATION):
        write_text(arguments.workdir / workdir.EVALUATION, json.dumps(score, indent=2) + "\n")
    left_out = f", {score['bad_records']} left out as damaged" if "bad_records" in score else ""
    print(f"split {answers.split}, {answers.views} view(s), step {net.step}, {score['count']} images{left_out}")
    _print_score(score)
    if details:
        predicted, images, *_ = answers
        print(*confusion.write(details, predicted, net.classes, images, arguments.mistakes), sep="\n")
        print(f"wrote classes.csv, confusion.csv and mistakes.png in {details}")


def _evaluate_ensemble(arguments: argparse.Namespace) -> None:
    members, split = [], arguments.split
    for directory in arguments.ensemble:
        net = network.open_workdir(directory)
        answers = net.answers(arguments.data, arguments.views, split, arguments.max_bad)
        members.append(answers.predictions)
        split, score = answers.split, answers.score()
        low, high = score["top1_interval"]
        print(f"{directory}  top-1 error {score['top1_error']:.2%}  [{low:.2%}, {high:.2%}]", flush=True)
    print(f"the mean of {len(members)} networks: split {split}, {arguments.views} view(s)")
    _print_score(predictions.score(predictions.average(members)))
    if arguments.tune_weights:
        weights = predictions.tuned(members)
        listed = ", ".join(f"{weight:.2f}" for weight in weights)
        print(f"with the weights {listed}, TUNED on the split {split} itself:")
        _print_score(predictions.score(predictions.average(members, weights)))


def _print_score(score: dict[str, Any]) -> None:
    print(f"loss         {score['loss']:.4f}")
    for k in (1, 5):
        error, (low, high), count = score[f"top{k}_error"], score[f"top{k}_interval"], score["count"]
        counts = f"({round(error * count)} of {count}; {1 - error:.2%} right)"
        print(f"top-{k} error  {error:.2%}  [{low:.2%}, {high:.2%}]  {counts}")
