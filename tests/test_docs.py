"""README and docs/ together: links, commands, configs and numbers; and the site that is built from them."""

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterable
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest

from alexnet_jax import __main__, errors
from alexnet_jax.bench import results
from alexnet_jax.run import config_files
from tests.conftest import ROOT
from tests.documents import COMMANDS, EVERYTHING, PAGES, anchors, trainings
from tests.faults import conftest as faults
from tests.runs import environment

PROSE = " ".join(EVERYTHING.split())  # on one line
TRAININGS = trainings(COMMANDS)
PATH = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"


@pytest.mark.parametrize("name", PAGES)
def test_links_and_files_exist(name):
    folder = (ROOT / name).parent
    for target, anchor in re.findall(r"\]\(([^)#\s]*)(?:#([^)\s]*))?\)", PAGES[name]):
        if target.startswith("https://"):
            continue
        assert not target or (folder / target).exists(), target
        page = os.path.relpath((folder / target).resolve(), ROOT) if target else name
        if anchor and not name.startswith("launch/"):
            assert anchor in anchors(PAGES[page]), f"{target}#{anchor}"


def test_scripts_and_tests_exist():
    named = re.findall(r"`(?:bash|pytest|python|python -m pytest) ((?:launch|tests|docs)/[\w/]+\.(?:sh|py))", PROSE)
    assert len(named) >= 8
    assert [file for file in named if not (ROOT / file).exists()] == []


def test_nothing_is_left_to_fill_in():
    assert not re.search(r"@[A-Z]+@|TODO|TBD", EVERYTHING)


def test_measured_numbers_are_those_of_the_results():
    """The speeds of preparation are those that the benchmark printed."""
    printed = (ROOT / "alexnet_jax/bench/results/prepare-2-cores.txt").read_text()
    raw, jpeg = re.findall(r"prepare --store \w+ .* ([\d.]+)% of", printed)
    assert re.search(rf"{raw} % \(raw\) and {jpeg} % \(JPEG\)", PROSE)


def test_the_tables_of_speed_are_those_of_the_results():
    page = PAGES["docs/speed.md"]
    tables = results.steps(), results.training(), results.scale(), results.projections(), results.layers()
    assert all(table in page for table in tables)
    assert results.inputs() in PAGES["docs/data.md"]


def test_the_table_of_faults_is_that_of_the_tests():
    assert faults.table(json.loads(faults.RESULTS.read_text())) in PAGES["docs/trust.md"]
    soak = json.loads((ROOT / "tests/soak.json").read_text())
    assert soak["cycles"] >= 100 and soak["equal bit for bit"] and f"[{soak['cycles']} kills and resumes]" in PROSE
    assert f"bit for bit, {soak['cycles']} times in a row" in PAGES["README.md"]


def test_promises_name_tests_that_exist():
    named = re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", PAGES["docs/trust.md"])
    assert len(named) >= 16
    for file, test in named:
        assert f"def {test}(" in (ROOT / file).read_text() if test else (ROOT / file).exists(), (file, test)


def test_exit_codes_are_those_of_the_program():
    table = PAGES["docs/trust.md"].partition("| exit code |")[2]
    listed = {int(code) for code in re.findall(r"^\| (\d+) \|", table, re.M)}
    codes = {value for name, value in vars(errors).items() if name.startswith("EXIT_")}
    assert listed == codes - {errors.EXIT_KEYBOARD, errors.EXIT_OUTPUT_CLOSED}


@pytest.mark.parametrize(
    ("title", "folder", "count"), [("photos", "photos-imagewoof", 11), ("CIFAR-10", "small-cifar10", 6)]
)
def test_the_claims_that_were_run_are_in_the_published_table(title, folder, count):
    published = (ROOT / f"alexnet_jax/paper/results/{folder}/claims.md").read_text()
    section = PAGES["docs/reproduce.md"].partition(f"### On {title}")[2].partition("\n#")[0]
    rows = re.findall(r"^\| [a-z]\w+ \|.*$", section, re.M)[1:]  # without the head
    assert len(rows) == count
    assert all(row in published and "not run" not in row for row in rows)


def published(study: str) -> list[tuple[dict, ...]]:
    """The rows of a study's published tables, on CIFAR-10 and on photos side by side."""
    home = ROOT / "alexnet_jax/paper/results"
    tables = [json.loads((home / name / f"{study}.json").read_text()) for name in ("small-cifar10", "photos-imagewoof")]
    return list(zip(*tables, strict=True))


