"""The command `alexnet`: its overview, what each entry imports, shell completion, and the library in front of it."""

import json
import os
import shutil
import subprocess
import sys

import pytest

import alexnet_jax
from alexnet_jax import __main__, errors
from alexnet_jax.run import config_files, start_up
from tests import runs
from tests.conftest import ROOT
from tests.runs import environment

# What an entry must not import: packages that take seconds, and that it does not use.
HEAVY = ("flax", "grain", "jax", "matplotlib", "onnx", "optax", "orbax", "sklearn", "tensorflow", "torch", "wandb")
ALLOWED = {
    "import alexnet_jax": (),
    "from alexnet_jax import __main__; __main__.main(['--help'])": (),
    "from alexnet_jax import __main__; __main__.main(['prepare', '--help'])": (),
    "from alexnet_jax import main": (),
    "from alexnet_jax import training": ("flax", "grain", "jax", "optax", "orbax"),
    "from alexnet_jax.inference import network": ("flax", "grain", "jax", "optax", "orbax"),
}


def python(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", program, *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment())


@pytest.mark.slow
@pytest.mark.parametrize("program", ALLOWED)
def test_each_entry_imports_only_what_it_uses(program):
    listing = f"import sys, json\ntry:\n    {program}\nfinally:\n    print('\\n' + json.dumps(sorted(sys.modules)))"
    done = python(listing)
    assert done.returncode == 0, done.stderr
    imported = {name.partition(".")[0] for name in json.loads(done.stdout.splitlines()[-1])}
    assert imported & set(HEAVY) <= set(ALLOWED[program])


def test_the_overview_fits_one_screen():
    done = python("from alexnet_jax import __main__; __main__.main()", "--help")
    assert done.returncode == 0 and done.stderr == ""
    lines = done.stdout.splitlines()
    assert len(lines) <= 40 and max(map(len, lines)) <= 120
    for heading, commands in __main__.COMMANDS.items():
        assert f"{heading}:" in lines
        for name, (_, about) in commands.items():
            assert any(line.split() == [name, *about.split()] for line in lines), name
    listed = {module for commands in __main__.COMMANDS.values() for module, _ in commands.values()}
    assert listed == {path.stem for path in (ROOT / "alexnet_jax/commands").glob("[!_]*.py")}


def test_wrong_commands_are_refused(capsys):
    for argv, message in (([], "COMMAND"), (["trian"], "invalid choice: 'trian'"), (["predict"], "--workdir")):
        with pytest.raises(SystemExit) as ended:
            __main__.main(argv)
        assert ended.value.code == errors.EXIT_USER_ERROR
        assert message in capsys.readouterr().err
    with pytest.raises(SystemExit) as ended:
        __main__.main(["--version"])
    assert ended.value.code == 0 and capsys.readouterr().out.startswith("alexnet_jax 0.")


@pytest.mark.parametrize("name", ["evaluate", "verify-data", "import", "bench", "facts"])
def test_help_of_a_command(name, capsys):
    with pytest.raises(SystemExit) as ended:
        __main__.main([name, "--help"])
    text = capsys.readouterr().out
    assert ended.value.code == 0 and f"alexnet {name}" in text and "python -m" not in text


@pytest.mark.parametrize("entry", [["alexnet_jax", "train"], ["alexnet_jax.main"]], ids=" ".join)
def test_help_of_training(entry):
    done = subprocess.run([sys.executable, "-m", *entry, "--help"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and "--config.KEY=VALUE" in done.stdout
    assert "--workdir: Folder of the run" in done.stdout and "--[no]preflight" in done.stdout


def test_shell_completion(capsys):
    __main__.main(["--print-completion", "bash"])
    script = capsys.readouterr().out
    assert subprocess.run(["bash", "-n"], input=script, text=True).returncode == 0
    for word in ("verify-data", "--tune_weights", "--simulated_devices", "--neighbours"):
        assert word in script
    complete = f"{script}\nCOMP_WORDS=(alexnet ver); COMP_CWORD=1; _shtab_alexnet; echo ${{COMPREPLY[@]}}"
    offered = subprocess.run(["bash", "-c", complete], capture_output=True, text=True).stdout.split()
    assert offered == ["verify-data", "verify-run"]


@pytest.mark.slow
def test_training_is_the_same_under_both_names(tmp_path):
    for entry in (["alexnet_jax.main"], ["alexnet_jax", "train"]):
        flags = ["--config=digits", f"--workdir={tmp_path / entry[-1]}", "--preflight", "--config.train.batch_size=64"]
        said = runs.end(runs.start([sys.executable, "-m", *entry, *flags], tmp_path))
        assert "preflight: 1 process(es)" in said


def test_a_gpu_that_jax_cannot_use_is_reported(tmp_path):
    """JAX warns that it falls back to the CPU; the messages of Orbax stay hidden."""
    if start_up.only_compilers():
        pytest.skip("JAX is not asked for a GPU where only its compiler is installed")
    program = (
        "import runpy; from jax._src import hardware_utils; hardware_utils.has_visible_nvidia_gpu = lambda: True; "
        "from alexnet_jax.run import start_up; start_up.ACCELERATORS = ['null']; "
        "runpy.run_module('alexnet_jax.main', run_name='__main__')"
    )
    flags = ["--config=digits", f"--workdir={tmp_path / 'run'}", "--preflight", "--config.train.batch_size=64"]
    said = runs.run([sys.executable, "-c", program, *flags])
    assert "CUDA-enabled jaxlib is not installed. Falling back to cpu" in said and "ready" in said
    assert "warning: JAX uses the CPU, and not the accelerator that is there; `alexnet doctor` says why" in said


def test_files_that_machines_without_accelerators_have(tmp_path, monkeypatch):
    """Linux makes /dev/vfio/vfio itself, and /dev/accel for the neural units of processors."""
    monkeypatch.setattr(start_up, "DEV", tmp_path)
    for name in ("vfio/vfio", "accel/accel0", "kfd"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert not start_up.accelerators()
    (tmp_path / "vfio/0").touch()
    assert start_up.accelerators() == [tmp_path / "vfio/0"]


@pytest.mark.slow
def test_compilers_for_absent_accelerators_are_left_alone(tmp_path):
    """With the extras aot-gpu and aot-tpu JAX would look for a GPU and a TPU, and complain that there is none."""
    program = "import os; from alexnet_jax.run import start_up; start_up.prepare_process(); "
    program += "print(os.environ.get('JAX_PLATFORMS'), start_up.only_compilers())"
    (tmp_path / "libtpu.py").touch()
    paths = {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    env = {name: value for name, value in environment().items() if name != "JAX_PLATFORMS"} | paths
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=env)
    assert done.stdout.split() == (["None", "False"] if start_up.accelerators() else ["cpu", "True"]), done.stderr


def test_a_user_without_a_home():
    """As in a container that runs under a number without a name: programs are then not kept."""
    command = ["unshare", "--user", "--map-user=4242"]
    if not shutil.which("unshare") or subprocess.run([*command, "true"], capture_output=True).returncode:
        pytest.skip("this system gives users no names of their own (unshare --user --map-user)")
    env = {name: value for name, value in environment().items() if name not in ("HOME", "JAX_COMPILATION_CACHE_DIR")}
    command += [sys.executable, "-m", "alexnet_jax", "--version"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=env)
    assert done.returncode == 0 and done.stdout.startswith("alexnet_jax"), done.stderr


def test_configs_of_the_library():
    config = alexnet_jax.config("paper", **{"train.batch_size": 64, "optim.learning_rate": 0.02})
    assert (config.train.batch_size, config.optim.learning_rate, config.model.towers) == (64, 0.02, 2)
    assert config_files.find("digits").resolve() == ROOT / "configs/digits.py"
    assert alexnet_jax.config("variants:no_dropout").model.dropout_rate == 0
    for name, changes, message in (
        ("papers", {}, "there is no config file papers; give the path of one, or one of cifar10, "),
        ("paper", {"train.batch_sise": 64}, "batch_sise"),
        ("paper", {"train.batch_size": "many"}, "batch_size"),
        ("paper", {"train.batch_size": -1}, "config.train.batch_size=-1"),
    ):
        with pytest.raises(errors.UserError, match=message):
            alexnet_jax.config(name, **changes)


def test_the_library_has_no_other_names():
    assert alexnet_jax.Network.__name__ == "Network" and alexnet_jax.Config.__name__ == "Config"
    with pytest.raises(AttributeError, match="no attribute 'networks'"):
        alexnet_jax.networks  # noqa: B018
