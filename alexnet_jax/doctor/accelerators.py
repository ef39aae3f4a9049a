"""Judge GPUs and TPUs, and whether JAX starts and computes on them. One function a subject.

An error is an accelerator that this process is given and JAX cannot use; a warning, one that it is not given, or that a
variable turns off. What JAX's wheels need of a driver and a GPU is what JAX's installation page says.
"""

import re
from collections.abc import Iterator

from packaging.version import Version

from alexnet_jax.doctor.environment import Environment, Finding, error, note, warning

CUDA = {12: ("525.60.13", 5.2), 13: ("580", 7.5)}  # -> the oldest driver, the lowest compute capability
PREALLOCATED = 0.75  # the share of a GPU's memory that JAX takes when it starts
ONLY_CPU = "JAX_PLATFORMS=cpu is set"
NONE = "", "-1", "none", "void", "NoDevFiles"  # values of CUDA_VISIBLE_DEVICES that leave no GPU

SAID = {  # what JAX says -> the cure
    r"already in use by": "end the process that uses it: a TPU serves one at a time",
    r"Unable to load \w+|Outdated \w+ installation|Loaded runtime CuDNN": "unset LD_LIBRARY_PATH, which puts other "
    "libraries before those of pip, and install all of CUDA's: {install}",
    r"RESOURCE_EXHAUSTED|CUDNN_STATUS_INTERNAL_ERROR": "end what uses the GPU's memory (nvidia-smi lists it), or set "
    "XLA_PYTHON_CLIENT_MEM_FRACTION=0.5",
    r"CUDA_ERROR_SYSTEM_NOT_READY": "start NVIDIA's fabric manager: sudo systemctl start nvidia-fabricmanager",
    r"in XLA_FLAGS": "remove it from XLA_FLAGS: this version of XLA does not know it",
}
NVIDIA_SMI = {  # what nvidia-smi says -> the cure
    r"version mismatch": "restart the machine: the driver was updated, and the old one is still loaded",
    r"communicate with the NVIDIA driver": "load the driver (sudo modprobe nvidia), or install it for this kernel",
    r"Unknown Error": "restart the container: it lost its GPUs, as after systemctl daemon-reload on the host",
    r"not a valid field": "update the driver: it is from before 2022",
    r"Insufficient Permissions": "ask for the right to open /dev/nvidia*, often that of the group video or render",
    r"": "look for the driver's messages (sudo dmesg | grep -i nvrm); a GPU that has failed needs a restart",
}


def start(env: Environment) -> Iterator[Finding]:
    if env.jax.code is None:
        cure = "end what holds the devices (fuser -v /dev/nvidia* /dev/accel* /dev/vfio/*); if there is nothing, "
        cure += "run `alexnet doctor` on all hosts of a TPU slice at once, or " * bool(env.tpus) + "restart the machine"
        yield error("JAX hangs as it starts", cure)
    elif env.jax.code:
        what = f"cannot compute on {env.jax_devices[0][1]}" if env.jax_devices else "does not start"
        yield error(f"JAX {what}: {env.jax_error}", _cure(env))