def table_row(heads: list[str], rows: Iterable[dict]) -> str:
    """A row of a table in the documents: its first cells, and error, difference and p of each published row."""
    cells = list(heads)
    for row in rows:
        p = "-" if row["p_holm"] is None else f"{row['p_holm']:.2g}"
        cells += [re.sub("; [0-9] runs$", "", row["error"]), row["difference"].replace(" points", ""), p]
    return f"| {' | '.join(cells)} |"


def ladder_rows() -> list[str]:
    return [
        table_row([row["name"], f"{row['question']} {row['words']}".strip(), row["before"] or "-"], (row, other))
        for row, other in published("ladder")
    ]


def tried_rows() -> list[str]:
    return [table_row([row["words"]], [row]) for row, _ in published("firsts") if row["words"]]


def first_rows() -> list[str]:
    rows = [row for pair in published("firsts") for row in pair if not row["words"] and not row["part"]]
    keys = ("name", "error", "busy", "steps", "trained_on")
    return [f"| {' | '.join(row[key] for key in keys)} |" for row in rows if row["steps"] != "-"]


def fine_tuning_rows() -> list[str]:
    return [table_row([row["name"]], (row, other)) for row, other in published("firsts") if row["part"]]


@pytest.mark.parametrize(
    ("page", "title", "rows"),
    [
        ("docs/reproduce.md", "## From 2012 to now", ladder_rows),
        ("docs/reproduce.md", "## What to train first", first_rows),
        ("docs/reproduce.md", "### Fine-tuning", fine_tuning_rows),
        ("docs/recipes.md", "## What the config cifar10 was chosen over", tried_rows),
    ],
)
def test_tables_are_the_published_ones(page, title, rows):
    section = PAGES[page].partition(title)[2].partition("\n#")[0]
    assert re.findall(r"^\| .*$", section, re.M)[1:] == rows()


def test_the_config_photos_states_its_published_errors_and_times():
    stated = " ".join((ROOT / "configs/photos.py").read_text().split())
    rows = {row["name"]: row for _, row in published("firsts")}
    for name in ("photos-half", "photos-whole"):
        error, minutes = rows[name]["error"].partition(" %")[0], float(rows[name]["busy"])
        assert re.search(rf"has {re.escape(error)} % [^.]*after {minutes:.0f}\b", stated), name
    (_, low, high), (_, lowest, highest) = rows["photos-half"]["interval"], rows["photos-whole"]["interval"]
    assert lowest < low < high < highest  # "two runs of each do not show a difference"


def test_the_figure_of_the_ladders_is_the_published_one():
    figure = ROOT / "alexnet_jax/paper/results/photos-imagewoof/ladder.svg"
    assert (ROOT / "docs/ladder.svg").read_text() == figure.read_text()


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.startswith("alexnet ") and c not in TRAININGS])
def test_commands_accept_the_arguments_that_the_documents_give_them(command, monkeypatch):
    """Each line is parsed in full; only what it would then do is left out."""
    calls = []

    def exit_code(call):
        calls.append(call)
        return errors.EXIT_OK

    monkeypatch.setattr(errors, "exit_code", exit_code)
    words = shlex.split(command.partition(">")[0])[1:]
    if words[0].startswith("--"):
        exit_code(lambda: None)  # --version and the like do all that they do while arguments are parsed
    try:
        __main__.main(words)
    except SystemExit as ended:
        assert not ended.code
    assert len(calls) == 1


@pytest.mark.slow
@pytest.mark.parametrize("line", TRAININGS)
def test_training_accepts_the_flags_that_the_documents_give_it(line, tmp_path):
    """A process each: absl's flags belong to the process."""
    program = "import sys; from alexnet_jax import main; main.parse_flags(sys.argv)"
    command = [sys.executable, "-c", program, *TRAININGS[line]]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    if workdir := re.search(r"finetune:(\S+)", line):  # its argument reaches the config
        assert done.returncode == errors.EXIT_USER_ERROR and f"{workdir[1]} is not a workdir" in done.stderr
    else:
        assert done.returncode == 0, done.stderr


def test_the_documents_show_every_command():
    shown = {command.split()[1] for command in COMMANDS if command.startswith("alexnet ")}
    assert {name for name in shown if not name.startswith("--")} == set(__main__.MODULES)


