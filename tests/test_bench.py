"""The measurements as a user starts them: what they report, never how fast this machine is."""

import argparse
import json
import os
import re
import shutil
import statistics
import subprocess
import time
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from PIL import Image

from alexnet_jax import steps
from alexnet_jax.bench import input as input_
from alexnet_jax.bench import measuring, peers, train
from alexnet_jax.bench.measuring import Pipeline
from alexnet_jax.data import packing
from alexnet_jax.data.sources.source import Source, array_split
from alexnet_jax.errors import UserError
from alexnet_jax.run import config_files
from tests.conftest import ROOT
from tests.splits import in_memory
from tests.test_commands import run
from tests.tiny import tiny_config

pytestmark = pytest.mark.slow

KEYS = {"pipeline", "images_per_s", "ratio_to_torch", "ratio_to_tfdata", "cores", "batch"}
PACKAGE = {"torch DataLoader jpeg": "torch", "tf.data raw": "tensorflow", "tf.data jpeg": "tensorflow"}
PACKAGE["tf.data raw, by records"] = "tensorflow"
SHORT = ("--batch=8", "--rounds=3", "--seconds=0.05", "--images=60")


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """40 images of 64x64 as JPEGs."""
    output = tmp_path_factory.mktemp("bench") / "data"
    pixels = np.random.default_rng(0).integers(0, 256, (40, 64, 64, 3), dtype=np.uint8)
    source = Source(["a", "b"], {"train": array_split("train", pixels, np.arange(40) % 2)}, {})
    packing.pack(source, output, packing.Settings("jpeg", 64, 80, 0.0), show_progress=False)
    return output


@pytest.fixture(scope="module")
def measured(data) -> tuple[str, list[dict]]:
    """The output of `bench input`, and its rows."""
    file = data.parent / "rows.json"
    output = run(
        "alexnet_jax",
        "bench",
        "input",
        "--data",
        data,
        "--json",
        file,
        "--step_rate=1",
        "--cores=1",
        "--stream=digits",
        *SHORT,
    )
    return output, json.loads(file.read_text())["rows"]


@pytest.mark.long
def test_a_row_for_every_stage_and_pipeline(measured, data):
    output, rows = measured
    assert len({row["pipeline"] for row in rows}) == len(rows) == 14
    assert {(row["stage"], row["store"]) for row in rows} == {
        *(("read", "raw"), ("batch", "raw"), ("whole", "raw")),
        *(("read", "jpeg"), ("decode", "jpeg"), ("batch", "jpeg"), ("whole", "jpeg")),
        *(("host-to-device", None), ("whole", None)),  # the latter is --stream
    }
    for row in rows:
        assert row.keys() >= KEYS and row["cores"] == 1 and row["batch"] == 8
        [line] = [line for line in output.splitlines() if line.startswith(row["pipeline"] + "  ")]
        if find_spec(PACKAGE.get(row["pipeline"], "jax")):
            assert len(row["rounds"]) == 3 and min(row["rounds"]) > 0
            assert row["images_per_s"] == statistics.median(row["rounds"])
            assert f"  {row['images_per_s']:,.0f}  " in line
        else:
            assert row["rounds"] is row["images_per_s"] is None
            assert "not installed" in line
    assert f"64 images of 64x64, 40 of {data} repeated; JPEGs of quality 80" in output
    assert f"at most 4 + 1 batches, {5 * 8 * 64 * 64 * 3 / 1e6:.0f} MB" in output


