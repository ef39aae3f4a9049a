"""The runs' results and learning curves, and the paper's Figure 1."""

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from alexnet_jax.paper import figures
from alexnet_jax.paper.figures import Block, Table
from alexnet_jax.paper.runs import ReportedRun

TARGET = 0.25  # the training error rate at which Figure 1 compares networks


def results(runs: list[ReportedRun]) -> list[Block]:
    """A table of the evaluated runs, and a note on each of the others."""
    head = ("run", "split", "images", "views", "step", "top-1 error", "top-5 error", "loss")
    rows, notes = [], []
    for run in runs:
        if result := run.evaluation:
            keys = ("split", "count", "views", "step")
            errors = [
                "{:.2%} [{:.2%}, {:.2%}]".format(result[f"{name}_error"], *result[f"{name}_interval"])
                for name in ("top1", "top5")
            ]
            rows.append((run.name, *(str(result[key]) for key in keys), *errors, f"{result['loss']:.4f}"))
        else:
            notes.append(f"{run.name}: not evaluated yet; run `alexnet evaluate --workdir {run.network.path}`.")
    table = Table(head, rows, "Errors with their 95 % confidence intervals over the images; loss in nats.")
    return [table, *notes] if rows else [*notes]


def learning(runs: list[ReportedRun]) -> list[Block]:
    """The loss and top-1 error of every split of every run against steps."""
    if not any(run.log for run in runs):
        return ["Left out: nothing has been logged yet."]
    figure = Figure(figsize=(figures.WIDTH, 7), layout="constrained")
    curves = (("loss", "loss, nats"), ("top1_error", "top-1 error"))
    for axes, (key, title) in zip(figure.subplots(2, 1), curves, strict=True):
        for number, run in enumerate(runs):
            for split in dict.fromkeys(line["split"] for line in run.log):
                points = [(line["step"], line[key]) for line in run.log if line["split"] == split]
                style = ("-" if split == "train" else "--") + ("." if len(points) < 30 else "")
                axes.plot(*zip(*points, strict=True), f"C{number}{style}", label=f"{split}, {run.name}")
        _finish(axes, "step", title)
    caption = (
        "Solid: training, averaged since the previous log line, on random crops and with dropout. Dashed: evaluation, "
        "on the centre crop and without dropout."
    )
    return [figures.plot(figure, "Loss and top-1 error against steps", caption)]


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
    figure = Figure(figsize=(figures.WIDTH, 4), layout="constrained")
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


def figure1(runs: list[ReportedRun]) -> list[Block]:
    """The paper's Figure 1 for these runs: training error rate against epochs, and when each reaches 25 %."""
    figure = training_error({f"Run {run.name}": run.log for run in runs})
    if figure is None:
        return ["Left out: no training step has been logged yet."]
    caption = (
        "The paper uses this figure to compare how soon a network of ReLUs and one of tanh units reach 25 % on "
        "CIFAR-10. A dot marks the first log line at or below 25 %; each line averages over the steps since the "
        "previous one."
    )
    return [figures.plot(figure, "Training error rate against epochs", caption)]
