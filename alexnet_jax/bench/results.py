"""README's tables of speed and scale, from the results that are kept in bench/results."""

import argparse
import json
from pathlib import Path

KEPT = Path(__file__).parent / "results"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    del parser  # takes none


def run(arguments: argparse.Namespace) -> None:
    print(f"{steps()}\n\n{scale()}")


def steps() -> str:
    """A row a measurement of `bench step`, the newest run of each file."""
    lines = [
        "| run | devices | batch | type | images/s | PyTorch's best | ratio | to eager | of the peak |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for file in sorted(KEPT.glob("step-*.json")):
        for found in json.loads(file.read_text()):
            eager = min(ratio for name, ratio in found["ratios"].items() if "eager" in name)
            cells = (
                f"[{file.stem.removeprefix('step-')}](alexnet_jax/bench/results/{file.name}), {found['date']}",
                found["device"],
                str(found["batch"]),
                found["dtype"],
                f"{found['ours_images_per_s']:,.1f}",
                f"{found['torch_images_per_s']:,.1f} ({found['torch_variant'].removeprefix('torch ')})",
                f"{found['ratio']:.2f}x",
                f"{eager:.2f}x",
                f"{found['share_of_peak']:.0%}",
            )
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def scale() -> str:
    """Bytes that a device sends in a step, from `bench scale`."""
    lines = [
        "| devices | mesh | `mesh.fc_sharding` | between towers | conv gradients | fully connected | to the model |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in json.loads((KEPT / "scale.json").read_text()):
        towers, conv, dense, _ = (f"{sent / 1e6:,.1f} MB" for sent in row["bytes"].values())
        ratio = f"{row['ratio']:.4f}" if row["ratio"] else "-"
        cells = (str(row["devices"]), row["mesh"], row["fc_sharding"], towers, conv, dense, ratio)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
