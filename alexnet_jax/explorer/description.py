"""What an explorer's page is given about a network: the Description of web/src/contract.ts."""

import importlib.metadata
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import alexnet_jax
from alexnet_jax.explorer import stages
from alexnet_jax.inference import patches
from alexnet_jax.inference.network import Network, open_workdir
from alexnet_jax.interop import networks
from alexnet_jax.model_config import Conv, Dense, Model
from alexnet_jax.run import workdir

BUILT = Path(__file__).with_name("built")  # the page, and the runtime of programs
FORMAT, NAME = 1, "network"
LARGE = 10_000_000  # parameters; with more, weights are stored as float16, and only the newest step is shown
EARLIER = 4  # most steps before the newest
SOURCES = {  # what happens in a network -> the file and the start of the line where its code begins
    "conv": "model.py:class Conv",
    "dense": "model.py:class Dense",
    "head": "model.py:class Dense",
    "exchange": "sharding.py:def exchange",
    "response": "ops.py:def conv",
    "activation": "model.py:ACTIVATION_FUNCTIONS",
    "lrn": "ops.py:def local_response_norm",
    "map_norm": "ops.py:def map_norm",
    "pool": "pooling.py:def max_pool",
    "dropout": "model.py:    def _dropout",
}


def describe(network: Network) -> dict[str, Any]:
    """The parts of a Description that only the network decides."""
    spec, size = network.config.model, network.config.data.size
    return {
        "format": FORMAT,
        "name": network.name,
        "version": importlib.metadata.version("alexnet_jax"),
        "image": {"size": size, "crop": spec.image_size},
        "mean": [round(float(x), 2) for x in network.statistics.mean_image.mean(axis=(0, 1))],
        "towers": spec.towers,
        "classes": network.classes,
        "parameters": networks.parameters(network),
        "layers": [_layer(spec, name) for name in spec.layers()],
        "links": list(stages.links(spec)),
        "sources": {name: _place(source) for name, source in SOURCES.items()},
    }


def along_training(newest: Network) -> Iterator[Network]:
    """The steps that are shown: the start, unless it is another run's, kept ones, evenly spread, and the newest."""
    start = () if newest.config.start.workdir else (0,)
    steps = [] if is_large(newest) else sorted({*start, *workdir.saved_steps(newest.path)} - {newest.step})
    if len(steps) > EARLIER:
        steps = [steps[i * len(steps) // EARLIER] for i in range(EARLIER)]
    yield from (open_workdir(newest.path, step) for step in steps)
    yield newest


def is_large(network: Network) -> bool:
    return networks.parameters(network) > LARGE


def script(name: str, value: Any) -> str:
    """The content of the file NAME.js, which gives the page a value."""
    return f"{call(name)}{json.dumps(value, separators=(',', ':'))});\n"


def call(name: str) -> str:
    return f"explorer({json.dumps(name)},"


def _layer(spec: Model, name: str) -> dict[str, Any]:
    layer = spec.layers()[name]
    conv = layer if isinstance(layer, Conv) else None
    kind = "conv" if conv else "dense" if isinstance(layer, Dense) else "head"
    shapes = stages.shapes(spec)[name]
    return {
        "name": name,
        "kind": kind,
        "features": next(iter(shapes.values()))[0],
        "exchange": layer.exchange,
        "kernel": conv.kernel if conv else 0,
        "stride": conv.stride if conv else 0,
        "field": (patches.field(spec, name) if conv else patches.Field(0, 0, 0))._asdict(),
        "stages": [
            {"name": stage, "height": height, "width": width, "text": _text(spec, layer, stage)}
            for stage, (_, height, width) in ((stage, (*shape, 0, 0)[:3]) for stage, shape in shapes.items())
        ],
        "section": "" if name == "conv6" else "3.5",
    }


def _text(spec: Model, layer: Any, stage: str) -> dict[str, Any]:
    """The numbers of an operation."""
    if stage in ("lrn", "map_norm", "pool"):
        return {key: value * 1 for key, value in getattr(spec, stage)}  # truth as 0 or 1
    if stage == "activation":
        dropout = {"dropout": spec.dropout_rate} if isinstance(layer, Dense) and layer.dropout else {}
        return {"function": spec.activation} | dropout
    return {}


def _place(source: str) -> str:
    """The file and line of code of this package."""
    file, _, start = source.partition(":")
    lines = (Path(alexnet_jax.__file__).parent / file).read_text().splitlines()
    return f"alexnet_jax/{file}:{next(number for number, line in enumerate(lines, 1) if line.startswith(start))}"
