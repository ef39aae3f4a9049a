"""`alexnet doctor`: environments of other machines, and the true command on this one.

tests/environments/ has reports as `alexnet doctor --json` prints them, with fewer packages. The machines are put
together; the words of JAX, XLA, libtpu and nvidia-smi in them are theirs.
"""

import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from alexnet_jax import __main__, errors
from alexnet_jax.doctor import look
from alexnet_jax.doctor.diagnose import diagnose
from alexnet_jax.doctor.environment import Environment, Output, Package, Report
from tests.conftest import ROOT
from tests.runs import environment

ENVIRONMENTS = ROOT / "tests/environments"
T4 = ("note", "Tesla T4 (compute capability 7.5) has neither bfloat16 nor Triton")
FAULTS: dict[
    str, list[tuple[str, str]]
] = {  # file -> what must be found, and nothing else: levels, and parts of titles
    "healthy_a100": [],
    "healthy_cpu": [],
    "healthy_tpu": [],
    "t4": [T4],
    "eight_gpus": [("note", "one pair of the 8 devices")],
    "no_plugin": [
        ("error", "on the CPU, though this machine has 2 x Tesla T4: JAX's plugin for CUDA is not installed"),
        T4,
    ],
    "only_compilers_beside_a_gpu": [
        ("error", "2 x Tesla T4: RuntimeError: Unable to load cuDNN. Is it installed?"),
        T4,
    ],
    "only_compilers": [
        ("note", "there is no NVIDIA GPU, nor cuDNN"),
        ("note", "libtpu is installed, but there is no TPU"),
    ],
    "driver_too_old": [
        ("error", "JAX does not start: RuntimeError: Unable to initialize backend 'cuda'"),
        ("error", "driver 550.144.03 is too old for CUDA 13, which needs 580"),
    ],
    "driver_of_2021": [
        ("error", "JAX does not start"),
        ("error", 'nvidia-smi fails: Field "compute_cap" is not a valid field to query.'),
        ("error", "driver 470.182.03 is too old for CUDA 12, which needs 525.60.13"),
    ],
    "driver_updated_without_restart": [
        ("error", "nvidia-smi fails: Failed to initialize NVML: Driver/library version")
    ],
    "fabric_manager_stopped": [("error", "failed: CUDA_ERROR_SYSTEM_NOT_READY")],
    "on_cpu_by_variable": [("warning", "this machine has 2 x NVIDIA A100-SXM4-80GB: JAX_PLATFORMS=cpu is set")],
    "every_gpu_hidden": [("error", "CUDA_VISIBLE_DEVICES='' hides 2 x NVIDIA A100-SXM4-80GB")],
    "one_gpu_of_two_and_busy": [
        ("warning", "62,141 of 81,920 MiB of GPU 0 are in use"),
        ("note", "JAX uses 1 of 2 GPUs, because CUDA_VISIBLE_DEVICES=0"),
    ],
    "old_cudnn_in_the_path": [
        ("error", "cannot compute on NVIDIA A100-SXM4-80GB: jax.errors.JaxRuntimeError: FAILED_PREC")
    ],
    "plugin_of_another_version": [
        ("error", "jax-cuda13-plugin 0.9.2 does not fit jax 0.10.2"),
        ("error", "a CUDA-enabled jaxlib is not installed"),
    ],
    "two_plugins": [("warning", "plugins for two versions of CUDA")],
    "gpu_too_old_for_cuda13": [
        ("error", "cannot compute on Tesla P100-PCIE-16GB"),
        ("error", "GPU 0, Tesla P100-PCIE-16GB, has compute capability 6.0, and JAX with CUDA 13 needs 7.5"),
        ("note", "compute capability 6.0"),
    ],
    "container_without_gpus": [("warning", "this machine has 2 x NVIDIA GPU: this container has none")],
    "slurm_job_without_gpus": [("warning", "this machine has 2 x NVIDIA GPU: this job has none")],
    "no_driver": [("warning", "this machine has 1 x NVIDIA GPU: its driver is not loaded")],
    "gpu_lost_in_a_container": [("error", "nvidia-smi fails: Failed to initialize NVML: Unknown Error")],
    "devices_hang": [("error", "JAX hangs as it starts"), ("error", "nvidia-smi hangs")],
    "tpu_without_libtpu": [("error", "this machine has 4 TPU chip(s): libtpu is not installed")],
    "tpu_in_use": [("error", "The TPU is already in use by process with pid 176028")],
    "gpu_of_another_group": [("error", "this user may not open /dev/nvidia0, /dev/nvidia1")],
    "tpu_for_root_only": [
        ("error", "4 TPU chip(s): this user may not open /dev/vfio/0, /dev/vfio/1, /dev/vfio/2, /dev/")
    ],
    "limits_of_cgroup_v1": [
        ("warning", "only 3.2 GB of memory may be used of 33.6"),
        ("warning", "the time of 1.5 cores, and JAX takes them for 8"),
        ("note", "large pages, which make steps on CPUs faster, are not used: always madvise [never]"),
    ],
    "small_pod": [
        ("warning", "only 2.1 GB of memory may be used of 33.7"),
        ("warning", "the time of 1.0 cores, and JAX takes them for 16"),
        ("warning", "1 core(s) have to decode images for 2 device(s)"),
        ("warning", "/dev/shm has 67 MB"),
        ("warning", "only 1024 files may be open"),
        ("warning", "/data has only 3.2 GB free"),
        T4,
    ],
    "simulated_devices_left_on": [("warning", "8 devices are simulated on the CPU, because XLA_FLAGS is set")],
    "unknown_xla_flag": [("error", "Unknown flag in XLA_FLAGS: --xla_gpu_enable_async_all_gather=true")],
    "network_disk": [
        ("warning", "/mnt/nfs/runs is written at only 21 MB/s"),
        ("warning", "files in /mnt/nfs/runs cannot be locked: nolock"),
        ("warning", "compiled programs cannot be kept: Permission denied"),
        ("note", "a proxy is set: https_proxy"),
    ],
    "locks_refused": [("warning", "files in /mnt/bucket cannot be locked: Function not implemented")],
    "read_only_folder": [
        ("error", "/data cannot be written: Read-only file system"),
        ("warning", "compiled programs cannot be kept: this user has no home folder"),
    ],
    "old_packages": [
        ("error", "alexnet-jax needs optax, which is not installed"),
        ("error", "jaxlib 0.9.2 does not fit jax 0.10.2"),
        ("error", "numpy 1.26.4 does not fit jax 0.10.2"),
        ("error", "JAX does not start: RuntimeError: jaxlib is version 0.9.2"),
        ("note", "new versions of JAX may refuse Python 3.11"),
    ],
}


