"""Text from outside as Markdown that shows it and does nothing else."""

import html
import re
from urllib.parse import quote

from sentiment_model.redaction import redacted

_IN_URLS = ":/?#@!$&'*+,;=%~"


def markdown_cell(text: str) -> str:
    """Return text that Markdown shows as it is, and that does not end a table's cell; no URL in it holds a password."""
    shown = html.escape(" ".join(redacted(text).split()), quote=False)
    shown = re.sub(r"([\\`*_\[\]|~#!])", r"\\\1", shown)
    return re.sub(r"^((?:\d+(?=[.)](?:\s|$)))?)([-+=.)])", r"\1\\\2", shown)  # what begins a list or a heading


def plain(markdown: str) -> str:
    """Return Markdown as a terminal shows it best: without what keeps :func:`markdown_cell` from doing anything."""
    return html.unescape(re.sub(r"\\([\\`*_\[\]|~#!+=.)-])", r"\1", markdown))


def markdown_link(text: str, url: str | None) -> str:
    """Return text that leads to a page, or the bare text where there is no page."""
    return f"[{markdown_cell(text)}]({quote(url, safe=_IN_URLS)})" if url else markdown_cell(text)
