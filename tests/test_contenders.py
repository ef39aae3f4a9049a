"""The contenders of `alexnet bench step`: how they take turns, fail and are compared."""

import argparse
import itertools
import os

import jax
import pytest

from alexnet_jax.bench import contenders, jax_net, peers, step
from alexnet_jax.bench.contenders import Turn


def test_contenders_are_compared_over_the_rounds_that_they_share():
    """In made-up turns: the second contender joins in the second round, and is compared with our last two turns."""

    def turns(*rates, **changes):
        return [(Turn(rate, 2.0, 0.0)._replace(**changes), 7) for rate in rates]

    made_up = {step.OURS: turns(1, 6, 8), step.PEAK: turns(5, 10, 10), "train.epochs=1": turns(9, 9, 9)}
    made_up |= {"torch eager": turns(2, 4, elsewhere=0.3), "torch compile": turns(1, 1)}
    result = step._result({"flop_per_image": 1e9, "peak_flop": 8e9}, made_up, {"torch x": "broken"}, batch=8)
    assert result["ratios"] == {"train.epochs=1": pytest.approx(6 / 9), "torch eager": 2.5, "torch compile": 7}
    assert (result["torch_variant"], result["ratio"]) == ("torch eager", 2.5), "our own variants do not compete"
    assert result["rounds"]["torch eager"] == [16, 32] and result["ours_images_per_s"] == 48
    assert result["images_per_core_second"]["torch eager"] == 12, "on two cores each"
    assert result["share_of_peak"] == pytest.approx(48 * 1e9 / (8e9 * 10))
    assert result["noise"] == {"elsewhere": 0.3, "slowest_product": 0.5} and result["failed"] == {"torch x": "broken"}
    assert step.PEAK not in result["rounds"] | result["memory_bytes"]


def test_a_contender_that_fails_later_leaves_the_others(monkeypatch):
    """As one for which the device's memory no longer suffices. What had no turn yet is named."""
    parser = argparse.ArgumentParser()
    step.add_arguments(parser)
    arguments = parser.parse_args(["--torch", "torch eager", "--also", "train.epochs=1", "--rounds=2"])
    about = {"platform": "cpu", "flop_per_image": 1e9, "peak_flop": 8e9}

    class Scripted(contenders.Contender):
        def __init__(self, make, *_):
            self.about, self.turns = about, itertools.count(1 if make is step.peer else 5)

        def turn(self, seconds):
            if next(self.turns) == 2:
                raise contenders.Failed("RESOURCE_EXHAUSTED")
            return Turn(1.0, 2.0, 0.0), 7

        def close(self):
            self.turns = itertools.count()

    monkeypatch.setattr(step, "Contender", Scripted)
    monkeypatch.setattr(peers, "installed", lambda package: True)
    results = list(step._measured(arguments, batch=8))
    assert [result.get("not_reached") for result in results] == [None, ["train.epochs=1"], [], [], []]
    assert [result["failed"] for result in results[2:]] == [{"torch eager": "RESOURCE_EXHAUSTED"}] * 3
    assert len(results[-1]["rounds"]["train.epochs=1"]) == 3 and "torch eager" not in results[-1]["rounds"]


def test_pytorch_is_compared_on_one_gpu_only(capsys, monkeypatch):
    monkeypatch.setattr(peers, "installed", lambda package: True)
    parser = argparse.ArgumentParser()
    step.add_arguments(parser)
    assert step._variants(parser.parse_args(["--mesh=1x2"]), "gpu") == []
    assert "give --mesh 1x1" in capsys.readouterr().out
    assert step._variants(parser.parse_args(["--mesh=1x1"]), "gpu") == list(step.VARIANTS)
    assert "torch compile" in step._variants(parser.parse_args(["--mesh=1x2"]), "cpu")
    monkeypatch.setattr(peers, "installed", lambda package: False)
    assert step._variants(parser.parse_args([]), "cpu") == [] and "pip install torch" in capsys.readouterr().out


def test_the_peak_is_measured_whatever_the_config_asks_of_the_batch(monkeypatch):
    monkeypatch.setattr(jax.config, "update", lambda *_: None)  # JAX has started
    parser = argparse.ArgumentParser()
    step.add_arguments(parser)
    arguments = parser.parse_args(["--config", "code2012", "--mesh", "1x1", "--batch", "32", "--peak_size", "8"])
    assert jax_net.peak(arguments).step().shape == (1, 8, 8)


def test_a_turn_waits_for_what_it_has_begun():
    numbers, waited = itertools.count(1), list[int]()
    program = contenders.Program(numbers.__next__, waited.append, contenders.resident, ahead=3)
    turn = contenders._timed(program, 0.01)
    assert waited == list(range(1, next(numbers), 3))
    assert turn.steps_per_s > 0 and 0 <= turn.elsewhere <= 1


def test_a_contender_that_cannot_run_says_why():
    with pytest.raises(contenders.Failed, match="ZeroDivisionError: integer division or modulo by zero"):
        contenders.Contender(divmod, 1, 0)
    with pytest.raises(contenders.Failed, match="its process ended with exit code 3"):
        contenders.Contender(os._exit, 3)