def test_every_environment_is_judged():
    assert set(FAULTS) == {path.stem for path in ENVIRONMENTS.iterdir()}


@pytest.mark.parametrize("name", FAULTS)
def test_each_fault_is_named_with_its_cure(name, capsys):
    path = ENVIRONMENTS / f"{name}.json"
    findings = diagnose(Report.model_validate_json(path.read_bytes()).environment)
    assert [finding.level for finding in findings] == [level for level, _ in FAULTS[name]]
    for finding, (_, words) in zip(findings, FAULTS[name], strict=True):
        assert words in finding.title and finding.cure
    with pytest.raises(SystemExit) as ended:
        __main__.main(["doctor", "--from", str(path)])
    output, failed = capsys.readouterr(), any(level == "error" for level, _ in FAULTS[name])
    assert ended.value.code == (errors.EXIT_USER_ERROR if failed else errors.EXIT_OK)
    assert all(f"{finding.level}: {finding.title}\n    cure: {finding.cure}\n" in output.out for finding in findings)
    assert ("error(s), each with its cure above" in output.err) == failed


@pytest.mark.parametrize("name", ["no_plugin", "driver_too_old", "gpu_too_old_for_cuda13"])
def test_the_plugin_to_install_is_the_newest_that_driver_and_gpu_can_use(name):
    env = recorded(name)
    assert any("'jax[cuda12]" in finding.cure for finding in diagnose(env))
    if name == "no_plugin":
        assert env.nvidia_smi is not None
        newer = env.nvidia_smi.model_copy(update={"out": env.nvidia_smi.out.replace("560.35.03", "580.65.06")})
        assert diagnose(env.model_copy(update={"nvidia_smi": newer}))[0].cure == "pip install 'jax[cuda13]==0.10.2'"


