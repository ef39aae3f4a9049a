"""The files by which a project is found, cited, checked and improved: each names only what exists, in agreement."""

import importlib.metadata
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.specifiers import SpecifierSet

from alexnet_jax import __main__
from alexnet_jax.run import workdir
from tests.conftest import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PINS = dict(re.findall(r"^(\S+)==(\S+)$", (ROOT / "launch/constraints.txt").read_text(), re.M))
CHANGELOG = (ROOT / "CHANGELOG.md").read_text()
FORMS = sorted(path for path in (ROOT / ".github/ISSUE_TEMPLATE").glob("*.yml") if path.stem != "config")
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))


def parsed(path: Path) -> dict:
    """A YAML file whose scalars are all read as strings: to YAML 1.1, the key `on` is the value true."""
    return yaml.load(path.read_text(), yaml.BaseLoader)


def steps(path: Path) -> list[dict]:
    return [step for job in parsed(path)["jobs"].values() for step in job["steps"]]


def shell(path: Path) -> list[str]:
    return [step["run"] for step in steps(path) if "run" in step]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_workflows_may_read_only_and_end(path):
    """Only the job that publishes the site may write, and only the site."""
    workflow = parsed(path)
    assert {"push", "pull_request", "workflow_dispatch"} <= workflow["on"].keys()
    assert workflow["on"]["push"] == {"branches": ["main"]}
    assert workflow["permissions"] == {"contents": "read"}
    assert "github.ref" in workflow["concurrency"]["group"]
    for name, job in workflow["jobs"].items():
        assert 0 < int(job["timeout-minutes"]) <= 90
        granted = job.get("permissions", {})
        assert not granted or (name == "publish" and granted == {"pages": "write", "id-token": "write"})


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_actions_are_those_of_github_at_a_major_version(path):
    used = [step["uses"] for step in steps(path) if "uses" in step]
    assert used and all(re.fullmatch(r"actions/[a-z-]+@v\d+", action) for action in used)
    for step in steps(path):
        if step.get("uses", "").startswith("actions/setup-python@"):
            assert step["with"]["cache"] == "pip"
            assert all((ROOT / name).is_file() for name in step["with"]["cache-dependency-path"].split())


def test_the_site_is_built_as_documented_and_published_from_main_only():
    path = ROOT / ".github/workflows/docs.yml"
    install, train, export, build = shell(path)
    assert install == 'pip install -e ".[docs,interop]" -c launch/constraints.txt' and build == "mkdocs build --strict"
    assert train.startswith("alexnet train --config digits --workdir runs/digits ")
    assert export == "alexnet export --workdir runs/digits --explorer docs/explorer/"
    assert "docs" in PROJECT["optional-dependencies"]
    publish = parsed(path)["jobs"]["publish"]
    assert publish["if"] == "github.ref == 'refs/heads/main'" and publish["needs"] == "build"


def test_the_tests_run_on_every_python_that_the_package_is_for():
    path = ROOT / ".github/workflows/tests.yml"
    tested = parsed(path)["jobs"]["default"]["strategy"]["matrix"]["python-version"]
    classifiers = re.findall(r"Programming Language :: Python :: (3\.\d+)", "\n".join(PROJECT["classifiers"]))
    assert tested == classifiers == [f"3.{minor}" for minor in range(11, 11 + len(tested))]
    supported = SpecifierSet(PROJECT["requires-python"])
    assert all(version in supported for version in tested)
    assert "3.10" not in supported, "the oldest supported version is tested"
    others = [step["with"]["python-version"] for step in steps(path) if "setup-python" in step.get("uses", "")]
    assert set(others) - {"${{ matrix.python-version }}"} <= set(tested)


def test_the_tests_that_run_are_those_of_the_script():
    assert shell(ROOT / ".github/workflows/tests.yml") == ["bash tests/run.sh", "bash tests/run.sh --all"]
    assert "--all" in (ROOT / "tests/run.sh").read_text()
    workflow = parsed(ROOT / ".github/workflows/tests.yml")
    jobs = workflow["jobs"]
    assert workflow["on"]["schedule"][0]["cron"].endswith("* * *"), "every night"
    assert "schedule" in jobs["all"]["if"] and "schedule" not in jobs["default"]["if"]


