"""The claims: how they are judged, and the command that tests them."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from alexnet_jax.commands import reproduce
from alexnet_jax.data import manifest
from alexnet_jax.errors import UserError
from alexnet_jax.paper import claims, experiments, facts
from alexnet_jax.paper.experiments import Run
from alexnet_jax.run import config_files
from tests.test_commands import run


def test_verdicts_are_those_of_intervals():
    rng = np.random.default_rng(0)
    low, high, same = (rng.normal(mean, 0.3, 5).tolist() for mean in (30, 33, 30))
    assert claims.of_difference(low, high).verdict == "borne out"
    assert claims.of_difference(high, low).verdict == "contradicted"
    assert claims.of_difference(low, same).verdict == "inconclusive"
    assert claims.of_difference([30, 40], [31, 42]).verdict == "inconclusive"
    assert claims.of_ratio([100, 110, 90], [600, 640, 580]).verdict == "borne out"
    assert claims.of_ratio([100, 110, 90], [600, 640, 580]).ours.startswith("6.1x [")
    assert claims.of_ratio([600, 640, 580], [100, 110, 90]).verdict == "contradicted"
    assert claims.of_ratio([100, 110, 90], [130, 140, 120]).verdict == "contradicted"  # not several times
    assert claims.of_ratio([100, 100, 100], [600, 600, 600]).ours.startswith("6.0x [6.0, 6.0]")
    assert claims.of_pairs([1.4, 1.5, 1.6]).verdict == "borne out"
    assert claims.of_pairs([1.4, -1.5, 0.1]).verdict == "inconclusive"
    assert claims.of_absolute([40.6, 40.8, 40.7], 40.7).verdict == "borne out"
    assert claims.of_absolute([44.6, 44.8, 44.7], 40.7).verdict == "contradicted"
    assert claims.of_absolute([41.0, 41.3, 41.2], 40.7).verdict == "inconclusive"  # on both sides of what is allowed
    assert claims.of_difference(low, high, smallest=3.5).verdict != "borne out"


def test_intervals_hold_what_they_should():
    """Of 400 made-up experiments without an effect, about one in twenty is judged to have one."""
    rng = np.random.default_rng(0)
    verdicts = [claims.of_difference(*rng.normal(30, 1, (2, 4)).tolist()).verdict for _ in range(400)]
    assert 370 <= verdicts.count("inconclusive") <= 394


@pytest.mark.parametrize("scale", sorted(experiments.SCALES))
def test_every_arm_is_a_valid_config_and_differs_from_the_others(scale):
    texts = {arm: experiments.config_json(Run(arm, 1, None), scale, "") for arm in claims.ARMS}
    assert len(set(texts.values())) == len(texts)
    for text in texts.values():
        assert config_files.from_json(text).seed == 1
    wanted = {arm for claim in claims.CLAIMS for arm in claim.arms}
    assert wanted == set(claims.ARMS)


def test_the_arms_of_a_claim_differ_in_what_it_is_about():
    for arm, allowed in {
        "no_lrn": {"model"},
        "one_gpu": {"model"},
        "non_overlapping_pooling": {"model"},
        "no_colour_noise": {"augment"},
        "tanh": {"model"},
        "no_links": {"model"},
        "no_dropout": {"model"},
        "without_conv3": {"model"},
        "without_conv4": {"model"},
        "four_layer_lrn": {"model", "optim"},  # the weight decay of fc8, as in the authors' files
    }.items():
        other = {"tanh": "relu", "four_layer_lrn": "four_layer"}.get(arm, "paper")
        ours, theirs = (json.loads(experiments.config_json(Run(name, 0, None), "small", "")) for name in (arm, other))
        assert {key for key in ours if ours[key] != theirs[key]} == allowed


def test_towers_without_links_have_as_many_parameters():
    for scale, most in {"small": 0.25, "full": 0.02}.items():
        sizes = []
        for arm in ("paper", "no_links"):
            config = config_files.from_json(experiments.config_json(Run(arm, 0, None), scale, ""))
            sizes.append(sum(layer.parameters for layer in facts.layers(config)))
        assert abs(sizes[1] / sizes[0] - 1) < most, (scale, sizes)


def test_what_cannot_be_tested_is_one_paragraph():
    assert "there is no claim 'x'; give some of parameters" in run(
        "alexnet_jax", "reproduce", "--claims=x", "--scale=smoke", code=2
    )
    assert "--seeds must be 2 or more" in run("alexnet_jax", "reproduce", "--seeds=1", "--scale=smoke", code=2)
    assert "give --data DIR" in run("alexnet_jax", "reproduce", "--scale=small", code=2)


@pytest.mark.slow
def test_the_command_shares_runs_and_goes_on(tmp_path):
    command = ["alexnet_jax", "reproduce", "--scale=smoke", "--seeds=2", f"--output={tmp_path}", "--jobs=2"]
    output = run(*command, "--claims=lrn,ten_views")
    assert "4 of 4: " in output and output.count("seed") >= 4
    table = (tmp_path / "smoke" / "claims.md").read_text()
    assert all(f"| {claim.id} | " in table for claim in claims.CLAIMS)
    assert "| lrn | 3.3 |" in table and "borne out" not in table.split("| lrn |")[1].splitlines()[0]
    rows = {row["id"]: row for row in json.loads((tmp_path / "smoke" / "claims.json").read_text())}
    assert rows["parameters"]["ours"] == "60,965,224" and rows["parameters"]["verdict"] == "borne out"
    assert rows["conv_share"]["verdict"] == "contradicted"
    assert rows["time"]["verdict"] == rows["lrn"]["verdict"] == "not run"
    again = run(*command, "--claims=lrn")
    assert "of 4" not in again  # nothing is left to do
    config = tmp_path / "smoke" / "paper" / "seed0" / "config.json"
    config.write_text(config.read_text().replace('"flip": true', '"flip": false'))
    assert "belongs to a run with another config; give another --output" in run(*command, "--claims=lrn", code=2)


def test_the_table_of_runs_that_are_there(tmp_path, monkeypatch):
    """From results on disk to verdicts; the runs themselves are `carry_out`'s."""
    rng = np.random.default_rng(0)

    def made_up(wanted, scale, data, directory, jobs):
        for each in wanted:
            error = {"paper": 0.30, "no_lrn": 0.34, "one_gpu": 0.301}.get(each.arm, 0.3) + rng.normal(0, 0.002)
            steps = (100 if each.arm == "relu" else 620) * (
                1 + abs(np.log((each.rate or 1e-2) / 1e-2))
            ) + each.seed / 10
            path = directory / each.name / experiments.RESULT
            path.parent.mkdir(parents=True, exist_ok=True)
            views = {f"views{n}": {"top1_error": error + (n == 1) * rng.normal(0.015, 0.001)} for n in (1, 10)}
            curve = [{"split": "train", "step": s, "epoch": s / 10, "top1_error": 50 / (1 + s)} for s in (1, 400)]
            (path.parent / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in curve))
            path.write_text(json.dumps({"steps": steps, "train_error": 0.2, "diverged": False, **views}))

    monkeypatch.setattr(experiments, "carry_out", made_up)
    monkeypatch.setattr(
        "sys.argv", ["reproduce", "--data", "x", "--claims", "lrn,two_gpus,relu,ten_views", "--output", str(tmp_path)]
    )
    shard = {"count": 10_000, "skipped": []}
    prepared = SimpleNamespace(size=32, classes=["a"] * 10, splits={"train": SimpleNamespace(**shard), "test": None})
    monkeypatch.setattr(manifest, "read", lambda directory: prepared)
    with pytest.raises(SystemExit) as ended:
        reproduce.main()
    assert ended.value.code == 0
    rows = {row["id"]: row for row in json.loads((tmp_path / "small" / "claims.json").read_text())}
    assert rows["lrn"]["verdict"] == rows["relu"]["verdict"] == rows["ten_views"]["verdict"] == "borne out"
    assert rows["two_gpus"]["verdict"] == "inconclusive"
    assert (
        rows["relu"]["ours"].startswith("6.2x")
        and "learning rates 0.01 and 0.01; both at 0.01: 6.2x" in rows["relu"]["ours"]
    )
    assert rows["relu"]["data"].startswith("x, 10,000 images; widths 32-32-16-16, 60 epochs")
    assert rows["links"]["data"] == "-"
    runs = json.loads((tmp_path / "small" / "runs.json").read_text())
    assert len(runs) == 3 * 3 + (3 + 3 - 1 - 1) + 2 * 3
    assert runs[0]["run"] == "relu-rate0.002/seed0" and runs[0]["training"] == [[1, 25.0], [400, 50 / 401]]
    assert "</svg>" in (tmp_path / "small" / "figure1.svg").read_text()


def test_the_scales_need_configs(monkeypatch):
    monkeypatch.setitem(experiments.SCALES, "odd", {"network": "nowhere"})
    with pytest.raises(UserError, match="start this in the folder that holds configs/"):
        experiments.config_json(Run("paper", 0, None), "odd", "")
