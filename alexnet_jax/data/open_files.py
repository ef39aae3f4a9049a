"""The limit on open files: shards stay open, and many systems allow 1024 files unless asked for more."""

import resource
from pathlib import Path

from alexnet_jax.errors import UserError

OTHERS = 256  # files that the rest of the program may open


def allow(more: int) -> None:
    """Raise the process's limit by `more` open files. Raises UserError if the system does not permit it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = len(list(Path("/dev/fd").iterdir())) + more + OTHERS
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise UserError(f"{more} shards must be open at once, but the system allows {hard} files; raise `ulimit -n`")
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
