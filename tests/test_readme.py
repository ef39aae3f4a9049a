"""The README: its links, commands, configs and numbers."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from alexnet_jax import __main__, errors
from alexnet_jax.bench import results
from alexnet_jax.data.sources.embedded import digits
from alexnet_jax.run import config_files
from tests.conftest import ROOT
from tests.faults import conftest as faults
from tests.runs import environment

README, CHINESE = ((ROOT / name).read_text() for name in ("README.md", "README.zh-CN.md"))
PROSE = " ".join(README.split())  # on one line


def commands(text: str) -> list[str]:
    """The lines of all shell blocks, without comments."""
    lines = [line for block in re.findall(r"```bash\n(.*?)```", text, re.DOTALL) for line in block.splitlines()]
    return [line.split("   #")[0].strip() for line in lines if line.strip()]


def anchors(text: str) -> set[str]:
    headings = re.findall(r"^#+ (.*)", text, re.M)
    return {re.sub(r"[^\w -]", "", heading).strip().lower().replace(" ", "-") for heading in headings}


COMMANDS = commands(README)


@pytest.mark.parametrize("text", [README, CHINESE], ids=["README.md", "README.zh-CN.md"])
def test_links_and_files_exist(text):
    targets = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", text)
    assert targets
    for target in targets:
        assert target.startswith("https://") or (ROOT / target).exists(), target
    assert set(re.findall(r"\]\(#([^)]+)\)", text)) <= anchors(text)
    assert set(re.findall(r"\]\(README\.md#([^)]+)\)", text)) <= anchors(README)


def test_scripts_exist():
    for file in re.findall(r"(?:bash|pytest|configs/)\s*((?:launch|tests)/\S+?\.(?:sh|py))", README):
        assert (ROOT / file).exists(), file


def test_the_chinese_commands_are_the_english_ones():
    assert commands(CHINESE) == COMMANDS


def test_the_chinese_library_example_is_the_english_one():
    """Apart from the comments."""
    examples = [re.findall(r"```python\n(.*?)```", text, re.DOTALL) for text in (README, CHINESE)]
    english, chinese = ([re.sub(" *#.*", "", example) for example in found] for found in examples)
    assert english == chinese and len(english) == 1


def test_the_chinese_numbers_are_the_english_ones():
    """Every number of the first table, except dates, is in the English one."""
    english, chinese = (text[: text.index("```bash")] for text in (README, CHINESE))
    numbers = set(re.findall(r"\d[\d.,]*\d|\d", chinese.partition("|---|")[2]))
    assert numbers - set(re.findall(r"\d[\d.,]*\d|\d", english)) <= {"3", "90", "2012"}


def test_nothing_is_left_to_fill_in():
    assert not re.search(r"@[A-Z]+@|TODO|TBD", README)


def test_the_first_screen_has_the_two_commands():
    assert COMMANDS[:2] == ["bash launch/quickstart.sh", "bash tests/run.sh"]


def test_measured_numbers_are_those_of_the_results():
    """The README's input speeds are those that the benchmarks printed, rounded."""
    printed = (ROOT / "alexnet_jax/bench/results/input-2-cores.txt").read_text()
    short = {}
    for store in ("raw", "jpeg"):
        row = re.search(rf"alexnet_jax {store} +2 +([\d,]+) .* ([\d.]+)x +([\d.]+)x\n", printed)
        assert row
        speed = round(int(row[1].replace(",", "")), -1)
        to_torch, to_tf = f"{float(row[2]):.2g}x", f"{float(row[3]):.1f}x"
        assert f"| `--store {store}` | {speed:,} | {to_torch} | {to_tf} |" in README
        short[store] = f"{to_torch} and {to_tf}"
    assert f"JPEG {short['jpeg']}, raw {short['raw']} their images/s" in PROSE
    raw, jpeg = re.findall(r"prepare --store \w+ .* ([\d.]+)% of", printed)
    assert f"encoding: {raw} % (raw) and {jpeg} % (JPEG)" in PROSE


def test_the_tables_of_speed_are_those_of_the_results():
    assert results.steps() in README and results.scale() in README


def test_the_table_of_faults_is_that_of_the_tests():
    assert faults.table(json.loads(faults.RESULTS.read_text())) in README
    soak = json.loads((ROOT / "tests/soak.json").read_text())
    assert soak["cycles"] >= 100 and soak["equal bit for bit"] and f"[{soak['cycles']} kills and resumes]" in PROSE


def test_promises_name_tests_that_exist():
    named = re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", README.partition("## Trust")[2].partition("## Speed")[0])
    assert len(named) >= 9
    for file, test in named:
        assert f"def {test}(" in (ROOT / file).read_text() if test else (ROOT / file).exists(), (file, test)