@pytest.mark.parametrize("name", sorted(set(re.findall(r"--config[ =]([\w/.:+=]+)", EVERYTHING))))
def test_configs_exist(name, tmp_path, monkeypatch):
    if name.startswith("finetune:"):
        monkeypatch.chdir(tmp_path)
        with pytest.raises(errors.UserError, match="is not a workdir"):  # its argument reaches the file
            config_files.load(name)
    else:
        config_files.parse(config_files.load(name))


@pytest.mark.parametrize("key", sorted(set(re.findall(r"--config\.([\w.]+)", EVERYTHING)) - {"KEY"}))
def test_config_keys_exist(key):
    section = config_files.parse(config_files.load("paper"))
    for name in key.split("."):
        section = getattr(section, name)


@pytest.mark.slow
@pytest.mark.long
def test_the_full_network_on_simulated_devices_as_printed(tmp_path):
    """The two commands of the page Devices, from a folder with links to the package and configs/."""
    for name in ("alexnet_jax", "configs"):
        (tmp_path / name).symlink_to(ROOT / name)
    lines = [command for command in COMMANDS if "configs/paper.py --workdir runs/try" in command]
    assert lines[0].startswith("XLA_FLAGS=--xla_force_host_platform_device_count=2 python -m alexnet_jax.main")
    for line, expected in zip(lines, ("finished step 2", "resuming from step 2"), strict=True):
        done = subprocess.run(
            line, shell=True, cwd=tmp_path, capture_output=True, text=True, env=environment() | {"PATH": PATH}
        )
        assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr[-3000:]
        assert "mesh data=1 x tower=2 on cpu (cpu): one tower per device" in done.stdout
        assert "60,965,224" in done.stdout
        assert expected in done.stdout


@pytest.mark.slow
def test_local_launch_script(tmp_path):
    command = ["bash", "launch/local.sh", "configs/digits.py", str(tmp_path / "run"), "2", "--config.train.max_steps=2"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment() | {"PATH": PATH})
    assert done.returncode == 0, done.stderr
    assert "one tower per device" in done.stdout and "finished step 2" in done.stdout
    usage = subprocess.run(["bash", "launch/local.sh"], cwd=ROOT, capture_output=True, text=True)
    assert usage.returncode == 2 and "CONFIG WORKDIR [DEVICES]" in usage.stderr


# --- The site ---


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """The site, built as it is published."""
    pytest.importorskip("mkdocs", reason='needs pip install -e ".[docs]"')
    out = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)})
    assert done.returncode == 0, done.stderr[-3000:]
    return out


class Elements(HTMLParser):
    """The elements of a page: (tag, attributes)."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.all: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page.read_text())
        self.ids = {attributes.get("id") for _, attributes in self.all}

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.all.append((tag, dict(attrs)))


@pytest.mark.slow
def test_links_of_the_site_lead_somewhere_and_pictures_have_a_text(site):
    """404.html apart, whose links start at the root of the published site."""
    pages = {path: Elements(path) for path in site.glob("*.html") if path.name != "404.html"}
    assert len(pages) >= 20
    for path, page in pages.items():
        for tag, attributes in page.all:
            assert tag != "img" or attributes.get("alt"), (path.name, attributes)
            link = attributes.get("href") or attributes.get("src") or "#"
            target, _, anchor = unquote(link).partition("#")
            if re.match(r"[a-z]+:", target):
                assert tag == "a" or target.startswith("data:"), f"{path.name} fetches {target}"
                continue
            file = (path.parent / target.partition("?")[0]).resolve() if target else path
            assert file.is_file() or (file / "index.html").is_file(), (path.name, link)
            assert not anchor or file not in pages or anchor in pages[file].ids, (path.name, link)


@pytest.mark.slow
def test_the_site_is_readable_on_a_phone(site, browser):
    """Nothing scrolls sideways but tables, code and formulas, inside themselves."""
    page = browser.new_page(viewport={"width": 390, "height": 844})
    for name in ("index", "split", "alexnet_in_an_hour", "kaggle_two_gpus"):
        page.goto((site / f"{name}.html").as_uri())
        assert page.locator("article h1").is_visible()
        assert page.evaluate("document.documentElement.scrollWidth") <= 390, name
        assert page.evaluate("[...document.images].every(image => image.complete && image.naturalWidth)"), name
    page.close()
