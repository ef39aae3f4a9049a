"""The paper's claims, tested: alexnet reproduce --data DIR [--claims relu,lrn] [--scale small]

Trains what the claims need (claims share runs), goes on where it was stopped, and writes to OUTPUT/SCALE the table of
paper, the authors' log of 2012, and ours (claims.md, claims.json), what each run gave (runs.json), and Figure 1. DIR is
what `prepare` wrote: CIFAR-10 for the scale `small`, ImageNet or CIFAR-10 for `full`. `smoke` takes two steps of
everything and judges nothing.
"""

import argparse
import json
from pathlib import Path

from alexnet_jax.data import manifest
from alexnet_jax.data.sources.imagenet import EDITIONS
from alexnet_jax.errors import Interrupted, UserError
from alexnet_jax.paper import claims, curves, experiments, facts
from alexnet_jax.paper.claims import CLAIMS, Claim, Outcome
from alexnet_jax.paper.experiments import Run
from alexnet_jax.run import config_files

ROUNDING = 0.02  # how far a number may be from the round one in the paper


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--claims", default="all", help=f"some of {', '.join(claim.id for claim in CLAIMS)}; default: all")
    add("--data", default="", help="folder of prepared images (default, for --scale smoke: embedded digits)")
    add("--seeds", type=int, default=3, help="runs of each network (default 3)")
    add(
        "--scale", choices=sorted(experiments.SCALES), default="small", help="size of networks and runs (default small)"
    )
    add(
        "--output", type=Path, default=Path("runs/reproduce"), help="folder for runs and table (default runs/reproduce)"
    )
    add("--jobs", type=int, default=1, help="runs at a time; they share the cores (default 1)")


def run(arguments: argparse.Namespace) -> None:
    known = {claim.id: claim for claim in CLAIMS}
    asked = list(known) if arguments.claims == "all" else arguments.claims.split(",")
    for name in asked:
        if name not in known:
            raise UserError(f"there is no claim {name!r}; give some of {', '.join(known)}")
    if arguments.seeds < 2:
        raise UserError("--seeds must be 2 or more: an interval over seeds is what judges a claim")
    if not arguments.data and arguments.scale != "smoke":
        raise UserError("give --data DIR, what `alexnet prepare` wrote (CIFAR-10 for --scale small)")
    directory = arguments.output / arguments.scale
    asked += [name for name in _judged_before(directory) if name in known and name not in asked]
    reasons = {claim.id: _why_not(claim, arguments) if claim.id in asked else claim.why for claim in CLAIMS}
    tested = [known[name] for name in asked if not reasons[name] and known[name].arms]
    data = str(Path(arguments.data).absolute()) if arguments.data else ""

    def carry_out(wanted: list[Run]) -> None:
        experiments.carry_out(wanted, arguments.scale, data, directory, arguments.jobs)

    try:
        timed = [arm for claim in tested if claim.measure == "steps" for arm in claim.arms]
        seeds = range(arguments.seeds)
        others = [arm for claim in tested if claim.measure != "steps" for arm in claim.arms]
        grid = [Run(arm, 0, rate) for arm in timed for rate in experiments.RATES[arm]]
        carry_out(grid)
        chosen = {arm: _best_rate(arm, directory) for arm in timed}
        wanted = {arm: [Run(arm, seed, rate) for seed in seeds] for arm, rate in chosen.items()}
        wanted |= {arm: [Run(arm, seed, None) for seed in seeds] for arm in others}
        runs = list(dict.fromkeys([*grid, *(each for of in wanted.values() for each in of)]))
        carry_out(runs)
    except (KeyboardInterrupt, Interrupted):
        raise Interrupted(f"what was trained stays in {directory}; give the same command again to go on") from None
    judge = arguments.scale != "smoke"
    rows = [
        (
            claim,
            _outcome(claim, wanted, directory) if claim in tested and judge else _untested(claim, reasons[claim.id]),
        )
        for claim in CLAIMS
    ]
    directory.mkdir(parents=True, exist_ok=True)
    _write_table(rows, tested, arguments, directory)
    _write_runs(runs, directory)
    _draw([each for arm in dict.fromkeys(timed) for each in wanted[arm]], directory)


def _judged_before(directory: Path) -> list[str]:
    """Claims whose runs earlier calls have made: the table keeps them."""
    table = directory / "claims.json"
    rows = json.loads(table.read_text()) if table.exists() else []
    return [row["id"] for row in rows if row["arms"] and row["verdict"] != "not run"]


def _why_not(claim: Claim, arguments: argparse.Namespace) -> str:
    """Why the claim cannot be tested on this data at this scale; "" if it can."""
    if not claim.arms or not arguments.data:
        return claim.why
    prepared = manifest.read(Path(arguments.data))
    data, train = experiments.base_data(claim.arms[0], arguments.scale), prepared.splits.get("train")
    if data.size != prepared.size or train is None:
        return f"needs a split train of images of {data.size}x{data.size}"
    if train.count < data.train_examples:
        return f"needs {data.train_examples} training images"
    whole = EDITIONS["imagenet2012"].images["train"]
    if claim.measure == "absolute" and (arguments.scale != "full" or train.count + len(train.skipped) != whole):
        return "needs ImageNet 2012 and --scale full"
    return ""


def _best_rate(arm: str, directory: Path) -> float:
    """Of the arm's grid, the one whose run with seed 0 needed the fewest steps."""
    return min(experiments.RATES[arm], key=lambda rate: _steps(arm, rate, directory) or float("inf"))


def _steps(arm: str, rate: float | None, directory: Path) -> int | None:
    """What the run with seed 0 needed; None if it did not get there, or was not run."""
    return (experiments.result(directory, Run(arm, 0, rate)) or {}).get("steps")


