"""HTML page from a template: autoescaping on, and a content security policy for this page alone.

The policy names the page's one stylesheet and one script by their hashes, so a script that came in
with a model's name or an error text would not run even if escaping failed.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

_HERE = Path(__file__).parent / "templates"


def page(context: dict[str, Any], template: str = "template.html", styles: Sequence[str] = ("report.css",)) -> str:
    """The whole page.

    Args:
        context: what the template names; text in it is escaped, markup must be `safe`.
        template: its file.
        styles: files that make up the page's one stylesheet.
    """
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_HERE),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    css, js = "".join(map(_part, styles)), _part("report.js")
    policy = (
        f"default-src 'none'; img-src data:; style-src 'sha256-{_hash(css)}'; script-src 'sha256-{_hash(js)}'; "
        "base-uri 'none'; form-action 'none'"
    )
    return environment.get_template(template).render(**context, css=safe(css), js=safe(js), policy=policy)


def safe(markup: str) -> Any:
    """Markup of our own making, which the template must not escape."""
    import markupsafe

    return markupsafe.Markup(markup)


def _part(name: str) -> str:
    return "\n" + (_HERE / name).read_text(encoding="utf-8").replace("\r\n", "\n")


def _hash(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
