"""`alexnet bench plan`: the arithmetic. tests/test_notebook.py runs it."""

import pytest

from alexnet_jax.bench import plan
from alexnet_jax.errors import UserError
from alexnet_jax.run import config_files

COUNTS = {"train": 900_000, "val": 90_000, "test": 10_000}


def rows(*all_speeds: plan.Speeds, hours: float = 30, sessions: int = 3, free: float = 50e9) -> list[dict]:
    budget = plan.Budget(hours, sessions, int(free))
    return [
        plan.row(speeds, config_files.parse(config_files.load(speeds.config)), COUNTS, budget) for speeds in all_speeds
    ]


def test_epochs_that_fit():
    """An epoch of 990,000 images at 275 images/s is an hour; packing a million at 100 a second takes 2.78 hours."""
    slow = plan.Speeds("variants:epochs=40", False, 275, 0.9, packed_per_s=100, packed_bytes=40_000)
    [row] = rows(slow)
    assert row["epoch_hours"] == pytest.approx(1) and row["prepare_hours"] == pytest.approx(2.778, abs=1e-3)
    assert row["epochs"] == 21  # 30 hours without three times 2.78
    assert (row["size"], row["bytes"], row["wanted"]) == (256, 40e9, 40)
    assert rows(slow, free=39e9)[0]["epochs"] == rows(slow, hours=8, sessions=3)[0]["epochs"] == 0
    small = plan.Speeds("variants:epochs=40+half_size", False, 550, 0.5, packed_per_s=200, packed_bytes=9_000)
    assert plan.chosen(rows(slow, small))["size"] == 128, "40 of 40 epochs"
    assert plan.chosen(rows(slow, small, hours=60))["size"] == 256, "both give all"
    assert "variants:epochs=40+half_size prepared 550 50% 9 1.39 0.5 40 of 40" in " ".join(
        plan.table(rows(small)).split()
    )
    streamed = plan.Speeds("variants:epochs=40", True, 200, 1.0)
    [row] = rows(streamed, free=0)
    assert (row["epochs"], row["prepare_hours"], row["bytes"]) == (21, 0, 0), "30 hours, 1.375 an epoch; no room needed"
    assert plan.chosen(rows(streamed, slow, small))["size"] == 128
    with pytest.raises(UserError, match="not one epoch fits; give more --hours"):
        plan.chosen(rows(slow, hours=2))
