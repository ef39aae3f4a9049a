"""Check that a run is what it claims to be, by taking its steps again: alexnet verify-run WORKDIR

The config, data and seeds of the run are used on devices like its own, simulated ones if those were. Its losses,
validations, checksums and checkpoints must come out bit for bit. Says where the first difference is, and in what this
machine differs from that of the run. Exit code: 0 if all is the same, 65 if not. Adds to WORKDIR/verified.json.
"""

import argparse
import datetime
import json
from pathlib import Path
from typing import Any

from alexnet_jax.errors import DataError, UserError, keeping


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("workdir", type=Path, help="the folder of the run")
    add("--from", dest="first", type=int, default=0, metavar="STEP", help="step of a checkpoint (default: the start)")
    add("--to", dest="last", type=int, metavar="STEP", help="(default: the newest checkpoint)")
    add("--sample", type=int, default=0, metavar="N", help="check N random stretches between kept checkpoints")
    add("--seed", type=int, help="of the sample (default: a new one each time)")
    add("--data", metavar="DIR", help="the run's data, if they have moved")


def run(arguments: argparse.Namespace) -> None:
    from alexnet_jax import replay
    from alexnet_jax.run import recorded, starts, workdir

    directory: Path = arguments.workdir
    config = workdir.open_finished(directory).config
    run_file, checks = workdir.read_run_file(directory), workdir.read_checks(directory)
    if not run_file.starts:
        raise UserError(f"{directory} has not been trained, so there is nothing to check")
    _prepare_devices(run_file.starts)
    environment = starts.environment()
    differences = list(dict.fromkeys(x for start in run_file.starts for x in starts.differences(start, environment)))
    found: dict[str, Any] = {"verified": True, "stretches": [], "lines": 0, "validations": 0, "checkpoints": 0}
    found |= {"differences": differences, "environment": environment}
    with recorded.open_run(directory, config, run_file) as checked:
        stretches = replay.stretches(checked, arguments.first, arguments.last, arguments.sample, arguments.seed)
        try:
            replay.check_files(checked)
            for stretch in stretches:
                compared = replay.repeat(checked, stretch, arguments.data)
                found["stretches"].append(stretch)
                found["lines"] += compared.total() - compared["checkpoint"]
                found["validations"] += compared["validation"]
                found["checkpoints"] += compared["checkpoint"]
                print(f"steps {stretch.first} to {stretch.last} are the same", flush=True)
        except (recorded.Different, DataError) as error:
            _keep(directory, checks, found | {"verified": False, "problem": str(error)})
            where = f"This machine differs from the run's (run -> here): {'; '.join(differences)}"
            where = where if differences else "This machine has the versions, processor and devices of the run"
            if not config.train.deterministic and any("cpu" not in device for device in environment["devices"]):
                where += ". On GPUs, two runs have the same bits only with config.train.deterministic=True"
            raise recorded.Different(f"{error}\n{where}") from None
    _keep(directory, checks, found)
    print(
        f"verified: {found['lines']} log lines, {found['validations']} of them validations, and "
        f"{found['checkpoints']} checkpoint(s) of {directory} come out the same, bit for bit"
    )
    if differences:
        print(f"although this machine differs from the run's (run -> here): {'; '.join(differences)}")


def _prepare_devices(known: list[dict[str, Any]]) -> None:
    """Simulate as many devices and cores as the run had, if it ran on CPUs."""
    import jax

    from alexnet_jax.run import start_up

    devices = [device for start in known for device in start["devices"]]
    if all(device.startswith("cpu ") for device in devices):
        jax.config.update("jax_platforms", "cpu")
        jax.config.update("jax_num_cpu_devices", max(len(start["devices"]) for start in known))
        start_up.set_cores(known[-1]["cores"])


def _keep(directory: Path, checks: list[dict[str, Any]], found: dict[str, Any]) -> None:
    from alexnet_jax.data.files import write_text
    from alexnet_jax.run import workdir

    time = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    with keeping(directory / workdir.VERIFIED):
        write_text(directory / workdir.VERIFIED, json.dumps([*checks, {"time": time, **found}], indent=2) + "\n")
