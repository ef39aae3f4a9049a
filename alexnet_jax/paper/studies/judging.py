"""How claims are judged: an effect over seeds with its interval, corrected for the number of claims tested at once."""

import math
import warnings
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from scipy import optimize, stats

LEVEL = 0.05  # of the tests; intervals cover 1 - LEVEL
POWER = 0.8  # with which an effect of size `detectable` is found
Verdict = Literal["borne out", "inconclusive", "contradicted", "not run"]


class Effect(NamedTuple):
    """An effect that is claimed to exceed `threshold`, estimated over seeds."""

    mean: float
    low: float
    high: float  # low..high: the 95 % confidence interval
    p: float  # two-sided, of the hypothesis that the effect is `threshold`
    threshold: float
    error: float  # the standard error of `mean`
    df: int  # degrees of freedom of `error`

    def detectable(self, tests: int) -> float:
        """The smallest effect that so many seeds would have found beyond `threshold`, with POWER, as one of `tests`.

        That of a two-sided t test at the level LEVEL / tests, the strictest that Holm's method asks for.
        """
        if self.error == 0:
            return self.threshold
        critical = stats.t.isf(LEVEL / tests / 2, self.df)
        shift = optimize.brentq(lambda shift: stats.nct.sf(critical, self.df, shift) - POWER, 0, 10 * critical)
        return self.threshold + self.error * shift

    def narrowly_missed(self) -> bool:
        """Whether the effect exceeds the threshold, but not its whole interval: more seeds may settle it."""
        return self.low <= self.threshold < self.mean

    def verdict(self, p: float) -> Verdict:
        """The verdict; `p` is this effect's, corrected for the number of claims tested at once."""
        if p >= LEVEL:
            return "inconclusive"
        return "borne out" if self.mean > self.threshold else "contradicted"


class Outcome(NamedTuple):
    ours: str  # what was measured, or why it was not
    verdict: Verdict
    effect: Effect | None = None
    p_holm: float | None = None  # the effect's p-value, corrected for the number of claims tested at once
    detectable: float | None = None  # as of `Effect.detectable`, for as many


def difference(values: Sequence[float], others: Sequence[float], threshold: float = 0.0) -> Effect:
    """The mean of `others` minus that of `values`, one number a seed each: Welch's t."""
    mean = float(np.mean(others) - np.mean(values))
    if np.ptp(values) == np.ptp(others) == 0:  # nothing varied: t is undefined
        return _certain(mean, threshold)
    shifted = np.asarray(others) - threshold
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # scipy's, where one of the two does not vary
        test = stats.ttest_ind(shifted, values, equal_var=False)
    low, high = test.confidence_interval(1 - LEVEL) + np.float64(threshold)
    df = len(values) + len(others) - 2
    pooled = np.sqrt((np.var(values) * len(values) + np.var(others) * len(others)) / df)
    error = pooled * math.sqrt(1 / len(values) + 1 / len(others))
    return Effect(mean, float(low), float(high), float(test.pvalue), threshold, float(error), df)


def mean(values: Sequence[float], threshold: float = 0.0) -> Effect:
    """The mean of `values`, one number a seed: Student's t."""
    if np.ptp(values) == 0:
        return _certain(float(values[0]), threshold)
    test = stats.ttest_1samp(values, threshold)
    low, high = test.confidence_interval(1 - LEVEL)
    error, df = float(stats.sem(values)), len(values) - 1
    return Effect(float(np.mean(values)), float(low), float(high), float(test.pvalue), threshold, error, df)


def holm(ps: Sequence[float]) -> list[float]:
    """The p-values corrected for testing all of them at once (Holm's step-down method)."""
    order = np.argsort(ps)
    stepped = np.maximum.accumulate(np.asarray(ps)[order] * np.arange(len(ps), 0, -1))
    return np.minimum(stepped, 1)[np.argsort(order)].tolist()


def correct(rows: Sequence[dict[str, Any]]) -> None:
    """Give each row of a table its p_holm, from the p of all rows that have one; the others have None."""
    tested = [row for row in rows if row["p"] is not None]
    corrected = iter(holm([row["p"] for row in tested]))
    for row in rows:
        row["p_holm"] = None if row["p"] is None else next(corrected)


def _certain(mean: float, threshold: float) -> Effect:
    return Effect(mean, mean, mean, float(mean == threshold), threshold, 0.0, 1)
