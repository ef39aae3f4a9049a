"""The runs' learning curves, and the paper's Figure 1."""

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from alexnet_jax.errors import UserError
from alexnet_jax.paper.report import WIDTH, ReportedRun

TARGET = 0.25  # the training error rate at which Figure 1 compares networks


def learning(runs: list[ReportedRun]) -> dict[str, Figure]:
    """The loss and top-1 error of every split of every run against steps. Raises UserError without any line."""
    if not any(run.log for run in runs):
        raise UserError("nothing has been logged yet")
    figure = Figure(figsize=(WIDTH, 7), layout="constrained")
    curves = (("loss", "loss, nats"), ("top1_error", "top-1 error"))
    for axes, (key, title) in zip(figure.subplots(2, 1), curves, strict=True):
        for number, run in enumerate(runs):
            for split in dict.fromkeys(line["split"] for line in run.log):
                points = [(line["step"], line[key]) for line in run.log if line["split"] == split]
                style = ("-" if split == "train" else "--") + ("." if len(points) < 30 else "")
                axes.plot(*zip(*points, strict=True), f"C{number}{style}", label=f"{split}, {run.name}")
        _finish(axes, "step", title)
    return {"figure": figure}


def _finish(axes: Axes, xlabel: str, ylabel: str) -> None:
    axes.set(xlabel=xlabel, ylabel=ylabel, ylim=(0, None))
    axes.legend(fontsize=8)
    axes.grid(alpha=0.3)


def crossing(log: list[dict]) -> int | None:
    """The step of the first log line with a training top-1 error of at most TARGET, or None."""
    steps = [line["step"] for line in log if line["split"] == "train" and line["top1_error"] <= TARGET]
    return min(steps, default=None)


def training_error(logs: dict[str, list[dict]]) -> Figure | None:
    """Plot the training error rates of named runs against epochs, as in Figure 1; None if no training was logged."""
    figure = Figure(figsize=(WIDTH, 4), layout="constrained")
    axes = figure.subplots()
    for number, (name, log) in enumerate(logs.items()):
        points = {line["step"]: (line["epoch"], line["top1_error"]) for line in log if line["split"] == "train"}
        if not points:
            continue
        step = crossing(log)
        reached = f"after {step:,} iterations" if step else "not reached"
        axes.plot(*zip(*points.values(), strict=True), color=f"C{number}", label=f"{name}: {TARGET:.0%} {reached}")
        if step:
            axes.plot(*points[step], "o", color=f"C{number}")
    if not axes.lines:
        return None
    axes.axhline(TARGET, color="black", linestyle="--", linewidth=1)
    _finish(axes, "epochs", "training error rate (top-1)")
    return figure


def figure1(runs: list[ReportedRun]) -> dict[str, Figure]:
    """The paper's Figure 1 for these runs. Raises UserError if no training was logged."""
    figure = training_error({f"Run {run.name}": run.log for run in runs})
    if figure is None:
        raise UserError("no training step has been logged yet")
    return {"figure": figure}
