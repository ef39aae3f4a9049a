"""Print the tables of docs/speed.md, from the results kept in bench/results."""

import argparse
import json
import re
from collections.abc import Iterator
from pathlib import Path

from alexnet_jax.bench import compile as compile_
from alexnet_jax.bench import input as input_
from alexnet_jax.bench import least, measuring
from alexnet_jax.run import config_files

RESULTS = Path(__file__).parent / "results"
LINKS = "../alexnet_jax/bench/results"  # from docs/
STEPS = "| run | config | devices | batch | type | images/s | PyTorch's best | ratio | to eager | of the peak | noise |"
TRAINING = "| run | device | batch | type | images/s | waiting for data | hours for 90 epochs of ImageNet |"
INPUT = "| images | images/s | to PyTorch's DataLoader (Pillow) | to tf.data on the same form | runs |"
SAME = ("for", "config", "mesh", "batch", "dtype")  # what two results must share to be compared
CONVS = tuple(f"conv{number}" for number in range(1, 6))
PARTS = (*CONVS, "normalization", "pooling", "activation", "fc", "images", "optimizer")
SCALE = "| devices | mesh | `mesh.fc_sharding` | between towers | conv gradients | fully connected | to the model |"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    del parser  # this measurement has none


def run(arguments: argparse.Namespace) -> None:
    print("\n\n".join(filter(None, (steps(), training(), scale(), projections(), layers(), inputs()))))


def _results(kind: str) -> Iterator[tuple[str, dict]]:
    """The results in the files `kind`-*.json, each with a link to its file and the date."""
    for file in sorted(RESULTS.rglob(f"{kind}-*.json")):
        path = file.relative_to(RESULTS)
        name = str(path.with_name(path.stem.removeprefix(f"{kind}-")))
        results = json.loads(file.read_text())
        for result in results if isinstance(results, list) else [results]:
            yield f"[{name}]({LINKS}/{path}), {result['date']}", result


def steps() -> str:
    """The results of `bench step`."""
    rows = []
    for name, result in _results("step"):
        if not result.get("torch_variant"):  # cut off before there was anything to compare
            continue
        eager = min((ratio for name, ratio in result["ratios"].items() if "eager" in name), default=None)
        torch = f"{result['torch_images_per_s']:,.1f} ({result['torch_variant'].removeprefix('torch ')})"
        if waiting := result.get("not_reached"):
            torch += f", without {', '.join(name.removeprefix('torch ') for name in waiting)}"
        ratios = f"{result['ratio']:.2f}x", "-" if eager is None else f"{eager:.2f}x"
        about = [name, *(result[key] for key in ("config", "device", "batch", "dtype"))]
        ours, noise = f"{result['ours_images_per_s']:,.1f}", f"{result['noise']['elsewhere']:.0%}"
        rows.append((*about, ours, torch, *ratios, f"{result['share_of_peak']:.0%}", noise))
    return measuring.markdown(STEPS, rows)


def training() -> str:
    """The results of `bench train`."""
    rows = []
    for name, result in _results("train"):
        about = (name, result["device"], result["batch"], result["dtype"], f"{result['images_per_s']:,.1f}")
        rows.append((*about, f"{result['data_wait']:.1%}", f"{result['hours_of_the_paper']:,.1f}"))
    return measuring.markdown(TRAINING, rows)


def inputs() -> str:
    """The results of `bench input`, as ranges over all machines and days."""
    found = [result for _, result in _results("input")]
    rows = []
    for flag in ("--store raw", "--store jpeg", "--stream"):
        name = f"alexnet_jax {re.findall(r'[a-z]+', flag)[-1]}"
        ours = [row for result in found for row in result["rows"] if row["pipeline"] == name]
        speed, *ratios = ([row[key] for row in ours if row[key]] for key in ("images_per_s", *input_.RATIOS))
        ranges = [f"{_range(each, '.3g')}x" if each else "-" for each in ratios]
        rows.append((f"`{flag}`", _range(speed, ",.0f"), *ranges, len(speed)))
    return measuring.markdown(INPUT, rows)


def scale() -> str:
    """The bytes that a device sends in a step, from `bench scale`."""
    rows = []
    for result in json.loads((RESULTS / "scale.json").read_text()):
        sent = [f"{number / 1e6:,.1f} MB" for purpose, number in result["bytes"].items() if purpose != "scalars"]
        ratio = f"{result['ratio']:.4f}" if result["ratio"] else "-"
        rows.append((result["devices"], result["mesh"], result["fc_sharding"], *sent, ratio))
    return measuring.markdown(SCALE, rows)


def projections() -> str:
    """The least times of steps on hardware that was not there, from `bench compile`."""
    files = sorted(RESULTS.glob("projections-*.json"))
    return compile_.projections([result for file in files for result in json.loads(file.read_text())])


def layers() -> str:
    """The bytes of a training step by layer, from `bench compile`: before our own kernels, now, and the least."""
    before = json.loads((RESULTS / "bytes-before.json").read_text())
    now = [result for file in sorted(RESULTS.glob("projections-*.json")) for result in json.loads(file.read_text())]
    rows = []
    for old in before:
        found = [(old["commit"], old), *(("now", each) for each in now if all(each[key] == old[key] for key in SAME))]
        counts = [
            (when, {part: each["bytes"] for part, each in result["programs"]["train"]["parts"].items()})
            for when, result in found
        ]
        keys = measuring.layout(measuring.mesh(old["mesh"]), old["batch"], old["dtype"])
        counts.append(("least", least.parts(config_files.parse(config_files.load(old["config"], keys)))))
        for when, parts in counts:
            moved = {part: each / 1e9 for part, each in parts.items()}
            moved["fc"] = sum(moved.pop(layer, 0) for layer in ("fc6", "fc7", "fc8"))
            total, own = sum(moved.values()), [moved.pop(part, 0) for part in PARTS]
            about = (old["for"], old["mesh"], old["dtype"], when)
            rows.append((*about, *(f"{each:.2f}" for each in (*own, sum(moved.values()), total))))
    return measuring.markdown(f"| for | mesh | type | program | {' | '.join(PARTS)} | the rest | all |", rows)


def _range(numbers: list[float], form: str) -> str:
    return " to ".join(dict.fromkeys(format(each, form) for each in (min(numbers), max(numbers))))
