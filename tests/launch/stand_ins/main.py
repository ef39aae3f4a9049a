"""A stand-in for alexnet_jax.main, which writes its arguments and signals to the file NOTES.

Training lasts until a signal, or SIGNALS of them, on which it exits with 75; a second one of ASKS ends it at once.
ENDS, "[preflight,]PROCESS:CODE ...", names the processes that exit at once, IGNORES those that ignore signals; with
SLOW=preflight the preflight lasts as long as training.
"""

import os
import signal
import sys
import time
from typing import Any

flags = dict(word.lstrip("-").partition("=")[::2] for word in sys.argv[1:] if word.startswith("--"))
process = flags.get("process_id") or os.environ.get("SLURM_PROCID", "0")
phase = "preflight," if "preflight" in flags else ""


def note(*words: Any) -> None:
    with open(os.environ["NOTES"], "a") as file:  # noqa: PTH123 - one write per line, since several processes write
        file.write(f"{phase or 'training,'}{process} {' '.join(map(str, words))}\n")


ASKS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)  # as in run/stopping.py
ignores = process in os.environ.get("IGNORES", "").split()
signals, received = int(os.environ.get("SIGNALS", "1")), list[int]()


def receive(number: int, frame: Any) -> None:
    received.append(number)
    note("signal", len(received))
    if number in ASKS and not ignores:
        for asks in ASKS:
            signal.signal(asks, signal.SIG_DFL)


if not phase:
    for number in (*ASKS, signal.SIGHUP):
        signal.signal(number, receive)
note("pid", os.getpid(), "argv", sys.argv[1:], "gpus", os.environ.get("CUDA_VISIBLE_DEVICES"))
print(f"{phase}process {process} of {flags.get('num_processes', 1)}", flush=True)
for word in os.environ.get("ENDS", "").split():
    name, _, code = word.partition(":")
    if name == f"{phase}{process}":
        sys.exit(int(code))
while (not phase or "preflight" in os.environ.get("SLOW", "")) and (ignores or len(received) < signals):
    time.sleep(0.02)
if received:
    time.sleep(0.5)  # for a save, during which a second signal would arrive
    note("received", *received)
    sys.exit(75)
