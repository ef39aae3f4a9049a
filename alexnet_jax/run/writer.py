"""What a run says while it trains: a progress line, metrics.jsonl and TensorBoard events. No TensorFlow.

clu's metric_writers would do some of this, but cannot be imported without TensorFlow.
"""

import contextlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from tensorboardX import summary
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto import event_pb2
from tqdm import tqdm

from alexnet_jax.data.loader import Batches
from alexnet_jax.errors import StorageError
from alexnet_jax.run import histograms, processes
from alexnet_jax.run.workdir import METRICS


class Writer:
    """Writes scalars to a workdir, and a progress line to a terminal or plain lines to anything else.

    `log_bytes` is the length of metrics.jsonl at the checkpoint that the run starts from: what a killed run
    wrote after it is cut off, since it will be written again. Of several processes only the first one writes.
    Raises StorageError when what is to be kept cannot be written.
    """

    def __init__(self, directory: Path, log_bytes: int, start_step: int, total_steps: int):
        self._first, self._path = processes.is_first(), directory / METRICS
        path = self._path if self._first else Path(os.devnull)
        with self._storage():
            if self._first:
                path.touch()
                os.truncate(path, min(log_bytes, path.stat().st_size))
            self._file = path.open("a")
            # Not SummaryWriter: its thread dies on a full disk, and the run would then wait for it for ever.
            self._events = EventsWriter(str(directory / "events"), f".{os.getpid()}") if self._first else None
        self._event(session_log=event_pb2.SessionLog(status=event_pb2.SessionLog.START), step=start_step + 1)
        self._total = total_steps
        self._log: Callable[[dict[str, Any]], None] | None = None
        live = self._first and sys.stdout.isatty()
        self._bar = tqdm(total=total_steps, initial=start_step, unit="step", file=sys.stdout, disable=not live)

    def also(self, log: Callable[[dict[str, Any]], None] | None) -> None:
        """Gives all scalars to `log` as well, with their step."""
        self._log = log

    @property
    def log_bytes(self) -> int:
        return self._file.tell()

    def message(self, text: str) -> None:
        """A line of its own."""
        if self._first:
            self._bar.write(text, file=sys.stdout)
            sys.stdout.flush()

    def warning(self, text: str) -> None:
        """A line about what only this process may know."""
        if self._first:
            self.message(text)
        else:
            processes.tell(text)

    def advance(self) -> None:
        """One more step was started."""
        self._bar.update()

    def scalars(self, step: int, split: str, values: dict[str, float]) -> None:
        """Records `values` after `step` steps, measured on `split`."""
        with self._storage():
            self._file.write(json.dumps({"step": step, "split": split, **values}) + "\n")
            self._file.flush()
        for name, value in values.items():
            self._event(summary=summary.scalar(f"{split}/{name}", value), step=step)
        if self._log:
            self._log({f"{split}/{name}": value for name, value in values.items()} | {"step": step})

    def parameters(self, step: int, seen: histograms.Seen) -> None:
        """Shows TensorBoard what `parameters.make_look` saw after `step` steps."""
        for name, one in seen.histograms.items():
            limits = np.linspace(one.low, one.high, histograms.BINS + 1)[1:].tolist()
            count, counts = int(one.counts.sum()), one.counts.tolist()
            sums = (float(one.low), float(one.high), count, float(one.total), float(one.squares))
            self._event(summary=summary.histogram_raw(name, *sums, limits, counts), step=step)
        if seen.conv1 is not None:
            for tower, picture in enumerate(histograms.pictures(np.asarray(seen.conv1))):
                shown = summary.image(f"conv1/tower_{tower}", picture, dataformats="HWC")
                self._event(summary=shown, step=step)

    def _event(self, **content: Any) -> None:
        if self._events:
            with self._storage():
                self._events.write_event(event_pb2.Event(wall_time=time.time(), **content))
                self._events.flush()

    @contextlib.contextmanager
    def _storage(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise StorageError(
                f"the log in {self._path.parent} cannot be written ({error}); make room there, and the same command "
                "goes on from the newest checkpoint"
            ) from error

    def progress(self, step: int, epoch: float, values: dict[str, float], seconds_left: float) -> None:
        """The live line, or a line of text where it cannot live."""
        text = (
            f"epoch {epoch:.2f}  loss {values['loss']:.4f}  top-1 error {values['top1_error']:.2%}  "
            f"{values['images_per_s']:.0f} images/s  waiting for data {values['data_wait']:.0%}"
        )
        if self._bar.disable:
            self.message(f"step {step}/{self._total}  {text}  {tqdm.format_interval(seconds_left)} left")
        else:
            self._bar.set_postfix_str(text)

    def close(self) -> None:
        self._bar.close()
        with contextlib.suppress(OSError):  # all that counts has been flushed before
            self._file.close()
            if self._events:
                self._events.close()


class Clock:
    """Speed since it was last restarted or read."""

    def __init__(self, batch_size: int, last_step: int, batches: Batches):
        self.batch_size, self.last_step, self.batches, self.running = batch_size, last_step, batches, False

    def restart(self, step: int) -> None:
        self.step, self.time, self.waited, self.running = step, time.monotonic(), self.batches.waited, True

    def read(self, step: int) -> tuple[dict[str, float], float]:
        """Images a second and the share of time spent waiting for data, up to `step`; seconds left at that speed."""
        seconds = max(time.monotonic() - self.time, 1e-9)
        waited = self.batches.waited - self.waited
        a_step = seconds / max(step - self.step, 1)
        self.restart(step)
        rates = {"images_per_s": self.batch_size / a_step, "data_wait": min(waited / seconds, 1.0)}
        return rates, a_step * (self.last_step - step)
