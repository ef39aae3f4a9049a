"""Find what keeps JAX from its devices or slows it down: alexnet doctor [FOLDER]

Looks at versions, drivers, devices, memory, cores and limits, and at FOLDER, where runs or data are to be kept. Prints
what it sees, for an issue, too, without names of hosts and users and without passwords, and each fault with its cure.
JAX starts in a process of its own, for two minutes at most.

Exit code: 2 if there is an error, such as a GPU that JAX cannot use, packages that do not fit together or a folder that
cannot be written; otherwise 0, also with warnings and notes.
"""

import argparse
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from alexnet_jax.doctor.diagnose import diagnose
from alexnet_jax.doctor.environment import Environment, Report
from alexnet_jax.doctor.look import look
from alexnet_jax.errors import UserError, reading

SHOWN = r"alexnet-jax|jax.*|libtpu|nvidia-(cudnn|cuda-runtime|nccl).*|flax|optax|orbax-checkpoint|grain|numpy"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("folder", type=Path, nargs="?", default=Path(), help="where runs or data are to be kept (default: this folder)")
    add("--json", action="store_true", help="print all facts and findings as JSON")
    add("--from", type=Path, dest="file", metavar="FILE", help="judge what --json printed on another machine")


def run(arguments: argparse.Namespace) -> None:
    env = _read(arguments.file) if arguments.file else look(arguments.folder)
    findings = diagnose(env)
    if arguments.json:
        print(Report(environment=env, findings=findings).model_dump_json(indent=1))
    else:
        print("\n".join(f"{name:12}{value}" for name, value in _seen(env)))
        if env.jax.code != 0 or (env.on_cpu and (env.given or env.tpus)):
            print("\nJAX prints, at the end:", *env.jax.err.splitlines()[-20:], sep="\n    ")
        for finding in findings:
            print(f"\n{finding.level}: {finding.title}\n    cure: {finding.cure}")
    if errors := sum(finding.level == "error" for finding in findings):
        raise UserError(f"found {errors} error(s), each with its cure above")


def _read(file: Path) -> Environment:
    with reading(f"{file} is not what `alexnet doctor --json` prints in this version", kind=UserError):
        return Report.model_validate_json(file.read_bytes()).environment


def _seen(env: Environment) -> Iterator[tuple[str, str]]:
    folder, cache, GB = env.folder, env.cache, 1e9  # noqa: N806
    yield "system", f"Python {env.python}, {env.system}, {env.date}"
    versions = [f"{name} {package.version}" for name, package in env.packages.items() if re.fullmatch(SHOWN, name)]
    yield "packages", ", ".join(versions)
    kinds = Counter(env.jax_devices)
    yield "JAX has", ", ".join(f"{n} x {platform} ({kind})" for (platform, kind), n in kinds.items()) or "no device"
    yield "driver", env.driver or "none"
    for gpu in env.gpus:
        memory = f"{gpu.used:,.0f} of {gpu.total:,.0f} MiB in use"
        yield f"GPU {gpu.number}", f"{gpu.name}, compute capability {gpu.capability}, {memory}"
    if env.tpus:
        yield "TPU", f"{env.tpus} chip(s)"
    if env.devices:
        yield "in /dev", " ".join(env.devices)
    yield "cores", f"{env.cores}" + (f", and the time of {env.quota:.1f} by the control group" if env.quota else "")
    sizes = {"limit": env.memory_limit, "available": env.memory.get("available"), "/dev/shm": env.memory.get("shm")}
    yield "memory", ", ".join(f"{name} {size / GB:.1f} GB" for name, size in sizes.items() if size is not None)
    yield "large pages", env.huge_pages or "unknown"
    yield "open files", f"{env.open_files[0]}, at most {env.open_files[1]}"
    speed = f", written at {folder.bytes_per_s / 1e6:.0f} MB/s" if folder.bytes_per_s else ""
    yield "folder", f"{folder.path}: {folder.error or f'{folder.free / GB:.1f} GB free{speed}'}; {folder.mount}"
    yield "cache", f"{cache.path}: {cache.error or 'writable'}" if cache else "none"
    for name, value in env.variables.items():
        yield "variable", f"{name}={value}"
