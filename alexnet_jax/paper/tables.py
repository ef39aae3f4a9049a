"""The paper's Tables 1 and 2, with a row for each run on ImageNet."""

import re

from alexnet_jax.paper.figures import Block, Table
from alexnet_jax.paper.runs import ReportedRun

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


def is_imagenet(classes: list[str]) -> bool:
    """Whether the classes are a thousand WordNet ids, as in the challenges."""
    return len(classes) == 1000 and all(re.fullmatch(r"n\d{8}", name) for name in classes)


def tables(runs: list[ReportedRun]) -> list[Block]:
    """The tables. A run evaluated on `test` belongs to ILSVRC-2010, whose test labels alone are public: Table 1."""
    table1, table2, notes = list(TABLE1), list(TABLE2), []
    for run in runs:
        result = run.evaluation
        if not is_imagenet(run.network.classes):
            notes.append(f"{run.name} is not on ImageNet, so it has no row here.")
        elif result is None:
            notes.append(f"{run.name} is on ImageNet, but has not been evaluated yet.")
        elif result["split"] not in ("val", "test"):
            notes.append(f"{run.name} was evaluated on {result['split']}, which neither table covers.")
        else:
            name = f"{run.name}, {result['views']} view(s)"
            errors = [f"{100 * result[key]:.1f} %" for key in ("top1_error", "top5_error")]
            if result["split"] == "test":
                table1.append((name, *errors))
            else:
                table2.append((name, *errors, "-"))
    caption = (
        "Table 2: errors on ILSVRC-2012; * pre-trained on the Fall 2011 release. A run on ILSVRC-2010 that was "
        "evaluated on `val` does not belong here; the year is not recorded with a run."
    )
    return [
        Table(("model", "top-1", "top-5"), table1, "Table 1: errors on the test set of ILSVRC-2010."),
        Table(("model", "top-1 (val)", "top-5 (val)", "top-5 (test)"), table2, caption),
        *notes,
    ]
