"""What the paper claims, a row each, and when a claim counts as borne out.

A claim that needs training names its arms: networks that are trained alike but for what the claim is about, each with
several seeds. What is judged is never a point but a 95 % confidence interval over the seeds (Welch's t).
"""

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from scipy import stats

SEVERAL = 2.0
AS_GOOD = 0.5  # points that an error may be above the paper's


class Arm(NamedTuple):
    """A network that is trained: a base config, as `reproduce.SCALES` has it, and the variants put on it."""

    base: Literal["network", "figure1", "four_layer"]
    variants: tuple[str, ...]  # files of configs/variants, `name` or `name:argument`


ARMS = {
    "paper": Arm("network", ()),
    "code2012": Arm("network", ("code2012",)),
    "one_gpu": Arm("network", ("one_gpu",)),
    "no_lrn": Arm("network", ("no_lrn",)),
    "non_overlapping_pooling": Arm("network", ("non_overlapping_pooling",)),
    "no_links": Arm("network", ("no_links",)),
    "no_colour_noise": Arm("network", ("no_colour_noise",)),
    "no_dropout": Arm("network", ("no_dropout",)),
    "without_conv3": Arm("network", ("without:conv3",)),
    "without_conv4": Arm("network", ("without:conv4",)),
    "relu": Arm("figure1", ()),
    "tanh": Arm("figure1", ("tanh",)),
    "four_layer": Arm("four_layer", ()),
    "four_layer_lrn": Arm("four_layer", ("cifar_lrn",)),
}

# error: top-1, ten views, points: the second arm's less the first's. views: centre view's less ten views'. steps: to
# 25 % training error, the second arm's by the first's, each arm with its own best learning rate. overfitting: test less
# training error, both of the centre view without dropout, points, the second arm's less the first's. absolute: the
# paper's number, on ImageNet only. fact: computed from the config. none: not to be tested here.
Measure = Literal["error", "views", "steps", "overfitting", "absolute", "fact", "none"]


class Claim(NamedTuple):
    id: str
    section: str
    words: str  # ours
    paper: str
    log: str  # what the authors' logs of 2012 say; "-": nothing
    measure: Measure
    arms: tuple[str, ...] = ()
    why: str = ""  # of "none"
    smallest: float = 0.0  # of "error": points that the claim says at the least


CLAIMS = [
    Claim("parameters", "1", "60 million parameters", "60 million", "-", "fact"),
    Claim("neurons", "1", "650,000 neurons", "650,000", "-", "fact"),
    Claim("conv_share", "1", "each conv layer has no more than 1 % of the parameters", "<= 1 %", "-", "fact"),
    Claim("crops", "4.1", "crops and flips make the training set 2048 times larger", "2048", "2178 (its code)", "fact"),
    Claim("relu", "3.1", "several times fewer steps than tanh to 25 % error in training", "6x", "-", "steps",
        ("relu", "tanh"),
    ),
    Claim("two_gpus", "3.2", "less error than one GPU, half the kernels", "1.7", "1.70", "error", ("paper", "one_gpu")),
    Claim("links", "-", "(logs only) less error than towers that meet in fc8 only", "-", "1.16", "error",
        ("paper", "no_links"),
    ),
    Claim("lrn", "3.3", "local response normalization reduces the error", "1.4", "1.37", "error", ("paper", "no_lrn")),
    Claim(
        "lrn_cifar", "3.3", "and that of a four-layer network on CIFAR-10", "2 (13 -> 11 %)", "-", "error",
        ("four_layer_lrn", "four_layer"),
    ),
    Claim(
        "pooling", "3.4", "overlapping pooling reduces the error", "0.4", "0.39", "error",
        ("paper", "non_overlapping_pooling"),
    ),
    Claim("colour_noise", "4.1", "colour noise reduces the error", "> 1", "-", "error", ("paper", "no_colour_noise"),
        smallest=1.0,
    ),
    Claim(
        "dropout", "4.2", "without dropout the network overfits substantially", "-", "-", "overfitting",
        ("paper", "no_dropout"),
    ),
    Claim("ten_views", "6", "ten views have less error than the centre view", "1.5", "1.55", "views", ("paper",)),
    Claim("middle_conv3", "7", "without conv3 the error is larger", "2", "-", "error", ("paper", "without_conv3")),
    Claim("middle_conv4", "7", "without conv4 the error is larger", "2", "-", "error", ("paper", "without_conv4")),
    Claim("ilsvrc2012", "6, Table 2", "one network, top-1", "40.7 %", "40.664 %", "absolute", ("code2012",)),
    Claim("ilsvrc2010", "6, Table 1", "test, top-1", "37.5 %", "37.473 %", "none",
        why="prepare --source imagenet2010, configs/code2012.py, `evaluate --views 10 --split test`",
    ),
    Claim("centre_view", "6", "the same, centre view alone", "39.0 %", "38.990 %", "none",
        why="as ilsvrc2010, without --views 10",
    ),
    Claim(
        "ensemble", "6, Table 2", "five networks, validation, top-1", "38.1 %", "-", "none",
        why="train five and give them to `evaluate --ensemble`",
    ),
    Claim("seven", "6, Table 2", "seven networks, two of them pre-trained, validation, top-1", "36.7 %", "-", "none",
        why="train them and give them to `evaluate --ensemble`",
    ),
    Claim(
        "pretraining", "6, Table 2", "pre-trained on all of ImageNet, top-1", "39.0 %", "38.990 %", "none",
        why="needs the Fall 2011 release: configs/variants/six_conv.py, then from_pretrained.py",
    ),
    Claim(
        "fall2009", "6", "10,184 classes, top-1", "67.4 %", "-", "none",
        why="needs the Fall 2009 release: prepare --source imagenet_full, configs/variants/six_conv.py",
    ),
    Claim("dropout_steps", "4.2", "dropout doubles the iterations to converge", "2x", "-", "none",
        why="runs of this length do not converge",
    ),
    Claim("specialization", "6.1", "one tower's kernels of conv1 learn colours, the other's do not", "every run", "-",
        "none", why="`report` draws them, with the probability of so large a difference by chance",
    ),
    Claim(
        "time", "5", "five to six days on two GTX 580", "5-6 days", "-", "none", why="no such cards; see the benchmarks"
    ),
]  # fmt: skip

