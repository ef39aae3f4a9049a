"""Checking a run by taking its steps again: do its log and its checkpoints hold the numbers that it leads to?

The same loop that trained takes a stretch of steps from a checkpoint, or from the start, with a writer that compares
each line with the log instead of writing it. Lines carry a checksum of the state, so the first difference shows.
"""

import contextlib
import dataclasses
import itertools
import json
import random
import time
from pathlib import Path

import jax
import numpy as np

from alexnet_jax import sharding, steps
from alexnet_jax.data.loader import Batches
from alexnet_jax.errors import NonFinite, UserError
from alexnet_jax.loop import Loop
from alexnet_jax.optim import Validation
from alexnet_jax.run import checkpoint, config_files, starts, workdir
from alexnet_jax.run.checkpoint import Position
from alexnet_jax.run.progress import Progress
from alexnet_jax.run.recorded import Different, OtherData, Record, Run, Stretch
from alexnet_jax.run.stopping import Stop
from alexnet_jax.run_config import Config
from alexnet_jax.trainer import Inputs, Trainer, first_state, open_inputs, reading, train_step_ahead


@dataclasses.dataclass
class Repeated(Trainer):
    """A trainer whose checkpoints are compared with those of the run."""

    writer: Record

    def save(self, state: steps.TrainState, position: Position) -> None:
        self.doing("comparing")
        self.writer.checkpoint(state, position)

    def diagnose(self, step: int) -> NonFinite:
        raise self.writer.different(step, "the loss, or a parameter, is not finite here")


def stretches(directory: Path, first: int, last: int | None, samples: int, seed: int | None) -> list[Stretch]:
    """The stretch from `first` to `last` (None: as far as the run has got), or `samples` of those between checkpoints.

    Raises UserError if the run cannot be taken up or has not got there.
    """
    begins = [0, *(step for step in workdir.saved_steps(directory) if step)]
    if first not in begins:
        raise UserError(f"there is no checkpoint of step {first} to go on from; give one of {begins} as --from")
    reached = max([begins[-1], *(line["step"] for line in workdir.read_metrics(directory))])
    last = reached if last is None else last
    if not first < last <= reached:
        raise UserError(f"there is nothing to check from step {first} to {last}; the run has got to step {reached}")
    if samples < 0:
        raise UserError(f"--sample {samples} is negative; give a number of stretches")
    if not samples:
        return [Stretch(first, last)]
    between = [Stretch(*pair) for pair in itertools.pairwise(begins) if first <= pair[0] and pair[1] <= last]
    if not between:
        raise UserError(
            f"there are no two checkpoints from step {first} to {last} to draw a sample between; leave out --sample, "
            f"or give two of {begins} as --from and --to"
        )
    return sorted(random.Random(seed).sample(between, min(samples, len(between))))


def check_files(run: Run) -> None:
    """Raise Different if the files of the run contradict each other."""
    for step in run.saved:
        described = run.saved_with(step)
        config = config_files.from_json(json.dumps(described["config"]))
        different = workdir.differences(config, run.config)
        if start := described.get("start"):  # an imported network has none
            same = (
                each for each in run.run_file.starts if (each["time"], each["step"]) == (start["time"], start["step"])
            )
            listed = next(same, {})
            different += [f"{key}: {start[key]} -> {listed.get(key)}" for key in start if start[key] != listed.get(key)]
        if different:
            raise Different(
                f"the checkpoint of step {step} was saved with other settings or versions than {workdir.CONFIG} and "
                f"{workdir.RUN} say, each as checkpoint -> file: {'; '.join(different)}"
            )


def repeat(run: Run, stretch: Stretch, data: str | None) -> Record:
    """Take the steps of a stretch again, with the data in folder `data` if it is given.

    Returns what was compared. Raises Different at the first difference.
    """
    segments = starts.segments(run.run_file.starts, *stretch)
    opened = [_open(run, segment, data) for segment in segments]
    config, inputs = opened[0]
    _check_statistics(run, config, inputs)  # not for each segment: those of a stream take as long as reading its sample
    if stretch.first in run.saved:
        placed = steps.abstract_state(config, inputs.mesh)
        state, position, _ = checkpoint.restore_step(run.checkpoints, stretch.first, placed)
        if position.next_batch != stretch.first:
            raise Different(f"the checkpoint of step {stretch.first} says that it is of step {position.next_batch}")
    else:
        state, position = first_state(config, inputs.mesh), Position(0, Validation(), 0)
    with contextlib.closing(Record(run, stretch, position)) as record:
        for segment, (config, inputs) in zip(segments, opened, strict=True):
            places = sharding.of_state(state, inputs.mesh, config.mesh.fc_sharding)  # each start has its own devices
            state = jax.tree.map(lambda x, place: sharding.put_as(np.asarray(x), place), state, places)
            state, position = _repeat_segment(run, segment, config, inputs, state, position, record)
            if position.next_batch < segment.last:
                raise record.different(position.next_batch, "the run ends here")
        record.end()
    return record


def _open(run: Run, segment: starts.Segment, data: str | None) -> tuple[Config, Inputs]:
    """The config of a segment, and its devices and data. Raises Different if these are not the run's."""
    config = starts.config_of(run.config, segment.start)
    if data:
        config = config_files.changed(config, data={"directory": data})
    inputs = open_inputs(config)
    ours = inputs.dataset
    if ours.fingerprint != run.run_file.data:
        raise (OtherData if data else Different)(
            f"the data are not those that the run was trained on: their fingerprint is {ours.fingerprint[:12]}, and "
            f"the run's {run.run_file.data[:12]}; give the folder of the run's data as --data"
        )
    if ours.classes != run.run_file.classes:
        raise Different(f"{run.directory / workdir.RUN} does not have the names of the classes that the data have")
    return config, inputs


def _check_statistics(run: Run, config: Config, inputs: Inputs) -> None:
    theirs = workdir.open_finished(run.directory).statistics
    if not config.data.statistics_file and not all(map(np.array_equal, inputs.dataset.statistics(), theirs)):
        raise Different(f"{run.directory / workdir.STATISTICS} does not hold the statistics of the data")


def _repeat_segment(
    run: Run,
    segment: starts.Segment,
    config: Config,
    inputs: Inputs,
    state: steps.TrainState,
    position: Position,
    record: Record,
) -> tuple[steps.TrainState, Position]:
    doing = Progress(time.monotonic())
    doing.begin(segment.first)
    # A run that was stopped at a step that it validates after may have validated when it went on.
    stop = Stop(lambda: doing.step >= segment.last and record.validated(segment.last), inputs.mesh)
    first, last, start = segment
    batches = Batches(inputs.train_images, inputs.order, first, last, reading(config, inputs.mesh))
    with contextlib.closing(batches), train_step_ahead(config, inputs) as step:
        trainer = Repeated(config, run.directory, inputs, start, run.checkpoints, record, batches, stop, doing, step)
        loop = Loop(trainer, state, position)
        loop.run()
    return loop.state, loop.position
