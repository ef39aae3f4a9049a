"""Print the tables of docs/speed.md, from the results kept in bench/results."""

import argparse
import json
from pathlib import Path

from alexnet_jax.bench import compile as compile_

RESULTS = Path(__file__).parent / "results"
STEPS = "| run | devices | batch | type | images/s | PyTorch's best | ratio | to eager | of the peak |"
SCALE = "| devices | mesh | `mesh.fc_sharding` | between towers | conv gradients | fully connected | to the model |"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    del parser  # this measurement has none


def run(arguments: argparse.Namespace) -> None:
    print(f"{steps()}\n\n{scale()}\n\n{projections()}")


def steps() -> str:
    """The results of `bench step`."""
    rows = []
    for file in sorted(RESULTS.glob("step-*.json")):
        for result in json.loads(file.read_text()):
            eager = min(ratio for name, ratio in result["ratios"].items() if "eager" in name)
            name = f"[{file.stem.removeprefix('step-')}](alexnet_jax/bench/results/{file.name})"
            torch = f"{result['torch_images_per_s']:,.1f} ({result['torch_variant'].removeprefix('torch ')})"
            speeds = (f"{result['ours_images_per_s']:,.1f}", torch, f"{result['ratio']:.2f}x", f"{eager:.2f}x")
            about = (f"{name}, {result['date']}", result["device"], result["batch"], result["dtype"])
            rows.append((*about, *speeds, f"{result['share_of_peak']:.0%}"))
    return _markdown(STEPS, rows)


def scale() -> str:
    """The bytes that a device sends in a step, from `bench scale`."""
    rows = []
    for result in json.loads((RESULTS / "scale.json").read_text()):
        sent = [f"{number / 1e6:,.1f} MB" for purpose, number in result["bytes"].items() if purpose != "scalars"]
        ratio = f"{result['ratio']:.4f}" if result["ratio"] else "-"
        rows.append((result["devices"], result["mesh"], result["fc_sharding"], *sent, ratio))
    return _markdown(SCALE, rows)


def projections() -> str:
    """The least times of steps on hardware that was not there, from `bench compile`."""
    files = sorted(RESULTS.glob("projections-*.json"))
    return compile_.projections([result for file in files for result in json.loads(file.read_text())])


def _markdown(headings: str, rows: list[tuple]) -> str:
    """A table without padding, so that one changed number changes one line of the page."""
    rule = "|---" * (headings.count("|") - 1) + "|"
    return "\n".join([headings, rule, *(f"| {' | '.join(map(str, row))} |" for row in rows)])
