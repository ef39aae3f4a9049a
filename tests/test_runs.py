"""Following runs: the list of them, and what TensorBoard and Weights & Biases show."""

import contextlib
import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from alexnet_jax import optim, sharding, steps, trainer
from alexnet_jax.data.loader import Batches
from alexnet_jax.inference import network
from alexnet_jax.run import config_files, pictures, starts, workdir
from tests import networks, runs
from tests.test_commands import run
from tests.tiny import tiny_config

pytestmark = pytest.mark.slow


def test_versions_of_what_drives_the_devices_are_known(tmp_path, monkeypatch):
    """Of those that are installed: each start records them, and processes must have the same."""
    before = starts.packages()
    for name in ("nvidia_cudnn_cu12", "nvidia_nccl_cu13", "libtpu"):
        (tmp_path / f"{name}-0.0.99.dist-info").mkdir()
        (tmp_path / f"{name}-0.0.99.dist-info/METADATA").write_text(f"Name: {name}\nVersion: 0.0.99\n")
    monkeypatch.syspath_prepend(tmp_path)
    new = {"nvidia-cudnn-cu12": "0.0.99", "nvidia-nccl-cu13": "0.0.99", "libtpu": "0.0.99"}
    assert starts.packages() == before | new and before["jax"] == jax.__version__


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    home = tmp_path_factory.mktemp("runs")
    runs.run(runs.command(home, "all/a"))
    runs.run(runs.command(home, "all/deep/b", "--config.optim.learning_rate=0.02", "--config.train.max_steps=5"))
    return home


def test_runs_are_listed_with_what_is_different(home):
    run("alexnet_jax", "evaluate", "--workdir", home / "all/a")
    lines = run("alexnet_jax", "runs", home / "all").splitlines()
    assert lines[0].split() == [*["run", "step", "best", "error", "last", "error", "evaluated", "verified"],
                                "written", "time", "training", "optim.learning_rate", "train.max_steps"]  # fmt: skip
    assert lines[1].startswith("a ") and " 46 " in lines[1] and "test x1" in lines[1]
    assert lines[2].startswith("deep/b") and lines[2].split()[-2:] == ["0.02", "5"]
    first, second = json.loads(run("alexnet_jax", "runs", home / "all", "--json"))
    assert list(first["seconds"])[:3] == ["importing", "opening", "restoring"] and first["verified"] is None
    validated = [json.loads(line) for line in (home / "all/a/metrics.jsonl").read_text().splitlines()]
    errors = [line["top1_error"] for line in validated if line["phase"] == "validation"]
    assert (first["best_error"], first["last_error"], first["step"]) == (min(errors), errors[-1], 46)
    last = validated[-1]  # of ten classes, measured on the devices; `evaluate` counts on the host
    assert last["phase"] == "validation" and 0 < last["top5_error"] < last["top1_error"]
    for name in ("top1_error", "top5_error"):
        assert first["evaluation"][name] == pytest.approx(last[name], abs=1e-6)
    assert second["config"] == {"optim.learning_rate": 0.02, "train.max_steps": 5} and second["evaluation"] is None


def test_the_step_that_is_compiled_ahead_is_the_one_that_trains(caplog):
    config = networks.small()
    inputs = trainer.open_inputs(config)
    mesh, order = inputs.mesh, inputs.order
    jax.config.update("jax_log_compiles", True)
    try:
        with trainer.train_step_ahead(config, inputs) as step:
            state = trainer.first_state(config, mesh)
            with contextlib.closing(
                Batches(inputs.train_images, order, 0, 1, trainer.reading(config, mesh))
            ) as batches:
                batch = sharding.put(next(batches), mesh, sharding.EXAMPLES)
            rates = optim.rates(config, state.params, 0, optim.Validation())
            statistics = sharding.put(inputs.dataset.statistics(), mesh, sharding.REPLICATED)
            assert step(state, batch, rates, statistics, sharding.votes(False, mesh))[0].step == 1
    finally:
        jax.config.update("jax_log_compiles", False)
    compiled = [record for record in caplog.records if "Compiling jit(train_step)" in record.getMessage()]
    assert len(compiled) == 1 and compiled[0].threadName != "MainThread"


def test_damaged_runs_are_named_and_the_others_listed(home, tmp_path):
    shutil.copytree(home / "all", tmp_path / "all")
    (tmp_path / "all/a/config.json").write_text("{")
    said = run("alexnet_jax", "runs", tmp_path / "all", code=2)
    assert "deep/b" in said and f"not listed: {tmp_path / 'all/a'}" in said and "not valid" in said
    (tmp_path / "empty").mkdir()
    assert "holds no run" in run("alexnet_jax", "runs", tmp_path / "empty", code=2)
    assert "there is no folder" in run("alexnet_jax", "runs", tmp_path / "none", code=2)


def test_a_log_line_cut_by_a_power_failure_is_not_read(tmp_path):
    """Nor does it stop `alexnet runs` and `alexnet verify-run`: the next start cuts it off."""
    log = tmp_path / workdir.METRICS
    log.write_text('{"step": 3, "phase": "train"}\n{"step": 6, "pha')
    assert workdir.read_metrics(tmp_path) == [{"step": 3, "phase": "train"}]
    log.write_bytes(b'{"step": 3, "phase": "train"}\n\xc3')
    assert len(workdir.read_metrics(tmp_path)) == 1


