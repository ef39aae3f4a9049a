"""Reproduce the paper by training: alexnet reproduce [STUDY...] --data DIR [--scale small] [--budget HOURS]

A study trains its networks, each with several seeds, resumes where it was interrupted, and writes to OUTPUT/SCALE-DATA
its table (STUDY.md, STUDY.json), the result of each run (runs.json), and its figures.

    claims   the paper's claims with its numbers, those of the authors' logs of 2012, and ours
    ladder   from the paper to today's networks, one change after the other, and what else readers ask
    firsts   error and time of the configs that the documents start with
    map      which initial values, learning rates and numbers of classes let training start (see docs/stuck.md)

DIR is a folder that `alexnet prepare` wrote: CIFAR-10 for --scale small, ten classes of photos (--size 144) for --scale
photos, ImageNet or CIFAR-10 for --scale full. --scale smoke takes two steps of everything and judges nothing.
"""

import argparse
import importlib
import math
from pathlib import Path

from alexnet_jax import compiling
from alexnet_jax.errors import UserError
from alexnet_jax.paper.studies import arms, trials
from alexnet_jax.paper.studies.claim_rows import CLAIMS, WORTH

STUDIES = ("claims", "ladder", "firsts", "map")
NAMES = [claim.id for claim in CLAIMS]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("studies", nargs="*", default=["claims"], help=f"some of {', '.join(STUDIES)}, or all (default: claims)")
    add("--claims", default="all", help=f"some of {', '.join(NAMES)}, the first first (default: all, by worth)")
    add("--data", default="", help="folder of prepared images (default, with --scale smoke: embedded digits)")
    add("--seeds", type=int, help="runs of each network (default: 3; with --scale smoke: 1)")
    scales = sorted(arms.SCALES)
    add("--scale", choices=scales, default="small", help="size of the networks and runs (default: small)")
    add("--output", type=Path, default=Path("runs/reproduce"), help="folder for runs and tables (default: %(default)s)")
    add("--jobs", type=int, default=1, help="runs at a time; they share out the cores (default: 1)")
    hours = "hours of cores (of devices on GPUs and TPUs) after which no run is started (default: no limit)"
    add("--budget", type=float, default=math.inf, help=hours)


def run(arguments: argparse.Namespace) -> None:
    claims = WORTH if arguments.claims == "all" else tuple(arguments.claims.split(","))
    _require_known("claim", claims, NAMES)
    _require_known("study", arguments.studies, ["all", *STUDIES])
    smoke = arguments.scale == "smoke"
    seeds = (1 if smoke else 3) if arguments.seeds is None else arguments.seeds
    if seeds < (1 if smoke else 2):
        raise UserError("--seeds must be 2 or more: claims are judged by an interval over the seeds")
    if not arguments.budget >= 0:
        raise UserError("--budget must be 0 or more hours")
    if arguments.jobs < 1:
        raise UserError("--jobs must be 1 or more")
    if not arguments.data and not smoke:
        raise UserError("give --data DIR, a folder that `alexnet prepare` wrote (CIFAR-10 for --scale small)")
    data = Path(arguments.data).absolute() if arguments.data else None
    directory = arguments.output / f"{arguments.scale}-{data.name if data else 'digits'}"
    setting = arms.Setting(arguments.scale, str(data or ""), directory, seeds, claims)
    names = list(STUDIES if "all" in arguments.studies else arguments.studies)
    if "map" in names and (problem := arms.obstacle(setting, arms.Arm("start"))):
        if "all" not in arguments.studies:
            raise UserError(f"the map cannot be drawn: {problem}")
        names.remove("map")
        print(f"without the map: {problem}", flush=True)
    studies = {name: importlib.import_module(f"alexnet_jax.paper.studies.{name}") for name in names}
    plans = [study.plan for name, study in studies.items() if name != "map"]
    if smoke:
        compiling.quickly()
    used = trials.carry_out(
        lambda results: [trial for plan in plans for trial in plan(setting, results)],
        directory,
        arguments.jobs,
        arguments.budget,
        briefly=smoke,
    )
    for name, study in studies.items():
        drawn = name == "map"  # its runs take seconds: they are no trials, with a process and a folder each
        table, files = study.draw(setting, arguments.jobs, arguments.budget - used) if drawn else study.tables(setting)
        print(f"\n{table}\nwrote {', '.join(map(str, files))}", flush=True)


def _require_known(kind: str, names: list[str] | tuple[str, ...], known: list[str]) -> None:
    for name in names:
        if name not in known:
            raise UserError(f"there is no {kind} {name!r}; give some of {', '.join(known)}")