def test_ratios_are_medians_of_each_rounds_ratio():
    """In made-up rounds in which the ratio of the medians is another."""
    assert measuring.ratio([10, 40, 30], [10, 20, 10]) == 2
    rates = {
        "read raw": [1.0, 1.0, 1.0],
        "alexnet_jax raw": [10.0, 40.0, 30.0],
        "alexnet_jax jpeg": [6.0, 60.0, 6.0],
        "tf.data raw": [10.0, 20.0, 10.0],
        "torch DataLoader jpeg": [5.0, 5.0, 30.0],
    }

    def ratios(name: str, stage: str, store: str | None) -> tuple:
        row = input_.row(Pipeline(name, stage, store, 2, None), rates, 8)
        return row["images_per_s"], row["ratio_to_torch"], row["ratio_to_tfdata"]

    assert ratios("alexnet_jax raw", "whole", "raw") == (30, 2, 2)
    assert ratios("alexnet_jax jpeg", "whole", "jpeg") == (6, 1.2, None), "tf.data jpeg is not there"
    assert ratios("torch DataLoader jpeg", "whole", "jpeg") == (5, 1, None)
    assert ratios("tf.data jpeg", "whole", "jpeg") == (None, None, None)
    assert ratios("read raw", "read", "raw") == ratios("read raw", "host-to-device", None) == (1, None, None)


def test_whole_pipelines_are_compared_with_the_installed_peers(measured):
    rows = {row["pipeline"]: row for row in measured[1]}
    peer_of = {"ratio_to_torch": {"raw": "torch DataLoader jpeg", "jpeg": "torch DataLoader jpeg"}}
    peer_of["ratio_to_tfdata"] = {"raw": "tf.data raw", "jpeg": "tf.data jpeg"}
    for row in rows.values():
        for key, peers_by_store in peer_of.items():
            peer = rows.get(peers_by_store.get(row["store"])) if row["stage"] == "whole" else None
            if peer and peer["rounds"] and row["rounds"]:
                assert row[key] > 0 and (row is not peer or row[key] == 1)
            else:
                assert row[key] is None


def test_which_side_limits(measured):
    output, rows = measured
    whole = [row for row in rows if row["stage"] == "whole" and row["rounds"]]
    assert output.count(": the step limits, at 1 images/s") == len(whole) >= 2 and "the input limits" not in output
    lines = [line for line in output.splitlines() if not re.match("I0000|WARNING: All log", line)]  # TensorFlow's
    assert "the step limits" in lines[-1], "nothing on stderr, which follows stdout"
    for line, row in zip(input_.limits(rows, 1e9), whole, strict=True):
        assert line.startswith(f"{row['pipeline']}: the input limits, with 0.0% of the 1,000,000,000 images/s")
    for line, row in zip(input_.limits(rows, None), whole, strict=True):
        assert line.startswith(f"{row['pipeline']} can feed a training step of ")
    slow = [row | ({"images_per_s": 3.0} if row["stage"] == "host-to-device" else {}) for row in rows]
    assert all("limited by host-to-device" in line for line in input_.limits(slow, 4.0))


def test_mistakes_are_reported(data, tmp_path, capsys):
    assert "holds no prepared data" in run("alexnet_jax", "bench", "input", "--data", tmp_path / "none", code=2)
    assert "--batch: 0 is not greater than 0" in run(
        "alexnet_jax", "bench", "input", "--data", data, "--batch=0", code=2
    )
    parser = argparse.ArgumentParser()
    input_.add_arguments(parser)
    misused = {
        "--seconds=nan": "--seconds: nan is not greater than 0",
        "--rounds=1.5": "--rounds: invalid",
        "--json=none/rows.json": "--json: none/rows.json: there is no folder none; make it first",
    }
    for flag, message in misused.items():
        with pytest.raises(SystemExit, match="2"):
            parser.parse_args([f"--data={data}", flag])
        assert message in capsys.readouterr().err
    refused = {"--cores=999": "--cores 999 must be in 1..", "--split=val": "no split 'val', only train"}
    for flag, message in refused.items():
        with pytest.raises(UserError, match=re.escape(message)):
            input_.run(parser.parse_args([f"--data={data}", flag]))


