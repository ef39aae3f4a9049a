"""Train the network that a config describes.

    python -m alexnet_jax.main --config configs/paper.py --workdir runs/paper [--config.KEY=VALUE ...]

`alexnet train` is the same program. Given the same workdir again, it resumes from the newest checkpoint.
"""

import os
import sys
from pathlib import Path

from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags

from alexnet_jax import STARTED, errors
from alexnet_jax.errors import UserError
from alexnet_jax.run import config_files, start_up

CONFIG = config_flags.DEFINE_config_file("config", None, "Config: a file, or a name such as digits; see configs/.")
WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run: checkpoints, logs, config. Created if missing.")
STREAM = flags.DEFINE_string("stream", None, "Train from this source of `alexnet prepare` without preparing it.")
INPUT = flags.DEFINE_string("input", "", "The folder or file that the source of --stream reads.")
SIMULATED_DEVICES = flags.DEFINE_integer(
    "simulated_devices", 0, "Run on this many CPU devices that XLA simulates; 0: on the real ones."
)
PREFLIGHT = flags.DEFINE_bool("preflight", False, "Check devices, data, workdir and versions, then exit.")
DISTRIBUTED = flags.DEFINE_bool(
    "distributed", False, "Join the processes that Slurm, Open MPI, Cloud TPU or GKE started; see launch/."
)
COORDINATOR = flags.DEFINE_string("coordinator_address", None, "HOST:PORT of process 0, where processes meet.")
NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "The number of processes in the run.", lower_bound=1)
PROCESS_ID = flags.DEFINE_integer("process_id", None, "The number of this process, from 0.", lower_bound=0)


class _ConfigParser(flags.ArgumentParser):
    """Loads the config that --config names, as all commands do."""

    syntactic_help = "a config file, or the name of one of configs/"

    def parse(self, argument: str) -> ConfigDict:
        return config_files.load(argument)


flags.FLAGS["config"].parser = _ConfigParser()
flags.mark_flags_as_required(["config", "workdir"])


def parse_flags(argv: list[str]) -> list[str]:
    """Parse flags with absl; what is wrong with a flag, a config or a key is one line on stderr, and exit code 2."""
    if {"--help", "-h"} & set(argv):
        print(f"{__doc__}\n{flags.FLAGS.module_help(flags.FLAGS.find_module_defining_flag('workdir'))}")
        sys.exit()
    try:
        rest = flags.FLAGS(argv)
        if rest[1:]:
            raise UserError(f"unexpected argument {' '.join(rest[1:])}; write every flag as --name=value")
        return rest
    except (UserError, flags.Error) as error:
        problem = str(error)
    except (AttributeError, KeyError, ValueError) as error:  # from ConfigDict, which suggests the nearest key
        cause = error.args[0] if error.args else error
        cause = cause.args[0] if isinstance(cause, KeyError) else cause
        problem = f"a --config.KEY is unknown or has a wrong value: {cause}"
    print("error:", " ".join(problem.split()), file=sys.stderr)
    sys.exit(errors.EXIT_USER_ERROR)


def main(argv: list[str]) -> None:
    import jax  # only now: wrong flags are reported at once

    from alexnet_jax.run import processes

    if not flags.FLAGS["verbosity"].present:
        logging.set_verbosity(logging.FATAL)  # Orbax logs every step of a save, and tracebacks of what it raises
    if SIMULATED_DEVICES.value:
        jax.config.update("jax_platforms", "cpu")
        jax.config.update("jax_num_cpu_devices", SIMULATED_DEVICES.value)
    code = errors.exit_code(run)
    if processes.several() and code not in (errors.EXIT_OK, errors.EXIT_INTERRUPTED):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)  # after an error the others may be gone: do not wait for them
    sys.exit(code)


def run() -> None:
    from alexnet_jax import training
    from alexnet_jax.run import processes

    if STREAM.value:
        CONFIG.value.data.update(source=STREAM.value, directory=INPUT.value)
    elif INPUT.value:
        raise UserError(
            f"--input={INPUT.value} is what --stream reads; give --stream=SOURCE too, as for alexnet prepare"
        )
    config, directory = config_files.parse(CONFIG.value), Path(WORKDIR.value or "")
    if config.train.virtual_shards:  # the same bits on any mesh, which has at most a device for each shard and tower
        start_up.set_cores(config.train.virtual_shards * config.model.towers)
    identity = (COORDINATOR.value, NUM_PROCESSES.value, PROCESS_ID.value)
    if DISTRIBUTED.value or any(value is not None for value in identity):
        processes.start(*identity)
    if PREFLIGHT.value:
        training.check(config, directory)
    else:
        training.train_and_evaluate(config, directory, STARTED)


def start(argv: list[str]) -> None:
    """Parse `argv`, the program's name first, and train. Does not return."""
    start_up.prepare_process()
    sys.argv = argv  # absl and ml_collections read it
    app.run(main, argv, flags_parser=parse_flags)


if __name__ == "__main__":
    start(sys.argv)
