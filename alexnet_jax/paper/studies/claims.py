"""The study of the paper's claims: the outcome of each, and the tables."""

import math
from pathlib import Path
from typing import Any

from alexnet_jax.paper import facts, figures, report
from alexnet_jax.paper.studies import arms, claim_effects, judging, study_files, trials
from alexnet_jax.paper.studies.arms import Setting
from alexnet_jax.paper.studies.claim_effects import RATES, SEVERAL, TOLERANCE, plan
from alexnet_jax.paper.studies.claim_rows import ARMS, CLAIMS, WORTH, Claim
from alexnet_jax.paper.studies.judging import Outcome
from alexnet_jax.paper.studies.trials import Results
from alexnet_jax.run import config_files

__all__ = ["plan", "tables"]

ROUNDING = 0.02  # how far a fact may be from the round number in the paper


def tables(setting: Setting) -> tuple[str, list[Path]]:
    """The table of all claims, Markdown, from the finished runs in the setting's folder, and the files written.

    They are claims.md, claims.json, runs.json and, if a claim about speed was tested, figure1.svg.
    """
    everything = setting._replace(claims=WORTH)
    results = trials.finished(lambda results: plan(everything, results), setting.directory)
    outcomes = judge(everything, results)
    rows = [_row(setting, claim, outcome) for claim, outcome in outcomes.items()]
    text = report.template("claims.md.j2").render(
        rows=rows,
        several=SEVERAL,
        tolerance=TOLERANCE,
        rounding=ROUNDING,
        more=claim_effects.MORE,
        setting=setting,
        cost=trials.cost(results),
    )
    logs = {name: result["training"] for name, result in results.items() if name.split("-rate")[0] in RATES}
    figure = figures.training_error(logs)
    return text, study_files.write(
        setting.directory, "claims", text, rows, {} if figure is None else {"figure1": figure}
    )


def judge(setting: Setting, results: Results) -> dict[Claim, Outcome]:
    """The outcome of every claim. Those that enough runs are finished for are judged together: see `judging.holm`."""
    outcomes = {claim: _outcome(setting, claim, results) for claim in CLAIMS}
    tested = {claim: outcome.effect for claim, outcome in outcomes.items() if outcome.effect is not None}
    for (claim, effect), p in zip(tested.items(), judging.holm([effect.p for effect in tested.values()]), strict=True):
        least = effect.detectable(len(tested))
        outcomes[claim] = outcomes[claim]._replace(p_holm=p, detectable=least, verdict=effect.verdict(p))
    return outcomes


def _outcome(setting: Setting, claim: Claim, results: Results) -> Outcome:
    if claim.measure == "fact":
        return _check_fact(claim)
    return claim_effects.outcome(setting, claim, results) if claim.arms else Outcome(claim.why, "not run")


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


def _row(setting: Setting, claim: Claim, outcome: Outcome) -> dict[str, Any]:
    """A row of the table, as claims.json has it."""
    effect = outcome.effect
    shown = {"p": "-", "p_holm": "-", "detectable": "-", "trained_on": "-"}
    if effect is not None and (least := outcome.detectable) is not None:
        detectable = f"{math.exp(least):.1f}x" if claim.measure == "steps" else f"{least:.2g}"
        shown = dict(p=f"{effect.p:.2g}", p_holm=f"{outcome.p_holm:.2g}", detectable=detectable)
        shown["trained_on"] = arms.describe(setting, ARMS[claim.arms[0]])
    return {**claim._asdict(), **outcome._asdict(), "effect": effect and effect._asdict(), "shown": shown}
