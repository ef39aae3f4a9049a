"""The paper's claims: how they are judged, and the command that tests them."""

import json
import math
import shutil
import sys

import numpy as np
import pytest
from scipy import stats

from alexnet_jax.__main__ import main
from alexnet_jax.commands import reproduce
from alexnet_jax.configs import variants
from alexnet_jax.errors import UserError
from alexnet_jax.paper import facts
from alexnet_jax.paper.studies import arms, claim_effects, claims, firsts, judging, ladder, trials
from alexnet_jax.paper.studies.arms import SCALES, Setting
from alexnet_jax.paper.studies.claim_rows import ARMS, CLAIMS, WORTH
from alexnet_jax.run import config_files, workdir
from tests import runs
from tests.test_commands import run


def verdict(effect: judging.Effect) -> str:
    return effect.verdict(effect.p)


def test_verdicts_depend_on_the_whole_interval():
    rng = np.random.default_rng(0)
    low, high, same = (rng.normal(mean, 0.3, 5).tolist() for mean in (30, 33, 30))
    assert verdict(judging.difference(low, high)) == "borne out"
    assert verdict(judging.difference(high, low)) == "contradicted"
    assert verdict(judging.difference(low, same)) == "inconclusive"
    assert verdict(judging.difference([30, 40], [31, 42])) == "inconclusive"
    assert verdict(judging.difference(low, high, threshold=3.5)) != "borne out"
    assert verdict(judging.difference([30, 30], [31, 31])) == "borne out"  # nothing varied
    stuck = judging.difference(low, [89.8] * 3)  # nor did one of the two
    assert verdict(stuck) == "borne out" and stuck.high - stuck.low > 0.1
    assert verdict(judging.mean([1.4, 1.5, 1.6])) == "borne out"
    assert verdict(judging.mean([1.4, -1.5, 0.1])) == "inconclusive"
    for effect in (judging.difference(low, high), judging.difference(low, same, 1.0), judging.mean(low, 29.9)):
        assert (effect.low <= effect.threshold <= effect.high) == (effect.p >= 0.05)
        assert effect.low < effect.mean < effect.high
    narrow = judging.difference([30, 31, 32], [32, 33, 34])
    assert narrow.narrowly_missed() and not judging.difference([32, 33, 34], [30, 31, 32]).narrowly_missed()
    assert not judging.difference(low, high).narrowly_missed()


def test_intervals_cover_95_percent():
    """Of 400 made-up experiments without an effect, about one in twenty is judged to have one."""
    rng = np.random.default_rng(0)
    verdicts = [verdict(judging.difference(*rng.normal(30, 1, (2, 4)).tolist())) for _ in range(400)]
    assert 370 <= verdicts.count("inconclusive") <= 394


def test_p_values_are_corrected_for_their_number():
    """The example of Holm's paper's method: the smallest p counts fourfold, and none passes a smaller one."""
    assert judging.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert judging.holm([0.9, 0.8]) == [1, 1] and judging.holm([]) == []


def test_the_detectable_effect_is_detected_four_times_in_five():
    """Of made-up experiments with exactly that effect, by the test that judges claims."""
    rng = np.random.default_rng(1)
    better, worse = rng.normal(30, 1, (2, 5)).tolist()
    effect = judging.difference(better, worse, threshold=0.5)
    spread = math.sqrt((np.var(better, ddof=1) + np.var(worse, ddof=1)) / 2)
    shape = 600, 5
    for tests in (1, 6):
        shifted = rng.normal(effect.detectable(tests) - 0.5, spread, shape)
        p = stats.ttest_ind(rng.normal(0, spread, shape), shifted, axis=1).pvalue
        assert 0.76 < np.mean(p < judging.LEVEL / tests) < 0.84
    assert judging.mean([1.0, 1.0]).detectable(3) == 0 and judging.mean([1.0, 2.0]).detectable(20) > 100


