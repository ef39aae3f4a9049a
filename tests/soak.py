"""Many kills and resumes of one run, against the same run unbroken: python -m tests.soak [--cycles 100] [--json FILE]

Each cycle starts the command again and stops it: by SIGKILL at a random moment, by SIGKILL while a checkpoint is
written, or by SIGTERM. At the end parameters, momentum, position and every line of the log must be equal, bit for bit.
"""

import argparse
import collections
import datetime
import json
import random
import signal
import tempfile
import time
from pathlib import Path

from alexnet_jax import errors
from alexnet_jax.run import starts
from alexnet_jax.run.workdir import CHECKPOINTS
from tests import runs

SAVE_EVERY = 4
FLAGS = [f"--config.train.save_every_steps={SAVE_EVERY}", "--config.train.eval_every_epochs=20"]
KINDS = ("SIGKILL", "SIGKILL in a save", "SIGTERM")


def stop(process, checkpoints: Path, kind: str, rng: random.Random) -> bool:
    """Whether it was stopped before its end."""
    runs.until(process, "steps an epoch")
    if kind == "SIGKILL in a save":
        while process.poll() is None and not list(checkpoints.glob("*tmp*")):
            time.sleep(0.0005)
    else:
        if rng.random() < 0.8:
            runs.until(process, "the first step ended")  # else it may be before that
        time.sleep(rng.uniform(0, 1))
    process.send_signal(signal.SIGTERM if kind == "SIGTERM" else signal.SIGKILL)
    process.communicate()
    return process.returncode in (-signal.SIGKILL, -signal.SIGTERM, errors.EXIT_INTERRUPTED)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--cycles", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="file to write the result to")
    arguments = parser.parse_args()
    rng, done = random.Random(arguments.seed), collections.Counter[str]()
    flags = [*FLAGS, f"--config.train.epochs={3 * arguments.cycles}"]
    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="alexnet_jax_soak_") as folder:
        home = Path(folder)
        for cycle in range(arguments.cycles):
            kind = rng.choice(KINDS)
            stopped = stop(runs.start(runs.command(home, "broken", *flags)), home / "broken" / CHECKPOINTS, kind, rng)
            assert stopped, f"cycle {cycle}: it reached its end before it was stopped"
            done[kind] += 1
            saved = max((int(p.name) for p in (home / "broken" / CHECKPOINTS).glob("*") if p.name.isdigit()), default=0)
            print(f"cycle {cycle + 1} of {arguments.cycles}: {kind}; step {saved} is saved", flush=True)
        runs.end(runs.start(runs.command(home, "broken", *flags)), seconds=3600)
        runs.end(runs.start(runs.command(home, "whole", *flags)), seconds=3600)
        runs.assert_same(home / "whole", home / "broken")
        steps = runs.final_state(home / "whole")[1].next_batch
    result = {
        "cycles": arguments.cycles,
        "seed": arguments.seed,
        **{kind: done[kind] for kind in KINDS},
        "steps": steps,
        "equal bit for bit": True,  # else assert_same has raised
        "minutes": round((time.monotonic() - start) / 60, 1),
        "date": datetime.date.today().isoformat(),
        "versions": {name: starts.packages()[name] for name in ("python", "jax", "orbax-checkpoint", "grain")},
    }
    print(json.dumps(result, indent=2))
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
