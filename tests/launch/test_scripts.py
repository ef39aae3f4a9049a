"""The launch scripts: the commands they print and run, and that no shell parses the user's values."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import yaml

from alexnet_jax import errors
from tests import runs
from tests.conftest import ROOT

GOLDEN = Path(__file__).parent / "golden"
SCRIPTS = sorted([*ROOT.glob("launch/**/*.sh"), ROOT / "launch/slurm.sbatch", *ROOT.glob("tests/*.sh")])
TPU = ["alexnet", "us-central1-a", "v5litepod-8", "configs/paper.py", "/mnt/nfs/paper"]
HOSTILE = ["$(touch x)", "a b", "'", '"; touch x; "', "`touch x`", "*"]
# name -> the script, and its arguments after --dry-run
DRY = {
    "local": ("local.sh", ["configs/digits.py", "runs/digits", "2", "--config.seed=1"]),
    "local_processes": ("local.sh", ["--processes", "2", "configs/digits.py", "runs/digits", "4"]),
    "local_gpus": ("local.sh", ["--processes", "2", "configs/paper.py", "runs/paper"]),
    "slurm": ("slurm.sbatch", ["configs/paper.py", "runs/paper", "--config.mesh.data=4"]),
    "tpu_vm": ("tpu_vm.sh", ["--spot", *TPU, "--config.mesh.data=4"]),
    "tpu_queued": ("tpu_queued.sh", TPU),
    "docker": ("docker/build.sh", ["cuda12"]),
}


def script(name: str, *arguments: str, code: int = 0, env: dict[str, str] | None = None, cwd: Path = ROOT) -> str:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", str(ROOT / "launch" / name), *arguments],
        cwd=cwd,
        env=runs.environment() | {"PATH": path} | (env or {}),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout if not code else done.stdout + done.stderr


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_shellcheck_finds_nothing(path):
    checker = Path(sys.executable).parent / "shellcheck"
    done = subprocess.run([checker, "-x", path], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("name", DRY)
def test_dry_run_prints_the_commands(name):
    """As in golden/NAME.txt; after an intended change, write the output there."""
    file, arguments = DRY[name]
    assert script(file, "--dry-run", *arguments) == (GOLDEN / f"{name}.txt").read_text()


@pytest.mark.parametrize("name", ["local", "local_processes", "slurm", "tpu_vm", "tpu_queued"])
def test_values_stay_unchanged(name, tmp_path):
    """A printed line, pasted into a shell, is one command with the user's own words; so it is on a TPU's workers."""
    file, arguments = DRY[name]
    printed = script(file, "--dry-run", *arguments, *(f"--config.start.workdir={value}" for value in HOSTILE))
    lines = [line for line in printed.splitlines() if "alexnet_jax.main" in line]
    assert lines
    for line in lines:
        if "--command=" in line:  # what a worker's shell is given
            words = shell_words(line, tmp_path)
            line = words[-1].removeprefix("--command=").rpartition(" && ")[2]
        words = shell_words(line, tmp_path)
        assert [word.partition("=")[2] for word in words if word.startswith("--config.start.workdir=")] == HOSTILE
    assert not list(tmp_path.iterdir())


def shell_words(line: str, folder: Path) -> list[str]:
    program = f"{sys.executable} -c 'import json, sys; print(json.dumps(sys.argv[1:]))' {line}"
    done = subprocess.run(["bash", "-c", program], cwd=folder, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


@pytest.mark.long
@pytest.mark.slow
def test_hostile_values_reach_the_program(tmp_path):
    """They are not only printed: the program gets them, and refuses them by name."""
    strange = tmp_path / "run $(touch x); echo `touch y`"
    output = script("local.sh", "configs/digits.py", str(strange), "2", "--config.no_such_key=$(touch z)", code=2)
    assert "no_such_key" in output
    script("local.sh", "configs/digits.py", str(strange), "2", "--config.train.max_steps=1")
    assert (strange / "metrics.jsonl").exists() and sorted(path.name for path in tmp_path.iterdir()) == [strange.name]


@pytest.mark.parametrize("name", ["tpu_vm.sh", "tpu_queued.sh"])
@pytest.mark.parametrize("value", ["-x", "Alexnet", "a;b", "$(x)", ""])
def test_invalid_names_of_cloud_resources(name, value):
    output = script(name, "--dry-run", value, *TPU[1:], code=errors.EXIT_USER_ERROR)
    assert f"error: NAME is '{value}', but it must be lower-case letters" in output and "create" not in output


@pytest.mark.parametrize("name", sorted({file for file, _ in DRY.values()}))
def test_without_arguments_they_print_their_usage(name):
    output = script(name, code=errors.EXIT_USER_ERROR)
    assert f"launch/{name}" in output and "#" not in output.partition("\n")[0]


@pytest.mark.slow
def test_two_processes_train(tmp_path):
    """A signal to the script alone stops them; no process is left behind."""
    words = runs.command(tmp_path, "run", devices=2)
    config = words[3].removeprefix("--config=")
    launched = ["--processes", "2", config, str(tmp_path / "run"), "2", "--config.train.epochs=500"]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    process = subprocess.Popen(
        ["bash", "launch/local.sh", *launched],
        cwd=ROOT,
        env=runs.environment() | {"PATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert any("preflight: 2 process(es), mesh data=1 x tower=2" in line for line in runs.until(process, "step 12/"))
    process.terminate()
    messages = runs.end(process, errors.EXIT_INTERRUPTED)
    assert messages.count("interrupted: step ") == 2
    left = subprocess.run(["pgrep", "-f", str(tmp_path / "run")], capture_output=True, text=True, check=False).stdout
    assert not left


@pytest.fixture
def models() -> ModuleType:
    """The models of Kubernetes' client."""
    return pytest.importorskip(
        "kubernetes.client.models", reason="`bash tests/run.sh --all` installs Kubernetes' client"
    )


