"""Trains the network that a config describes.

    python -m alexnet_jax.main --config configs/paper.py --workdir runs/paper [--config.KEY=VALUE ...]

Started again with the same workdir, it goes on from the newest checkpoint.
"""

import argparse
import sys
from pathlib import Path

import jax
from absl import app, flags, logging
from ml_collections import config_flags

from alexnet_jax import config_files, errors, processes, train
from alexnet_jax.errors import UserError

CONFIG = config_flags.DEFINE_config_file("config", None, "The config file; see configs/.", lock_config=True)
WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run: checkpoints, logs, config. Made if need be.")
SIMULATED_DEVICES = flags.DEFINE_integer(
    "simulated_devices", 0, "Run on so many simulated CPU devices, as XLA_FLAGS=--xla_force_host_platform_device_count."
)
PREFLIGHT = flags.DEFINE_bool("preflight", False, "Only check devices, data, workdir, versions; then end.")
DISTRIBUTED = flags.DEFINE_bool(
    "distributed", False, "One of several processes that Slurm, Open MPI, Cloud TPU or GKE started; see launch/."
)
COORDINATOR = flags.DEFINE_string("coordinator_address", None, "HOST:PORT of process 0, where processes meet.")
NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "How many processes there are in all.", lower_bound=1)
PROCESS_ID = flags.DEFINE_integer("process_id", None, "Which of them this is, from 0.", lower_bound=0)


def parse_flags(argv: list[str]) -> list[str]:
    """absl's parser, with what can be wrong about a config file or key as a message instead of a trace."""
    early = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    early.add_argument("--config", default="")
    early_config = early.parse_known_args(argv)[0].config
    file = Path(early_config.partition(":")[0])
    try:
        if early_config and not file.is_file():
            raise UserError(f"there is no config file {file}; configs/ has some, and paths start from this folder")
        rest = flags.FLAGS(argv)
        if rest[1:]:
            raise UserError(f"what is {' '.join(rest[1:])}? Every argument is a flag, --name=value")
        return rest
    except (UserError, flags.Error) as error:
        problem = str(error)
        if "Traceback" in problem:  # of the config file, in ml_collections' words
            problem = f"{file}: {problem.strip().splitlines()[-1].partition(': ')[2]}"
    except (AttributeError, KeyError, ValueError) as error:  # of ConfigDict, which guesses what was meant
        cause = error.args[0] if error.args else error
        cause = cause.args[0] if isinstance(cause, KeyError) else cause
        problem = f"the config, or a --config.KEY, has what it cannot have: {cause}"
    except ImportError as error:
        problem = f"the config file imports what is not there ({error}); start in the folder that holds configs/"
    print("error:", " ".join(problem.split()), file=sys.stderr)
    sys.exit(errors.EXIT_USER_ERROR)


def main(argv: list[str]) -> None:
    if not flags.FLAGS["verbosity"].present:
        logging.set_verbosity(logging.FATAL)  # Orbax tells every step of a save, and traces of what it raises
    if SIMULATED_DEVICES.value:
        jax.config.update("jax_platforms", "cpu")
        jax.config.update("jax_num_cpu_devices", SIMULATED_DEVICES.value)
    processes.leave(errors.exit_code(run))


def run() -> None:
    config, directory = config_files.parse(CONFIG.value), Path(WORKDIR.value or "")
    known = (COORDINATOR.value, NUM_PROCESSES.value, PROCESS_ID.value)
    if DISTRIBUTED.value or any(value is not None for value in known):
        processes.start(*known)
    (train.check if PREFLIGHT.value else train.train_and_evaluate)(config, directory)


if __name__ == "__main__":
    flags.mark_flags_as_required(["config", "workdir"])
    app.run(main, flags_parser=parse_flags)
