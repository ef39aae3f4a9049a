"""How many files may be open at once: shards stay open, and many systems allow 1024 files until asked for more."""

import resource
from pathlib import Path

from alexnet_jax.errors import UserError

OTHERS = 256  # files that the rest of the program may open


def allow(more: int) -> None:
    """Asks the system for `more` open files. Raises UserError if it does not allow so many."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = len(list(Path("/dev/fd").iterdir())) + more + OTHERS
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise UserError(f"{more} shards must be open at once and this system allows {hard} files; raise `ulimit -n`")
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