def nvidia(env: Environment) -> Iterator[Finding]:
    if not env.nvidia:
        for cuda in env.cuda:
            title = f"JAX's plugin for CUDA {cuda} is installed, but there is no NVIDIA GPU"
            if f"nvidia-cudnn-cu{cuda}" in env.packages:
                yield warning(title, "look for it: nvidia-smi, and the kind of machine or container that was asked for")
            else:  # extra aot-gpu
                cure = "leave it: it is for `alexnet bench compile`, and alexnet sets JAX_PLATFORMS=cpu"
                yield note(f"{title}, nor cuDNN", cure)
        return
    if not env.given:
        yield warning(*_not_given(env))
        return
    if not env.works:
        yield from list(_unusable(env)) or [error(f"{_on_cpu(env.nvidia)}: {env.jax_error}", _cure(env))] * env.on_cpu
    if len(env.cuda) > 1:
        others = " ".join(f"jax-cuda{cuda}-plugin jax-cuda{cuda}-pjrt" for cuda in env.cuda if cuda != _best(env))
        yield warning("JAX's plugins for two versions of CUDA are installed; it uses one", f"pip uninstall {others}")
    for gpu in env.visible:
        if gpu.used > (1 - PREALLOCATED) * gpu.total:
            title = f"{gpu.used:,.0f} of {gpu.total:,.0f} MiB of GPU {gpu.number} are in use"
            cure = "end what uses it (nvidia-smi lists it), choose another by CUDA_VISIBLE_DEVICES, or set"
            cure += " XLA_PYTHON_CLIENT_MEM_FRACTION to the share that is free"
            yield warning(f"{title}, and JAX takes {PREALLOCATED:.0%} of the whole", cure)
    for name, capability in sorted({(gpu.name, gpu.capability) for gpu in env.visible if gpu.capability < 8}):
        cure = "for half precision, --config.train.compute_dtype=float16; the fused kernels are left out by themselves"
        yield note(f"{name} (compute capability {capability}) has neither bfloat16 nor Triton", cure)


def tpu(env: Environment) -> Iterator[Finding]:
    title = _on_cpu(f"{env.tpus} TPU chip(s)")
    if not env.tpus:
        if "libtpu" in env.packages:
            cure = "leave it for `alexnet bench compile`; on a TPU VM, look for /dev/accel* or /dev/vfio/*"
            yield note("libtpu is installed, but there is no TPU", cure)
    elif not env.on_cpu:
        return
    elif not env.devices:
        yield warning(f"{title}: this container has none of their files in /dev", "docker run --privileged --net=host")
    elif env.platforms == "cpu":
        yield warning(f"{title}: {ONLY_CPU}", "unset JAX_PLATFORMS")
    elif closed := env.closed(r"accel\d+|vfio/.*"):
        yield error(f"{title}: this user may not open {closed}", "run as root, or ask for the right")
    elif "libtpu" not in env.packages:
        yield error(f"{title}: libtpu is not installed", _install(env, "tpu"))
    else:
        yield error(f"{title}: {env.jax_error}", _cure(env))


def devices(env: Environment) -> Iterator[Finding]:
    """Judge how many devices JAX has."""
    count, there, visible = len(env.jax_devices), len(env.gpus), env.variables.get("CUDA_VISIBLE_DEVICES")
    if env.on_cpu:
        simulate = "xla_force_host_platform_device_count" in env.variables.get("XLA_FLAGS", "")
        names = ["XLA_FLAGS"] * simulate + ["JAX_NUM_CPU_DEVICES"] * ("JAX_NUM_CPU_DEVICES" in env.variables)
        if count > 1 and names:
            cure = f"unset {' '.join(names)}; --simulated_devices=2 simulates two for one run"
            yield warning(f"{count} devices are simulated on the CPU, because {' and '.join(names)} is set", cure)
    elif 0 < count < there:
        title = f"JAX uses {count} of {there} GPUs" + (f", because CUDA_VISIBLE_DEVICES={visible}" if visible else "")
        yield note(title, "unset it, to give each tower its own GPU, unless others use the rest")
    elif count > 2:
        cure = f"--config.mesh.data={count // 2} takes {count // 2} pairs"
        yield note(f"the mesh of the configs takes one pair of the {count} devices", cure)


def _on_cpu(there: str) -> str:
    return f"JAX runs on the CPU, though this machine has {there}"


def _cure(env: Environment) -> str:
    """The cure for what JAX says."""
    for pattern, cure in SAID.items():
        if re.search(pattern, env.jax.err):
            return cure.format(install=_install(env, f"cuda{max(env.cuda, default=_best(env))}"))
    if env.cuda == [12] and any(gpu.capability < 7.5 for gpu in env.visible):
        return "pip install 'nvidia-cudnn-cu12==9.10.2.*': newer versions leave out GPUs before Turing"
    if env.platforms not in ("", "cpu"):
        return f"unset JAX_PLATFORMS={env.platforms}, which allows no other device"
    return "see the other findings, and all that it prints, above"


