"""What the runs of a study were made on: versions, devices and processors."""

import importlib.metadata
from collections.abc import Iterable
from typing import Any

from alexnet_jax.run import starts


def here() -> dict[str, Any]:
    """What this process computes with, as the `environment` of a run's result."""
    return {"alexnet_jax": importlib.metadata.version("alexnet_jax")} | starts.environment()


def in_words(results: Iterable[dict[str, Any]]) -> str:
    """The different environments of runs."""
    words = (
        f"{env['processor']} ({env['cores']} cores a run), Python {env['python']}, JAX {env['jax']}, alexnet_jax "
        f"{env['alexnet_jax']}, {', '.join(env['devices'])}"
        for env in (result["environment"] for result in results)
    )
    return "; ".join(dict.fromkeys(words))
