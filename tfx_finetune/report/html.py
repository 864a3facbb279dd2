"""STATION: report.html, all that a run found out, on one page that needs no network.

Whatever a class or a file may be called is shown as text.
"""

import base64
import functools
import hashlib
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from tfx_finetune.core import files
from tfx_finetune.report.page import MAX_MISTAKES, Report


def to_data_url(content: bytes) -> str:
    """An encoded picture or sound as a data address."""
    kinds = {b"\x89P": "image/png", b"\xff\xd8": "image/jpeg", b"RI": "audio/wav"}
    return f"data:{kinds[content[:2]]};base64,{base64.b64encode(content).decode()}"


def write_report(path: Path, report: Report) -> None:
    """Writes the report as one HTML file that loads nothing; the same report gives the same bytes."""
    write_page(path, "report.html.j2", report=report, most_mistakes=MAX_MISTAKES)


def write_page(path: Path, template: str, **values: object) -> None:
    """Writes what a template makes of these values as one HTML file that loads nothing."""
    environment = _make_environment()
    script = environment.get_template("report.js").render()
    # The page allows this script alone and no address at all, should a name ever slip through as markup.
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    text = environment.get_template(template).render(script=Markup(script), script_hash=digest, **values)
    with files.write_atomically(path) as draft:
        # A file name that is not UTF-8 arrives with lone surrogates, which cannot be encoded.
        draft.write_bytes(text.encode("utf-8", errors="backslashreplace"))


@functools.cache
def _make_environment() -> Environment:
    """Templates, which are compiled once."""
    # Autoescape: class and file names can hold anything.
    environment = Environment(loader=PackageLoader("tfx_finetune"), autoescape=True, undefined=StrictUndefined)
    environment.trim_blocks = environment.lstrip_blocks = True
    environment.filters["address"] = to_data_url
    return environment
