"""Stands in for alexnet_jax.main: notes in the file NOTES how it is called and what signals come, and ends as told.

Training lasts until a signal, which ends it with 75. ENDS, "[preflight,]PROCESS:CODE ...", ends others at once.
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
    with open(os.environ["NOTES"], "a") as file:  # noqa: PTH123 - one write a line, as several processes write
        file.write(f"{phase or 'training,'}{process} {' '.join(map(str, words))}\n")


heard: list[int] = []
if not phase:
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
        signal.signal(number, lambda number, frame: heard.append(number))
note("pid", os.getpid(), "argv", sys.argv[1:], "gpus", os.environ.get("CUDA_VISIBLE_DEVICES"))
print(f"{phase}process {process} of {flags.get('num_processes', 1)}", flush=True)
for word in os.environ.get("ENDS", "").split():
    who, _, code = word.partition(":")
    if who == f"{phase}{process}":
        sys.exit(int(code))
deaf = process in os.environ.get("DEAF", "").split()
while (not phase or "preflight" in os.environ.get("SLOW", "")) and (deaf or not heard):
    time.sleep(0.02)
if heard:
    time.sleep(0.5)  # a save: a second signal would come in it
    note("heard", *heard)
    sys.exit(75)