@pytest.mark.parametrize("package", ["torch", "tensorflow"])
def test_the_peers_yield_the_same_images(tmp_path, package):
    pytest.importorskip(package, reason=f"{package}, an optional peer, is not installed")
    colours = np.array([[200, 30, 30], [30, 200, 30], [30, 30, 200]], np.uint8)
    pixels = np.broadcast_to(colours[:, None, None], (3, 16, 16, 3))
    files = [tmp_path / f"{i}.jpg" for i in range(3)]
    for file, image in zip(files, pixels, strict=True):
        Image.fromarray(image).save(file, quality=95)
    if package == "torch":
        streams = [peers.torch_jpeg([str(file) for file in files], 2, 1)]
    else:
        jpeg = peers.write_tfrecords(tmp_path, "jpeg", (file.read_bytes() for file in files), 2)
        raw = peers.write_tfrecords(tmp_path, "raw", (image.tobytes() for image in pixels), 2)
        streams = [peers.tfdata(jpeg, "jpeg", 2, 16, 1)]
        streams += [peers.tfdata(raw, "raw", 2, 16, 1, by_records) for by_records in (False, True)]
    for batches in streams:
        nearest = set()
        for _ in range(20):
            batch = np.asarray(next(batches))
            assert batch.shape == (2, 16, 16, 3) and batch.dtype == np.uint8
            for image in batch.astype(int):
                distance = abs(image - pixels.astype(int)).max((1, 2, 3))
                assert distance.min() < 5
                nearest.add(int(distance.argmin()))
        assert nearest == {0, 1, 2}
        batches.close()


def test_preparation_is_measured_beside_its_work_alone(image_folder, tmp_path):
    images = image_folder({"cat": 6, "dog": 5})
    output = run(
        "alexnet_jax",
        "bench",
        "prepare",
        "--input",
        images,
        "--images=20",
        "--size=32",
        "--rounds=2",
        f"--json={tmp_path / 'rows.json'}",
    )
    assert "20 images, 11 of them different" in output
    rows = json.loads((tmp_path / "rows.json").read_text())
    assert [row["store"] for row in rows] == ["raw", "jpeg"]
    for row in rows:
        assert row["images_per_s"] > 0 and row["ratio_to_alone"] > 0
        assert f"{row['ratio_to_alone']:.1%} of {row['alone_images_per_s']:,.0f}" in output


def test_scale_is_a_table_of_bytes(tmp_path):
    (tmp_path / "tiny.py").write_text("from tests.tiny import tiny_config as get_config\n")
    line = ["alexnet_jax", "bench", "scale", f"--config={tmp_path / 'tiny.py'}", "--batch=8"]
    output = run(*line, "--devices", "1", "2", "4", f"--json={tmp_path / 'rows.json'}")
    rows = json.loads((tmp_path / "rows.json").read_text())
    layouts = [(row["devices"], row["mesh"], row["fc_sharding"]) for row in rows]
    assert layouts == [(1, "1x1", "tower"), (2, "1x2", "tower"), (4, "2x2", "tower"), (4, "2x2", "data_tower")]
    assert rows[0]["ratio"] is None and not sum(rows[0]["bytes"].values())
    for row in rows[1:]:
        assert row["ratio"] == pytest.approx(1, abs=0.2) and f"{row['ratio']:.4f}" in output  # scalars weigh in
    assert "--devices 3: more than one must be a multiple of the 2 towers" in run(*line, "--devices", "3", code=2)