def _untested(claim: Claim, why: str) -> Outcome:
    return _fact(claim) if claim.measure == "fact" else Outcome(why, "not run")


def _outcome(claim: Claim, wanted: dict[str, list[Run]], directory: Path) -> Outcome:
    found = [[experiments.result(directory, each) or {} for each in wanted[arm]] for arm in claim.arms]
    if any(result.get("diverged") for of in found for result in of):
        return Outcome("a run diverged", "inconclusive")
    if claim.measure == "steps":
        steps = [[result["steps"] for result in of] for of in found]
        if not all(all(of) for of in steps):
            return Outcome("25 % was not reached", "inconclusive")
        return _of_steps(claim, steps, wanted, directory)
    errors_: list[list[float]] = [[100 * result["views10"]["top1_error"] for result in of] for of in found]
    if claim.measure == "views":
        return claims.of_pairs([100 * r["views1"]["top1_error"] - e for r, e in zip(found[0], errors_[0], strict=True)])
    if claim.measure == "absolute":
        return claims.of_absolute(errors_[0], float(claim.paper.rstrip(" %")))
    if claim.measure == "overfitting":
        errors_ = [[100 * (r["views1"]["top1_error"] - r["train_error"]) for r in of] for of in found]
    return claims.of_difference(errors_[0], errors_[1], claim.smallest)


def _of_steps(claim: Claim, steps: list[list[int]], wanted: dict[str, list[Run]], directory: Path) -> Outcome:
    """Each arm with its own best rate; and, for comparison, both with that of the first."""
    best, other = (wanted[arm][0].rate for arm in claim.arms)
    outcome = claims.of_ratio(*steps)
    ours = f"{outcome.ours[:-1]}, learning rates {best:g} and {other:g}"
    one = [_steps(arm, best, directory) for arm in claim.arms]
    both = f"; both at {best:g}: {one[1] / one[0]:.1f}x" if one[0] and one[1] else ""
    return outcome._replace(ours=f"{ours}{both})")


def _fact(claim: Claim) -> Outcome:
    """Computed from the paper's own config, whatever the scale."""
    config = config_files.parse(config_files.load("configs/paper.py"))
    layers = facts.layers(config)
    parameters = sum(layer.parameters for layer in layers)
    if claim.id == "conv_share":
        name, share = max((layer.parameters / parameters, layer.name) for layer in layers if "conv" in layer.name)[::-1]
        return Outcome(f"{name} {share:.2%}", "borne out" if share <= 0.01 else "contradicted")
    ours, paper = {
        "parameters": (parameters, 60e6),
        "neurons": (sum(layer.neurons for layer in layers), 650e3),
        "crops": (facts.crops(config), 2048),
    }[claim.id]
    return Outcome(f"{ours:,}", "borne out" if abs(ours / paper - 1) < ROUNDING else "contradicted")


def _write_table(
    rows: list[tuple[Claim, Outcome]], tested: list[Claim], arguments: argparse.Namespace, directory: Path
) -> None:
    lines = [
        f"Scale {arguments.scale}, {arguments.seeds} seeds: `alexnet reproduce --scale {arguments.scale} "
        f"--seeds {arguments.seeds} --claims {','.join(claim.id for claim in tested)} --data DATA`.",
        "",
        f"Intervals: 95 %, over seeds. Borne out: all of it beyond 0 points (colour_noise 1, relu {claims.SEVERAL:g}x);"
        f" contradicted: none. A fact may be {ROUNDING:.0%} off, an error {claims.AS_GOOD} points above.",
        "",
        "| claim | section | the paper says | paper | 2012 log | ours | verdict | trained on |",
        "|---|---|---|---|---|---|---|---|",
    ]
    described = []
    for claim, outcome in rows:
        data = _data(claim, arguments) if claim.arms and outcome.verdict != "not run" else "-"
        cells = (claim.id, claim.section, claim.words, claim.paper, claim.log, outcome.ours, outcome.verdict, data)
        lines.append(f"| {' | '.join(cells)} |")
        described.append({**claim._asdict(), **outcome._asdict(), "scale": arguments.scale, "data": data})
    table = "\n".join(lines) + "\n"
    manifest.write_text(directory / "claims.md", table)
    manifest.write_text(directory / "claims.json", json.dumps(described, indent=2) + "\n")
    print(f"\n{table}\nwrote {directory / 'claims.md'} and claims.json")


def _data(claim: Claim, arguments: argparse.Namespace) -> str:
    """What the networks of a claim were trained on."""
    text = experiments.config_json(Run(claim.arms[0], 0, None), arguments.scale, arguments.data)
    config = config_files.from_json(text)
    data, model = config.data, config.model
    sizes = [conv.features for _, conv in model.convs()] + [dense.features for _, dense in model.hidden()]
    widths = "-".join(map(str, sizes))
    count = f"{data.train_examples:,}" if data.train_examples else "all"
    return f"{Path(arguments.data).name or data.source}, {count} images; widths {widths}, {config.train.epochs} epochs"


def _write_runs(runs: list[Run], directory: Path) -> None:
    """A line a run: its errors, and its training error by steps."""
    lines = []
    for run in runs:
        curve = [[line["step"], line["top1_error"]] for line in experiments.training_log(directory, run)]
        lines.append(json.dumps({"run": run.name, **(experiments.result(directory, run) or {}), "training": curve}))
    manifest.write_text(directory / "runs.json", "[\n" + ",\n".join(lines) + "\n]\n")


def _draw(runs: list[Run], directory: Path) -> None:
    figure = curves.training_error({run.name: experiments.training_log(directory, run) for run in runs})
    if figure is not None:
        figure.savefig(directory / "figure1.svg", metadata={"Date": None})
        print(f"wrote {directory / 'figure1.svg'}")
