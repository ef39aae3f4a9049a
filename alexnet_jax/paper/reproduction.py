"""The test of the paper's claims: the networks to train for them, the outcome of each claim, and the tables."""

import itertools
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from alexnet_jax.data import manifest
from alexnet_jax.data.files import write_text
from alexnet_jax.data.sources.imagenet import EDITIONS
from alexnet_jax.paper import claims, experiments, facts, figures, report
from alexnet_jax.paper.claims import CLAIMS, Claim, Outcome
from alexnet_jax.paper.experiments import RATES, Study, Trial
from alexnet_jax.run import config_files

ROUNDING = 0.02  # how far a fact may be from the round number in the paper
Trials = dict[str, list[Trial]]  # arm -> its trials, one a seed
Results = dict[Trial, dict[str, Any]]  # as `experiments.result`


def reproduce(study: Study, names: Sequence[str]) -> tuple[str, list[Path]]:
    """Test the claims with the ids `names`, and those tested in the study's folder before.

    Runs that are finished are not trained again; interrupted ones are resumed. Returns the table of all claims,
    Markdown, and the files written: claims.md, claims.json, runs.json and, if a claim about speed is tested,
    figure1.svg. Raises UserError if data is missing, the folder holds runs with another config, or a run fails.
    """
    names = [*names, *(name for name in _tested_before(study.directory) if name not in names)]
    known = {claim.id: claim for claim in CLAIMS}
    reasons = {claim.id: _obstacle(claim, study) if claim.id in names else claim.why for claim in CLAIMS}
    tested = [known[name] for name in names if not reasons[name] and known[name].arms]
    trials, results = _train(study, tested)
    outcomes = {}
    for claim in CLAIMS:
        if claim.measure == "fact":
            outcomes[claim] = _check_fact(claim)
        elif claim in tested and study.scale != "smoke":
            outcomes[claim] = _judge(claim, trials, results)
        else:
            outcomes[claim] = Outcome(reasons[claim.id], "not run")
    return _write(study, tested, trials, results, outcomes)


def _tested_before(directory: Path) -> list[str]:
    """The claims that an earlier call has trained for: the table keeps them."""
    table = directory / "claims.json"
    rows = json.loads(table.read_text()) if table.exists() else []
    tested = {row["id"] for row in rows if row["arms"] and row["verdict"] != "not run"}
    return [claim.id for claim in CLAIMS if claim.id in tested]


def _obstacle(claim: Claim, study: Study) -> str:
    """Why the claim cannot be tested on this data at this scale; "" if it can."""
    if not claim.arms or not study.data:
        return claim.why
    prepared = manifest.read(Path(study.data))
    base = experiments.SCALES[study.scale][claims.ARMS[claim.arms[0]].base]
    data, train = config_files.load(base).data, prepared.splits.get("train")
    if data.size != prepared.size or train is None:
        return f"needs a split train of images of {data.size}x{data.size}"
    if train.count < data.train_examples:
        return f"needs {data.train_examples} training images"
    whole = EDITIONS["imagenet2012"].images["train"]
    if claim.measure == "absolute" and (study.scale != "full" or train.count + len(train.skipped) != whole):
        return "needs ImageNet 2012 and --scale full"
    return ""


def _train(study: Study, tested: list[Claim]) -> tuple[Trials, Results]:
    """Train the arms of the claims, those with a grid of learning rates at the one that is best with seed 0."""
    arms = list(dict.fromkeys(arm for claim in tested for arm in claim.arms))
    arms.sort(key=lambda arm: arm not in RATES)
    grids = {arm: [Trial(arm, 0, rate) for rate in RATES[arm]] for arm in arms if arm in RATES}
    results = experiments.carry_out(study, list(itertools.chain(*grids.values())))
    rates = {arm: min(grid, key=lambda trial: results[trial]["steps"] or math.inf).rate for arm, grid in grids.items()}
    trials = {arm: [Trial(arm, seed, rates.get(arm)) for seed in range(study.seeds)] for arm in arms}
    return trials, results | experiments.carry_out(study, list(itertools.chain(*trials.values())))


