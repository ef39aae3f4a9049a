"""Test the paper's claims: alexnet reproduce --data DIR [--claims relu,lrn] [--scale small]

Trains the networks that the claims need (claims share runs), resumes where it was interrupted, and writes to
OUTPUT/SCALE the claims with the paper's numbers, those of the authors' logs of 2012 and ours (claims.md, claims.json),
the result of each run (runs.json), and Figure 1. DIR is a folder that `alexnet prepare` wrote: CIFAR-10 for
--scale small, ImageNet or CIFAR-10 for --scale full. --scale smoke takes two steps of everything and judges nothing.
"""

import argparse
from pathlib import Path

from alexnet_jax.errors import Interrupted, UserError
from alexnet_jax.paper import experiments, reproduction
from alexnet_jax.paper.claims import CLAIMS

NAMES = [claim.id for claim in CLAIMS]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--claims", default="all", help=f"some of {', '.join(NAMES)} (default: all)")
    add("--data", default="", help="folder of prepared images (default, with --scale smoke: embedded digits)")
    add("--seeds", type=int, default=3, help="runs of each network (default: 3)")
    scales = sorted(experiments.SCALES)
    add("--scale", choices=scales, default="small", help="size of the networks and runs (default: small)")
    add("--output", type=Path, default=Path("runs/reproduce"), help="folder for runs and tables (default: %(default)s)")
    add("--jobs", type=int, default=1, help="runs at a time; they share the cores (default: 1)")


def run(arguments: argparse.Namespace) -> None:
    names = NAMES if arguments.claims == "all" else arguments.claims.split(",")
    for name in names:
        if name not in NAMES:
            raise UserError(f"there is no claim {name!r}; give some of {', '.join(NAMES)}")
    if arguments.seeds < 2:
        raise UserError("--seeds must be 2 or more: claims are judged by an interval over the seeds")
    if not arguments.data and arguments.scale != "smoke":
        raise UserError("give --data DIR, a folder that `alexnet prepare` wrote (CIFAR-10 for --scale small)")
    data = str(Path(arguments.data).absolute()) if arguments.data else ""
    directory = arguments.output / arguments.scale
    study = experiments.Study(arguments.scale, data, directory, arguments.seeds, arguments.jobs)
    try:
        table, files = reproduction.reproduce(study, names)
    except (KeyboardInterrupt, Interrupted):
        raise Interrupted(f"finished runs are kept in {directory}; repeat the command to continue") from None
    print(f"\n{table}\nwrote {', '.join(map(str, files))}")
