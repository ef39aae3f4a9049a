"""Draw docs/split.svg: the paper's network on two devices, with widths and bytes from configs/paper.py.

python docs/split.py
"""

from pathlib import Path

import alexnet_jax
from alexnet_jax.inference import activations
from alexnet_jax.model_config import Conv
from alexnet_jax.paper import facts

WIDTH, ROW, BOX, TOP = 760, 46, 250, 92  # pixels
COLUMNS = (96, WIDTH - BOX - 16)  # left edges of the towers' boxes
INK, GREY, LINK, TOWERS = "#1f2430", "#5a6372", "#b3261e", ("#dbe8fb", "#fdecd2")
STYLE = f"""
  text {{ font: 13px ui-sans-serif, system-ui, "Helvetica Neue", Arial, sans-serif; fill: {INK} }}
  .layer {{ font-weight: 600 }}
  .shape {{ fill: {GREY}; font-size: 11.5px }}
  .link {{ stroke: {LINK}; stroke-width: 3; fill: none }}
  .links {{ fill: {LINK}; font-weight: 600; font-size: 12.5px; text-anchor: middle }}
  .mid {{ text-anchor: middle }}
"""


def box(left: float, top: float, colour: str, what: str, shape: str) -> str:
    """What one tower holds of a layer, and the shape of its output."""
    middle = left + BOX / 2
    return (
        f'<rect x="{left}" y="{top}" width="{BOX}" height="36" rx="6" fill="{colour}"/>'
        f'<text class="mid" x="{middle}" y="{top + 15}">{what}</text>'
        f'<text class="mid shape" x="{middle}" y="{top + 30}">{shape}</text>'
    )


def link(y: float, label: str) -> str:
    """Both towers' outputs, exchanged."""
    left, right = COLUMNS[0] + 8, COLUMNS[1] + BOX - 8
    return (
        f'<path class="link" d="M{left} {y} H{right} M{left} {y - 7} V{y + 7} M{right} {y - 7} V{y + 7}"/>'
        f'<rect x="{(left + right) / 2 - 135}" y="{y - 11}" width="270" height="22" rx="11" fill="#fff"/>'
        f'<text class="links" x="{(left + right) / 2}" y="{y + 4}">{label}</text>'
    )


def rows() -> list[str]:
    """The layers of the network, from top to bottom."""
    config = alexnet_jax.config("paper")
    spec, costs = config.model, {layer.name: layer for layer in facts.layers(config)}
    parameters, shapes = activations.shapes(spec)
    layers = {**dict(spec.convs()), **dict(spec.hidden()), "fc8": spec.fc8}
    drawn, y = [], TOP
    size = spec.image_size
    drawn.append(
        f'<text class="mid" x="{(COLUMNS[0] + COLUMNS[1] + BOX) / 2}" y="30">'
        f"image {size} x {size} x 3, the same to both</text>"
        f'<path d="M{COLUMNS[0] + BOX / 2} 52 V40 H{COLUMNS[1] + BOX / 2} V52" stroke="{GREY}" fill="none"/>'
        + "".join(
            f'<text class="mid layer" x="{left + BOX / 2}" y="{TOP - 16}">device {tower}: tower {tower}</text>'
            for tower, left in enumerate(COLUMNS)
        )
    )
    for name, layer in layers.items():
        if layer.exchange:
            sent = 2 * costs[name].link_bytes  # forward and backward
            drawn.append(link(y + 8, f"exchange: {sent:,} bytes"))
            y += 30
        kernel = parameters[name]["kernel"][1:]
        if isinstance(layer, Conv):
            what = f"{kernel[-1]} kernels of {layer.kernel} x {layer.kernel} x {kernel[-2]}"
            what += f", stride {layer.stride}" if layer.stride > 1 else ""
            after = [
                {"lrn": "normalize"}.get(operation, operation) for operation in layer.then if operation != "activation"
            ]
        else:
            what, after = (
                f"{kernel[-1]} units of {kernel[-2]:,} inputs",
                ["dropout"] if getattr(layer, "dropout", False) else [],
            )
        output = " x ".join(map(str, shapes[f"{name}_output"]))
        shape = ", ".join([*after, output]) if isinstance(layer, Conv) else ", ".join(after)
        drawn.append(f'<text class="layer" x="24" y="{y + 23}">{name}</text>')
        for tower, left in enumerate(COLUMNS):
            own = kernel[-1]
            text = f"classes {tower * own} to {(tower + 1) * own - 1}" if name == "fc8" else shape
            drawn.append(box(left, y, TOWERS[tower], what, text))
        y += ROW
    drawn.append(link(y + 4, "softmax over both: a few scalars"))
    return [*drawn, f"{y + 28:.0f}"]


def main() -> None:
    *drawn, height = rows()
    size = f'viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img">'
    background = f'<rect width="{WIDTH}" height="{height}" rx="12" fill="#fff" stroke="#d0d7de"/>'
    title = "<title>AlexNet on two devices: what each tower holds, and where they exchange their outputs</title>"
    svg = "\n".join([head, title, f"<style>{STYLE}</style>", background, *drawn, "</svg>"])
    Path(__file__).with_suffix(".svg").write_text(svg + "\n")


if __name__ == "__main__":
    main()