def recorded(name: str, **changes: Any) -> Environment:
    """An environment of a file, with other facts; `changes` may hold the prefixes of packages to be `without`."""
    env = Report.model_validate_json((ENVIRONMENTS / f"{name}.json").read_bytes()).environment
    if without := changes.pop("without", ()):
        changes["packages"] = {key: value for key, value in env.packages.items() if not key.startswith(without)}
    return env.model_copy(update=changes)


A100, ON_GPU = "0, NVIDIA A100-SXM4-80GB, {}, {}, 81920, 4", Output(code=0, out='[["gpu", "NVIDIA A100-SXM4-80GB"]]')
HIDDEN = {"CUDA_VISIBLE_DEVICES": "1"}
LIKE: dict[str, tuple[Environment, list[str]]] = {  # machine -> all that may be said of it
    "slurm_job_with_one_gpu_of_four": (
        recorded(
            "healthy_a100",
            devices={"nvidiactl": True, "nvidia-uvm": True, "nvidia2": True}
            | dict.fromkeys(("nvidia0", "nvidia1", "nvidia3"), False),  # by the job's control group
            nvidia_smi=Output(code=0, out=A100.format("580.95.05", "8.0")),
            jax=ON_GPU,
            variables={"SLURM_JOB_ID": "1", "CUDA_VISIBLE_DEVICES": "0"},
        ),
        [],
    ),
    "wsl2_without_nvidia": (recorded("healthy_cpu", devices={"dxg": True}), []),
    "wsl2": (
        recorded("no_plugin", devices={"dxg": True}, pci=[], driver_line=""),
        ["2 x Tesla T4: JAX's plugin for CUDA is not", T4[1]],
    ),
    "jetson": (recorded("healthy_a100", nvidia_smi=Output(code=0, out=A100.format("[N/A]", "[N/A]")), jax=ON_GPU), []),
    "cuda_compat": (recorded("driver_too_old", jax=ON_GPU), ["JAX uses 1 of 2 GPUs"]),
    "cuda_without_a_plugin_of_pip": (recorded("healthy_a100", without=("jax-cuda", "nvidia")), []),
    "the_other_gpu_is_busy": (recorded("one_gpu_of_two_and_busy", variables=HIDDEN), ["JAX uses 1 of 2 GPUs"]),
    "tpu_container_without_devices": (
        recorded("tpu_in_use", devices={}, variables={"JAX_PLATFORMS": "cpu"}),
        ["4 TPU chip(s): this container has none of their files in /dev", "large pages"],
    ),
    "pytorch_has_pinned_an_older_library": (
        recorded("t4", packages=recorded("t4").packages | {"nvidia-cuda-runtime-cu12": Package(version="12.0.1")}),
        ["nvidia-cuda-runtime-cu12 12.0.1 does not fit jax-cuda12-plugin", T4[1]],
    ),
    "mac": (recorded("healthy_cpu", memory={}, cgroup={}, huge_pages="", open_files=(256, 2**63 - 1)), []),
    "an_empty_proxy": (recorded("healthy_cpu", variables={"https_proxy": ""}), ["large pages"]),
}


@pytest.mark.parametrize("name", LIKE)
def test_what_works_is_no_fault(name):
    env, titles = LIKE[name]
    for finding, words in zip(findings := diagnose(env), titles, strict=True):
        assert words in finding.title, findings
        assert finding.level != "error" or not env.works


def test_jax_waits_for_the_other_hosts_of_a_tpu_slice():
    env = recorded("tpu_in_use", jax=Output(code=None))
    assert any("on all hosts of a TPU slice at once" in finding.cure for finding in diagnose(env))


