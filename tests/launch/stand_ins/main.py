"""A stand-in for alexnet_jax.main, which writes its arguments and signals to the file NOTES.

Training lasts until a signal, on which it exits with 75. ENDS, "[preflight,]PROCESS:CODE ...", names the processes that
exit at once, IGNORES those that ignore signals; with SLOW=preflight the preflight lasts as long as training.
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


received: list[int] = []
if not phase:
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
        signal.signal(number, lambda number, frame: received.append(number))
note("pid", os.getpid(), "argv", sys.argv[1:], "gpus", os.environ.get("CUDA_VISIBLE_DEVICES"))
print(f"{phase}process {process} of {flags.get('num_processes', 1)}", flush=True)
for word in os.environ.get("ENDS", "").split():
    name, _, code = word.partition(":")
    if name == f"{phase}{process}":
        sys.exit(int(code))
ignores = process in os.environ.get("IGNORES", "").split()
while (not phase or "preflight" in os.environ.get("SLOW", "")) and (ignores or not received):
    time.sleep(0.02)
if received:
    time.sleep(0.5)  # for a save, during which a second signal would arrive
    note("received", *received)
    sys.exit(75)