def test_tensorboard_shows_kernels_and_histograms(home):
    events = EventAccumulator(str(home / "all/a"), size_guidance={"images": 0, "histograms": 0}).Reload()
    params = jax.device_get(network.open_workdir(home / "all/a").params)
    assert {"conv1/weights", "fc8/biases", "conv5/weights"} <= set(events.Tags()["histograms"])
    shown = events.Histograms("fc6/weights")
    assert [one.step for one in shown] == [23, 46]
    last, kernel = shown[-1].histogram_value, params["fc6"]["kernel"]
    assert last.num == kernel.size == sum(last.bucket)
    assert (last.min, last.max) == pytest.approx((kernel.min(), kernel.max()))
    counts, _ = np.histogram(kernel, 30)
    assert np.abs(np.array(last.bucket) - counts).sum() <= 4  # an edge's rounding
    images = events.Images("conv1/tower_1")
    assert [one.step for one in images] == [23, 46] and (images[0].height, images[0].width) == (5, 16 * 6 - 1)


@pytest.mark.long
def test_validation_on_the_split_that_is_trained_on(tmp_path):
    """As after `prepare --val_fraction 0`: training and validation do not mix, neither there nor in the report."""
    runs.run(runs.command(tmp_path, "run", "--config.data.eval_split=train", "--config.train.max_steps=3"))
    tags = EventAccumulator(str(tmp_path / "run")).Reload().Tags()["scalars"]
    assert {"train/loss", "validation/loss", "train/learning_rate"} <= set(tags)
    assert "validation/learning_rate" not in tags
    run("alexnet_jax", "report", "--workdir", tmp_path / "run")
    assert "Loss and top-1 error against steps" in (tmp_path / "run/report.html").read_text()


@pytest.mark.parametrize("layout", [(1, 2), (2, 2), (1, 1)])
def test_the_summary_is_the_same_on_any_mesh(layout):
    values = tiny_config()
    values.mesh.update(data=layout[0], tower=layout[1])
    config = config_files.parse(values)
    mesh = sharding.make_mesh(layout[0], layout[1], 2)
    params = steps.init_state(config, mesh).params
    summary = jax.device_get(pictures.make_summary(config, mesh)(params))
    for name, histogram in summary.histograms.items():
        layer, _, kind = name.partition("/")
        leaf = np.asarray(params[layer]["kernel" if kind == "weights" else "bias"])
        assert histogram.counts.sum() == leaf.size
        assert histogram.low == leaf.min() and histogram.high == leaf.max()
        assert float(histogram.squares) == pytest.approx(float((leaf.astype(np.float64) ** 2).sum()), rel=1e-4)
    np.testing.assert_array_equal(summary.conv1, params["conv1"]["kernel"])


def test_kernels_as_an_image():
    kernels = np.linspace(-1, 1, 2 * 3 * 3 * 3 * 20).reshape(2, 3, 3, 3, 20)
    first, second = (pictures.mosaic(tower, 16) for tower in pictures.as_images(kernels))
    assert first.shape == (2 * 4 - 1, 16 * 4 - 1, 3) and first[0, 0, 0] == 0 and second[:3, :3].max() < 255
    np.testing.assert_array_equal(first[4:7, :3], np.round((kernels[0, ..., 16] + 1) / 2 * 255).astype(np.uint8))
    assert (first[3] == 255).all() and (first[4:, 4 * 4 :] == 255).all()  # gaps, and places without a kernel


def test_weights_and_biases(tmp_path):
    pytest.importorskip("wandb", reason="wandb is not here; `bash tests/run.sh --all` installs it")
    flags = ["--config.train.wandb_project=alexnet", "--config.train.max_steps=6"]
    env = {"WANDB_MODE": "offline"}
    line = runs.command(tmp_path, "run", *flags)[2:]
    run(*line, env=env)
    run(*line, "--config.train.max_steps=9", env=env)
    logs = sorted((tmp_path / "run/wandb").glob("offline-run-*/run-*.wandb"))
    assert len(logs) == 2 and logs[0].name == logs[1].name  # one run there, resumed
    contents = [log.read_bytes() for log in logs]
    assert all(b"train/loss" in content and b"learning_rate" in content for content in contents)


@pytest.mark.long
@pytest.mark.parametrize("place", ["init", "log"])
def test_weights_and_biases_out_of_reach(place, tmp_path):
    """A stand-in fails as the package does without a network; training goes on, and says so once."""
    (tmp_path / "wandb.py").write_text(f"""
class Run:
    def define_metric(self, *names, **options): pass
    def log(self, values): raise OSError("no network")

def Settings(**options): return options

def init(**options):
    if "{place}" == "init": raise OSError("no network")
    return Run()
""")
    line = runs.command(tmp_path, "run", "--config.train.wandb_project=alexnet", "--config.train.max_steps=6")[2:]
    said = run(*line, env={"PYTHONPATH": str(tmp_path)})
    assert said.count("no network") == 1 and "finished step 6" in said
    assert ("cannot be reached" if place == "init" else "failed and ends here") in said


def test_weights_and_biases_that_is_not_installed(tmp_path):
    (tmp_path / "wandb.py").write_text("raise ImportError")
    line = runs.command(tmp_path, "run", "--config.train.wandb_project=alexnet")[2:]
    said = run(*line, env={"PYTHONPATH": str(tmp_path)}, code=2)
    assert 'pip install "alexnet_jax[wandb]"' in said