def check_keys(models: ModuleType, value: object, kind: str, at: str) -> None:
    """Check that a Kubernetes object has only keys of its kind, by the client library's own `models`."""
    if kind.startswith("list["):
        assert isinstance(value, list), at
        for i, item in enumerate(value):
            check_keys(models, item, kind[5:-1], f"{at}[{i}]")
    elif hasattr(models, kind):
        assert isinstance(value, dict), at
        model = getattr(models, kind)
        names = {key: name for name, key in model.attribute_map.items()}
        for key, item in value.items():
            assert key in names, f"{at}.{key} is unknown"
            check_keys(models, item, model.openapi_types[names[key]], f"{at}.{key}")
    elif kind in ("str", "int", "bool"):
        assert type(value).__name__ == kind, f"{at} is not of type {kind}"


def test_the_jobset_is_valid(models):
    """Its jobs by Kubernetes' models; its own keys by the list of those of jobset.x-k8s.io/v1alpha2."""
    jobset = yaml.safe_load((ROOT / "launch/gke_jobset.yaml").read_text())
    assert (jobset["apiVersion"], jobset["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    assert set(jobset) == {"apiVersion", "kind", "metadata", "spec"}
    spec = jobset["spec"]
    assert set(spec) <= {"failurePolicy", "network", "replicatedJobs", "startupPolicy", "successPolicy", "suspend"}
    assert set(spec["failurePolicy"]) <= {"maxRestarts", "restartStrategy", "rules"}
    assert all(set(rule) <= {"name", "action", "onJobFailureReasons"} for rule in spec["failurePolicy"]["rules"])
    assert set(spec["network"]) <= {"enableDNSHostnames", "subdomain", "publishNotReadyAddresses"}
    (main,) = spec["replicatedJobs"]
    assert set(main) == {"name", "replicas", "template"}
    check_keys(models, jobset["metadata"], "V1ObjectMeta", "metadata")
    check_keys(models, main["template"], "V1JobTemplateSpec", "template")
    job = main["template"]["spec"]
    (container,) = job["template"]["spec"]["containers"]
    flags = dict(argument.lstrip("-").split("=", 1) for argument in container["args"])
    name = jobset["metadata"]["name"]
    assert flags["coordinator_address"].partition(":")[0] == f"{name}-{main['name']}-0-0.{name}"
    assert int(flags["num_processes"]) == job["completions"] == job["parallelism"]
    (rule,) = job["podFailurePolicy"]["rules"]
    restartable = {errors.EXIT_INTERRUPTED, errors.EXIT_LOST_PEER, errors.EXIT_STALLED}
    assert rule["onExitCodes"]["containerName"] == container["name"] and not restartable & set(
        rule["onExitCodes"]["values"]
    )


def test_an_unknown_key_of_a_job_is_reported(models):
    with pytest.raises(AssertionError, match=r"template.spec.completion is unknown"):
        check_keys(models, {"spec": {"completion": 1}}, "V1JobTemplateSpec", "template")


def test_the_sky_task():
    task = yaml.safe_load((ROOT / "launch/sky.yaml").read_text())
    for variable in re.findall(r"\$\w+", task["run"]):
        assert variable[1:] in task["envs"] and re.search(rf'"[^" ]*\{variable}"', task["run"])  # quoted
    assert set(task["resources"]["job_recovery"]["recover_on_exit_codes"]) == {69, 75, 124, 134}


def test_the_sky_task_conforms_to_its_schema():
    schemas = pytest.importorskip("sky.utils.schemas", reason="SkyPilot, which brings the schema, is not installed")
    import jsonschema  # type: ignore[import-untyped]  # a dependency of SkyPilot

    jsonschema.validate(yaml.safe_load((ROOT / "launch/sky.yaml").read_text()), schemas.get_task_schema())


def test_copies_of_the_project_hold_the_configs():
    """The package has a symbolic link to configs/, which must go wherever the package goes."""
    link = ROOT / "alexnet_jax/configs"
    assert link.is_symlink() and link.resolve() == ROOT / "configs"
    assert {"COPY alexnet_jax alexnet_jax", "COPY configs configs"} <= set(lines("docker/Dockerfile"))
    assert {"!alexnet_jax", "!configs"} <= set(lines("docker/Dockerfile.dockerignore"))
    (archive,) = [line.split() for line in lines("tpu.sh") if line.startswith("run tar ")]
    assert {"alexnet_jax", "configs"} <= set(archive)


def lines(name: str) -> list[str]:
    return [line.strip() for line in (ROOT / "launch" / name).read_text().splitlines()]
