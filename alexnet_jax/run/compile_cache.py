"""Where JAX keeps what it compiles, for the next start of a command."""

import os
import platform
from pathlib import Path


def use_default() -> None:
    """Let JAX use the user's cache folder, unless JAX_COMPILATION_CACHE_DIR names another. Call before importing JAX.

    Each machine has a folder of its own, since processors differ.
    """
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(caches / "alexnet_jax" / platform.node()))
