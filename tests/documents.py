"""The documents of the project: the README, the pages of docs/, and the commands that they print."""

import re
import shlex

from tests.conftest import ROOT

CHINESE = {"README.md": "README.zh-CN.md", "docs/get-started.md": "docs/get-started.zh.md"}  # page -> its translation
ENGLISH = ["README.md", "CONTRIBUTING.md", "launch/README.md"]
ENGLISH += sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md") if not path.name.endswith(".zh.md"))
PAGES = {name: (ROOT / name).read_text() for name in (*ENGLISH, *CHINESE.values())}
EVERYTHING = "\n".join(PAGES[name] for name in ENGLISH)


def commands(text: str) -> list[str]:
    """The lines of all shell blocks, without comments."""
    lines = [line for block in re.findall(r"```bash\n(.*?)```", text, re.DOTALL) for line in block.splitlines()]
    return [line.split("   #")[0].strip() for line in lines if line.strip()]


def trainings(lines: list[str]) -> dict[str, list[str]]:
    """The lines that train -> their flags."""
    found = {}
    for line in lines:
        words = shlex.split(line)
        for start in (["alexnet", "train"], ["python", "-m", "alexnet_jax.main"]):
            places = [i for i in range(len(words)) if words[i : i + len(start)] == start]
            if places:
                found[line] = words[places[0] + len(start) :]
    return found


def anchors(text: str) -> set[str]:
    headings = re.findall(r"^#+ (.*)", text, re.M)
    return {re.sub(r"[^\w -]", "", heading).strip().lower().replace(" ", "-") for heading in headings}


COMMANDS = commands(EVERYTHING)