@pytest.mark.parametrize("scale", sorted(SCALES))
def test_every_arm_is_a_valid_config_and_differs_from_the_others(scale):
    configs = {name: arms.config(scale, "", arm, 1) for name, arm in ARMS.items() if arm.base in SCALES[scale]}
    names = configs["paper"].model.layers().keys()
    contents = [config.model_dump(exclude={"model": names}) for config in configs.values()]
    layers = [list(config.model.layers().values()) for config in configs.values()]  # whatever their names
    assert len({repr(content) for content in zip(contents, layers, strict=True)}) == len(configs)
    assert all(config.seed == 1 for config in configs.values())
    assert {arm for claim in CLAIMS for arm in claim.arms} == set(ARMS)


@pytest.mark.parametrize(
    ("scale", "arm"),
    [(scale, name) for scale in sorted(SCALES) for name, arm in ARMS.items() if arm.base in SCALES[scale]],
)
def test_the_config_of_a_trial(scale, arm):
    """The arm's base with its variants, the seed, the rate and the data; two steps of 64 images at scale smoke."""
    values = config_files.load(SCALES[scale][ARMS[arm].base]).unlock()
    variants.apply(values, ARMS[arm].variants)
    values.seed, values.optim.learning_rate = 3, 0.02
    values.data.update(source="digits", directory="", eval_split="test", train_examples=0)
    if scale == "smoke":
        values.data.train_examples = 64
        values.train.update(batch_size=32, epochs=1, max_steps=2, log_every_steps=1, eval_batch_size=64)
    changed = ARMS[arm]._replace(changes=(("optim.learning_rate", 0.02),))
    assert arms.config(scale, "", changed, 3) == config_files.parse(values)
    base = config_files.parse(config_files.load(SCALES[scale][ARMS[arm].base]))
    assert arms.config(scale, "", ARMS[arm], 0).optim.learning_rate == base.optim.learning_rate


def test_the_arms_of_a_claim_differ_only_in_its_subject():
    for arm, sections in {
        "no_lrn": {"model"},
        "one_gpu": {"model"},
        "non_overlapping_pooling": {"model"},
        "no_colour_noise": {"augment"},
        "tanh": {"model"},
        "no_links": {"model"},
        "no_dropout": {"model"},
        **{f"without_{name}": {"model"} for name in ("conv2", "conv3", "conv5")},
        "four_layer_lrn": {"model", "optim"},  # the weight decay of fc8, as in the authors' files
    }.items():
        other = {"tanh": "relu", "four_layer_lrn": "four_layer"}.get(arm, "paper")
        first, second = (arms.config("small", "", ARMS[name], 0).model_dump() for name in (arm, other))
        assert {key for key in first if first[key] != second[key]} == sections


def test_towers_without_links_have_as_many_parameters():
    for scale, most in {"small": 0.25, "full": 0.02}.items():
        sizes = []
        for arm in ("paper", "no_links"):
            sizes.append(facts.total(facts.layers(arms.config(scale, "", ARMS[arm], 0))).parameters)
        assert abs(sizes[1] / sizes[0] - 1) < most, (scale, sizes)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--claims=x", "--scale=smoke"], "there is no claim 'x'; give some of parameters, neurons"),
        (["--seeds=1"], "--seeds must be 2 or more"),
        (["--jobs=0", "--scale=smoke"], "--jobs must be 1 or more"),
        (["--budget=nan", "--scale=smoke"], "--budget must be 0 or more hours"),
        (["--scale=small"], "give --data DIR"),
        (["claim"], "there is no study 'claim'; give some of all, claims"),
    ],
)
def test_wrong_arguments_are_errors(arguments, message, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["reproduce", *arguments])
    assert ended.value.code == 2 and message in capsys.readouterr().err


