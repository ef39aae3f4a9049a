"""Training: from a config to a trained network in a workdir. trainer.py has what a run does, loop.py when."""

import contextlib
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import clu.parameter_overview
import jax
from jax.sharding import Mesh

from alexnet_jax import sharding, steps
from alexnet_jax.data.loader import Batches
from alexnet_jax.errors import DataError, Interrupted, UserError
from alexnet_jax.loop import Loop
from alexnet_jax.run import checkpoint, processes, progress, start_up, starts, wandb_log, workdir
from alexnet_jax.run.checkpoint import Position
from alexnet_jax.run.progress import Progress
from alexnet_jax.run.stopping import Stop, stop_signals
from alexnet_jax.run.writer import Writer
from alexnet_jax.run_config import Config
from alexnet_jax.trainer import Inputs, Trainer, newest_state, open_inputs, reading, train_step_ahead


def check(config: Config, directory: Path) -> None:
    """Check, without training, that processes, devices and data fit and that the workdir is writable and has room."""
    with processes.detect_lost_peers():
        inputs = open_inputs(config)
        if config.data.statistics_file and not (directory / workdir.CONFIG).exists():  # a run keeps what it read
            inputs.dataset.statistics()
        with workdir.lock(directory):
            state = steps.abstract_state(config, inputs.mesh)
            size = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))
            need, free = size * (config.train.keep_checkpoints + 1), shutil.disk_usage(directory).free
            if free < need:
                raise UserError(
                    f"{directory} has {free / 1e9:.1f} GB free and checkpoints take up to {need / 1e9:.1f} GB; make "
                    "room, give another --workdir or a smaller --config.train.keep_checkpoints"
                )
    if processes.is_first():
        for warning in unused_accelerator(inputs.mesh):
            print(f"warning: {warning}", file=sys.stderr)
        print(
            f"preflight: {jax.process_count()} process(es), {sharding.describe(inputs.mesh, config.model.towers)}; "
            f"{len(inputs.train_images.labels)} training images; {free / 1e9:.1f} GB free in {directory}, "
            f"{need / 1e9:.1f} GB needed for checkpoints; ready"
        )


def unused_accelerator(mesh: Mesh) -> list[str]:
    """A warning if JAX, free to choose, took the CPU on a machine with a GPU or a TPU."""
    if mesh.devices.flat[0].platform != "cpu" or jax.config.values["jax_platforms"] or not start_up.accelerators():
        return []
    return ["JAX uses the CPU, and not the accelerator that is there; `alexnet doctor` says why"]


def train_and_evaluate(config: Config, directory: Path, started: float | None = None) -> None:
    """Train in the workdir `directory`, from its newest intact checkpoint or from the start, to the end of the config.

    `started` is the time.monotonic() from which the run's time is booked; None: now. Raises Interrupted, with the state
    saved, on one of `stopping.SIGNALS`, and other errors of errors.py if it fails.
    """
    with processes.detect_lost_peers(), progress.watched(config.train.stall_seconds, started) as doing:
        doing("opening")
        inputs = open_inputs(config)
        with workdir.lock(directory):
            doing("opening", patient=True)  # the statistics of a stream take as long as reading their images
            run_file = workdir.prepare(directory, config, inputs.dataset)
            with doing.ledger(directory), _opened(config, directory, run_file, inputs, doing) as opened:
                trainer, state, position = opened
                loop = Loop(trainer, state, position)
                try:
                    step = loop.run()
                except DataError as error:  # before a step began, or in a validation: what was trained is sound
                    if processes.several():  # the others wait in a step that cannot take place
                        raise
                    step = loop.save()
                    saved = f"\nStep {step} is saved; once the data is repaired, the same command resumes it"
                    raise DataError(f"{error}{saved if step else ''}") from None
                interrupted = trainer.stop()
    if interrupted:  # even at the last step: its validation may be missing
        raise Interrupted(f"step {step} of {inputs.last_step} is saved in {directory}; the same command resumes it")
    if processes.is_first():
        print(f"finished step {step}; `alexnet evaluate --workdir {directory}` measures the network's errors")


@contextlib.contextmanager
def _opened(
    config: Config, directory: Path, run_file: workdir.RunFile, inputs: Inputs, doing: Progress
) -> Iterator[tuple[Trainer, steps.TrainState, Position]]:
    """The run as its newest checkpoint left it, or at its start. Closes its files and catches signals."""
    mesh, towers = inputs.mesh, config.model.towers
    with (
        stop_signals() as asked,
        train_step_ahead(config, inputs) as train_step,
        checkpoint.open_directory(
            directory / workdir.CHECKPOINTS, config.train.keep_checkpoints, config.train.keep_every_steps
        ) as checkpoints,
    ):
        doing("restoring")
        state, position, warnings = newest_state(config, mesh, checkpoints)
        first = position.next_batch
        start = starts.describe(config, mesh, first)
        workdir.add_start(directory, run_file, start)
        doing.begin(first)
        batches = Batches(inputs.train_images, inputs.order, first, max(first, inputs.last_step), reading(config, mesh))
        with (
            contextlib.closing(batches),
            contextlib.closing(Writer(directory, position.log_bytes, first, inputs.last_step)) as writer,
        ):
            writer.mirror = wandb_log.start(config, directory, writer.message)
            writer.message(clu.parameter_overview.get_parameter_overview(state.params, include_stats=False))
            writer.message(f"{sharding.describe(mesh, towers)}; {inputs.order.steps_per_epoch} steps an epoch")
            for warning in (*warnings, *unused_accelerator(mesh)):
                writer.message(f"warning: {warning}")
            if checkpoints.latest_step() is not None:  # an imported network is of step 0
                writer.message(f"resuming from step {first} of {directory}")
            stop = Stop(asked, mesh)
            trainer = Trainer(config, directory, inputs, start, checkpoints, writer, batches, stop, doing, train_step)
            yield trainer, state, position
