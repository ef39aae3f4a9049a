"""How programs are compiled: with the precision of the config, and with options for the devices."""

import functools
import os
from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import Mesh

from alexnet_jax.run_config import Config

# Since jaxlib 0.10, XLA gives convolutions on CPU to YNNPACK, with which a step takes 1.4 times as long. LLVM's level 3
# makes steps no faster than 2. The analysis saves a copy of fc6's kernel, a twentieth of the full network's step.
CPU_OPTIONS: dict[str, Any] = {"xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_DOT"}
CPU_OPTIONS |= {"xla_backend_optimization_level": 2, "xla_cpu_copy_insertion_use_region_analysis": True}

# On GPUs some kernels add in no fixed order. On CPU and TPU all results have the same bits in every run anyway.
GPU_DETERMINISTIC = {"xla_gpu_deterministic_ops": True}

# Without optimizations, these let a small network's programs compile in a quarter of the time. JAX 0.11 no longer has
# the second.
QUICK_FLAGS = ["--xla_cpu_parallel_codegen_split_count=1"]
QUICK_FLAGS += ["--xla_cpu_use_fusion_emitters=false"] if jax.__version_info__ < (0, 11) else []


def quickly() -> None:
    """Compile with few optimizations, in this process and those that it starts: for programs that run a few times.

    To be called before JAX starts its backend.
    """
    os.environ["XLA_FLAGS"] = " ".join([os.environ.get("XLA_FLAGS", ""), *QUICK_FLAGS])
    os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"  # read when JAX is imported, so by other processes
    jax.config.update("jax_disable_most_optimizations", True)


def with_precision(function: Callable, config: Config) -> Callable:
    """The function, with its products, and those of gradients in it, in the precision of the config."""

    @functools.wraps(function)
    def precise(*arguments, **keywords):
        with jax.default_matmul_precision(config.train.matmul_precision):
            return function(*arguments, **keywords)

    return precise


def compiled(function: Callable, mesh: Mesh, config: Config, **options: Any) -> jax.stages.Wrapped:
    """`jax.jit`, with the precision of the config and the compiler options for the devices of `mesh`."""
    cpu = {} if jax.config.values["jax_disable_most_optimizations"] else CPU_OPTIONS  # which would optimize after all
    by_platform = {"cpu": cpu, "gpu": GPU_DETERMINISTIC if config.train.deterministic else None}
    compiler_options = by_platform.get(mesh.devices.flat[0].platform)
    return jax.jit(with_precision(function, config), compiler_options=compiler_options, **options)