def _judge(claim: Claim, trials: Trials, all_results: Results) -> Outcome:
    results = [[all_results[trial] for trial in trials[arm]] for arm in claim.arms]
    if any(result["diverged"] for arm in results for result in arm):
        return Outcome("a run diverged", "inconclusive")
    if claim.measure == "steps":
        return _judge_speed(claim, trials, all_results)
    errors = [_percentages(arm, "views10") for arm in results]
    centre = [_percentages(arm, "views1") for arm in results]
    if claim.measure == "views":
        return claims.judge_pairs([one - ten for one, ten in zip(centre[0], errors[0], strict=True)])
    if claim.measure == "absolute":
        return claims.judge_absolute(errors[0], float(claim.paper.rstrip(" %")))
    if claim.measure == "overfitting":
        errors = [[100 * (result["views1"]["top1_error"] - result["train_error"]) for result in arm] for arm in results]
    better, worse = errors
    return claims.judge_difference(better, worse, claim.smallest)


def _percentages(results: list[dict[str, Any]], views: str) -> list[float]:
    return [100 * result[views]["top1_error"] for result in results]


def _judge_speed(claim: Claim, trials: Trials, results: Results) -> Outcome:
    """Compare the arms at their own best learning rates, and, for information, both at that of the first."""
    steps = [[results[trial]["steps"] for trial in trials[arm]] for arm in claim.arms]
    if not all(all(arm) for arm in steps):
        return Outcome("25 % was not reached", "inconclusive")
    rate, other_rate = (trials[arm][0].rate for arm in claim.arms)
    outcome = claims.judge_ratio(*steps)
    fast, slow = (results.get(Trial(arm, 0, rate), {}).get("steps") for arm in claim.arms)
    both = f"; both at {rate:g}: {slow / fast:.1f}x" if fast and slow else ""
    return outcome._replace(ours=f"{outcome.ours[:-1]}, learning rates {rate:g} and {other_rate:g}{both})")


def _check_fact(claim: Claim) -> Outcome:
    """Compute a fact from the paper's config, whatever the scale."""
    config = config_files.parse(config_files.load("paper"))
    layers = facts.layers(config)
    total = facts.total(layers)
    if claim.id == "conv_share":
        share, name = max((layer.parameters / total.parameters, layer.name) for layer in layers if "conv" in layer.name)
        return Outcome(f"{name} {share:.2%}", "borne out" if share <= 0.01 else "contradicted")
    ours, paper = {
        "parameters": (total.parameters, 60e6),
        "neurons": (total.neurons, 650e3),
        "crops": (facts.crops(config), 2048),
    }[claim.id]
    return Outcome(f"{ours:,}", "borne out" if abs(ours / paper - 1) < ROUNDING else "contradicted")


def _write(
    study: Study, tested: list[Claim], trials: Trials, results: Results, outcomes: dict[Claim, Outcome]
) -> tuple[str, list[Path]]:
    study.directory.mkdir(parents=True, exist_ok=True)
    rows = [
        {**claim._asdict(), **outcome._asdict(), "scale": study.scale, "data": _trained_on(claim, outcome, study)}
        for claim, outcome in outcomes.items()
    ]
    table = report.template("claims.md.j2").render(
        study=study, tested=tested, rows=rows, several=claims.SEVERAL, tolerance=claims.TOLERANCE, rounding=ROUNDING
    )
    logs = {trial: experiments.training_log(study.directory / trial.name) for trial in results}
    runs = []
    for trial, result in results.items():
        curve = [(line["step"], line["top1_error"]) for line in logs[trial]]
        runs.append(json.dumps({"run": trial.name, **result, "training": curve}))
    files = [study.directory / name for name in ("claims.md", "claims.json", "runs.json")]
    texts = (table, json.dumps(rows, indent=2) + "\n", "[\n" + ",\n".join(runs) + "\n]\n")
    for file, text in zip(files, texts, strict=True):
        write_text(file, text)
    figure = figures.training_error({t.name: logs[t] for arm in trials if arm in RATES for t in trials[arm]})
    if figure is not None:
        files.append(study.directory / "figure1.svg")
        figure.savefig(files[-1], metadata={"Date": None})
    return table, files


def _trained_on(claim: Claim, outcome: Outcome, study: Study) -> str:
    """The data, widths and epochs of a claim's networks; "-" if none was trained."""
    if not claim.arms or outcome.verdict == "not run":
        return "-"
    config = experiments.trial_config(Trial(claim.arms[0], 0, None), study.scale, study.data)
    data, model = config.data, config.model
    widths = [conv.features for _, conv in model.convs()] + [dense.features for _, dense in model.hidden()]
    count = f"{data.train_examples:,}" if data.train_examples else "all"
    name = Path(study.data).name or data.source
    return f"{name}, {count} images; widths {'-'.join(map(str, widths))}, {config.train.epochs} epochs"
