"""SVG of matplotlib made fit to stand inside the page.

Matplotlib writes a document of its own: a stylesheet that would apply to the whole page, ids that
repeat from figure to figure, inline styles that the page's content policy forbids, fixed colours.
Here each becomes what the page needs: no stylesheet, ids with a prefix, plain attributes, and for
each sentinel colour a variable of the page's stylesheet, so that a figure follows dark mode.
"""

from __future__ import annotations

import html
import re

#: Colour to draw with -> the variable of report.css that it becomes. No two figures may use another colour.
INK = "#010203"
MUTED = "#010204"
GRID = "#010205"
PAPER = "#010206"
SERIES = ("#010211", "#010212", "#010213", "#010214", "#010215", "#010216")
_VARIABLES = {INK: "--ink", MUTED: "--muted", GRID: "--line", PAPER: "--paper"}
_VARIABLES |= {colour: f"--series-{i}" for i, colour in enumerate(SERIES, 1)}

_STYLE = re.compile(r' style="([^"]*)"')
_COLOUR = re.compile(r"#0102[01][0-9a-f]")
_FONT_SIZE = re.compile(r"([\d.]+)px")
_FINE = re.compile(r"(?<=\d\.\d\d)\d+")  # digits of a place that no screen shows
#: Inline styles that say what a browser does anyway.
_DROPPED = frozenset({"font-family"})


def inline(svg: str, *, prefix: str, label: str) -> str:
    """An SVG document as an element of the page.

    Args:
        svg: what matplotlib wrote, drawn in the colours above.
        prefix: unique on the page; starts every id.
        label: what the figure shows, in words, for who cannot see it.
    """
    body = svg[svg.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    body = re.sub(r"<style.*?</style>", "", body, flags=re.DOTALL)
    body = re.sub(r"<!--.*?-->", "", body, flags=re.DOTALL)
    body = re.sub(r"<[^>]*>", lambda match: _tag(match[0], prefix), body)
    body = re.sub(r"\s*\n\s*", "\n", body)
    width, height = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', body).groups()  # type: ignore[union-attr]
    opening = f'<svg role="img" aria-label="{html.escape(label)}" viewBox="0 0 {width} {height}" class="figure">'
    return opening + body[body.index(">") + 1 :].strip()


def _tag(tag: str, prefix: str) -> str:
    """One tag; the text between tags is somebody's label and stays as it is."""
    tag = _FINE.sub("", re.sub(r' xmlns(:\w+)?="[^"]*"', "", tag).replace("xlink:href=", "href="))
    tag = re.sub(r' (id|href)="(#?)', rf' \1="\2{prefix}-', tag)
    tag = tag.replace("url(#", f"url(#{prefix}-")
    tag = _STYLE.sub(lambda match: _attributes(match[1]), tag)
    return _COLOUR.sub(lambda match: f"var({_VARIABLES[match[0]]})", tag)


def _attributes(style: str) -> str:
    """`fill: none; stroke-width: 0.8` as ` fill="none" stroke-width="0.8"`."""
    pairs = []
    for part in style.split(";"):
        name, _, value = (piece.strip() for piece in part.partition(":"))
        if name == "font":  # the shorthand is no attribute; the page chooses the family
            size = _FONT_SIZE.search(value)
            pairs.append(f' font-size="{size[1]}"' if size else "")
        elif name and name not in _DROPPED:
            pairs.append(f' {name}="{value}"')
    return "".join(pairs)
