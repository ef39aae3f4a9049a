"""The trials of studies: what is trained again, budgets, failures, and signals."""

import json
import os
import sys
import time
from signal import SIGINT

import pytest

from alexnet_jax import compiling, errors
from alexnet_jax.errors import UserError
from alexnet_jax.paper.studies import claim_effects, trials
from alexnet_jax.paper.studies.arms import Setting
from alexnet_jax.paper.studies.trials import Trial
from alexnet_jax.run import config_files
from tests import runs
from tests.tiny import tiny_config


def test_runs_without_an_identity_are_trained_again(tmp_path):
    setting = Setting("small", "", tmp_path, 2, ("pooling",))
    first, *others = claim_effects.plan(setting, {})
    known = {"run": first.name, "identity": trials._identity(first.config)}
    (tmp_path / trials.RUNS).write_text(json.dumps([known, *({"run": other.name} for other in others)]))
    assert list(trials.finished(lambda results: [first, *others], tmp_path)) == [first.name]


def test_trials_of_a_few_steps_are_compiled_quickly_in_every_process():
    """And XLA knows the flags: it ends a process that gives it others."""
    shown = "jax.config.values['jax_disable_most_optimizations'], os.environ['XLA_FLAGS']"
    child = f"import os; import jax; print(jax.jit(abs)(-2), {shown})"
    start = "import subprocess, sys; from alexnet_jax import compiling; compiling.quickly(); "
    program = f"{start}subprocess.run([sys.executable, '-c', {child!r}], check=True)"
    output = runs.end(runs.start([sys.executable, "-c", program]))
    assert output.split()[:2] == ["2", "True"] and all(flag in output for flag in compiling.QUICK_FLAGS)


@pytest.mark.long
def test_a_budget_and_a_failure_end_the_study(tmp_path):
    """Budget: no run starts once finished ones have used it; the rest is trained with a larger one."""
    values = tiny_config()
    values.train.update(max_steps=1)
    config = config_files.parse(values)
    wanted = [Trial(f"arm/seed{seed}", config, ()) for seed in range(2)]
    trials.carry_out(lambda results: wanted, tmp_path, 1, 1e-9)
    assert [path.parent.name for path in tmp_path.rglob("result.json")] == ["seed0"]
    values.data.eval_split = "nowhere"
    wanted[1] = wanted[1]._replace(config=config_files.parse(values))
    with pytest.raises(UserError, match=r"the run arm/seed1 ended with exit code 2: error: .*nowhere"):
        trials.carry_out(lambda results: wanted, tmp_path, 2, 1.0)


@pytest.mark.long
@pytest.mark.slow
def test_ctrl_c_says_once_what_happens_and_loses_nothing(tmp_path):
    command = [sys.executable, "-m", "alexnet_jax", "reproduce", "--scale=smoke", "--claims=lrn"]
    process = runs.start_as_group([*command, f"--output={tmp_path}"])
    log = tmp_path / "smoke-digits/paper/seed0/log.txt"
    while not log.exists() or "steps an epoch" not in log.read_text():
        assert process.poll() is None
        time.sleep(0.1)
    os.killpg(process.pid, SIGINT)
    output = runs.end(process, code=errors.EXIT_INTERRUPTED)
    assert output.count("stopping after this step") == 1 and "finished runs are kept in" in output
    assert "stopping after this step" in log.read_text() and "is saved in" in log.read_text()


@pytest.mark.long
@pytest.mark.slow
def test_a_trial_that_diverges_is_recorded_and_ends_nothing(tmp_path):
    """Its claim is then inconclusive, and the command goes on with the others."""
    values = tiny_config()
    values.optim.learning_rate, values.train.max_steps = 1e30, 9
    trials._train(Trial("trial", config_files.parse(values), (1,)), tmp_path)
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["diverged"] and "views1" not in result and result["hours"] > 0