@pytest.mark.long
def test_all_studies_at_smoke_scale_and_once_more(tmp_path):
    """The command is started in an empty folder: it needs no files of the repository."""
    command = ["alexnet_jax", "reproduce", "--scale=smoke", f"--output={tmp_path}", "--jobs=2"]
    output = runs.end(runs.start([sys.executable, "-m", *command, "all"], tmp_path), seconds=900)
    home = tmp_path / "smoke-digits"
    arms_of_claims = {arm for claim in CLAIMS for arm in claim.arms}
    count = len(arms_of_claims) + len(ladder.ROWS) + len(firsts.ROWS) + 2  # of firsts.TRIED
    assert f"{count} of {count} runs, " in output
    for study in reproduce.STUDIES:
        assert (home / ("map" if study == "map" else "") / f"{study}.md").stat().st_size > 500
    table = (home / "claims.md").read_text()
    assert all(f"| {claim.id} | " in table for claim in CLAIMS)
    assert "| lrn | 3.3 |" in table and "borne out" not in table.split("| lrn |")[1].splitlines()[0]
    rows = {row["id"]: row for row in json.loads((home / "claims.json").read_text())}
    assert rows["parameters"]["ours"] == "60,965,224" and rows["parameters"]["verdict"] == "borne out"
    assert rows["conv_share"]["verdict"] == "contradicted"
    assert rows["time"]["verdict"] == rows["lrn"]["verdict"] == "not run"
    result = json.loads((home / "no_lrn/seed0/result.json").read_text())
    assert result["steps"] == 2 and result["reached"] is None and not result["diverged"]
    assert result["views1"]["views"] == 1 and result["train"]["count"] == 64
    assert all(0 <= result[name]["top5_error"] <= result[name]["top1_error"] <= 1 for name in ("train", "views1"))
    assert 0 < result["colours"]["difference"] < 1 and 0.05 < result["colours"]["p"] <= 1  # kernels are random still
    assert result["processor_seconds"] > 0 and 0 < result["hours"] < 1 and result["environment"]["cores"] >= 1
    assert workdir.read_evaluation(home / "no_lrn/seed0") == result["views1"]
    tuned = json.loads((home / "finetune/seed0/config.json").read_text())
    assert tuned["start"]["workdir"] == str(home / "first-classes/seed0")
    published = tmp_path / "published/smoke-digits"
    published.mkdir(parents=True)
    shutil.copy(home / "runs.json", published)
    again = run(*command[:3], f"--output={published.parent}", "claims", "ladder", "firsts")
    assert "runs, " not in again.split("Scale smoke")[0] and "| finetune | " in again  # nothing is left to do
    assert (published / "claims.md").exists()
    altered = (published / "runs.json").read_text().replace(result["identity"], "0")
    (published / "runs.json").write_text(altered)
    message = run(*command[:3], f"--output={published.parent}", "--claims=lrn", code=2)
    assert "no_lrn/seed0 belongs to a run with another config or other data; give another --output" in message


def made_up_results(setting: Setting, errors: dict[str, float], plan=claim_effects.plan) -> dict:
    """Results of every trial that `plan` wants, with these errors (%) of arms, others 30, that vary by 0.2."""
    rng = np.random.default_rng(0)
    results: dict = {}
    while wanted := [trial for trial in plan(setting, results) if trial.name not in results]:
        for trial in wanted:
            arm = trial.name.partition("/")[0].partition("-rate")[0]
            error = errors.get(arm, 30) / 100 + rng.normal(0, 0.002)
            slowdown = 1 + abs(np.log(trial.config.optim.learning_rate / 1e-2))  # 0.01 is the best rate
            steps = (100 if arm == "relu" else 620) * slowdown + trial.config.seed / 10
            colours = {"difference": 0.2 + rng.normal(0, 0.01), "chance": 0.05, "p": 0.001}
            evaluations = {name: {"top1_error": error + more, "top5_error": error / 2} for name, more in
                (("train", -0.1 * (arm == "no_dropout")), ("views1", rng.normal(0.015, 0.001)), ("views10", 0))
            }  # fmt: skip
            environment = dict(processor="P", cores=1, python="3", jax="1", alexnet_jax="0", devices=["cpu"])
            results[trial.name] = dict(
                diverged=False, steps=steps, reached=not trial.views, classes=10, colours=colours, **evaluations,
                wall_seconds=60, processor_seconds=60, hours=1 / 60, environment=environment,
            )  # fmt: skip
    return results


