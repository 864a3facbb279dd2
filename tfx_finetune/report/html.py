"""Render report.html and data.html as single files that load nothing from the network.

Class names and file names are escaped: whatever they contain is displayed as text.
"""

import base64
import functools
import hashlib
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from tfx_finetune.core import files
from tfx_finetune.report.page import MAX_MISTAKES, Report

_MIME_TYPES = {b"\x89P": "image/png", b"\xff\xd8": "image/jpeg", b"RI": "audio/wav"}
"""MIME type of a file by its first two bytes."""


def to_data_url(content: bytes) -> str:
    r"""Return the bytes of an encoded file as a `data:` URL.

    Args:
        content: bytes of a PNG, JPEG or WAV file.

    Examples:
        >>> to_data_url(b"\xff\xd8\xff")
        'data:image/jpeg;base64,/9j/'
    """
    return f"data:{_MIME_TYPES[content[:2]]};base64,{base64.b64encode(content).decode()}"


def write_report(path: Path, report: Report) -> None:
    """Write the report of a run as one HTML file; equal reports give equal bytes.

    Args:
        path: Path of the HTML file.
        report: Content of the page.
    """
    write_page(path, "report.html.j2", report=report, max_mistakes=MAX_MISTAKES)


def write_page(path: Path, template: str, **values: object) -> None:
    """Render a template as one HTML file that loads nothing from the network.

    Args:
        path: Path of the HTML file.
        template: File name of a template in `report/templates/`.
        **values: Variables of the template.
    """
    environment = _make_environment()
    script = environment.get_template("report.js").render()
    # The content security policy of the page allows this script only and no URL, in case a name is not escaped.
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    text = environment.get_template(template).render(script=Markup(script), script_hash=digest, **values)
    with files.write_atomically(path) as draft:
        # A file name that is not UTF-8 contains lone surrogates, which UTF-8 cannot encode.
        draft.write_bytes(text.encode("utf-8", errors="backslashreplace"))


@functools.cache
def _make_environment() -> Environment:
    """Return the Jinja environment; it is cached because it compiles every template once."""
    # Autoescape: class names and file names can contain any characters.
    loader = PackageLoader("tfx_finetune.report")
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined)
    environment.trim_blocks = environment.lstrip_blocks = True
    environment.filters["data_url"] = to_data_url
    return environment
