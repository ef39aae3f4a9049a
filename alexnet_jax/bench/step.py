"""Measure the training step or forward pass in images/s, beside PyTorch's; and which parts of it take the time.

Each contender has a process of its own, with large pages. A round times every contender once, every second round in the
reverse order, and waits for a GPU after every eight steps. The results are medians over the rounds, and stand in the
file of --json after each of them, the first of which follows each contender's start. Our step starts from stored uint8
images on the device, which it crops, mirrors and recolours; PyTorch is given float images and does none of this.
"""

import argparse
import collections
import itertools
import statistics
from collections.abc import Iterator

from tabulate import tabulate

from alexnet_jax.bench import jax_net, measuring, peers
from alexnet_jax.bench.contenders import Contender, Failed, Program

OURS, PEAK = "alexnet_jax", "matrix product"
MODES = {"eager": None, "compile": "default", "compile max-autotune": "max-autotune"}  # the last with CUDA graphs
PARTS = ("part of a step", "share", "ms", "GB", "TB/s")  # the bytes of hlo.py, on each device
VARIANTS = {f"torch {mode}{layout}": (mode, layout) for mode in MODES for layout in ("", " channels_last")}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add, count = parser.add_argument, measuring.positive_int
    measuring.add_program(parser)
    add("--batch", type=count, nargs="+", default=[32], help="images a step, over all devices (default: 32)")
    add("--forward", action="store_true", help="measure the forward pass of prediction, not a training step")
    add("--rounds", type=count, default=5, help="rounds, each of which times everything once (default: 5)")
    add("--seconds", type=measuring.positive_float, default=4, help="time per contender and round (default: 4)")
    add("--peak_size", type=count, default=2048, help="rows of the matrices whose product is the peak (default: 2048)")
    names = "all, but max-autotune on GPUs only"
    add("--torch", nargs="*", choices=VARIANTS, help=f"PyTorch's variants to measure (default: {names})")
    changed = "measure our step with this changed, too"
    add("--also", type=measuring.change, nargs="+", default=[], metavar="KEY=VALUE", help=changed)
    add("--json", type=measuring.output_file, help="file to write the results to, one per batch size")


def run(arguments: argparse.Namespace) -> None:
    finished: list[dict] = []
    for batch, change in itertools.product(arguments.batch, ({}, *(dict([pair]) for pair in arguments.also))):
        jax_net.config(arguments, batch, change)  # mistakes show at once
    for batch in arguments.batch:
        for result in _measured(arguments, batch):
            measuring.write(arguments.json, [*finished, result])
        finished.append(result)
        show(result)


def _measured(arguments: argparse.Namespace, batch: int) -> Iterator[dict]:
    """What is known, ready for JSON: once our contender runs, and after each round.

    A round follows each contender's start, so that there is something to compare before all have been compiled.
    """
    running: dict[str, Contender] = {}
    failed: dict[str, str] = {}
    turns = collections.defaultdict[str, list](list)  # the last turns of all contenders are of the same rounds

    def a_round(number: int) -> dict:
        for name in list(running)[:: -1 if number % 2 else 1]:
            try:
                turns[name].append(running[name].turn(arguments.seconds))
            except Failed as error:
                if name in (OURS, PEAK):
                    raise
                failed[name] = str(error)
                running.pop(name).close()
                turns.pop(name, None)
        waiting = [name for name in others if name not in running and name not in failed]
        return _result(about, turns, failed, batch) | {"not_reached": waiting}

    try:
        running[OURS] = Contender(jax_net.program, arguments, batch)
        about = running[OURS].about
        yield _result(about, {}, failed, batch)
        running[PEAK] = Contender(jax_net.peak, arguments)
        others: dict[str, tuple] = {
            name: (peer, arguments, batch, name) for name in _variants(arguments, about["platform"])
        }
        others |= {f"{key}={value}": (jax_net.program, arguments, batch, {key: value}) for key, value in arguments.also}
        for number, (name, make) in enumerate(others.items()):
            try:
                running[name] = Contender(*make)
            except Failed as error:
                failed[name] = str(error)
            else:
                yield a_round(number)
        for number in range(arguments.rounds):
            yield a_round(number)
    finally:
        for contender in running.values():
            contender.close()


def _variants(arguments: argparse.Namespace, platform: str) -> list[str]:
    if arguments.torch == []:
        return []
    if not peers.installed("torch"):
        print("PyTorch, to compare with, is not installed: pip install torch")
        return []
    if platform == "gpu" and arguments.mesh != (1, 1):
        print("PyTorch runs on one GPU: give --mesh 1x1 to compare with it")
        return []
    usual = [name for name, (mode, _) in VARIANTS.items() if platform == "gpu" or MODES[mode] != "max-autotune"]
    return arguments.torch or usual


