"""What a command sets up for its process, before JAX is imported. The library leaves such choices to its callers."""

import functools
import logging
import os
import platform
import sys
from pathlib import Path


@functools.cache  # once a process
def prepare_process() -> None:
    """Keep compiled programs for the next start, and silence what Orbax leaves behind after an error.

    Programs lie in the user's cache folder, in a folder for each machine, as processors differ, unless
    JAX_COMPILATION_CACHE_DIR names another. After an error Orbax abandons asyncio tasks, which would print tracebacks
    of their own when they are garbage-collected later.
    """
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    default = str(caches / "alexnet_jax" / platform.node())
    os.environ["JAX_COMPILATION_CACHE_DIR"] = os.environ.get("JAX_COMPILATION_CACHE_DIR") or default
    before = sys.unraisablehook
    sys.unraisablehook = lambda args: None if str(args.exc_value) == "Event loop is closed" else before(args)
    logging.getLogger("asyncio").addFilter(lambda record: "exception was never retrieved" not in record.getMessage())
