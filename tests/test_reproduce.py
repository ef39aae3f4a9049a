"""The paper's claims: how they are judged, and the command that tests them."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from alexnet_jax.__main__ import main
from alexnet_jax.configs import variants
from alexnet_jax.data import manifest
from alexnet_jax.errors import UserError
from alexnet_jax.paper import claims, experiments, facts
from alexnet_jax.paper.claims import ARMS, CLAIMS
from alexnet_jax.paper.experiments import SCALES, Trial, trial_config
from alexnet_jax.run import config_files, workdir
from tests.test_commands import run
from tests.tiny import tiny_config


def test_verdicts_depend_on_the_whole_interval():
    rng = np.random.default_rng(0)
    low, high, same = (rng.normal(mean, 0.3, 5).tolist() for mean in (30, 33, 30))
    assert claims.judge_difference(low, high).verdict == "borne out"
    assert claims.judge_difference(high, low).verdict == "contradicted"
    assert claims.judge_difference(low, same).verdict == "inconclusive"
    assert claims.judge_difference([30, 40], [31, 42]).verdict == "inconclusive"
    assert claims.judge_ratio([100, 110, 90], [600, 640, 580]).verdict == "borne out"
    assert claims.judge_ratio([100, 110, 90], [600, 640, 580]).ours.startswith("6.1x [")
    assert claims.judge_ratio([600, 640, 580], [100, 110, 90]).verdict == "contradicted"
    assert claims.judge_ratio([100, 110, 90], [130, 140, 120]).verdict == "contradicted"  # not several times
    assert claims.judge_ratio([100, 100, 100], [600, 600, 600]).ours.startswith("6.0x [6.0, 6.0]")
    assert claims.judge_pairs([1.4, 1.5, 1.6]).verdict == "borne out"
    assert claims.judge_pairs([1.4, -1.5, 0.1]).verdict == "inconclusive"
    assert claims.judge_absolute([40.6, 40.8, 40.7], 40.7).verdict == "borne out"
    assert claims.judge_absolute([44.6, 44.8, 44.7], 40.7).verdict == "contradicted"
    assert claims.judge_absolute([41.0, 41.3, 41.2], 40.7).verdict == "inconclusive"  # on both sides of the limit
    assert claims.judge_difference(low, high, smallest=3.5).verdict != "borne out"


def test_intervals_cover_95_percent():
    """Of 400 made-up experiments without an effect, about one in twenty is judged to have one."""
    rng = np.random.default_rng(0)
    verdicts = [claims.judge_difference(*rng.normal(30, 1, (2, 4)).tolist()).verdict for _ in range(400)]
    assert 370 <= verdicts.count("inconclusive") <= 394


@pytest.mark.parametrize("scale", sorted(SCALES))
def test_every_arm_is_a_valid_config_and_differs_from_the_others(scale):
    configs = {arm: trial_config(Trial(arm, 1, None), scale, "") for arm in ARMS}
    assert len({config_files.to_json(config) for config in configs.values()}) == len(configs)
    assert all(config.seed == 1 for config in configs.values())
    assert {arm for claim in CLAIMS for arm in claim.arms} == set(ARMS)


@pytest.mark.parametrize("arm", ARMS)
@pytest.mark.parametrize("scale", sorted(SCALES))
def test_the_config_of_a_trial(scale, arm):
    """The arm's base with its variants, the seed, the rate and the data; two steps of 64 images at scale smoke."""
    values = config_files.load(SCALES[scale][ARMS[arm].base]).unlock()
    variants.apply(values, ARMS[arm].variants)
    values.seed, values.optim.learning_rate = 3, 0.02
    values.data.update(source="digits", directory="", eval_split="test", train_examples=0)
    if scale == "smoke":
        values.data.train_examples = 64
        values.train.update(epochs=1, max_steps=2, log_every_steps=1)
    assert trial_config(Trial(arm, 3, 0.02), scale, "") == config_files.parse(values)
    base = config_files.parse(config_files.load(SCALES[scale][ARMS[arm].base]))
    assert trial_config(Trial(arm, 0, None), scale, "").optim.learning_rate == base.optim.learning_rate
    assert base.data.size == (256 if (scale, ARMS[arm].base) == ("full", "network") else 32)


