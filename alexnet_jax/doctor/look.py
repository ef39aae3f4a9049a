"""Look at this machine. Nothing here judges, and what is missing, broken or hung is recorded as such."""

import contextlib
import fcntl
import getpass
import os
import platform
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from importlib import metadata
from pathlib import Path
from typing import Any

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from alexnet_jax.doctor.environment import Environment, Folder, Output, Package
from alexnet_jax.run import start_up

SECONDS = 120  # for JAX to start and compute
NVIDIA_SMI = ["nvidia-smi", "--query-gpu=index,name,driver_version,compute_cap,memory.total,memory.used"]
NVIDIA_SMI += ["--format=csv,noheader,nounits"]

# The devices, why there are no others, and a convolution, which needs cuDNN on GPUs.
PROBE = """
import json, logging
logging.basicConfig()
logging.getLogger("jax._src.xla_bridge").setLevel(logging.INFO)
import jax, jax.numpy as jnp
print(json.dumps([[device.platform, device.device_kind] for device in jax.local_devices()]), flush=True)
jax.lax.conv(jnp.ones((1, 8, 8, 8)), jnp.ones((8, 8, 3, 3)), (1, 1), "SAME").block_until_ready()
"""

VARIABLES = re.compile(
    r"JAX_(?!COORDINATOR).*|XLA_.*|LIBTPU_INIT_ARGS|(CUDA|NVIDIA|TPU)_VISIBLE_\w+|TPU_(LIBRARY_PATH|ACCELERATOR_TYPE)"
    r"|LD_LIBRARY_PATH|GLIBC_TUNABLES|NPROC|SLURM_(JOB_ID|NTASKS|CPUS_PER_TASK|GPUS_ON_NODE)|KUBERNETES_SERVICE_HOST"
    r"|(?i:.*_proxy)"
)
LIMITS = "memory.max", "cpu.max", "memory.limit_in_bytes", "cpu.cfs_quota_us", "cpu.cfs_period_us"
EXTRAS = "cuda12", "cuda13", "tpu", "with-cuda"
BLOCK, BLOCKS = 1 << 20, 64  # bytes, and how many of them are written to measure the speed of a disk


def look(folder: Path, seconds: float = SECONDS) -> Environment:
    """Record the facts of this machine and of `folder`, without names of hosts or users, and without passwords.

    JAX starts in a process of its own, which ends after `seconds`.
    """
    variables = {name: value for name, value in sorted(os.environ.items()) if VARIABLES.fullmatch(name)}
    if "KUBERNETES_SERVICE_HOST" in variables:
        variables["KUBERNETES_SERVICE_HOST"] = "set"
    nvidia_smi = run(NVIDIA_SMI, 30)  # first, as it makes the files in /dev if nothing has since the machine started
    files = [path for path in sorted(start_up.accelerators()) if not path.is_dir()]
    cache = os.environ.get("JAX_COMPILATION_CACHE_DIR") or start_up.own_cache()
    environment = Environment(
        date=time.strftime("%Y-%m-%d"),
        python=platform.python_version(),
        system=platform.platform(),
        packages=_packages(),
        variables={name: re.sub(r"//.*@", "//***@", value) for name, value in variables.items()},
        devices={str(path.relative_to("/dev")): os.access(path, os.R_OK | os.W_OK) for path in files},
        pci=_pci(),
        driver_line=_text("/proc/driver/nvidia/version").partition("\n")[0],
        nvidia_smi=nvidia_smi,
        jax=run([sys.executable, "-c", PROBE], seconds, XLA_PYTHON_CLIENT_PREALLOCATE="false") or Output(code=127),
        cores=start_up.cores({}),
        memory=_memory(),
        cgroup=_cgroup(),
        huge_pages=_text("/sys/kernel/mm/transparent_hugepage/enabled"),
        open_files=resource.getrlimit(resource.RLIMIT_NOFILE),
        cache=_folder(Path(cache), measure=False) if cache else None,
        folder=_folder(folder, measure=True),
    )
    return Environment.model_validate_json(_anonymous(environment.model_dump_json()))


def run(command: list[str], seconds: float, **variables: str) -> Output | None:
    """What a command prints in at most `seconds`; None if there is no such command."""
    with tempfile.TemporaryFile("w+", errors="replace") as out, tempfile.TemporaryFile("w+", errors="replace") as err:
        try:
            process = subprocess.Popen(command, stdout=out, stderr=err, env=os.environ | variables)
        except OSError:
            return None
        code = None
        with contextlib.suppress(subprocess.TimeoutExpired):
            code = process.wait(seconds)
        if code is None:
            process.kill()
            with contextlib.suppress(subprocess.TimeoutExpired):  # one that waits for a driver cannot be killed
                process.wait(5)
        out.seek(0)
        err.seek(0)
        return Output(code=code, out=out.read().strip(), err=err.read().strip())


