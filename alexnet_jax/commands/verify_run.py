"""Check that a run is what it claims to be, by taking its steps again: alexnet verify-run WORKDIR

The config, data and seeds of the run are used on devices like its own, simulated ones if those were. Its losses,
validations, checksums and checkpoints must come out bit for bit. Says where the first difference is, and in what this
machine differs from that of the run. Exit code: 0 if all is the same, 65 if not. Adds to WORKDIR/verified.json.
"""

import argparse
import datetime
from pathlib import Path
from typing import Any

from alexnet_jax.errors import DataError, UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("workdir", type=Path, help="the folder of the run")
    add("--from", dest="first", type=int, default=0, metavar="STEP", help="step of a checkpoint (default: the start)")
    add("--to", dest="last", type=int, metavar="STEP", help="(default: as far as the run has got)")
    add("--sample", type=int, default=0, metavar="N", help="check N random stretches between kept checkpoints")
    add("--seed", type=int, help="of the sample (default: a new one each time)")
    add("--data", metavar="DIR", help="the run's data, if they have moved")


def run(arguments: argparse.Namespace) -> None:
    from alexnet_jax import replay
    from alexnet_jax.run import checkpoint, checks, recorded, starts, workdir

    directory: Path = arguments.workdir
    config = workdir.open_finished(directory).config
    run_file, before = workdir.read_run_file(directory), checks.read(directory)
    if not run_file.starts:
        raise UserError(f"{directory} has not been trained, so there is nothing to check")
    workdir.require_idle(directory)
    stretches = replay.stretches(directory, arguments.first, arguments.last, arguments.sample, arguments.seed)
    segments = [segment for stretch in stretches for segment in starts.segments(run_file.starts, *stretch)]
    _prepare_devices(segments, config.train.virtual_shards > 0)
    environment = starts.environment()
    differences = dict.fromkeys(x for segment in segments for x in starts.differences(segment.start, environment))
    found = checks.Check(
        time=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        verified=True,
        differences=list(differences),
        environment=environment,
    )
    here = f"This machine differs from the run's (run -> here): {'; '.join(differences)}"
    with checkpoint.open_for_reading(directory / workdir.CHECKPOINTS) as checkpoints:
        checked = recorded.Run(directory, config, run_file, checkpoints)
        try:
            replay.check_files(checked)
            for stretch in stretches:
                compared = replay.repeat(checked, stretch, arguments.data)
                found.stretches.append(stretch)
                found.lines += compared.compared.total()
                found.validations += compared.compared["validation"]
                found.checkpoints += len(compared.checkpoints)
                print(f"steps {stretch.first} to {stretch.last} are the same", flush=True)
        except (recorded.Different, DataError) as error:
            if not isinstance(error, recorded.OtherData):
                found.verified, found.problem = False, str(error)
                checks.write(directory, [*before, found])
            where = here if differences else "This machine has the versions, processor and devices of the run"
            if not config.train.deterministic and any(device.startswith("gpu") for device in environment["devices"]):
                where += ". On GPUs, two runs have the same bits only with config.train.deterministic=True"
            raise recorded.Different(f"{error}\n{where}") from None
        except UserError as error:  # it cannot be checked here
            raise UserError(f"{error}\n{here}" if differences else str(error)) from None
    checks.write(directory, [*before, found])
    print(
        f"verified: {found.lines} log line(s), {found.validations} of them validations, and {found.checkpoints} "
        f"checkpoint(s) of {directory} come out the same, bit for bit"
    )
    if differences:
        print(f"although this machine differs from the run's (run -> here): {'; '.join(differences)}")


def _prepare_devices(segments: list[Any], on_any: bool) -> None:
    """Simulate as many devices and cores as the run had, if it ran on CPUs.

    Raises UserError if their numbers changed on the way, unless the bits are the same `on_any` number.
    """
    import jax

    from alexnet_jax.run import start_up

    machines = {(len(segment.start["devices"]), segment.start["cores"]) for segment in segments}
    if not all(device.startswith("cpu ") for segment in segments for device in segment.start["devices"]):
        return
    if len(machines) > 1 and not on_any:
        parts = "; ".join(f"--from {segment.first} --to {segment.last}" for segment in segments)
        raise UserError(
            "the run was continued on another number of devices or cores, which change its bits, so its parts must be "
            f"checked one by one, as far as their checkpoints were kept: {parts}"
        )
    devices, cores = max(machines)
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", devices)
    start_up.set_cores(cores)