def peer(arguments: argparse.Namespace, batch: int, name: str) -> Program:
    """PyTorch's variant called `name`."""
    from alexnet_jax.bench import torch_net

    mode, layout = VARIANTS[name]
    device = "cuda" if torch_net.torch.cuda.is_available() else "cpu"
    return torch_net.program(jax_net.config(arguments, batch), device, not arguments.forward, MODES[mode], bool(layout))


def _result(about: dict, turns: dict[str, list], failed: dict[str, str], batch: int) -> dict:
    """The speeds and how they compare."""
    rates = {name: [batch * turn.steps_per_s for turn, _ in each] for name, each in turns.items()}
    products = [rate / batch for rate in rates.pop(PEAK, [])]  # a second, of matrices on all devices
    result = {**about, "rounds": rates, "failed": failed}
    if not rates:
        return result
    medians = {name: statistics.median(each) for name, each in rates.items()}
    ratios = {name: measuring.ratio(rates[OURS][-len(each) :], each) for name, each in rates.items() if name != OURS}
    best = max((name for name in ratios if name in VARIANTS), key=lambda name: medians[name], default=None)
    gflops, peak_gflops = (about["flop_per_image"] * medians[OURS] / 1e9, about["peak_flop"] * max(products) / 1e9)
    return result | {
        "ours_images_per_s": medians[OURS],
        "torch_images_per_s": best and medians[best],
        "torch_variant": best,
        "ratio": best and ratios[best],
        "ratios": ratios,
        "gflops": gflops,
        "peak_gflops": peak_gflops,
        "share_of_peak": gflops / peak_gflops,
        "memory_bytes": {name: most for name, each in turns.items() if name != PEAK for _, most in each[-1:]},
        "images_per_core_second": {
            name: statistics.median(batch * turn.steps_per_s / turn.cores for turn, _ in turns[name]) for name in rates
        },
        "noise": {
            "elsewhere": max(turn.elsewhere for each in turns.values() for turn, _ in each),
            "slowest_product": min(products) / max(products),
        },
    }


def show(result: dict) -> None:
    """Print a result."""
    rows = []
    for name, rates in result["rounds"].items():
        ratio = f"{result['ratios'][name]:.2f}x" if name in result["ratios"] else ""
        work = f"{result['images_per_core_second'][name]:,.1f}"
        speeds = f"{statistics.median(rates):,.1f}", measuring.spread(rates, 1), ratio, work
        rows.append((name, *speeds, f"{result['memory_bytes'][name] / 1e6:,.0f}"))
    headings = ("", "images/s", "least..most", "ours is", "a second of a core's work", "MB")
    print("\n{machine}\n{what}, {config}, mesh {mesh} on {device} with {cores} cores".format(**result), end=", ")
    print("batch {batch}, {dtype}, {count} rounds".format(count=len(result["rounds"][OURS]), **result))
    if result["platform"] == "gpu":
        exact = result["matmul_precision"] == "highest"
        print(f"products of float32 {'in full precision' if exact else 'rounded to TF32'}, in PyTorch too")
    print(f"\n{tabulate(rows, headings, 'plain', disable_numparse=True, stralign='right', colalign=['left'])}\n")
    for name, problem in result["failed"].items():
        print(f"{name} does not run: {problem}")
    print("MB: the most in use {}".format("on one device" if result["platform"] == "gpu" else "by the process"))
    print(
        "other processes and virtual machines took at most {elsewhere:.0%} of the cores; ".format(**result["noise"]),
        end="",
    )
    print("the slowest matrix product had {slowest_product:.0%} of the speed of the fastest".format(**result["noise"]))
    print("{gflops:,.0f} GFLOP/s, {share_of_peak:.0%} of the {peak_gflops:,.0f} that ".format(**result), end="")
    print("a matrix product reaches")
    parts = []
    for part, share in result["shares"].items():
        moved, seconds = result["bytes"].get(part), share * result["profiled_seconds"]
        speed = [f"{moved / 1e9:,.3f}", f"{moved / seconds / 1e12:,.2f}"] if moved and seconds else []
        parts.append([part, f"{share:.1%}", f"{1e3 * seconds:,.2f}", *speed])
    print(
        f"\n{tabulate(parts, PARTS, 'plain', disable_numparse=True, stralign='right', colalign=['left'])}\n", flush=True
    )