def test_claims_are_judged_together_and_narrow_ones_with_more_seeds(tmp_path):
    setting = Setting("small", "", tmp_path, 3, WORTH)
    results = made_up_results(setting, {"no_lrn": 34, "one_gpu": 30.3, "no_colour_noise": 29})
    outcomes = {claim.id: outcome for claim, outcome in claims.judge(setting, results).items()}
    borne_out = ("lrn", "relu", "ten_views", "specialization", "dropout")
    assert {outcomes[name].verdict for name in borne_out} == {"borne out"}
    assert outcomes["colour_noise"].verdict == "contradicted"
    assert outcomes["two_gpus"].verdict == "inconclusive"
    assert outcomes["relu"].ours.startswith("6.2x [") and "learning rates 0.01 and 0.01" in outcomes["relu"].ours
    assert outcomes["lrn"].ours.startswith("+3.8 points [+3.5, +4.2] (30.1 and 33.9 %); 5+3")  # no top-5 of ten classes
    specialized = outcomes["specialization"].effect
    by_fisher = stats.chi2.sf(-2 * 5 * np.log(0.001), 2 * 5)  # five seeds, as the first arm is that of two_gpus too
    assert specialized and specialized.p == pytest.approx(by_fisher)
    assert outcomes["ilsvrc2012"].ours == "needs ImageNet 2012 and --scale full"
    tested = [outcome for outcome in outcomes.values() if outcome.effect]
    assert len(tested) == len(WORTH) - 1
    smallest = min(outcome.effect.p for outcome in tested if outcome.effect)
    assert min(outcome.p_holm or 1 for outcome in tested) == pytest.approx(len(tested) * smallest)
    seeds = {name.partition("/")[0]: name for name in results if name.endswith("seed4")}
    assert "one_gpu" in seeds and "paper" in seeds and "no_lrn" not in seeds  # the first three seeds were clear
    assert outcomes["two_gpus"].ours.endswith("; 5+5 runs") and outcomes["lrn"].ours.endswith("; 5+3 runs")


def test_a_claim_waits_for_all_its_runs(tmp_path):
    setting = Setting("small", "", tmp_path, 3, ("lrn",))
    results = made_up_results(setting, {"no_lrn": 34})
    del results["no_lrn/seed2"]
    found = {claim.id: outcome for claim, outcome in claims.judge(setting, results).items()}
    assert found["lrn"].ours == "5 of 6 runs are finished" and found["lrn"].verdict == "not run"
    assert found["pooling"].ours == "3 of 6 runs are finished"  # it shares the first arm


def test_the_rungs_of_the_ladder_add_up(tmp_path):
    assert ladder.arm(ladder.ROWS["no_lrn"]).variants == ("paper_start", "he", "grey_levels", "no_lrn")
    assert ladder.arm(ladder.ROWS["ema"]).variants[-2:] == ("nesterov", "ema=0.99")
    assert "nesterov" not in ladder.arm(ladder.ROWS["adamw"]).variants
    assert ladder.arm(ladder.ROWS["bias_one"]).variants[2:] == ("grey_levels", "bias=1")  # beside the ladder
    planned = {trial.name: trial.config for trial in ladder.plan(Setting("photos", "", tmp_path, 2, ()), {})}
    first = planned["ladder-paper/seed1"]
    starts = [(layer.init_std, layer.init_bias) for layer in first.model.layers().values()]
    wide = [0.01, *[0.01 * 4**0.5] * 4, 0.01 * 16**0.5, *[0.01 * 4**0.5] * 2]  # a quarter of the width, maps of 3x3
    assert starts == list(zip(wide, (0, 1, 0, 1, 1, 1, 1, 0), strict=True)) and first.data.size == 144
    assert not first.optim.layers and planned["ladder-grey_levels/seed0"].optim.layers["conv1"]
    ((_, *rates),) = planned["ladder-adamw/seed0"].optim.layers["conv1"].lr_multipliers
    assert rates == pytest.approx([0.001**0.5] * 2)
    assert planned["ladder-narrow/seed0"].model.conv1.features == 12
    assert planned["ladder-decay/seed0"].optim.weights.weight_decay == 0.005
    assert len({config_files.to_json(config) for config in planned.values()}) == len(planned)


