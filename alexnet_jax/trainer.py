"""A training run in progress: what it reads and writes, and what it can do; loop.py decides when."""

import concurrent.futures
import contextlib
import dataclasses
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from alexnet_jax import metrics, optim, sharding, steps
from alexnet_jax.data.datasets import Dataset, split_of
from alexnet_jax.data.loader import Batch, Batches, Order, Reading
from alexnet_jax.data.records import Images
from alexnet_jax.data.statistics import Statistics
from alexnet_jax.errors import NonFinite, UserError
from alexnet_jax.run import checkpoint, pictures, processes, run_data, starts, warm_start, workdir
from alexnet_jax.run.nonfinite import Replay
from alexnet_jax.run.progress import Progress
from alexnet_jax.run.stopping import Stop
from alexnet_jax.run.writer import Writer
from alexnet_jax.run_config import Config


class Inputs(NamedTuple):
    mesh: Mesh
    dataset: Dataset
    train_images: Images
    eval_images: Images
    order: Order
    last_step: int


def open_inputs(config: Config) -> Inputs:
    """Open devices and data. Raises UserError if they do not fit the config, or differ between processes."""
    mesh = sharding.make_mesh(config.mesh.data, config.mesh.tower, config.model.towers)
    shards, devices = config.train.virtual_shards, jax.devices()
    if shards and devices[0].platform == "cpu" and len(devices) > shards * config.model.towers:
        raise UserError(
            f"train.virtual_shards={shards} gives the same bits on at most {shards * config.model.towers} CPU devices, "
            f"and there are {len(devices)}, each with a thread of XLA's; give a smaller --simulated_devices"
        )
    processes.require_same("the config", config.model_dump(mode="json"))
    processes.require_same("Python and packages", starts.packages())
    dataset = run_data.of_config(config)
    processes.require_same("the data (its fingerprint)", dataset.fingerprint)
    train_images = run_data.images(dataset, config, config.data.train_split, "--config.data.train_split")
    eval_images = split_of(dataset, config.data.eval_split, "--config.data.eval_split")
    if config.data.train_examples > len(train_images.labels):
        raise UserError(
            f"the data has {len(train_images.labels)} images; give --config.data.train_examples=0 to use all"
        )
    order = Order(len(train_images.labels), config.train.batch_size, config.seed, config.data.reshuffle)
    last_step = min(config.train.epochs * order.steps_per_epoch, config.train.max_steps or 2**62)
    return Inputs(mesh, dataset, train_images, eval_images, order, last_step)


def newest_state(config: Config, mesh: Mesh, checkpoints: checkpoint.Checkpoints) -> checkpoint.Restored:
    """The newest checkpoint, or else the state at the start."""
    if restored := checkpoint.restore(checkpoints, steps.abstract_state(config, mesh)):
        return restored
    return checkpoint.Restored(first_state(config, mesh), checkpoint.Position(0, optim.Validation(), 0), [])


def first_state(config: Config, mesh: Mesh) -> steps.TrainState:
    """The state at the start of a run: random, but for layers taken from another run (`config.start`)."""
    state = steps.init_state(config, mesh)
    if config.start.workdir:
        state = state.starting_from(state.params | warm_start.params(config, mesh))
    return state


def abstract_inputs(config: Config, mesh: Mesh, count: int) -> tuple[Batch, Statistics]:
    """The shapes, types and shardings of a batch of `count` examples and of the statistics."""

    def abstract(spec: Any, dtype: type, *shape: int) -> Any:
        return jax.ShapeDtypeStruct(shape, dtype, sharding=jax.NamedSharding(mesh, spec))

    size = config.data.size
    index, mask = (abstract(sharding.EXAMPLES, dtype, count) for dtype in (np.int32, bool))
    batch = Batch(abstract(sharding.EXAMPLES, np.uint8, count, size, size, 3), index, index, mask)
    shapes = ((size, size, 3), (3,), (3, 3))
    return batch, Statistics(*(abstract(sharding.REPLICATED, np.float32, *shape) for shape in shapes))


@contextlib.contextmanager
def train_step_ahead(config: Config, inputs: Inputs) -> Iterator[Callable]:
    """The training step, on CPUs compiled by a thread while the run is being opened. Its first call waits for that.

    Accelerators, on which compiling means trying kernels, are left alone meanwhile, and several processes in step.
    """
    mesh = inputs.mesh
    step = steps.make_train_step(config, mesh, inputs.order.steps_per_epoch)
    if config.train.virtual_shards or processes.several() or mesh.devices.flat[0].platform != "cpu":
        yield step
        return

    def compile_step() -> None:
        state, votes = steps.abstract_state(config, mesh), sharding.votes(False, mesh)
        rates = optim.rates(config, state.params, 0, optim.Validation())
        batch, statistics = abstract_inputs(config, mesh, config.train.batch_size)
        step.lower(state, batch, rates, statistics, votes).compile()  # JAX keeps the program for calls

    with concurrent.futures.ThreadPoolExecutor(1) as thread:
        compiling = thread.submit(compile_step)

        def first_compiled(*arguments: Any) -> Any:
            concurrent.futures.wait([compiling])  # if it has failed, so does the call
            return step(*arguments)

        yield first_compiled