def test_training_is_measured_in_images_trained_on(data, tmp_path, monkeypatch):
    """In whole batches, without a validation. A clock that only steps advance tells the rate."""
    masks, make_step = [], steps.make_train_step

    def counted(config, mesh, steps_per_epoch):
        step = make_step(config, mesh, steps_per_epoch)

        def counted_step(state, batch, *rest):
            masks.append(np.asarray(batch.mask))
            return step(state, batch, *rest)

        return counted_step

    def config(_, batch, changes):
        values = tiny_config()
        values.update_from_flattened_dict(changes | {"model.num_classes": 2, "data.size": 64})
        values.train.update(batch_size=batch, eval_batch_size=batch)
        return config_files.parse(values)

    monkeypatch.setattr(measuring, "config", config)
    monkeypatch.setattr(steps, "make_train_step", counted)
    monkeypatch.setattr(steps, "make_eval_step", lambda *_, **__: lambda *_, **__: pytest.fail("a validation"))
    monkeypatch.setattr(train, "time", SimpleNamespace(perf_counter=lambda: 2 * len(masks), monotonic=time.monotonic))
    parser = argparse.ArgumentParser()
    train.add_arguments(parser)
    file = tmp_path / "train.json"
    train.run(parser.parse_args([f"--data={data}", "--batch=16", "--steps=20", f"--json={file}"]))
    result = json.loads(file.read_text())
    assert np.concatenate(masks).all() and 20 <= len(masks) < 25
    assert (result["images"], result["seconds"], result["images_per_s"]) == (18 * 16, 36, 8)
    assert result["lines"] == [8] * 9 and result["store"] == "jpeg"


@pytest.mark.parametrize(("batch", "used"), [(8, 40), (16, 32), (64, 64)])
def test_batches_that_are_measured_are_whole(batch, used):
    """Of 40 images, those that fill batches; or all and some again."""
    images = train.whole_batches(in_memory(np.arange(40), np.zeros((40, 2, 2, 3), np.uint8)), batch)
    np.testing.assert_array_equal(images.labels, [*range(40), *range(24)][:used])


@pytest.mark.long
def test_keys_of_the_config_are_set(monkeypatch):
    monkeypatch.setattr(jax.config, "update", lambda *_: None)  # JAX has started

    def config(*texts: str):
        parser = argparse.ArgumentParser()
        measuring.add_program(parser)
        return measuring.config(parser.parse_args(["--mesh", "1x1", "--set", *texts]), 8, {})

    changed = config("train.fused_kernels=False", "model.activation=tanh")
    assert not changed.train.fused_kernels and changed.model.activation == "tanh" and changed.train.batch_size == 8
    with pytest.raises(UserError, match=r"--set mesh\.data: this command has its own options"):
        config("mesh.data=2")
    with pytest.raises(UserError, match=r"the config paper cannot be changed so: .*is locked\.$"):
        config("train.no_key=1")
    with pytest.raises(argparse.ArgumentTypeError, match="is not KEY=VALUE"):
        measuring.change("train.fused_kernels")


@pytest.mark.long
def test_a_step_is_timed_and_its_parts_are_named(tmp_path, monkeypatch):
    """In a process of its own, as the number of simulated devices is fixed when JAX starts."""
    tiny = tmp_path / "tiny.py"
    tiny.write_text("from tests.conftest import tiny_config\n\n\ndef get_config():\n    return tiny_config()\n")
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    env = {"XLA_FLAGS": "", "XDG_CACHE_HOME": str(tmp_path / "cache")}
    flags = [
        "--batch=8",
        "--rounds=2",
        "--seconds=0.1",
        "--peak_size=64",
        f"--json={tmp_path / 'step.json'}",
        "--torch",
    ]
    output = run("alexnet_jax", "bench", "step", f"--config={tiny}", *flags, env=env)
    (result,) = json.loads((tmp_path / "step.json").read_text())
    assert result["ours_images_per_s"] > 0 and f"{result['ours_images_per_s']:,.1f}" in output
    assert result["torch_variant"] is None and result["ratio"] is None
    assert set(result["rounds"]) == {"alexnet_jax"} and len(result["rounds"]["alexnet_jax"]) == 2
    assert sum(result["shares"].values()) == pytest.approx(1, abs=0.2)
    assert {"normalization", "pooling", "optimizer", "fully connected", "collectives"} <= set(result["shares"])
    assert result["peak_gflops"] > 0 and result["memory_bytes"].keys() == {"alexnet_jax"}
    flags = ["--batch=8", "--steps=10", f"--json={tmp_path / 'train.json'}"]
    run("alexnet_jax", "prepare", "--source=digits", "--size=32", f"--output={tmp_path / 'data'}")
    output = run("alexnet_jax", "bench", "train", f"--config={tiny}", f"--data={tmp_path / 'data'}", *flags, env=env)
    assert re.search(r"the first step ended \d+\.\d s after the start", output)
    assert list((tmp_path / "cache" / "alexnet_jax").glob("*/jit_train_step-*"))  # for the next start
    trained = json.loads((tmp_path / "train.json").read_text())
    assert trained["images_per_s"] > 0 and 0 <= trained["data_wait"] <= 1 and len(trained["lines"]) == 9
    refused = run("alexnet_jax", "bench", "step", f"--config={tiny}", "--mesh=2", code=2)
    assert "--mesh: 2 is not DATAxTOWER; give for example 1x2" in refused