@pytest.mark.parametrize("study", [ladder, firsts])
def test_the_tables_of_ladder_and_firsts(study, tmp_path, monkeypatch):
    setting = Setting("small", "", tmp_path / "small-x", 3, ())
    results = made_up_results(setting, {"ladder-he": 25, "brief-dropout": 32}, study.plan)
    monkeypatch.setattr(trials, "finished", lambda plan, directory: results)
    text, files = study.tables(setting)
    rows = {row["name"]: row for row in json.loads(files[1].read_text())}
    if study is ladder:
        assert rows["he"]["difference"].startswith("-5.") and rows["he"]["p_holm"] < 0.01
        assert rows["paper"]["interval"][1] < rows["paper"]["interval"][0] < rows["paper"]["interval"][2]
        assert (tmp_path / "small-x/ladder.svg").exists() and "| he | He start" in text
    else:
        assert rows["digits"]["error"].endswith("; 3 runs") and rows["photos-half"]["error"] == "not at --scale small"
        assert rows["digits"]["p_holm"] is rows["brief"]["p_holm"] is None and "| brief | the config cifar10" in text
        assert rows["brief-dropout"]["difference"].startswith("+1.8") and rows["brief-dropout"]["p_holm"] < 0.01
        assert rows["brief-batch"]["p_holm"] > 0.05 and "| brief-batch | the paper's batches, 128 | 31." in text


@pytest.mark.parametrize(("study", "name"), [(ladder, "ladder-he"), (firsts, "brief-dropout")])
def test_a_row_with_one_run_has_no_interval_and_is_not_compared(study, name, tmp_path, monkeypatch):
    setting = Setting("small", "", tmp_path / "small-x", 2, ())
    results = made_up_results(setting, {name: 25}, study.plan)
    monkeypatch.setattr(trials, "finished", lambda plan, directory: results)

    def row():
        rows = {row["name"]: row for row in json.loads(study.tables(setting)[1][1].read_text())}
        return rows[name.removeprefix("ladder-")]

    assert row()["error"].endswith("; 2 runs") and row()["p_holm"] is not None
    results[f"{name}/seed1"]["diverged"] = True
    only = 100 * results[f"{name}/seed0"]["views1"]["top1_error"]
    assert row()["error"] == f"{only:.1f} %; 1 run" and row()["difference"] == "-" and row()["p_holm"] is None
    results[f"{name}/seed0"]["diverged"] = True
    assert row()["error"] == "no run has reached its end"


def test_what_was_tried_differs_from_the_config_cifar10_in_one_thing(tmp_path):
    setting = Setting("small", "", tmp_path, 1, ())
    configs = {trial.name.partition("/")[0]: workdir.flattened(trial.config) for trial in firsts.plan(setting, {})}
    brief = configs["brief"]
    apart = {row.name: {key for key in brief if configs[row.name][key] != brief[key]} for row in firsts.TRIED}
    assert apart == {row.name: {key for key, _ in row.changes} for row in firsts.TRIED}
    shorter = [key for key in brief if configs["cifar10"][key] != brief[key]]
    assert all(key.startswith(("train.", "data.", "optim.schedule.", "mesh.")) for key in shorter), shorter