Verdict = Literal["borne out", "inconclusive", "contradicted", "not run"]


class Outcome(NamedTuple):
    ours: str
    verdict: Verdict


def interval(values: Sequence[float], others: Sequence[float]) -> tuple[float, float, float]:
    """Mean of `others` less that of `values`, and its 95 % confidence interval (Welch's t)."""
    if np.ptp(values) == np.ptp(others) == 0:  # Welch's t knows no answer; nothing was seen to vary
        return (float(others[0] - values[0]),) * 3
    test = stats.ttest_ind(others, values, equal_var=False)
    low, high = test.confidence_interval(0.95)
    return float(np.mean(others) - np.mean(values)), float(low), float(high)


def judged(low: float, high: float, nothing: float) -> Verdict:
    """Of an effect that is claimed to be larger than `nothing`."""
    return "borne out" if low > nothing else "contradicted" if high < nothing else "inconclusive"


def of_difference(better: Sequence[float], worse: Sequence[float], smallest: float = 0.0) -> Outcome:
    """Of errors in percent, a number a seed: is `worse` larger by more than `smallest`?"""
    mean, low, high = interval(better, worse)
    return Outcome(
        f"{mean:+.1f} points [{low:+.1f}, {high:+.1f}] ({np.mean(better):.1f} and {np.mean(worse):.1f} %)",
        judged(low, high, smallest),
    )


def of_ratio(fast: Sequence[float], slow: Sequence[float]) -> Outcome:
    """Of steps, a number a seed: does `slow` take more than SEVERAL times as many? Compared by their logarithms."""
    mean, low, high = (math.exp(x) for x in interval(np.log(fast).tolist(), np.log(slow).tolist()))
    return Outcome(
        f"{mean:.1f}x [{low:.1f}, {high:.1f}] ({np.mean(fast):,.0f} and {np.mean(slow):,.0f} steps)",
        judged(low, high, SEVERAL),
    )


def of_pairs(differences: Sequence[float]) -> Outcome:
    """Of differences within each run, points: are they positive? (Student's t)"""
    mean = float(np.mean(differences))
    low, high = stats.ttest_1samp(differences, 0).confidence_interval(0.95)
    return Outcome(f"{mean:+.1f} points [{low:+.1f}, {high:+.1f}]", judged(low, high, 0.0))


def of_absolute(errors: Sequence[float], paper: float) -> Outcome:
    """Of errors in percent, a number a seed: are they the paper's, or less, but for AS_GOOD?"""
    low, high = stats.ttest_1samp(errors, 0).confidence_interval(0.95)
    limit = paper + AS_GOOD
    verdict: Verdict = "borne out" if high <= limit else "contradicted" if low > limit else "inconclusive"
    return Outcome(f"{np.mean(errors):.1f} % [{low:.1f}, {high:.1f}]", verdict)
