"""The paper's Tables 1 and 2, and this run's row in them."""

import re

from alexnet_jax.paper.figures import Section, Table, Text
from alexnet_jax.paper.runs import Run

TABLE1: list[tuple[str, ...]] = [
    ("Sparse coding", "47.1 %", "28.2 %"),
    ("SIFT + FVs", "45.7 %", "25.7 %"),
    ("CNN", "37.5 %", "17.0 %"),
]
TABLE2: list[tuple[str, ...]] = [
    ("SIFT + FVs", "-", "-", "26.2 %"),
    ("1 CNN", "40.7 %", "18.2 %", "-"),
    ("5 CNNs", "38.1 %", "16.4 %", "16.4 %"),
    ("1 CNN*", "39.0 %", "16.6 %", "-"),
    ("7 CNNs*", "36.7 %", "15.4 %", "15.3 %"),
]


def is_imagenet(run: Run) -> bool:
    """Whether the run's classes are a thousand WordNet ids, as those of the challenges."""
    classes = run.finished.classes
    return len(classes) == 1000 and all(re.fullmatch(r"n\d{8}", name) for name in classes)


def tables(runs: list[Run]) -> Section:
    """A run evaluated on `test` is one of ILSVRC-2010, the only one whose test labels are known: Table 1."""
    first, second = list(TABLE1), list(TABLE2)
    notes = []
    for run in runs:
        result = run.evaluation
        if not is_imagenet(run):
            notes.append(Text(f"{run.name} is not on ImageNet, so it has no row here."))
        elif result is None:
            notes.append(Text(f"{run.name} is on ImageNet, but is not evaluated yet."))
        elif result["split"] not in ("val", "test"):
            notes.append(Text(f"{run.name} was evaluated on {result['split']}, which neither table is about."))
        else:
            name = f"{run.name}, {result['views']} view(s)"
            errors = tuple(f"{100 * result[key]:.1f} %" for key in ("top1_error", "top5_error"))
            if result["split"] == "test":
                first.append((name, *errors))
            else:
                second.append((name, *errors, "-"))
    table1 = Table(("model", "top-1", "top-5"), first, "Table 1: errors on the test set of ILSVRC-2010.")
    table2 = Table(
        ("model", "top-1 (val)", "top-5 (val)", "top-5 (test)"),
        second,
        "Table 2: errors on ILSVRC-2012; * pre-trained on the Fall 2011 release. A run on ILSVRC-2010 that was "
        "evaluated on `val` does not belong here; which year it was is not recorded with a run.",
    )
    return Section("tables", "Tables 1 and 2", [table1, table2, *notes])