def test_the_arms_of_a_claim_differ_only_in_its_subject():
    for arm, sections in {
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
        first, second = (trial_config(Trial(name, 0, None), "small", "").model_dump() for name in (arm, other))
        assert {key for key in first if first[key] != second[key]} == sections


def test_towers_without_links_have_as_many_parameters():
    for scale, most in {"small": 0.25, "full": 0.02}.items():
        sizes = []
        for arm in ("paper", "no_links"):
            sizes.append(facts.total(facts.layers(trial_config(Trial(arm, 0, None), scale, ""))).parameters)
        assert abs(sizes[1] / sizes[0] - 1) < most, (scale, sizes)


def test_wrong_arguments_are_errors():
    for arguments, message in (
        (["--claims=x", "--scale=smoke"], "there is no claim 'x'; give some of parameters, neurons"),
        (["--seeds=1", "--scale=smoke"], "--seeds must be 2 or more"),
        (["--scale=small"], "give --data DIR"),
    ):
        assert message in run("alexnet_jax", "reproduce", *arguments, code=2)


@pytest.mark.long
def test_the_command_shares_runs_and_resumes(tmp_path):
    """It is started in an empty folder: it needs no files of the repository."""
    command = ["alexnet_jax", "reproduce", "--scale=smoke", "--seeds=2", f"--output={tmp_path}", "--jobs=2"]
    output = run(*command, "--claims=lrn,ten_views", cwd=tmp_path)
    assert "4 of 4: " in output and output.count("seed") >= 4
    table = (tmp_path / "smoke" / "claims.md").read_text()
    assert all(f"| {claim.id} | " in table for claim in CLAIMS)
    assert "| lrn | 3.3 |" in table and "borne out" not in table.split("| lrn |")[1].splitlines()[0]
    rows = {row["id"]: row for row in json.loads((tmp_path / "smoke" / "claims.json").read_text())}
    assert rows["parameters"]["ours"] == "60,965,224" and rows["parameters"]["verdict"] == "borne out"
    assert rows["conv_share"]["verdict"] == "contradicted"
    assert rows["time"]["verdict"] == rows["lrn"]["verdict"] == "not run"
    result = experiments.result(tmp_path / "smoke/no_lrn/seed1")
    assert result["steps"] is None and not result["diverged"]
    assert [result[f"views{views}"]["views"] for views in (1, 10)] == [1, 10] and 0 <= result["train_error"] <= 1
    assert workdir.read_evaluation(tmp_path / "smoke/no_lrn/seed1") == result["views10"]
    assert len(workdir.read_metrics(tmp_path / "smoke/no_lrn/seed1")) >= 2
    again = run(*command, "--claims=lrn")
    assert "of 4" not in again  # nothing is left to do
    config = tmp_path / "smoke" / "paper" / "seed0" / "config.json"
    config.write_text(config.read_text().replace('"flip": true', '"flip": false'))
    assert "belongs to a run with another config; give another --output" in run(*command, "--claims=lrn", code=2)


def test_the_tables_of_finished_runs(tmp_path, monkeypatch):
    """From results on disk to verdicts; `carry_out` is replaced by made-up results."""
    rng = np.random.default_rng(0)

    def made_up(study, trials):
        for trial in trials:
            error = {"paper": 0.30, "no_lrn": 0.34, "one_gpu": 0.301}.get(trial.arm, 0.3) + rng.normal(0, 0.002)
            slowdown = 1 + abs(np.log((trial.rate or 1e-2) / 1e-2))  # 0.01 is the best rate
            steps = (100 if trial.arm == "relu" else 620) * slowdown + trial.seed / 10
            path = study.directory / trial.name / experiments.RESULT
            path.parent.mkdir(parents=True, exist_ok=True)
            views = {f"views{n}": {"top1_error": error + (n == 1) * rng.normal(0.015, 0.001)} for n in (1, 10)}
            curve = [{"phase": "train", "step": s, "epoch": s / 10, "top1_error": 50 / (1 + s)} for s in (1, 400)]
            (path.parent / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in curve))
            path.write_text(json.dumps({"steps": steps, "train_error": 0.2, "diverged": False, **views}))
        return {trial: experiments.result(study.directory / trial.name) for trial in trials}

    monkeypatch.setattr(experiments, "carry_out", made_up)
    train = SimpleNamespace(count=10_000, skipped=[])
    prepared = SimpleNamespace(size=32, classes=["a"] * 10, splits={"train": train, "test": None})
    monkeypatch.setattr(manifest, "read", lambda directory: prepared)
    with pytest.raises(SystemExit) as ended:
        main(["reproduce", "--data=x", "--claims=lrn,two_gpus,relu,ten_views", f"--output={tmp_path}"])
    assert ended.value.code == 0
    rows = {row["id"]: row for row in json.loads((tmp_path / "small" / "claims.json").read_text())}
    assert rows["lrn"]["verdict"] == rows["relu"]["verdict"] == rows["ten_views"]["verdict"] == "borne out"
    assert rows["two_gpus"]["verdict"] == "inconclusive"
    assert rows["relu"]["ours"].startswith("6.2x")
    assert "learning rates 0.01 and 0.01; both at 0.01: 6.2x" in rows["relu"]["ours"]
    assert rows["relu"]["data"].startswith("x, 10,000 images; widths 32-32-16-16, 60 epochs")
    assert rows["links"]["data"] == "-"
    runs = json.loads((tmp_path / "small" / "runs.json").read_text())
    assert len(runs) == 3 * 3 + (3 + 3 - 1 - 1) + 2 * 3
    assert runs[0]["run"] == "relu-rate0.002/seed0" and runs[0]["training"] == [[1, 25.0], [400, 50 / 401]]
    assert "</svg>" in (tmp_path / "small" / "figure1.svg").read_text()


def test_an_unknown_base_is_an_error(monkeypatch):
    monkeypatch.setitem(SCALES, "odd", {"network": "nowhere"})
    with pytest.raises(UserError, match="there is no config file nowhere; give the path of one, or one of "):
        trial_config(Trial("paper", 0, None), "odd", "")


@pytest.mark.long
@pytest.mark.slow
def test_a_trial_that_diverges_is_recorded_and_ends_nothing(tmp_path):
    """Its claim is then inconclusive, and the command goes on with the others."""
    values = tiny_config()
    values.optim.learning_rate, values.train.max_steps = 1e30, 9
    experiments._carry_out(config_files.parse(values), tmp_path / "trial")
    assert experiments.result(tmp_path / "trial") == {"diverged": True, "steps": None}
