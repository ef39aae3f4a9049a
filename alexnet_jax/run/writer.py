"""What a run writes: progress, metrics.jsonl and TensorBoard events. clu's metric_writers would need TensorFlow."""

import contextlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from alexnet_jax.errors import StorageError
from alexnet_jax.run import pictures, processes
from alexnet_jax.run.workdir import METRICS

try:  # tensorboardX would import torch where it is installed, which takes two seconds
    sys.modules.setdefault("torch", None)  # type: ignore[arg-type]
    from tensorboardX import summary
    from tensorboardX.event_file_writer import EventsWriter
    from tensorboardX.proto import event_pb2
finally:
    if sys.modules.get("torch") is None:
        del sys.modules["torch"]


class Writer:
    """Writes scalars to a workdir, and a live progress bar to a terminal or plain lines to anything else.

    Only the first of several processes writes. What metrics.jsonl holds beyond `log_bytes`, its length at the
    checkpoint that the run starts from, is cut off: it will be written again. All raise StorageError when a file
    cannot be written.
    """

    def __init__(self, directory: Path, log_bytes: int, start_step: int, total_steps: int):
        self.directory, self._first, self._path = directory, processes.is_first(), directory / METRICS
        path = self._path if self._first else Path(os.devnull)
        with self._storage():
            if self._first:
                path.touch()
                os.truncate(path, min(log_bytes, path.stat().st_size))
            self._file = path.open("a")
            # Not SummaryWriter: its thread dies on a full disk, and the run would then wait for it forever.
            self._events = EventsWriter(str(directory / "events"), f".{os.getpid()}") if self._first else None
        self._event(session_log=event_pb2.SessionLog(status=event_pb2.SessionLog.START), step=start_step + 1)
        self._total = total_steps
        self.mirror: Callable[[dict[str, Any]], None] | None = None  # receives all scalars as well, with their step
        live = self._first and sys.stdout.isatty()
        self._bar = tqdm(total=total_steps, initial=start_step, unit="step", file=sys.stdout, disable=not live)

    @property
    def log_bytes(self) -> int:
        return self._file.tell()

    def message(self, text: str) -> None:
        """Print a line, in the first process."""
        if self._first:
            self._bar.write(text, file=sys.stdout)
            sys.stdout.flush()

    def warning(self, text: str) -> None:
        """Print a line in whichever process this is: only this one may know."""
        write = self.message if self._first else processes.report
        write(text)

    def advance(self) -> None:
        """Move the progress bar by one step."""
        self._bar.update()

    def scalars(self, step: int, phase: str, values: dict[str, float], checksum: str) -> None:
        """Record `values` measured in a phase, "train" or "validation", and the state's checksum after `step` steps."""
        with self._storage():
            self._file.write(json.dumps({"step": step, "phase": phase, **values, "checksum": checksum}) + "\n")
            self._file.flush()
        for name, value in values.items():
            self._event(summary=summary.scalar(f"{phase}/{name}", value), step=step)
        if self.mirror:
            self.mirror({f"{phase}/{name}": value for name, value in values.items()} | {"step": step})

    def parameters(self, step: int, shown: pictures.Summary) -> None:
        """Record for TensorBoard what `pictures.make_summary` computed after `step` steps."""
        for name, histogram in shown.histograms.items():
            limits = np.linspace(histogram.low, histogram.high, pictures.BINS + 1)[1:].tolist()
            low, high, total, squares = map(float, histogram[1:])
            counts = histogram.counts.tolist()
            event = summary.histogram_raw(name, low, high, sum(counts), total, squares, limits, counts)
            self._event(summary=event, step=step)
        if shown.conv1 is not None:
            for tower, kernels in enumerate(pictures.as_images(np.asarray(shown.conv1))):
                image = pictures.mosaic(kernels, columns=16)  # as in the paper's Figure 3
                self._event(summary=summary.image(f"conv1/tower_{tower}", image, dataformats="HWC"), step=step)

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
                "resumes from the newest checkpoint"
            ) from error

    def progress(self, step: int, epoch: float, values: dict[str, float], seconds_left: float) -> None:
        """Update the live progress bar, or print a line where there is none."""
        text = (
            f"epoch {epoch:.2f}  loss {values['loss']:.4f}  top-1 error {values['top1_error']:.2%}  "
            f"{values['images_per_s']:.0f} images/s  waiting for data {values['data_wait']:.0%}"
        )
        if "loss_scale" in values:
            text += f"  loss scale {values['loss_scale']:.0f}  skipped steps {values['skipped_steps']}"
        if self._bar.disable:
            self.message(f"step {step}/{self._total}  {text}  {tqdm.format_interval(seconds_left)} left")
        else:
            self._bar.set_postfix_str(text)

    def close(self) -> None:
        self._bar.close()
        with contextlib.suppress(OSError):  # everything that counts has been flushed before
            self._file.close()
            if self._events:
                self._events.close()