def test_fine_tuning_takes_as_many_images_of_each_class(tmp_path, image_folder, monkeypatch):
    for split in ("train", "val"):
        image_folder({"cat": 2, "dog": 2, "emu": 2}, f"images/{split}")
    for part in ("", "-first", "-second"):
        flags = ["--input", str(tmp_path / "images"), "--size=144", "--output", str(tmp_path / f"photos{part}")]
        with pytest.raises(SystemExit, match="0"):
            main(["prepare", "--source=folder", *flags])
    setting = Setting("photos", str(tmp_path / "photos"), tmp_path, 2, ())
    planned = {trial.name: trial.config.data for trial in firsts.plan(setting, {})}
    assert planned["scratch/seed1"].train_examples == 3 * firsts.IMAGES
    assert planned["scratch/seed1"].directory == f"{tmp_path}/photos-second"
    assert planned["first-classes/seed0"].directory == f"{tmp_path}/photos-first"
    assert planned["photos-half/seed0"].train_examples == 0 and "finetune/seed0" not in planned
    for trial in firsts.plan(setting, {}):
        (tmp_path / trial.name).mkdir(parents=True)
        (tmp_path / trial.name / "config.json").write_text(config_files.to_json(trial.config))
    results = made_up_results(setting, {"finetune": 25}, firsts.plan)
    identities = [trials._identity(trial.config) for trial in firsts.plan(setting, results)]
    shutil.copytree(tmp_path / "first-classes", tmp_path / "elsewhere/first-classes")
    moved = firsts.plan(setting._replace(directory=tmp_path / "elsewhere"), results)
    assert len({trials._identity(trial.config) for trial in moved}) == len(moved) == len(results)
    assert identities == [trials._identity(trial.config) for trial in moved]  # wherever the first network lies
    copied = setting._replace(directory=tmp_path / "copied", seeds=3)
    shutil.copytree(tmp_path / "first-classes/seed1", copied.directory / "first-classes/seed2")
    named = zip(firsts.plan(setting, results), identities, strict=True)
    known = [{"run": trial.name, **results[trial.name], "identity": identity} for trial, identity in named]
    (copied.directory / trials.RUNS).write_text(json.dumps(known))
    planned_now = {trial.name for trial in firsts.plan(copied, results | {"first-classes/seed2": known[0]})}
    assert not {"finetune/seed0", "finetune/seed1"} & planned_now  # whose first networks are elsewhere
    rows = {row["name"]: row for row in json.loads(firsts.tables(copied)[1][1].read_text())}
    assert rows["finetune"]["error"].endswith("; 2 runs") and rows["finetune"]["p_holm"] < 0.05
    monkeypatch.setattr(trials, "finished", lambda plan, directory: results)
    rows = {row["name"]: row for row in json.loads(firsts.tables(setting)[1][1].read_text())}
    assert rows["finetune"]["difference"].startswith("-5.0") and rows["finetune"]["p_holm"] < 0.05
    assert rows["finetune-longer"]["p_holm"] > 0.05 and rows["scratch"]["p_holm"] is None
    trained_on = {name: row["trained_on"] for name, row in rows.items()}
    assert "photos-second, 150 images" in trained_on["scratch"] and trained_on["scratch"].endswith("600 epochs")
    assert "photos-second, 150 images" in trained_on["finetune"] and trained_on["finetune"].endswith(" 20 epochs")
    assert trained_on["finetune-longer"].endswith("100 epochs")
    assert "photos, all images" in trained_on["photos-half"] and trained_on["photos-half"].endswith("60 epochs")


def test_the_map_is_left_out_where_it_cannot_be_drawn(tmp_path, image_folder, capsys):
    for split in ("train", "val"):
        image_folder({"cat": 2, "dog": 2}, f"images/{split}")
    for arguments, code in (
        (f"prepare --source=folder --input={tmp_path}/images --size=144 --output={tmp_path}/x", 0),
        (f"reproduce all --scale=photos --budget=0 --data={tmp_path}/x --output={tmp_path}", 0),
        (f"reproduce map --scale=photos --data={tmp_path}/x --output={tmp_path}", 2),
        (f"reproduce map --scale=small --data={tmp_path}/x --output={tmp_path}", 2),
    ):
        with pytest.raises(SystemExit, match=str(code)):
            main(arguments.split())
    printed = capsys.readouterr()
    assert "without the map: not at --scale photos" in printed.out and "photos-x/firsts.md" in printed.out
    assert "the map cannot be drawn: not at --scale photos" in printed.err
    assert "the map cannot be drawn: needs a split train of images of 32x32" in printed.err


def test_trials_come_claim_by_claim_in_the_order_given(tmp_path):
    setting = Setting("small", "", tmp_path, 2, ("ten_views", "pooling", "relu"))
    names = [trial.name for trial in claim_effects.plan(setting, {})]
    pooling = [f"non_overlapping_pooling/seed{seed}" for seed in (0, 1)]
    grid = [f"{arm}-rate{rate:g}/seed0" for arm, rates in claim_effects.RATES.items() for rate in rates]
    assert names == ["paper/seed0", "paper/seed1", *pooling, *grid]


def test_an_unknown_base_is_an_error(monkeypatch):
    monkeypatch.setitem(SCALES, "odd", {"network": "nowhere"})
    with pytest.raises(UserError, match="there is no config file nowhere; give the path of one, or one of "):
        arms.config("odd", "", ARMS["paper"], 0)