def hooks() -> dict[str, dict]:
    (repository,) = parsed(ROOT / ".pre-commit-config.yaml")["repos"]
    assert repository["repo"] == "local", "a hook of another repository has a version of its own"
    return {hook["id"]: hook for hook in repository["hooks"]}


def run_hook(name: str, folder: Path, *files: str) -> subprocess.CompletedProcess[str]:
    """Run a hook's command with the programs of this environment."""
    program, *arguments = shlex.split(hooks()[name]["entry"])
    command = [Path(sys.executable).parent / Path(program).name, *arguments, *files]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def test_hooks_run_the_programs_and_versions_of_the_tests():
    assert list(hooks()) == ["ruff-format", "ruff", "mypy"]
    for hook in hooks().values():
        assert hook["entry"].startswith(".venv/bin/") and "additional_dependencies" not in hook
        checked = hook["name"].replace("format", "format --check")
        assert re.search(rf"\b{checked}\b", (ROOT / "tests/run.sh").read_text()), checked
    for name in ("ruff", "mypy"):
        assert importlib.metadata.version(name) == PINS[name]


@pytest.mark.slow
def test_hooks_find_mistakes(tmp_path):
    good = 'NAMES = ["conv1"]\n'
    for name, bad in (("ruff", "import os\n"), ("mypy", 'NAMES: int = ["conv1"]\n')):
        for text, code in ((good, 0), (bad, 1)):
            (tmp_path / "module.py").write_text(text)
            done = run_hook(name, tmp_path, "module.py")
            assert done.returncode == code, done.stdout + done.stderr
    (tmp_path / "module.py").write_text("NAMES = ['conv1' ]\n")
    run_hook("ruff-format", tmp_path, "module.py")
    assert (tmp_path / "module.py").read_text() == good


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.stem)
def test_issue_forms_ask_for_what_exists(path):
    form, text = parsed(path), path.read_text()
    assert form["name"] and form["description"]
    ids = [field["id"] for field in form["body"]]
    assert len(ids) == len(set(ids)) and {field["type"] for field in form["body"]} <= {"input", "textarea"}
    assert all(field["attributes"]["label"] for field in form["body"])
    commands = set(re.findall(r"alexnet ([a-z-]+)", text))
    assert commands <= {*__main__.MODULES, "--version"} and "--version" in commands
    assert set(re.findall(r"\w+\.jsonl?\b", text)) <= {workdir.CONFIG, workdir.RUN, workdir.METRICS}


def test_issue_forms_ask_for_what_is_needed():
    needed = {
        "bug": {"command", "output", "version", "config", "metrics"},
        "data": {"verify", "version"},
        "paper": {"section", "expected", "measured"},
    }
    asked = {path.stem: {field["id"] for field in parsed(path)["body"]} for path in FORMS}
    assert asked.keys() == needed.keys()
    for name, ids in needed.items():
        assert ids <= asked[name]


def test_the_citation_agrees_with_the_package():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["cff-version"] == "1.2.0" and {"message", "authors"} <= citation.keys()
    assert citation["title"] == PROJECT["name"] and citation["type"] == "software"
    assert citation["version"] == PROJECT["version"] and citation["license"] == PROJECT["license"]
    (paper,) = citation["references"]
    assert [author["family-names"] for author in paper["authors"]] == ["Krizhevsky", "Sutskever", "Hinton"]
    assert paper["year"] == 2012 and paper["url"] in (ROOT / "README.md").read_text()


def test_the_changelog_is_kept_as_its_form_says():
    versions = re.findall(r"^## \[(.+?)\]", CHANGELOG, re.M)
    assert versions[0] == "Unreleased"
    assert all(re.search(rf"^## \[{re.escape(v)}\] - \d{{4}}-\d\d-\d\d$", CHANGELOG, re.M) for v in versions[1:])
    kinds = set(re.findall(r"^### (.+)$", CHANGELOG, re.M))
    assert kinds <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}


def test_the_changelog_names_every_command():
    """By its name alone or after `alexnet`; and none that does not exist."""
    quoted = set(re.findall(r"`(?:alexnet )?([a-z-]+)\b[^`]*`", CHANGELOG)) | set(re.findall(r"`([a-z]+)`", CHANGELOG))
    assert not set(__main__.MODULES) - quoted
    assert set(re.findall(r"`alexnet ([a-z-]+)", CHANGELOG)) <= set(__main__.MODULES)
