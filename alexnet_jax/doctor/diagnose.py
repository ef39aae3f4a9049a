"""Judge an environment: what is wrong with it or could be better, and what to do about it. One function a subject."""

import re
from collections.abc import Iterator
from typing import get_args

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from alexnet_jax.data import files
from alexnet_jax.doctor import accelerators
from alexnet_jax.doctor.environment import Environment, Finding, Level, error, note, warning

MEMORY = 4e9  # bytes; a step at batch 128 on a CPU takes 3.1e9 (alexnet bench step --mesh 1x1 --batch 128 --torch)
SHARED = 1e9  # bytes of /dev/shm, through which NCCL connects GPUs; Docker gives 64 MB
SHARDS = 1024  # files of prepared data that may be open at once
FREE, SPEED = 5e9, 50e6  # bytes, and bytes per second, of a disk
ALONE = r"nolock|local_lock=(all|flock)|localflock"  # options of NFS and Lustre: locks hold on this host only


def diagnose(env: Environment) -> list[Finding]:
    """What is to be said about an environment, the worst first; nothing if all is well."""
    subjects = (versions, accelerators.start, accelerators.nvidia, accelerators.tpu, accelerators.devices, host, disks)
    findings = [finding for subject in subjects for finding in subject(env)]
    findings = list({finding.cure: finding for finding in reversed(findings)}.values())[::-1]  # each cure once
    return sorted(findings, key=lambda finding: get_args(Level).index(finding.level))


def versions(env: Environment) -> Iterator[Finding]:
    """Judge whether the packages fit together, and how long Python will do."""
    for name, package in env.packages.items():
        for text in (*package.requires, *package.fits):
            wanted = Requirement(text)
            there = env.packages.get(canonicalize_name(wanted.name))
            if there is None and text in package.requires:
                yield error(f"{name} needs {text}, which is not installed", f"pip install '{text}'")
            elif there and not wanted.specifier.contains(there.version, prereleases=True):
                title = f"{wanted.name} {there.version} does not fit {name} {package.version}, which needs {text}"
                works = env.works and text in package.fits  # as where PyTorch has pinned an older library of CUDA's
                yield (warning if works else error)(title, f"pip install '{text}'")
    minor = int(env.python.split(".")[1])
    if env.date >= f"{2015 + minor}-07":  # 45 months after October of 2011 + minor, when Python 3.minor appears
        title = f"new versions of JAX may refuse Python 3.{minor}: they support one for 45 months"
        yield note(title, "make an environment with a newer Python before you update JAX")


def host(env: Environment) -> Iterator[Finding]:
    """Judge memory, cores and limits."""
    accelerated, limit = sum(platform != "cpu" for platform, _ in env.jax_devices), env.memory_limit
    if limit is not None and (usable := min(limit, env.memory.get("available", limit))) < MEMORY:
        cure = "ask for 8 GB or more (docker --memory, resources.limits, sbatch --mem), or end other processes"
        title = f"only {usable / 1e9:.1f} GB of memory may be used of {env.memory['total'] / 1e9:.1f}"
        yield warning(f"{title}: a run of the paper's network may be killed", cure)
    given, quota = env.variables.get("NPROC", ""), env.quota
    cores = int(given) if given.isdigit() else env.cores
    if quota and quota < cores - 0.5:
        cure = f"set NPROC={max(1, round(quota))}, or ask for more (docker --cpus, resources.limits)"
        yield warning(f"the control group has the time of {quota:.1f} cores, and JAX takes them for {cores}", cure)
    if accelerated and (usable_cores := min(cores, quota or cores)) < 2 * accelerated:
        cure = (
            "ask for more (sbatch --cpus-per-task, resources.limits); `alexnet bench input` measures what they decode"
        )
        yield warning(f"{usable_cores:.0f} core(s) have to decode images for {accelerated} device(s)", cure)
    if env.cuda and accelerated > 1 and env.memory.get("shm", SHARED) < SHARED:
        cure = "docker run --shm-size=1g; in Kubernetes, an emptyDir with medium: Memory at /dev/shm"
        yield warning(f"/dev/shm has {env.memory['shm'] / 1e6:.0f} MB, through which the GPUs communicate", cure)
    asked = "hugetlb" in env.variables.get("GLIBC_TUNABLES", "")
    if env.on_cpu and ("[never]" in env.huge_pages or ("[madvise]" in env.huge_pages and not asked)):
        cure = "export GLIBC_TUNABLES=glibc.malloc.hugetlb=1, as the launch scripts do, and, where it says [never], "
        cure += "echo madvise | sudo tee /sys/kernel/mm/transparent_hugepage/enabled"
        yield note(f"large pages, which make steps on CPUs faster, are not used: {env.huge_pages}", cure)
    if 0 <= env.open_files[1] < SHARDS + files.OTHERS:
        cure = f"raise the hard limit (docker --ulimit nofile, limits.conf) to {SHARDS + files.OTHERS} or more"
        yield warning(f"only {env.open_files[1]} files may be open: too few for large data sets", cure)
    if proxies := [
        name for name, value in env.variables.items() if value and re.fullmatch("(https?|grpc|all)_proxy", name, re.I)
    ]:
        cure = "leave it for downloads; unset it if processes on several hosts wait for each other in vain"
        yield note(f"a proxy is set: {', '.join(proxies)}", cure)


def disks(env: Environment) -> Iterator[Finding]:
    """Judge the given folder, and that of compiled programs."""
    folder, cache = env.folder, env.cache
    if folder.error:
        yield error(f"{folder.path} cannot be written: {folder.error}", "give another folder, or make room or rights")
    elif folder.free < FREE:
        cure = "make room: each checkpoint of the paper's network takes 0.5 GB"
        yield warning(f"{folder.path} has only {folder.free / 1e9:.1f} GB free", cure)
    if folder.bytes_per_s is not None and folder.bytes_per_s < SPEED:
        cure = "keep runs on a faster disk, best a local one"
        yield warning(f"{folder.path} is written at only {folder.bytes_per_s / 1e6:.0f} MB/s", cure)
    alone = re.search(ALONE, folder.mount)
    if folder.lock or alone:
        why = folder.lock or f"{alone and alone[0]}: locks hold on one host only"
        cure = "start no second run in the same workdir, as nothing would keep it out, or mount it with locks"
        yield warning(f"files in {folder.path} cannot be locked: {why}", cure)
    if cache is None or cache.error:
        why = cache.error if cache else "this user has no home folder"
        cure = "set JAX_COMPILATION_CACHE_DIR to a folder of your own"
        yield warning(f"compiled programs cannot be kept: {why}", cure)
