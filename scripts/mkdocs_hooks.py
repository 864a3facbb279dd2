"""Hooks of the site: pages made of files outside docs/, and links to such files.

Notebooks, configs, benchmark results, findings, changelog and contributing guide become pages. A link to a file that is
no page becomes plain text, because the site must work without network.
"""

import json
import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parent.parent
NOTEBOOKS = ("quickstart", "detection", "segmentation", "multimodal")
PAGES = {
    **{f"notebooks/{name}.ipynb": f"tutorials/{name}.md" for name in NOTEBOOKS},
    "benchmarks/RESULTS.md": "explanation/results.md",
    "findings/README.md": "explanation/findings.md",
    "CHANGELOG.md": "about/changelog.md",
    "CONTRIBUTING.md": "about/contributing.md",
    "configs": "reference/configs.md",
}
"""Pages of the site by the path of their source in the repository."""

_LINK = re.compile(r"(!?)\[([^\]]*)\]\((?!https?:|mailto:|#)([^)#\s]+)(#[^)\s]*)?\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are made of files outside docs/."""
    for source, page in PAGES.items():
        files.append(File.generated(config, page, content=make_page(source)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Return the page with links to files outside docs/ replaced."""
    page_uri = page.file.src_uri
    source = next((source for source, uri in PAGES.items() if uri == page_uri), f"docs/{page_uri}")
    return replace_links(markdown, source, page_uri)


def make_page(source: str) -> str:
    """Return the Markdown of a page.

    Args:
        source: Path in the repository: a notebook, a Markdown file, or the folder of configs.
    """
    path = ROOT / source
    if path.is_dir():
        return _make_configs_page(path)
    if path.suffix == ".ipynb":
        return _make_notebook_page(json.loads(path.read_text(encoding="utf-8")))
    return path.read_text(encoding="utf-8")


def replace_links(markdown: str, source: str, page_uri: str) -> str:
    """Return Markdown whose relative links lead to pages of the site.

    Args:
        markdown: Text whose links are relative to `source`.
        source: Path of the text in the repository.
        page_uri: Path of the page below docs/.

    Examples:
        >>> replace_links("[a](../../benchmarks/RESULTS.md)", "docs/how-to/x.md", "how-to/x.md")
        '[a](../explanation/results.md)'
        >>> replace_links("[code](../tfx_finetune/train.py)", "docs/x.md", "x.md")
        'code'
    """

    def replace(match: re.Match) -> str:
        image, text, target, anchor = match.groups()
        path = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
        if path.startswith("docs/"):
            target_uri = path.removeprefix("docs/")
        elif path in PAGES:
            target_uri = PAGES[path]
        elif path.startswith("configs/"):
            target_uri, anchor = PAGES["configs"], f"#{Path(path).stem}"
        else:
            return text
        relative = posixpath.relpath(target_uri, posixpath.dirname(page_uri) or ".")
        return f"{image}[{text}]({relative}{anchor or ''})"

    return _LINK.sub(replace, markdown)


def _make_notebook_page(notebook: dict[str, Any]) -> str:
    """Return the cells of a notebook: text as it is, code in fences."""
    parts = []
    for cell in notebook["cells"]:
        text = "".join(cell["source"])
        parts.append(text if cell["cell_type"] == "markdown" else f"```python\n{text}\n```")
    return "\n\n".join(parts) + "\n"


def _make_configs_page(folder: Path) -> str:
    """Return a page with the text of every config."""
    parts = ["# Configs", "Flag files that come with the package: `--flagfile=configs/NAME.cfg` works in every folder."]
    for path in sorted(folder.glob("*.cfg")):
        parts.append(f"## {path.stem}\n\n```ini\n{path.read_text(encoding='utf-8').rstrip()}\n```")
    return "\n\n".join(parts) + "\n"
