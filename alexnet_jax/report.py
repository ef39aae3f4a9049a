"""A page about a run, DIR/report.html: python -m alexnet_jax.report --workdir DIR

Curves of loss and error, the result of `evaluate` if it ran, and the kernels of conv1, tower by tower, drawn as
the paper's Figure 3. Needs matplotlib: pip install "alexnet_jax[report]".
"""

import argparse
import base64
import html
import io
import json
import sys
from pathlib import Path

import numpy as np

from alexnet_jax import checkpoint, errors, sharding, steps, workdir
from alexnet_jax.errors import UserError

KERNELS_A_ROW = 16  # as in Figure 3

PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>{title}</title>
<style>body{{font:16px/1.5 system-ui,sans-serif;max-width:960px;margin:2em auto;padding:0 1em}}
img{{max-width:100%}} td,th{{padding:.1em 1em .1em 0;text-align:left}} pre{{font-size:12px;overflow:auto}}</style>
<h1>{title}</h1>
{body}
</html>
"""


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m alexnet_jax.report", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workdir", type=Path, required=True, help="folder of a run of alexnet_jax.main")
    arguments = parser.parse_args()
    sys.exit(errors.exit_code(lambda: run(arguments.workdir)))


def run(directory: Path) -> None:
    try:
        import matplotlib
    except ImportError:
        raise UserError('the report needs matplotlib: pip install "alexnet_jax[report]"') from None
    matplotlib.use("agg")
    finished = workdir.open_finished(directory)
    mesh = sharding.make_mesh(1, 0, finished.config.model.towers)
    step, params = checkpoint.restore_params(
        directory / workdir.CHECKPOINTS, steps.abstract_state(finished.config, mesh).params
    )
    kernels = np.asarray(params["conv1"]["kernel"])
    body = [_evaluation(directory), "<h2>Training</h2>", _curves(directory)]
    body += ["<h2>The kernels of conv1</h2>", _kernels(kernels)]
    body += ["<h2>Config</h2>", f"<pre>{html.escape((directory / workdir.CONFIG).read_text())}</pre>"]
    title = f"{directory.resolve().name}: {kernels.shape[0]} towers, step {step}"
    page = directory / "report.html"
    page.write_text(PAGE.format(title=html.escape(title), body="\n".join(body)), encoding="utf-8")
    print(f"wrote {page}")


def _evaluation(directory: Path) -> str:
    path = directory / "evaluation.json"
    if not path.exists():
        return "<p>Not evaluated.</p>"
    result = json.loads(path.read_text())
    return (
        f"<p>Split {html.escape(result['split'])}, {result['count']} images, {result['views']} view(s), step "
        f"{result['step']}: top-1 error <b>{result['top1_error']:.2%}</b>, top-5 error {result['top5_error']:.2%}, "
        f"loss {result['loss']:.4f}.</p>"
    )


def _curves(directory: Path) -> str:
    from matplotlib.figure import Figure

    lines = [json.loads(line) for line in (directory / workdir.METRICS).read_text().splitlines()]
    figure = Figure(figsize=(10, 3.5), layout="constrained")
    for axes, key, title in zip(figure.subplots(1, 2), ("loss", "top1_error"), ("loss", "top-1 error"), strict=True):
        for split in dict.fromkeys(line["split"] for line in lines):
            points = [(line["step"], line[key]) for line in lines if line["split"] == split]
            axes.plot(*zip(*points, strict=True), label=split, marker="." if len(points) < 30 else "")
        axes.set(title=title, xlabel="step", ylim=(0, None))
        if lines:
            axes.legend()
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=150)
    return _image(out.getvalue(), "Loss and top-1 error against steps")


def _kernels(kernels: np.ndarray) -> str:
    """Kernels [tower, k, k, 3, F], all shifted and scaled alike, as the authors' program drew Figure 3."""
    kernels = (kernels - kernels.min()) / (np.ptp(kernels) or 1)
    parts = []
    for number, tower in enumerate(kernels):
        size, count = tower.shape[0], tower.shape[-1]
        rows = -(-count // KERNELS_A_ROW)
        canvas = np.ones((rows * (size + 1) - 1, KERNELS_A_ROW * (size + 1) - 1, 3))
        for i in range(count):
            row, column = divmod(i, KERNELS_A_ROW)
            top, left = row * (size + 1), column * (size + 1)
            canvas[top : top + size, left : left + size] = tower[..., i]
        parts.append(f"<p>Tower {number}</p>{_image(_png(canvas), f'conv1 kernels of tower {number}')}")
    return "\n".join(parts)


def _png(canvas: np.ndarray) -> bytes:
    from PIL import Image

    pixels = np.round(canvas * 255).astype(np.uint8)
    scale = max(1, 900 // pixels.shape[1])
    out = io.BytesIO()
    Image.fromarray(pixels.repeat(scale, 0).repeat(scale, 1)).save(out, "png")
    return out.getvalue()


def _image(png: bytes, alt: str) -> str:
    return f'<img alt="{alt}" src="data:image/png;base64,{base64.b64encode(png).decode()}">'


if __name__ == "__main__":
    main()
