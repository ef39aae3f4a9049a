"""The networks to train for the paper's claims, and from their results the effect that a claim is about."""

import math
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import combine_pvalues

from alexnet_jax.data import manifest
from alexnet_jax.data.sources.imagenet import EDITIONS
from alexnet_jax.paper.studies import arms, judging
from alexnet_jax.paper.studies.arms import Arm, Setting
from alexnet_jax.paper.studies.claim_rows import ARMS, CLAIMS, Claim
from alexnet_jax.paper.studies.judging import Effect, Outcome
from alexnet_jax.paper.studies.trials import Results, Trial

KNOWN = {claim.id: claim for claim in CLAIMS}
MORE = 2  # seeds for a claim that the first ones miss narrowly
SEVERAL = 2.0  # a network that is "several times faster" takes less than 1/SEVERAL of the steps
TOLERANCE = 0.5  # points by which an error may exceed the paper's
MANY_CLASSES = 20  # from which on top-5 errors are shown: of ten classes, guessing finds half of them in five
# Learning rates for the arms that are judged by their speed, around the fastest in single runs.
RATES = {"relu": (2e-3, 5e-3, 1e-2), "tanh": (1e-2, 2e-2, 5e-2)}


def plan(setting: Setting, results: Results) -> list[Trial]:
    """The trials of the setting's claims: the first seeds claim by claim, then more for what they miss narrowly."""
    tested = [KNOWN[name] for name in setting.claims if KNOWN[name].arms and not obstacle(setting, KNOWN[name])]
    wanted = [trial for claim in tested for trial in _trials(setting, claim, results, 0, setting.seeds)]
    for claim in tested:
        effect = outcome(setting, claim, results).effect
        if effect is not None and effect.narrowly_missed():
            wanted += _trials(setting, claim, results, setting.seeds, setting.seeds + MORE)
    return list({trial.name: trial for trial in wanted}.values())  # claims share arms


def _trials(setting: Setting, claim: Claim, results: Results, first: int, last: int) -> list[Trial]:
    """The trials of a claim's arms with the seeds first..last-1, seed by seed; with RATES, those of the grid before."""
    grid = [trial for name in claim.arms for trial in _grid(setting, name)]
    if any(trial.name not in results for trial in grid):
        return grid
    seeds = range(first, last)
    return grid + [
        _trial(setting, name, seed, best_rate(setting, name, results)) for seed in seeds for name in claim.arms
    ]


def _trial(setting: Setting, name: str, seed: int, rate: float | None) -> Trial:
    arm = ARMS[name]
    if rate is None:
        return arms.trial(setting, name, arm, seed, views=(1, 10))
    return arms.trial(setting, f"{name}-rate{rate:g}", _at_rate(arm, rate), seed, views=())


def _at_rate(arm: Arm, rate: float) -> Arm:
    return arm._replace(changes=(("optim.learning_rate", rate),))


def _grid(setting: Setting, name: str) -> list[Trial]:
    return [_trial(setting, name, 0, rate) for rate in _rates(setting, name)]


def _rates(setting: Setting, name: str) -> tuple[float, ...]:
    """The learning rates to try for an arm; () for one that is trained with its config's. They share a program."""
    return RATES.get(name, ())[: 1 if setting.scale == "smoke" else None]


def best_rate(setting: Setting, name: str, results: Results) -> float | None:
    """The learning rate at which the arm reaches its training error first, with seed 0; None if it has no grid."""
    steps = {rate: _steps(results[_trial(setting, name, 0, rate).name]) for rate in _rates(setting, name)}
    return min(steps, key=lambda rate: steps[rate], default=None)


def _steps(result: dict[str, Any]) -> float:
    """Steps to the training error at which a trial was to stop."""
    return result["steps"] if result["reached"] else math.inf


def obstacle(setting: Setting, claim: Claim) -> str:
    """Why a claim with arms cannot be tested on this data at this scale; "" if it can."""
    if problem := next(filter(None, (arms.obstacle(setting, ARMS[name]) for name in claim.arms)), ""):
        return problem
    if claim.measure == "absolute" and setting.scale != "smoke":
        train = manifest.read(Path(setting.data)).splits["train"] if setting.data else None
        whole = train and train.count + len(train.skipped) == EDITIONS["imagenet2012"].images["train"]
        if setting.scale != "full" or not whole:
            return "needs ImageNet 2012 and --scale full"
    return ""


def outcome(setting: Setting, claim: Claim, results: Results) -> Outcome:
    """The outcome of a claim with arms, by itself. Without an effect it is final; else `claims.judge` corrects it."""
    if problem := obstacle(setting, claim):
        return Outcome(problem, "not run")
    first = _trials(setting, claim, results, 0, setting.seeds)
    if missing := sum(trial.name not in results for trial in first):
        return Outcome(f"{len(first) - missing} of {len(first)} runs are finished", "not run")
    if setting.scale == "smoke":
        return Outcome("two steps prove nothing", "not run")
    rates = [best_rate(setting, name, results) for name in claim.arms]
    seeds = range(setting.seeds + MORE)
    names = [
        [_trial(setting, arm, seed, rate).name for seed in seeds] for arm, rate in zip(claim.arms, rates, strict=True)
    ]
    found = [[results[name] for name in arm if name in results] for arm in names]
    if any(result["diverged"] for arm in found for result in arm):
        return Outcome("a run diverged", "inconclusive")
    words, effect = MEASURES[claim.measure](claim, found)
    if claim.measure == "steps":
        words = f"{words}, learning rates {' and '.join(f'{rate:g}' for rate in rates)}"
    if effect is not None:
        words += f"; {'+'.join(str(len(arm)) for arm in found)} runs"
    return Outcome(words, "inconclusive" if effect is None else effect.verdict(effect.p), effect)


