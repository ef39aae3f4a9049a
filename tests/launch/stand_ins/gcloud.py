"""A stand-in for gcloud with one TPU, whose state is in TPU/state and whose only worker is the folder TPU/worker.

Each command is written to TPU/calls. The first line of TPU/plan, "WORDS|CODE[|STATE]", applies to the next command that
contains WORDS: it does nothing, exits with CODE and leaves the TPU in STATE. If CODE is 0, it finds the TPU in STATE.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

home, words = Path(os.environ["TPU"]), sys.argv[1:]
(home / "calls").open("a").write(" ".join(words) + "\n")
state, worker = home / "state", home / "worker"
plan = (home / "plan").read_text().splitlines() if (home / "plan").exists() else []
if plan:
    command, code, *new_state = plan[0].split("|")
    if command in " ".join(words):
        (home / "plan").write_text("\n".join(plan[1:]))
        if new_state:
            state.write_text(new_state[0])
        if int(code):
            print("ERROR: as planned", file=sys.stderr)
            sys.exit(int(code))
if "describe" in words:
    if not state.exists():
        print("ERROR: (gcloud.describe) NOT_FOUND: Resource was not found", file=sys.stderr)
        sys.exit(1)
    print("WARNING: something else\n" + state.read_text())
elif "create" in words:
    state.write_text("ACTIVE" if "queued-resources" in words else "READY")
elif "delete" in words:
    state.unlink()
elif "scp" in words:
    shutil.copy(words[4], worker)
elif "ssh" in words:
    (command,) = [word.removeprefix("--command=") for word in words if word.startswith("--command=")]
    env = os.environ | {"HOME": str(worker)}
    ended = subprocess.run(["bash", "-c", command], cwd=worker, env=env, check=False).returncode
    sys.exit(ended if ended >= 0 else 128 - ended)
