"""What MkDocs cannot do by itself: pages that are kept elsewhere, links to files of the repository, quoted source."""

import ast
import os
import re
import textwrap
from pathlib import Path, PurePosixPath

import nbformat
from latex2mathml import converter
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from nbconvert import MarkdownExporter

ROOT = Path(__file__).parent.parent
ELSEWHERE = {  # page -> the file that it is made from
    "index.md": "README.md",
    "index.zh.md": "README.zh-CN.md",
    "contributing.md": "CONTRIBUTING.md",
    "launching.md": "launch/README.md",
}
NOTEBOOKS = ("docs/alexnet_in_an_hour.ipynb", "docs/notebooks/colab.ipynb", "docs/notebooks/kaggle_two_gpus.ipynb")
ELSEWHERE |= {f"{Path(path).stem}.md": path for path in NOTEBOOKS}
FENCED = re.compile(r"(^ *```.*?^ *```$)", re.M | re.DOTALL)
LINK = re.compile(r"(?<!!)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)#\s]+)(#[^)\s]*)?\)")
IMAGE = re.compile(r"!\[([^\]]*)\]\(docs/")
EXPLORER = "explorer/index.html"  # in docs/, where the site is published from; not kept in the repository
NO_EXPLORER = "<!doctype html><title>Not here</title><p>This copy of the site was built without the explorer."
QUOTE = re.compile(r"<!-- source: (\S+) (\S+) -->")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are kept elsewhere."""
    for page, source in ELSEWHERE.items():
        is_notebook = source in NOTEBOOKS
        text, pictures = notebook(source, config.repo_url) if is_notebook else ((ROOT / source).read_text(), {})
        for name, content in {page: text, **pictures}.items():
            files.append(File.generated(config, name, content=content))
    if EXPLORER not in files.src_uris:
        files.append(File.generated(config, EXPLORER, content=NO_EXPLORER))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Point links to where the site has what they name, and fill in source and code map."""
    name = page.file.src_uri
    source = ELSEWHERE.get(name, f"docs/{name}")
    if source in NOTEBOOKS:
        return markdown
    parts = FENCED.split(markdown)  # text, code, text, ...
    text = "".join(part if i % 2 else relinked(part, source, config.repo_url) for i, part in enumerate(parts))
    text = QUOTE.sub(lambda match: quoted(*match.groups()), text)
    text = text.replace("<!-- explorer -->", f"**[That of the handwritten digits]({EXPLORER}).**")
    return re.sub(r"<!-- code map -->\n.*", lambda _: code_map(), text)


def relinked(text: str, source: str, repository: str | None) -> str:
    """Markdown of the file `source` with links as the site needs them.

    A link to a file that is no page leads to the repository, if the environment variable REPOSITORY_URL says where that
    is; else only its text is kept.
    """

    def link(match: re.Match) -> str:
        label, target, anchor = match[1], match[2], match[3] or ""
        if re.match(r"[a-z]+:", target):
            return match[0]
        path = os.path.normpath(PurePosixPath(source).parent / target)
        page = next((page for page, file in ELSEWHERE.items() if file == path), None)
        if page is None and path.startswith("docs/"):
            page = path.removeprefix("docs/")
        if page is not None:
            return f"[{label}]({page}{anchor})"
        if repository:
            return f"[{label}]({repository.rstrip('/')}/blob/main/{path}{anchor})"
        return f"`{label}`" if label in target else label

    return IMAGE.sub(r"![\1](", LINK.sub(link, text))


def notebook(path: str, repository: str | None) -> tuple[str, dict[str, bytes]]:
    """A notebook as it was run, in Markdown with MathML, which needs no script; and its pictures by name."""
    cells = nbformat.read(ROOT / path, 4)
    for cell in cells.cells:
        if cell.cell_type == "markdown":
            cell.source = relinked(formulas(cell.source), path, repository)
    text, resources = MarkdownExporter().from_notebook_node(cells)
    alt = {f"output_{i}_": cell.metadata.get("alt", "") for i, cell in enumerate(cells.cells)}
    text = re.sub(r"!\[png\]\(((output_\d+_)\d+\.png)\)", lambda match: f"![{alt[match[2]]}]({match[1]})", text)
    return text, resources["outputs"]


def formulas(text: str) -> str:
    """Replace $...$ and $$...$$, outside of code, by MathML."""

    def formula(match: re.Match) -> str:
        if match[1]:
            return match[0]
        display = "block" if match[2] else "inline"
        return converter.convert(match[2] or match[3], display=display)

    return re.sub(r"(`[^`]*`)|\$\$(.+?)\$\$|\$(.+?)\$", formula, text, flags=re.DOTALL)


def quoted(file: str, name: str) -> str:
    """The source of a function of the package, such as "make_train_step.train_step", as it is now."""
    source = (ROOT / file).read_text()
    node: ast.AST = ast.parse(source)
    for part in name.split("."):
        node = next(child for child in ast.walk(node) if getattr(child, "name", None) == part)
    assert isinstance(node, ast.FunctionDef)
    first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
    lines = source.splitlines()[first - 1 : node.end_lineno]
    return f'```python title="{file}"\n{textwrap.dedent(chr(10).join(lines))}\n```'


def code_map() -> str:
    """A table for each folder of the package: its modules and the first sentences of their docstrings."""
    package = ROOT / "alexnet_jax"
    folders = [package, *sorted(path.parent for path in package.rglob("__init__.py") if path.parent != package)]
    lines = []
    for folder in folders:
        modules = sorted(path for path in folder.glob("*.py") if path.name != "__init__.py")
        if not modules or folder.resolve() == ROOT / "configs":
            continue
        lines += [f"\n### {folder.relative_to(ROOT).as_posix()}/\n", first_sentence(folder / "__init__.py")]
        lines += ["\n| module | contents |", "|---|---|"]
        lines += [f"| `{path.name}` | {first_sentence(path)} |" for path in modules]
    return "\n".join(lines)


def first_sentence(path: Path) -> str:
    """The first paragraph of a module's docstring, on one line."""
    docstring = ast.get_docstring(ast.parse(path.read_text())) or ""
    return " ".join(docstring.partition("\n\n")[0].split()).replace("|", r"\|").replace("[", r"\[")
