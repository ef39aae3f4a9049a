"""A machine and its installation: the facts that `look` records or a report holds, and what follows from them."""

import functools
import json
import math
import re
from typing import Literal, NamedTuple, get_args

import pydantic
import pydantic.dataclasses

# The PCI devices of TPUs, v2 to v7; Google's virtual network cards and disks are others.
TPUS = "0027", "0056", "005e", "0062", "0063", "006f", "0076"


class Facts(pydantic.BaseModel):
    """Facts that are written as JSON and read back."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid")


class Output(Facts):
    """What a command printed."""

    code: int | None  # its exit code, negative for a signal; None: it had not ended after its time limit
    out: str = ""
    err: str = ""


class Package(Facts):
    version: str
    requires: list[str] = []
    fits: list[str] = []  # what its extras for accelerators require, which need not be there


class Folder(Facts):
    path: str
    error: str = ""  # why nothing can be written there
    mount: str = ""  # the type of its file system and the options
    free: int = 0  # bytes
    bytes_per_s: float | None = None  # of writing, if it was measured
    lock: str = ""  # why files cannot be locked


class Gpu(NamedTuple):
    """A line of nvidia-smi."""

    number: str
    name: str
    driver: str
    capability: float  # nan, as each of the others, if nvidia-smi says [N/A]
    total: float  # MiB
    used: float


class Environment(Facts):
    date: str  # YYYY-MM-DD
    python: str
    system: str
    packages: dict[str, Package]  # alexnet_jax, what it requires, and everything for accelerators
    variables: dict[str, str]  # those that change what JAX and alexnet_jax do
    devices: dict[str, bool]  # files of accelerators in /dev, and whether this user may open them
    pci: list[str]  # vendor:device:class, hexadecimal, of devices from NVIDIA and Google
    driver_line: str  # of /proc/driver/nvidia/version
    nvidia_smi: Output | None  # None: there is no such command
    jax: Output  # of look.PROBE, in a process of its own
    cores: int  # those that this process may use
    memory: dict[str, int]  # bytes: total, available, and shm, the size of /dev/shm
    cgroup: dict[str, list[str]]  # limits by name, those of the process's group first, then of those around it
    huge_pages: str
    open_files: tuple[int, int]  # the limit, and how far this user can raise it; -1: none
    cache: Folder | None  # for compiled programs
    folder: Folder

    @property
    def gpus(self) -> list[Gpu]:
        """The GPUs that nvidia-smi lists."""
        smi = self.nvidia_smi
        rows = [re.split(r", *", line) for line in smi.out.splitlines()] if smi and smi.code == 0 else []
        return [Gpu(row[0], row[1], row[2], *map(_number, row[3:])) for row in rows if len(row) == len(Gpu._fields)]

    @property
    def visible(self) -> list[Gpu]:
        """Those that CUDA_VISIBLE_DEVICES leaves to JAX."""
        chosen = self.variables.get("CUDA_VISIBLE_DEVICES", "").split(",")
        return [gpu for gpu in self.gpus if gpu.number in chosen] or self.gpus

    @property
    def driver(self) -> str:
        """The version of NVIDIA's driver, or ""."""
        found = re.search(r"Kernel Module.*?  (\d[\d.]+)", self.driver_line)
        stated = self.gpus[0].driver if self.gpus else ""
        return stated if re.match(r"\d", stated) else found[1] if found else ""  # Jetson's nvidia-smi says [N/A]

    @property
    def nvidia(self) -> str:
        """What the machine has of NVIDIA's GPUs, in words, or ""."""
        count = sum(bool(re.fullmatch(r"10de:\w+:03\w+", device)) for device in self.pci)
        there = count or self.driver_line or self.given
        return f"{len(self.gpus)} x {self.gpus[0].name}" if self.gpus else f"{count or 1} x NVIDIA GPU" if there else ""

    @property
    def given(self) -> bool:
        """Whether this process may have a GPU of NVIDIA's: it sees its file, and no control group forbids it."""
        forbidden = (
            self.nvidia_smi and "No devices were found" in self.nvidia_smi.out and "SLURM_JOB_ID" in self.variables
        )
        files = r"nvidia\d+|dxg" if self.nvidia_smi else r"nvidia\d+"  # WSL2 has /dev/dxg for any maker's GPU
        return any(re.fullmatch(files, name) for name in self.devices) and not forbidden

    @property
    def tpus(self) -> int:
        """The number of TPU chips."""
        chips = [device for device in self.pci if re.match(rf"1ae0:({'|'.join(TPUS)}):", device)]
        return len(chips) or sum(bool(re.fullmatch(r"accel\d+", name)) for name in self.devices)

    def closed(self, pattern: str) -> str:
        """The files of accelerators with names like `pattern` that this user may not open."""
        names = [name for name, allowed in self.devices.items() if re.fullmatch(pattern, name) and not allowed]
        return ", ".join(f"/dev/{name}" for name in names)

    @property
    def jax_devices(self) -> list[tuple[str, str]]:
        """JAX's devices, as (platform, kind); none if it did not start."""
        lines = [line for line in self.jax.out.splitlines() if line.startswith("[[")]
        return [(platform, kind) for platform, kind in json.loads(lines[-1])] if lines else []

    @property
    def on_cpu(self) -> bool:
        return {platform for platform, _ in self.jax_devices} == {"cpu"}

    @property
    def jax_error(self) -> str:
        """What JAX says of its failure: its last error, or else its last line."""
        lines = [re.sub(r"^[A-Z]+:[\w.]+:", "", line.strip()) for line in self.jax.err.splitlines() if line.strip()]
        tpu = r"|.*backend 'tpu'" if self.tpus else ""  # without one this is said everywhere
        errors = [line for line in lines if re.match(rf"[\w.]*Error:|F\d{{4}} {tpu}", line)]
        return (errors or lines or [f"exit code {self.jax.code}"])[-1][:400]

    @property
    def works(self) -> bool:
        """Whether JAX computes on a GPU or a TPU."""
        return self.jax.code == 0 and not self.on_cpu

    @property
    def platforms(self) -> str:
        """The platforms that JAX_PLATFORMS allows, separated by commas; "" if JAX may choose."""
        return self.variables.get("JAX_PLATFORMS", "")

    @property
    def cuda(self) -> list[int]:
        """The versions of CUDA that JAX has plugins for."""
        return [int(match[1]) for name in self.packages if (match := re.fullmatch(r"jax-cuda(\d+)-plugin", name))]

    @property
    def memory_limit(self) -> int | None:
        """Bytes that the machine has or, if that is less, the control group may use."""
        limits = [*self.cgroup.get("memory.max", []), *self.cgroup.get("memory.limit_in_bytes", [])]
        sizes = [int(limit) for limit in limits if limit.isdigit()]
        return min([*sizes, self.memory["total"]]) if "total" in self.memory else None

    @property
    def quota(self) -> float | None:
        """How many cores' time the control group may use; None: no limit."""
        quotas, periods = (self.cgroup.get(f"cpu.cfs_{key}_us", []) for key in ("quota", "period"))
        pairs = [*map(str.split, self.cgroup.get("cpu.max", [])), *zip(quotas, periods, strict=False)]
        return min((int(quota) / int(period) for quota, period in pairs if quota.isdigit()), default=None)


Level = Literal["error", "warning", "note"]


@pydantic.dataclasses.dataclass(frozen=True)
class Finding:
    level: Level
    title: str
    cure: str


error, warning, note = (functools.partial(Finding, level) for level in get_args(Level))


class Report(Facts):
    """What `alexnet doctor --json` prints and `--from` reads."""

    environment: Environment
    findings: list[Finding]


def _number(text: str) -> float:
    return float(text) if re.fullmatch(r"[\d.]+", text) else math.nan