def test_steps_of_pytorch():
    torch_net = pytest.importorskip("alexnet_jax.bench.torch_net", reason="torch, an optional peer, is not installed")
    cfg = config_files.parse(tiny_config())
    for last in (False, True):
        for training in (True, False):
            program = torch_net.program(cfg, "cpu", training, None, last)  # compiling takes a minute
            assert all(program.wait(program.step()) is None for _ in range(2)) and program.memory() > 0
    local = cfg.model.model_copy(update={"conv1": cfg.model.conv1.model_copy(update={"shared": False})})
    with pytest.raises(UserError, match="conv1 has separate kernels for every position"):
        torch_net.net(local)


def gpu_script(*arguments, code: int = 0, elapsed: int = 0) -> str:
    """The output of bench/gpu.sh, which takes it that `elapsed` seconds have gone by."""
    command = ["bash", ROOT / "alexnet_jax/bench/gpu.sh", *arguments]
    env = os.environ | {"SECONDS": str(elapsed)}
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=env)
    assert done.returncode == code, done.stdout
    return done.stdout


def test_the_script_for_gpus_refuses_mistakes(tmp_path):
    usage = "gpu.sh OUT [--minutes 8] [--cifar10 DIR] [--imagewoof DIR] [--rehearse]"
    out = tmp_path / "out"
    for arguments in (
        [],
        ["--minutes"],
        [out, "--minutes"],
        [out, "--minutes=5"],
        [out, "--minutes", "0.5"],
        [out, "--cifar10"],
        [out, "x"],
    ):
        assert usage in gpu_script(*arguments, code=2)
    assert "no folder that `alexnet prepare` wrote" in gpu_script(out, "--cifar10", tmp_path, code=2)
    if not shutil.which("nvidia-smi"):
        assert "no nvidia-smi, so no NVIDIA GPU; --rehearse" in gpu_script(out, code=1)
    assert not out.exists()


@pytest.mark.long
def test_the_script_for_gpus_in_small(tmp_path):
    """Every part, on the CPU; and in half a minute, which cuts parts off: what is written is whole."""
    output = gpu_script(tmp_path / "out", "--rehearse", "--minutes", "30")
    assert "ended with exit code" not in output
    written = {file.name for file in (tmp_path / "out").iterdir()}
    assert written == {
        *("gpu.txt", "step-8.json", "kernels.json", "profile.json", "train-8.json"),
        *("claims.json", "claims.md", "runs.json", "figure1.svg", "runs"),
    }
    results = [json.loads((tmp_path / "out" / f"{name}.json").read_text())[0] for name in ("step-8", "kernels")]
    assert results[0].keys() == results[1].keys() and "train.fused_kernels=False" in results[1]["ratios"]
    output = gpu_script(tmp_path / "short", "--rehearse", "--minutes", "1", elapsed=25)
    assert "finished after" in output and re.search(r"# -?\d+ s left", output.rpartition("$ alexnet train")[2])
    assert all(json.loads(file.read_text()) for file in (tmp_path / "short").glob("*.json"))