def test_exit_codes_are_those_of_the_program():
    listed = {
        int(code)
        for code in re.findall(r"^\| (\d+) \|", README.partition("| exit code |")[2].partition("## Speed")[0], re.M)
    }
    codes = {value for name, value in vars(errors).items() if name.startswith("EXIT_")}
    assert listed == codes - {errors.EXIT_KEYBOARD, errors.EXIT_OUTPUT_CLOSED}


def test_the_claims_that_were_run_are_in_the_published_table():
    published = (ROOT / "alexnet_jax/paper/results/small-cifar10/claims.md").read_text()
    rows = re.findall(r"^\| (?:relu|two_gpus|lrn|lrn_cifar|pooling|ten_views) \|.*$", README, re.M)
    assert len(rows) == 6
    assert all(row in published and "not run" not in row for row in rows)


@pytest.mark.parametrize("command", [command for command in COMMANDS if command.startswith("alexnet ")])
def test_commands_accept_the_arguments_that_the_readme_gives_them(command, monkeypatch):
    """Each line is parsed in full; only what it would then do is left out."""
    calls = []

    def exit_code(call):
        calls.append(call)
        return errors.EXIT_OK

    monkeypatch.setattr(errors, "exit_code", exit_code)
    with pytest.raises(SystemExit) as ended:
        __main__.main(shlex.split(command.partition(">")[0])[1:])
    assert ended.value.code == 0 and len(calls) == 1


def test_the_readme_shows_every_command():
    shown = {command.split()[1] for command in COMMANDS if command.startswith("alexnet ")}
    assert shown == set(__main__.MODULES) - {"train"}  # shown as python -m alexnet_jax.main


@pytest.mark.parametrize("name", sorted(set(re.findall(r"--config[ =]([\w/.:+=]+)", README))))
def test_configs_exist(name):
    if name.startswith("configs/finetune.py:"):
        with pytest.raises(errors.UserError, match="runs/cifar10 is not a workdir"):  # its argument reaches the file
            config_files.load(name)
    else:
        config_files.parse(config_files.load(name))


@pytest.mark.parametrize("key", sorted(set(re.findall(r"--config\.([\w.]+)", README))))
def test_config_keys_exist(key):
    section = config_files.parse(config_files.load("paper"))
    for name in key.split("."):
        section = getattr(section, name)


def test_the_library_example_runs(tmp_path):
    """With fewer steps."""
    (example,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert example.count("\n") == 8 and '"train.epochs": 12' in example
    Image.fromarray(digits().splits["test"].read(5).content).save(tmp_path / "seven.png")
    program = example.replace('"train.epochs": 12', '"train.max_steps": 2') + "print(net.step, net.classes)"
    command = [sys.executable, "-W", "error", "-c", program]
    process = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=environment())
    assert process.returncode == 0, process.stderr[-3000:]
    assert process.stdout.endswith(f"2 {[str(digit) for digit in range(10)]}\n")


@pytest.mark.slow
def test_the_full_network_on_simulated_devices_as_printed(tmp_path):
    """The two commands of the section Devices, from a folder with links to the package and configs/."""
    for name in ("alexnet_jax", "configs"):
        (tmp_path / name).symlink_to(ROOT / name)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    lines = [command for command in COMMANDS if "configs/paper.py --workdir runs/try" in command]
    assert lines[0].startswith("XLA_FLAGS=--xla_force_host_platform_device_count=2 python -m alexnet_jax.main")
    for line, expected in zip(lines, ("finished step 2", "resuming from step 2"), strict=True):
        done = subprocess.run(
            line, shell=True, cwd=tmp_path, capture_output=True, text=True, env=environment() | {"PATH": path}
        )
        assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr[-3000:]
        assert "mesh data=1 x tower=2 on cpu (cpu): one tower per device" in done.stdout
        assert "60,965,224" in done.stdout
        assert expected in done.stdout


def test_local_launch_script(tmp_path):
    command = ["bash", "launch/local.sh", "configs/digits.py", str(tmp_path / "run"), "2", "--config.train.max_steps=2"]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment() | {"PATH": path})
    assert done.returncode == 0, done.stderr
    assert "one tower per device" in done.stdout and "finished step 2" in done.stdout
    usage = subprocess.run(["bash", "launch/local.sh"], cwd=ROOT, capture_output=True, text=True)
    assert usage.returncode == 2 and "CONFIG WORKDIR [DEVICES]" in usage.stderr


def test_the_python_in_launch_scripts_runs(tmp_path):
    """The Python in quickstart.sh still fits the package; the whole script takes minutes."""
    script = (ROOT / "launch" / "quickstart.sh").read_text()
    (program,) = re.findall(r"<<'PYTHON'\n(.*?)\nPYTHON", script, re.DOTALL)
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], cwd=ROOT, check=True)
    assert len(list(tmp_path.glob("test_*_is_*.png"))) == 3