def doctor(*arguments: str | Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """The true command, in the environment of a user with further variables."""
    command = [sys.executable, "-m", "alexnet_jax", "doctor", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment() | variables)


@pytest.mark.slow
def test_this_machine(tmp_path, capsys):
    """What --json prints holds no secret and no name, and is read back."""
    variables = {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "3", "https_proxy": "http://me:hush/hush@proxy:1"}
    done = doctor("--json", tmp_path, HOME=str(tmp_path), JAX_COMPILATION_CACHE_DIR=f"{tmp_path}/cache", **variables)
    assert done.returncode == 0, done.stderr
    for secret in ("hush", str(tmp_path), f"/{platform.node()}/"):
        assert secret not in done.stdout
    report = Report.model_validate_json(done.stdout)
    env = report.environment
    assert env.jax.code == 0 and env.jax_devices == [("cpu", "cpu")] * 3
    assert any(text.startswith("jaxlib") for text in env.packages["jax"].requires)
    assert (env.folder.path, env.folder.error, env.folder.lock) == ("~", "", "") and env.folder.bytes_per_s
    assert env.cores == len(os.sched_getaffinity(0)) and 0 < env.memory["available"] < env.memory["total"]
    titles = [finding.title for finding in report.findings]
    assert any("3 devices are simulated on the CPU, because JAX_NUM_CPU_DEVICES is set" in title for title in titles)
    assert "a proxy is set: https_proxy" in titles and env.variables["https_proxy"] == "http://***@proxy:1"
    (tmp_path / "report.json").write_text(done.stdout)
    with pytest.raises(SystemExit):
        __main__.main(["doctor", "--from", str(tmp_path / "report.json"), "--json"])
    assert json.loads(capsys.readouterr().out) == json.loads(done.stdout)


@pytest.mark.slow
def test_a_plugin_that_crashes_is_a_finding(tmp_path):
    """As is a folder that cannot be written."""
    plugin = tmp_path / "jax_plugins/broken"
    plugin.mkdir(parents=True)
    (plugin / "__init__.py").write_text("import os\ndef initialize(): os.abort()\n")
    done = doctor(plugin / "__init__.py", PYTHONPATH=f"{tmp_path}:{ROOT}")
    assert done.returncode == errors.EXIT_USER_ERROR and "Traceback" not in done.stderr
    assert "error: JAX does not start: " in done.stdout
    assert f"error: {plugin}/__init__.py cannot be written: Not a directory" in done.stdout


def test_commands_that_hang_or_are_missing():
    assert look.run(["no-such-command"], 1) is None
    output = look.run([sys.executable, "-c", "import time; print('here', flush=True); time.sleep(600)"], 1)
    assert output is not None and output.code is None
    assert look.run([sys.executable, "-c", "import os, sys; sys.exit(os.environ['X'] + ' fails')"], 30, X="it") == (
        look.Output(code=1, err="it fails")
    )


def test_packages_that_have_nothing_to_do_with_it_are_not_judged(tmp_path, monkeypatch):
    for name in ("jaxother", "libtpu"):
        (tmp_path / f"{name}-1.0.dist-info").mkdir()
        (tmp_path / f"{name}-1.0.dist-info/METADATA").write_text(
            f"Name: {name}\nVersion: 1.0\nRequires-Dist: none-such"
        )
    monkeypatch.syspath_prepend(str(tmp_path))
    packages = look._packages()
    assert packages["libtpu"] == Package(version="1.0", requires=["none-such"]) and "jaxother" not in packages


def test_home_folders_users_and_hosts_are_left_out(monkeypatch):
    monkeypatch.setenv("HOME", "/me")
    monkeypatch.setenv("LOGNAME", "me")
    assert look._anonymous(f"/me/x /data/me/x /{platform.node()} /men /me.old") == "~/x /data/USER/x /HOST /men /me.old"


def test_what_is_not_a_report_is_refused(tmp_path, capsys):
    (tmp_path / "report.json").write_text('{"environment": {}}')
    for name, message in (("report.json", "is not what `alexnet doctor --json` prints"), ("no.json", "No such file")):
        with pytest.raises(SystemExit) as ended:
            __main__.main(["doctor", "--from", str(tmp_path / name)])
        assert ended.value.code == errors.EXIT_USER_ERROR and message in capsys.readouterr().err
