"""The live page put together from its files: one document, whose style and scripts the browser knows by a nonce."""

from __future__ import annotations

import re
from functools import cache
from importlib.resources import files

_FILE = re.compile(r"\{\{([a-z_]+\.(?:css|js))\}\}\n")


def page_html(nonce: str) -> bytes:
    """The page. Texts from the wire come to it later, by the stream: it is the same for every worker."""
    return _template().replace("NONCE", nonce).encode()


@cache
def _template() -> str:
    return _FILE.sub(lambda found: _text_of(found[1]), _text_of("live_page.html"))


def _text_of(name: str) -> str:
    return files("millpond.http").joinpath(name).read_text("utf-8")
