"""The README in both languages: short, with commands, numbers and pictures that hold."""

import re
import subprocess
import sys

import pytest
from PIL import Image

from alexnet_jax.data.sources.embedded import digits
from tests.conftest import ROOT
from tests.documents import CHINESE, COMMANDS, PAGES, commands
from tests.runs import environment

README, TRANSLATED = PAGES["README.md"], PAGES["README.zh-CN.md"]


def test_it_is_short():
    assert all(text.count("\n") <= 150 for text in (README, TRANSLATED))
    assert COMMANDS[:2] == ["bash launch/quickstart.sh", "bash tests/run.sh"]


@pytest.mark.parametrize("text", [README, TRANSLATED], ids=["README.md", "README.zh-CN.md"])
def test_each_result_has_its_command(text):
    table = re.search(r"(?:\| claim|\| 结论) .*\n\|---.*\n((?:\|.*\n)+)", text)
    assert table
    rows = table[1].splitlines()
    assert 1 <= len(rows) <= 8
    assert all(re.search(r"\| `(?:alexnet|bash|pytest|python) [^`]+` \|$", row) for row in rows)


@pytest.mark.parametrize("page", CHINESE)
def test_the_chinese_commands_are_the_english_ones(page):
    assert commands(PAGES[CHINESE[page]]) == commands(PAGES[page])


@pytest.mark.parametrize("page", CHINESE)
def test_the_chinese_numbers_are_english_ones(page):
    """Dates and counts in words apart."""
    english, chinese = (set(re.findall(r"\d[\d.,]*\d|\d", text)) for text in (PAGES[page], PAGES[CHINESE[page]]))
    assert chinese - english <= {"2500"}  # 2500万 is 25 million


def test_the_chinese_library_example_is_the_english_one():
    """Apart from the comments."""
    examples = [re.findall(r"```python\n(.*?)```", text, re.DOTALL) for text in (README, TRANSLATED)]
    english, chinese = ([re.sub(" *#.*", "", example) for example in found] for found in examples)
    assert english == chinese and len(english) == 1


@pytest.mark.slow
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


def test_the_pictures_are_small_and_current(tmp_path):
    """split.svg is what docs/split.py draws now; the report's photograph can be downloaded quickly."""
    assert (ROOT / "docs/report.png").stat().st_size < 200_000
    (tmp_path / "split.py").write_text((ROOT / "docs/split.py").read_text())
    subprocess.run([sys.executable, tmp_path / "split.py"], check=True, env=environment())
    drawing = (tmp_path / "split.svg").read_text()
    assert drawing == (ROOT / "docs/split.svg").read_text()
    sent = re.findall(r"exchange: ([\d,]+) bytes", drawing)
    assert len(sent) == 4 and sum(int(number.replace(",", "")) for number in sent) == 485_376
    for text in (README, PAGES["docs/split.md"]):
        (alt,) = re.findall(r"!\[([^\]]*)\]\(\S*split\.svg\)", text)
        assert all(number in alt for number in sent)


@pytest.mark.slow
def test_the_python_in_launch_scripts_runs(tmp_path):
    """The Python in quickstart.sh still fits the package; the whole script takes minutes."""
    script = (ROOT / "launch" / "quickstart.sh").read_text()
    (program,) = re.findall(r"<<'PYTHON'\n(.*?)\nPYTHON", script, re.DOTALL)
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], cwd=ROOT, check=True)
    assert len(list(tmp_path.glob("test_*_is_*.png"))) == 3
