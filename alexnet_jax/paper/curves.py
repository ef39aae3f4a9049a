"""How the runs learned: their results, their curves, and the paper's Figure 1."""

from matplotlib.figure import Figure

from alexnet_jax.paper import figures
from alexnet_jax.paper.figures import Block, Picture, Section, Table, Text
from alexnet_jax.paper.runs import Run

TARGET = 0.25  # training error rate at which Figure 1 compares


def results(runs: list[Run]) -> Section:
    blocks: list[Block] = []
    rows = [
        (
            run.name, result["split"], str(result["count"]), str(result["views"]), str(result["step"]),
            *(_with_interval(result, name) for name in ("top1", "top5")), f"{result['loss']:.4f}",
        )
        for run in runs
        if (result := run.evaluation)
    ]  # fmt: skip
    if rows:
        head = ("run", "split", "images", "views", "step", "top-1 error", "top-5 error", "loss")
        blocks.append(Table(head, rows, "Errors with their 95 % bootstrap intervals over the images; loss in nats."))
    for run in runs:
        if run.evaluation is None:
            blocks.append(Text(f"{run.name}: not evaluated; alexnet_jax.evaluate writes what belongs here."))
    return Section("results", "Results", blocks)


def _with_interval(result: dict, name: str) -> str:
    low, high = result[f"{name}_interval"]
    return f"{result[f'{name}_error']:.2%} [{low:.2%}, {high:.2%}]"


def learning(runs: list[Run]) -> Section:
    """Loss and top-1 error of every split of every run against steps."""
    if not any(run.lines for run in runs):
        return Section("learning", "Learning curves", [Text("Left out: nothing is logged yet.")])
    figure = Figure(figsize=(figures.WIDTH, 7), layout="constrained")
    for axes, key, title in zip(
        figure.subplots(2, 1), ("loss", "top1_error"), ("loss, nats", "top-1 error"), strict=True
    ):
        for number, run in enumerate(runs):
            for split in dict.fromkeys(line["split"] for line in run.lines):
                points = [(line["step"], line[key]) for line in run.lines if line["split"] == split]
                axes.plot(
                    *zip(*points, strict=True),
                    "-" if split == "train" else "--",
                    color=f"C{number}",
                    marker="." if len(points) < 30 else "",
                    label=f"{split}, {run.name}",
                )
        axes.set(ylabel=title, xlabel="step", ylim=(0, None))
        axes.legend(fontsize=8)
        axes.grid(alpha=0.3)
    caption = (
        "Solid: training, the mean since the line before, on random crops and with dropout. Dashed: evaluation, on the "
        "centre crop and without."
    )
    return Section(
        "learning",
        "Learning curves",
        [Picture("Loss and top-1 error against steps", figures.plot(figure), caption)],
    )


def crossing(lines: list[dict], target: float = TARGET) -> int | None:
    """Steps to the first log line with a training top-1 error of at most `target`; None if there is none."""
    steps = [line["step"] for line in lines if line["split"] == "train" and line["top1_error"] <= target]
    return min(steps, default=None)


def training_error(logs: dict[str, list[dict]]) -> Figure | None:
    """Training error rate against epochs, as the paper's Figure 1, of log lines by name. None if there are none."""
    figure = Figure(figsize=(figures.WIDTH, 4), layout="constrained")
    axes = figure.subplots()
    for number, (name, log) in enumerate(logs.items()):
        points = {line["step"]: (line["epoch"], line["top1_error"]) for line in log if line["split"] == "train"}
        if not points:
            continue
        at = crossing(log)
        told = f"{TARGET:.0%} after {at:,} iterations" if at else f"{TARGET:.0%} not reached"
        axes.plot(*zip(*points.values(), strict=True), color=f"C{number}", label=f"{name}: {told}")
        if at:
            axes.plot(*points[at], "o", color=f"C{number}")
    if not axes.lines:
        return None
    axes.axhline(TARGET, color="black", linestyle="--", linewidth=1)
    axes.set(xlabel="epochs", ylabel="training error rate (top-1)", ylim=(0, None))
    axes.legend(fontsize=8)
    axes.grid(alpha=0.3)
    return figure


def figure1(runs: list[Run]) -> Section:
    """The paper's Figure 1: training error rate against epochs, and who reaches 25 % when."""
    title = "Figure 1: training error rate"
    figure = training_error({f"Run {run.name}": run.lines for run in runs})
    if figure is None:
        return Section("figure1", title, [Text("Left out: no training step is logged yet.")])
    caption = (
        "The paper compares by it how soon a network of ReLUs and one of tanh units reach 25 % on CIFAR-10. A dot is "
        "the first log line at or below; each line is the mean since the one before."
    )
    return Section("figure1", title, [Picture("Training error rate against epochs", figures.plot(figure), caption)])
