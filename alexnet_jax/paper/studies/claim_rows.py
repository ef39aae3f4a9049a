"""The paper's claims, one row each.

A claim that needs training names its arms: networks whose training differs only in the subject of the claim, each with
several seeds.
"""

from typing import Literal, NamedTuple

from alexnet_jax.paper.studies.arms import Arm

ARMS = {
    "paper": Arm("network"),
    **{name: Arm("network", (name,)) for name in ("code2012", "one_gpu", "no_lrn", "non_overlapping_pooling")},
    **{name: Arm("network", (name,)) for name in ("no_links", "no_colour_noise", "no_dropout")},
    **{f"without_{name}": Arm("network", (f"without={name}",)) for name in ("conv2", "conv3", "conv5")},
    "relu": Arm("figure1"),
    "tanh": Arm("figure1", ("tanh",)),
    "four_layer": Arm("four_layer"),
    "four_layer_lrn": Arm("four_layer_lrn"),
}

# What a claim is judged by.
# error: the second arm's top-1 error with ten views minus the first arm's, in points.
# views: the error with the centre view minus that with ten views, in points.
# steps: the steps to 25 % training error, second arm / first arm, each arm at its own best learning rate.
# overfitting: test error minus training error (centre view, no dropout), second arm minus first arm, in points.
# colours: the difference between the towers' shares of colour in conv1, beyond that of kernels assigned at random.
# absolute: the error itself, on ImageNet only. fact: computed from the config. none: not tested here.
Measure = Literal["error", "views", "steps", "overfitting", "colours", "absolute", "fact", "none"]


class Claim(NamedTuple):
    id: str
    section: str
    words: str  # in our words
    paper: str  # the paper's number
    log: str  # the number in the authors' logs of 2012; "-": none
    measure: Measure
    arms: tuple[str, ...] = ()
    why: str = ""  # measure "none": why it is not tested
    smallest: float = 0.0  # measure "error": the difference that must be exceeded, points


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
    Claim("lrn_cifar", "3.3", "and that of a four-layer network on CIFAR-10", "2 (13 -> 11 %)", "-", "error",
        ("four_layer_lrn", "four_layer"),
    ),
    Claim("pooling", "3.4", "overlapping pooling reduces the error", "0.4", "0.39", "error",
        ("paper", "non_overlapping_pooling"),
    ),
    Claim("colour_noise", "4.1", "colour noise reduces the error", "> 1", "-", "error", ("paper", "no_colour_noise"),
        smallest=1.0,
    ),
    Claim("dropout", "4.2", "without dropout the network overfits substantially", "-", "-", "overfitting",
        ("paper", "no_dropout"),
    ),
    Claim("ten_views", "6", "ten views have less error than the centre view", "1.5", "1.55", "views", ("paper",)),
    Claim("middle_conv2", "7", "without conv2 the error is larger", "2", "-", "error", ("paper", "without_conv2")),
    Claim("middle_conv3", "7", "without conv3, or conv4, which leaves the same layers, the error is larger", "2", "-",
        "error", ("paper", "without_conv3"),
    ),
    Claim("middle_conv5", "7", "without conv5 the error is larger", "2", "-", "error", ("paper", "without_conv5")),
    Claim("ilsvrc2012", "6, Table 2", "one network, top-1", "40.7 %", "40.664 %", "absolute", ("code2012",)),
    Claim("ilsvrc2010", "6, Table 1", "test, top-1", "37.5 %", "37.473 %", "none",
        why="prepare --source imagenet2010, --config code2012, `evaluate --views 10 --split test`",
    ),
    Claim("centre_view", "6", "the same, centre view alone", "39.0 %", "38.990 %", "none",
        why="as ilsvrc2010, without --views 10",
    ),
    Claim("ensemble", "6, Table 2", "five networks, validation, top-1", "38.1 %", "-", "none",
        why="train five and give them to `evaluate --ensemble`",
    ),
    Claim("seven", "6, Table 2", "seven networks, two of them pre-trained, validation, top-1", "36.7 %", "-", "none",
        why="train them and give them to `evaluate --ensemble`",
    ),
    Claim("pretraining", "6, Table 2", "pre-trained on all of ImageNet, top-1", "39.0 %", "38.990 %", "none",
        why="needs the Fall 2011 release: --config variants:six_conv, then variants:from_pretrained",
    ),
    Claim("fall2009", "6", "10,184 classes, top-1", "67.4 %", "-", "none",
        why="needs the Fall 2009 release: prepare --source imagenet_full, --config variants:six_conv",
    ),
    Claim("dropout_steps", "4.2", "dropout doubles the iterations to converge", "2x", "-", "none",
        why="runs of this length do not converge",
    ),
    Claim("specialization", "6.1", "one tower's kernels of conv1 learn colours, the other's do not", "every run", "-",
        "colours", ("paper",),
    ),
    Claim("time", "5", "five to six days on two GTX 580", "5-6 days", "-", "none",
        why="no such cards; see the benchmarks",
    ),
]  # fmt: skip

# Those that need training, in the order in which a budget is best spent: what tells most about the paper for an hour.
WORTH = (
    *(
        "relu",
        "lrn_cifar",
        "ilsvrc2012",
        "ten_views",
        "specialization",
        "two_gpus",
        "lrn",
        "pooling",
        "dropout",
        "links",
    ),
    *("middle_conv3", "colour_noise", "middle_conv5", "middle_conv2"),
)