def _text(path: str | Path) -> str:
    """The content of a file, or "" if it cannot be read."""
    try:
        return Path(path).read_text(errors="replace").strip()
    except OSError:
        return ""


def _packages() -> dict[str, Package]:
    """The packages that alexnet_jax requires, directly or not, and those for accelerators."""
    installed: dict[str, metadata.Distribution] = {}
    for distribution in metadata.distributions():
        for name in distribution.metadata.get_all("Name", []):
            installed.setdefault(canonicalize_name(name), distribution)  # the first is imported
    names = ["alexnet-jax", *(name for name in installed if re.match(r"jax(lib)?$|jax-cuda|libtpu$|nvidia-", name))]
    packages: dict[str, Package] = {}
    while names:
        if (name := names.pop()) in packages or name not in installed:
            continue
        wanted = []
        for text in installed[name].requires or ():
            with contextlib.suppress(InvalidRequirement):
                wanted.append(Requirement(text))
        requires = [each for each in wanted if not each.marker or each.marker.evaluate({"extra": ""})]
        extras = [each for each in wanted if each.marker and any(each.marker.evaluate({"extra": e}) for e in EXTRAS)]
        required = {canonicalize_name(each.name) for each in requires}
        packages[name] = Package(
            version=installed[name].version,
            requires=[f"{each.name}{each.specifier}" for each in requires],
            fits=sorted({f"{each.name}{each.specifier}" for each in extras if each.name not in required}),
        )
        names += required
    return dict(sorted(packages.items()))


def _pci() -> list[str]:
    paths = Path("/sys/bus/pci/devices").glob("*")
    devices = [":".join(_text(path / key)[2:] for key in ("vendor", "device", "class")) for path in paths]
    return sorted(device for device in devices if device.startswith(("10de:", "1ae0:")))


def _memory() -> dict[str, int]:
    kilobytes = dict(re.findall(r"^Mem(Total|Available): +(\d+)", _text("/proc/meminfo"), re.M))
    memory = {name.lower(): int(size) * 1024 for name, size in kilobytes.items()}
    with contextlib.suppress(OSError):
        memory["shm"] = shutil.disk_usage("/dev/shm").total
    return memory


def _cgroup() -> dict[str, list[str]]:
    """The limits of the control groups, of version 2 and 1, that this process is in."""
    found: dict[str, list[str]] = {}
    for line in _text("/proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        root = Path("/sys/fs/cgroup", controllers)  # in version 2, there are none
        group = root / path.strip("/")  # in a container, its own group may be the root
        for folder in (each for each in (group, *group.parents) if each.is_relative_to(root)):
            for name in LIMITS:
                if text := _text(folder / name):
                    found.setdefault(name, []).append(text)
    return found


def _folder(path: Path, measure: bool) -> Folder:
    """Whether files can be written in `path`, or in as much of it as there is; to `measure`, how fast, and locked."""
    facts: dict[str, Any] = {"path": str(path)}
    try:
        there = next(parent for parent in (path.absolute(), *path.absolute().parents) if parent.exists()).resolve()
        mounts = [line.split() for line in _text("/proc/self/mounts").splitlines()]
        around = [mount for mount in mounts if there.is_relative_to(mount[1].replace(r"\040", " "))]
        facts["mount"] = " ".join(max(around, key=lambda mount: len(mount[1]), default=["", "", ""])[2:4])
        facts["free"] = shutil.disk_usage(there).free
        with tempfile.TemporaryFile(dir=there) as file:
            if measure:
                facts["bytes_per_s"] = _write(file.fileno())
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        facts["lock" if "bytes_per_s" in facts else "error"] = error.strerror or str(error)
    return Folder(**facts)


def _write(file: int) -> float:
    """The speed of writing random bytes to the disk, bytes per second; it takes two seconds if that is slow."""
    block, start, written = os.urandom(BLOCK), time.monotonic(), 0
    while written < BLOCK * BLOCKS and time.monotonic() < start + 2:
        written += os.write(file, block)
    os.fsync(file)
    return written / (time.monotonic() - start)


def _anonymous(text: str) -> str:
    """A report without the home folder, the host and the user, where they are parts of paths."""
    names = {}
    with contextlib.suppress(RuntimeError, OSError, KeyError):  # a user without a home folder or a name
        names[rf"(?<![\w.-]){re.escape(str(Path.home()))}"] = "~"
        names[f"/{re.escape(getpass.getuser())}"] = "/USER"
    for name, instead in (names | {f"/{re.escape(platform.node())}": "/HOST"}).items():
        text = text if name.endswith("/") else re.sub(rf"{name}(?![\w.-])", instead, text)
    return text
