"""Accelerators that programs are compiled for without having one: what XLA must know of them, and what they can do.

Speeds and sizes are those that the makers publish, without sparsity: NVIDIA in the data sheets of the H100, H200, A100
and V100, in their SXM forms, and of the T4; Google, of a chip, on the pages "TPU v4", "v5e", "v5p" and "v6e" of the
documentation of Cloud TPU. `link` is what a device sends at most: a GPU in one direction of NVLink, or of 16 lanes of
PCIe (T4); a chip of a TPU by all its links. What XLA must know of a GPU is what the CUDA runtime reports on one.
"""

import importlib.metadata
import importlib.util
import os
import re
from typing import Any, NamedTuple

import jax
from jax.experimental import topologies

from alexnet_jax.bench import measuring
from alexnet_jax.errors import UserError

GIB = 2**30
HOST = 8  # GPUs in one machine


class Gpu(NamedTuple):
    """What XLA's compiler must know of a GPU."""

    name: str
    capability: tuple[int, int]
    multiprocessors: int
    float32_units: int  # the last five: of one multiprocessor
    threads: int
    shared_memory: int
    shared_memory_of_block: int
    l2_cache: int
    clock_ghz: float


class Card(NamedTuple):
    """What an accelerator can do."""

    bandwidth: float  # of its memory, bytes/s
    memory: int  # bytes
    link: float  # bytes/s
    peaks: dict[str, float]  # FLOP/s with float16 or bfloat16, or with float32 at a train.matmul_precision
    gpu: Gpu | None  # None: a TPU

    @property
    def usable(self) -> int:
        """The bytes of memory that JAX takes: of a GPU three quarters, unless XLA_CLIENT_MEM_FRACTION says more."""
        return self.memory * 3 // 4 if self.gpu else self.memory


def _nvidia(float16: float, bfloat16: float | None, tf32: float | None, float32: float) -> dict[str, float]:
    peaks = {"float16": float16, "bfloat16": bfloat16, "default": tf32 or float32, "high": tf32 or float32}
    return {kind: peak * 1e12 for kind, peak in (peaks | {"highest": float32}).items() if peak}


def _tpu(bfloat16: float) -> dict[str, float]:
    """A product of float32 is one, three or six products of bfloat16."""
    products = {"bfloat16": 1, "default": 1, "high": 3, "highest": 6}
    return {kind: bfloat16 * 1e12 / count for kind, count in products.items()}


HOPPER = ((9, 0), 132, 128, 2048, 233_472, 232_448, 50 * 2**20, 1.98)
CARDS = {
    "h100": Card(3.35e12, 84_942_979_072, 450e9, _nvidia(989.4, 989.4, 494.7, 66.9), Gpu("H100 80GB HBM3", *HOPPER)),
    "h200": Card(4.8e12, 151_397_597_184, 450e9, _nvidia(989.4, 989.4, 494.7, 66.9), Gpu("H200", *HOPPER)),
    "a100": Card(
        *(2.039e12, 85_100_068_864, 300e9, _nvidia(312, 312, 156, 19.5)),
        Gpu("A100-SXM4-80GB", (8, 0), 108, 64, 2048, 167_936, 166_912, 40 * 2**20, 1.41),
    ),
    "v100": Card(
        *(0.9e12, 16_935_682_048, 150e9, _nvidia(125, None, None, 15.7)),
        Gpu("V100-SXM2-16GB", (7, 0), 80, 64, 2048, 98_304, 98_304, 6 * 2**20, 1.53),
    ),
    "t4": Card(
        *(0.32e12, 15_828_320_256, 16e9, _nvidia(65, None, None, 8.1)),
        Gpu("T4", (7, 5), 40, 64, 1024, 65_536, 65_536, 4 * 2**20, 1.59),
    ),
    "v4": Card(1.228e12, 32 * GIB, 300e9, _tpu(275), None),
    "v5e": Card(0.819e12, 16 * GIB, 200e9, _tpu(197), None),
    "v5p": Card(2.765e12, 95 * GIB, 600e9, _tpu(459), None),
    "v6e": Card(1.638e12, 32 * GIB, 400e9, _tpu(918), None),
}
EXAMPLES = ", ".join(
    name if card.gpu else f"{name}:2x2{'x1' * (name in ('v4', 'v5p'))}" for name, card in CARDS.items()
)


def card(target: str) -> Card:
    """The card of a target such as h100 or v5e:2x2. UserError if there is none."""
    name, _, shape = target.partition(":")
    if name not in CARDS or bool(shape) == bool(CARDS[name].gpu):
        raise UserError(f"--for {target} is no known device; give a GPU, or a TPU with its topology, as in {EXAMPLES}")
    return CARDS[name]