def reading(config: Config, mesh: Mesh) -> Reading:
    data = config.data
    return Reading(data.threads, data.prefetch_batches, data.max_bad, *sharding.part_of_batch(mesh))


@dataclasses.dataclass
class Trainer:
    """A run in progress. All processes make the same calls in the same order."""

    config: Config
    directory: Path  # the workdir
    inputs: Inputs
    start: dict[str, Any]  # this start of the run, as in run.json
    checkpoints: checkpoint.Checkpoints
    writer: Writer
    batches: Batches  # from the first step to take on
    stop: Stop
    doing: Progress  # called with the name of each activity when it begins
    train_step: Callable  # of `train_step_ahead`

    def __post_init__(self) -> None:
        config, mesh = self.config, self.inputs.mesh
        statistics = workdir.open_finished(self.directory).statistics
        self.statistics = sharding.put(statistics, mesh, sharding.REPLICATED)
        self._eval_step = steps.make_eval_step(config, mesh, views=1)
        self._summarize = pictures.make_summary(config, mesh)
        self._rates: list[Any] = []  # those of each step since the newest checkpoint
        self._compiled: set[str] = set()  # activities whose programs have been

    def step(self, state: steps.TrainState, rates: Any) -> tuple[steps.TrainState, steps.StepReport]:
        """Start one training step, which takes over the memory of `state`. Does not wait for the devices."""
        self.doing("waiting for data")
        batch = sharding.put(next(self.batches), self.inputs.mesh, sharding.EXAMPLES)
        self._begin("training")
        checkpoint.check(self.checkpoints)
        self._rates.append(rates)
        result = self.train_step(state, batch, rates, self.statistics, self.stop.vote())
        self.doing("training")
        return result

    def _begin(self, activity: str) -> None:
        """Name what is done next; the first time, it is compiled."""
        self.doing(activity if activity in self._compiled else "compiling")
        self._compiled.add(activity)

    def validate(self, step: int, state: steps.TrainState) -> dict[str, float] | None:
        """Loss and errors over the evaluation split, each image counted once; None if asked to stop meanwhile.

        Damaged records are reported and left out: `count` is without them, and `bad_records` is their number, if any.
        """
        images, mesh, total = self.inputs.eval_images, self.inputs.mesh, jax.device_get(metrics.nothing())
        order = Order(len(images.labels), self.config.train.eval_batch_size, seed=None)
        batches = Batches(images, order, 0, order.steps_per_epoch, reading(self.config, mesh))
        with contextlib.closing(batches):
            for batch in batches:
                self._begin("validating")
                if self.stop.now():
                    return None
                for line in batches.news():
                    self.writer.warning(f"{line}; it is left out")
                placed = sharding.put(batch, mesh, sharding.EXAMPLES)
                measured = self._eval_step(state.eval_params, placed, statistics=self.statistics)
                self.doing("validating")
                total = metrics.merge(total, jax.device_get(measured))
        self.writer.parameters(step, jax.device_get(self._summarize(state.eval_params)))
        result = metrics.summary(total) | ({"bad_records": len(batches.bad)} if batches.bad else {})
        return json.loads(processes.from_first(lambda: json.dumps(result)))  # one result decides the learning rate

    def save(self, state: steps.TrainState, position: checkpoint.Position) -> None:
        """Start writing a checkpoint. Raises StorageError if it, or the one before it, cannot be written."""
        self.doing("saving")
        position = position._replace(log_bytes=self.writer.log_bytes)
        run = {"config": self.config.model_dump(mode="json"), "start": self.start}
        checkpoint.save(self.checkpoints, position.next_batch, state, position, run)
        self.doing.write()
        self._rates.clear()

    def diagnose(self, step: int) -> NonFinite:
        """The error to raise for what is not finite at `step`: repeats the steps since the last checkpoint."""
        self.doing("looking for what is not finite")
        config, mesh, order = self.config, self.inputs.mesh, self.inputs.order
        checkpoint.wait(self.checkpoints)
        state = newest_state(config, mesh, self.checkpoints).state
        start = int(state.step)
        problem = f"step {step}: the loss or a parameter is not finite"
        self.writer.message(f"{problem}; repeating the steps from {start} to find the cause")
        replay, cause = Replay(config, mesh, order, self.statistics), None
        batches = Batches(self.inputs.train_images, order, start, step, reading(config, mesh))
        with contextlib.closing(batches):
            if len(self._rates) == step - start:  # else that checkpoint has been damaged since
                cause = replay.first_bad_step(state, batches, self._rates, self.doing)
        if cause is None:
            return NonFinite(
                f"the loss or a parameter was not finite at step {step}, and is finite when the steps are repeated: "
                "suspect the hardware. The same command resumes from the newest checkpoint"
            )
        return replay.keep(self.directory, *cause)