Arms = list[list[dict[str, Any]]]  # of each arm of a claim, the results of its seeds


def _by_error(claim: Claim, found: Arms) -> tuple[str, Effect]:
    return _by_points(claim, [[errors(arm, "views10", k) for arm in found] for k in (1, 5)], found)


def _by_overfitting(claim: Claim, found: Arms) -> tuple[str, Effect]:
    gaps = [[np.subtract(errors(arm, "views1", k), errors(arm, "train", k)).tolist() for arm in found] for k in (1, 5)]
    return _by_points(claim, gaps, found)


def _by_points(claim: Claim, top: list[list[list[float]]], found: Arms) -> tuple[str, Effect]:
    """The difference between two arms in points of top-1, and of top-5 where there are enough classes."""
    effects = [judging.difference(better, worse, claim.smallest) for better, worse in top]
    words = f"{points(effects[0])} ({' and '.join(f'{np.mean(arm):.1f}' for arm in top[0])} %)"
    return words + _top5(effects[1], found), effects[0]


def _by_views(claim: Claim, found: Arms) -> tuple[str, Effect]:
    effects = [
        judging.mean(np.subtract(errors(found[0], "views1", k), errors(found[0], "views10", k)).tolist())
        for k in (1, 5)
    ]
    return points(effects[0]) + _top5(effects[1], found), effects[0]


def _top5(effect: Effect, found: Arms) -> str:
    classes = found[0][0]["classes"]
    return f"; top-5 {points(effect)}" if classes >= MANY_CLASSES else ""


def _by_steps(claim: Claim, found: Arms) -> tuple[str, Effect | None]:
    steps = [[_steps(result) for result in arm] for arm in found]
    if np.isinf(np.concatenate(steps)).any():
        return "25 % was not reached", None
    fast, slow = (np.log(arm).tolist() for arm in steps)
    effect = judging.difference(fast, slow, math.log(SEVERAL))
    mean, low, high = (math.exp(value) for value in effect[:3])
    words = f"{mean:.1f}x [{low:.1f}, {high:.1f}] ({' and '.join(f'{np.mean(arm):,.0f}' for arm in steps)} steps)"
    return words, effect


def _by_colours(claim: Claim, found: Arms) -> tuple[str, Effect]:
    """Fisher's method combines the seeds' probabilities of so large a difference by chance."""
    chosen, chance, ps = ([result["colours"][key] for result in found[0]] for key in ("difference", "chance", "p"))
    effect = judging.mean(np.subtract(chosen, chance).tolist())
    words = f"{np.mean(chosen):.3f}, by chance {np.mean(chance):.3f}: {effect.mean:+.3f} "
    words += f"[{effect.low:+.3f}, {effect.high:+.3f}]; p of the seeds {', '.join(f'{p:.3f}' for p in ps)}"
    return words, effect._replace(p=float(combine_pvalues(ps, "fisher").pvalue))


def _by_level(claim: Claim, found: Arms) -> tuple[str, Effect]:
    """The error itself, on ImageNet: by how much it stays below the paper's plus TOLERANCE."""
    own = judging.mean(errors(found[0], "views10"))
    limit = float(claim.paper.rstrip(" %")) + TOLERANCE
    return f"{own.mean:.1f} % [{own.low:.1f}, {own.high:.1f}]", judging.mean(
        [limit - error for error in errors(found[0], "views10")]
    )


MEASURES = {
    "error": _by_error,
    "overfitting": _by_overfitting,
    "views": _by_views,
    "steps": _by_steps,
    "colours": _by_colours,
    "absolute": _by_level,
}


def points(effect: Effect) -> str:
    return f"{effect.mean:+.1f} points [{effect.low:+.1f}, {effect.high:+.1f}]"


def errors(results: list[dict[str, Any]], evaluation: str, k: int = 1) -> list[float]:
    return [100 * result[evaluation][f"top{k}_error"] for result in results]


def completed(setting: Setting, name: str, results: Results) -> list[dict[str, Any]]:
    """The results of a network's finished runs that did not diverge, seed by seed."""
    runs = (results.get(f"{name}/seed{seed}") for seed in range(setting.seeds))
    return [run for run in runs if run and not run["diverged"]]


def compared(own: list[float], others: list[float]) -> dict[str, Any]:
    """A row's error with its interval, and the difference to `others`; both need two runs or more. All in %."""
    row: dict[str, Any] = {"error": f"{own[0]:.1f} %; 1 run", "interval": None, "difference": "-", "p": None}
    if len(own) > 1:
        error = judging.mean(own)
        row["error"] = f"{error.mean:.1f} % [{error.low:.1f}, {error.high:.1f}]; {len(own)} runs"
        row["interval"] = [error.mean, error.low, error.high]
        if len(others) > 1:
            effect = judging.difference(others, own)
            row |= {"difference": points(effect), "p": effect.p}
    return row
