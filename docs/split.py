"""Draw docs/split.svg: the paper's network on two devices, with widths and bytes from configs/paper.py.

python docs/split.py
"""

from pathlib import Path

import alexnet_jax
from alexnet_jax.paper import facts, figures

WIDTH, ROW, BOX, TOP = 760, 46, 264, 92  # pixels
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


def main() -> None:
    config = alexnet_jax.config("paper")
    spec, sent = config.model, {layer.name: layer.link_bytes for layer in facts.layers(config)}
    middle, size, y = (COLUMNS[0] + COLUMNS[1] + BOX) / 2, spec.image_size, TOP
    drawn = [f'<text class="mid" x="{middle}" y="30">image {size} x {size} x 3, the same to both</text>']
    fork = f"M{COLUMNS[0] + BOX / 2} 52 V40 H{COLUMNS[1] + BOX / 2} V52"
    drawn.append(f'<path d="{fork}" stroke="{GREY}" fill="none"/>')
    for tower, left in enumerate(COLUMNS):
        place = f'x="{left + BOX / 2}" y="{TOP - 16}"'
        drawn.append(f'<text class="mid layer" {place}>device {tower}: tower {tower}</text>')
    for layer in figures.boxes(spec):
        if layer.crosses:
            drawn.append(link(y + 8, f"exchange: {2 * sent[layer.layer]:,} bytes"))  # forward and backward
            y += 30
        what, *rest = layer.text.removeprefix(f"{layer.layer}: ").splitlines()
        drawn.append(f'<text class="layer" x="24" y="{y + 23}">{layer.layer}</text>')
        drawn += [box(left, y, colour, what, ", ".join(rest)) for left, colour in zip(COLUMNS, TOWERS, strict=True)]
        y += ROW
    drawn.append(link(y + 4, "softmax over both: a few scalars"))
    height = y + 28
    size = f'viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img">'
    background = f'<rect width="{WIDTH}" height="{height}" rx="12" fill="#fff" stroke="#d0d7de"/>'
    title = "<title>AlexNet on two devices: what each tower holds, and where they exchange their outputs</title>"
    svg = "\n".join([head, title, f"<style>{STYLE}</style>", background, *drawn, "</svg>"])
    Path(__file__).with_suffix(".svg").write_text(svg + "\n")


if __name__ == "__main__":
    main()