def peak(target: str, dtype: str, precision: str) -> float:
    """The FLOP/s of products of `dtype`. UserError if the device has none of them."""
    peaks = card(target).peaks
    if dtype != "float32" and dtype not in peaks:
        known = [kind for kind in measuring.DTYPES if kind in peaks or kind == "float32"]
        raise UserError(f"{target} has no arithmetic in {dtype}; give --dtype {' or '.join(known)}")
    return peaks[precision if dtype == "float32" else dtype]


def prepare() -> None:
    """Keep JAX on the CPU, and TPUs' compiler quiet. Call it before JAX starts."""
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_enable_compilation_cache", False)  # what is kept can only be read again on the device
    # Without a TPU, libtpu asks Google's cloud for the machine's place in a slice, and complains; a lock would let only
    # one process of the machine load it.
    os.environ.update(TPU_SKIP_MDS_QUERY="1", TPU_WORKER_HOSTNAMES="localhost", ALLOW_MULTIPLE_LIBTPU_LOAD="1")
    os.environ.update(TPU_ACCELERATOR_TYPE="v5litepod-4", TPU_MIN_LOG_LEVEL="3", TPU_STDERR_LOG_LEVEL="3")


def devices(target: str, count: int) -> list[Any]:
    """Devices of a kind, at least `count`, which only programs can be compiled for. UserError if there cannot be."""
    gpu, (name, _, shape) = card(target).gpu, target.partition(":")
    _require_compiler(target)
    jax.local_devices()  # starts JAX, which registers its compilers
    if gpu is None:
        sides = [int(side) for side in re.findall(r"\d+", shape)]
        options: dict[str, Any] = {"chips_per_host_bounds": (*(min(2, side) for side in sides[:2]), 1)}
        if name == "v4":  # its two cores as one device, which is the default of a v5p
            options["chip_config_name"] = "megacore"
        try:
            found = topologies.get_topology_desc(topology_name=target, platform="tpu", **options).devices
        except jax.errors.JaxRuntimeError as error:
            reason = str(error).splitlines()[0]
            raise UserError(f"--for {target}: {shape} is no topology of {name}: {reason}") from None
        if len(found) < count:
            raise UserError(f"--for {target} has {len(found)} devices, and the mesh takes {count}; give a larger one")
        return found
    hosts = -(-count // HOST)
    layout = f"1x{hosts}x{min(count, HOST)}"
    options = {"topology": layout, "target_config": _described(gpu, CARDS[target])}
    return topologies.get_topology_desc(topology_name=layout, platform="cuda", **options).devices


def compiler(target: str) -> str:
    """The packages that compile for a target, and their versions."""
    packages = ("jax-cuda12-plugin", "nvidia-cuda-nvcc-cu12") if card(target).gpu else ("libtpu",)
    return ", ".join(f"{name} {importlib.metadata.version(name)}" for name in packages)


def _require_compiler(target: str) -> None:
    extra, modules = "aot-tpu", ["libtpu"]
    if card(target).gpu:
        extra, modules = "aot-gpu", ["jax_plugins.xla_cuda12", "jax_cuda12_plugin", "nvidia.cuda_nvcc"]
    for module in modules:
        try:
            found = importlib.util.find_spec(module)
        except ModuleNotFoundError:  # not even the package that it would be in
            found = None
        if found is None:
            raise UserError(
                f'--for {target} needs the compiler for it, but {module} is not installed: pip install -e ".[{extra}]"'
            )


def _described(gpu: Gpu, card: Card) -> str:
    """The text form of XLA's GpuTargetConfigProto."""
    major, minor = gpu.capability
    accelerated = "feature_extension: ACCELERATED_FEATURES" if major >= 9 else ""
    return f"""
        platform_name: "CUDA" device_description_str: "NVIDIA {gpu.name}" dnn_version_info {{ major: 9 minor: 10 }}
        gpu_device_info {{
            cuda_compute_capability {{ major: {major} minor: {minor} {accelerated} }}
            core_count: {gpu.multiprocessors} fpus_per_core: {gpu.float32_units}
            threads_per_core_limit: {gpu.threads} threads_per_block_limit: 1024 threads_per_warp: 32
            shared_memory_per_core: {gpu.shared_memory} shared_memory_per_block: 49152
            shared_memory_per_block_optin: {gpu.shared_memory_of_block}
            registers_per_core_limit: 65536 registers_per_block_limit: 65536
            block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
            l2_cache_size: {gpu.l2_cache} clock_rate_ghz: {gpu.clock_ghz}
            memory_bandwidth: {card.bandwidth:.0f} device_memory_size: {card.memory}
        }}
    """