def _install(env: Environment, extra: str) -> str:
    version = f"=={env.packages['jax'].version}" if "jax" in env.packages else ""
    return f"pip install 'jax[{extra}]{version}'"


def _best(env: Environment) -> int:
    """The newest CUDA that the driver and all GPUs can use."""
    able = [
        cuda
        for cuda, (driver, capability) in CUDA.items()
        if Version(env.driver or "0") >= Version(driver) and not any(gpu.capability < capability for gpu in env.visible)
    ]
    return max(able, default=min(CUDA))


def _not_given(env: Environment) -> tuple[str, str]:
    """What to say where the machine has a GPU that this process cannot see."""
    title = _on_cpu(env.nvidia)
    if not env.driver_line:
        return f"{title}: its driver is not loaded", f"install NVIDIA's driver, {CUDA[13][0]} or newer, and restart"
    if "SLURM_JOB_ID" in env.variables:
        return f"{title}: this job has none", "ask for them: sbatch --gres=gpu:2"
    if "KUBERNETES_SERVICE_HOST" in env.variables:
        return f"{title}: this pod has none", "ask for them, in the container's resources.limits: nvidia.com/gpu: 2"
    return f"{title}: this container has none", "docker run --gpus all, with NVIDIA's container toolkit on the host"


def _unusable(env: Environment) -> Iterator[Finding]:
    """Why JAX cannot use the GPUs that it is given, as far as it can be seen from outside."""
    smi, best = env.nvidia_smi, _best(env)
    if smi and smi.code is None:
        yield error("nvidia-smi hangs", "restart the machine: a GPU or its driver has failed")
    elif smi and smi.code:
        said = [*smi.out.splitlines(), *smi.err.splitlines(), f"exit code {smi.code}"][0]
        cure = next(cure for pattern, cure in NVIDIA_SMI.items() if re.search(pattern, said))
        yield error(f"nvidia-smi fails: {said}", cure)
    if closed := env.closed(r"nvidia(ctl|-uvm)" if env.gpus else r"nvidia(\d+|ctl|-uvm)"):  # not those of other jobs
        yield error(f"this user may not open {closed}", NVIDIA_SMI["Insufficient Permissions"])
    if not env.cuda:
        yield error(f"{_on_cpu(env.nvidia)}: JAX's plugin for CUDA is not installed", _install(env, f"cuda{best}"))
    for cuda in env.cuda:
        driver, capability = CUDA.get(cuda, ("0", 0.0))
        older = f"pip uninstall jax-cuda{cuda}-plugin jax-cuda{cuda}-pjrt; {_install(env, f'cuda{best}')}"
        if env.driver and Version(env.driver) < Version(driver):
            title = f"driver {env.driver} is too old for CUDA {cuda}, which needs {driver}"
            yield error(title, f"update the driver{f', or {older}' if best < cuda else ''}")
        for gpu in env.visible:
            if gpu.capability < capability:
                title = f"GPU {gpu.number}, {gpu.name}, has compute capability {gpu.capability}"
                cure = older if best < cuda else "use a newer GPU, or the CPU: JAX_PLATFORMS=cpu"
                yield error(f"{title}, and JAX with CUDA {cuda} needs {capability}", cure)
    if (visible := env.variables.get("CUDA_VISIBLE_DEVICES", "all")).strip() in NONE:
        title = f"CUDA_VISIBLE_DEVICES={visible!r} hides {env.nvidia}"
        yield error(title, "unset CUDA_VISIBLE_DEVICES; in Slurm, ask for GPUs: --gres=gpu:2")
    if env.platforms == "cpu":
        yield warning(f"{_on_cpu(env.nvidia)}: {ONLY_CPU}", "unset JAX_PLATFORMS")
