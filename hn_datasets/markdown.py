"""Texts of others inside Markdown: no table border, tag, link, heading, formula or template can come out of them."""

from __future__ import annotations

import json
import re
import unicodedata
from typing import Any
from urllib.parse import quote

MAX_CHARACTERS = 280
"""Of a text shown in a table; longer ones are cut."""

_ACTIVE = re.compile(r"[&<>|`*_\[\]{}\\~$#!^=]")
_BULLET = re.compile(r"^(?:([-+])|(\d+)([.)])(?=\s|$))")
_REORDERING = dict.fromkeys([*range(0x202A, 0x202F), *range(0x2066, 0x206A)])
"""Marks that set the direction of what follows them, beyond the text's own end."""


def collapse(text: str) -> str:
    """Return a text on one line: white space folded, control characters and marks of direction left out."""
    line = " ".join(text.translate(_REORDERING).split())
    return "".join("\ufffd" if (kind := unicodedata.category(c)) == "Cs" else c if kind != "Cc" else "" for c in line)


def shorten(text: str, characters: int = MAX_CHARACTERS) -> str:
    """Return a text on one line, cut after so many characters, with an ellipsis where it was cut."""
    line = collapse(text)
    return line if len(line) <= characters else line[: characters - 2].rstrip() + " …"


def escape(text: str) -> str:
    """Return a text on one line in which every character that Markdown or HTML reads is a character reference.

    A reference is never read as a mark, also not in a table cell, where a backslash before ``|`` means two things. A
    bare address may still become a link that shows where it leads.
    """
    line = _ACTIVE.sub(lambda match: f"&#{ord(match[0])};", collapse(text))
    return _BULLET.sub(lambda match: f"{match[2] or ''}&#{ord(match[1] or match[3])};", line)


def code(text: str) -> str:
    """Return a text as code, also inside a table cell, where a code span may hold no ``|``."""
    line = collapse(text)
    return f"`{line}`" if line and not re.search(r"[`|]", line) else f"<code>{escape(line)}</code>"


def code_json(value: Any) -> str:
    """Return a JSON value as code; white space at its ends stays visible."""
    return code(json.dumps(value, ensure_ascii=False))


def fence(text: str, language: str = "") -> str:
    """Return lines as a block of code, fenced by more backticks than the text has in a row."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    ticks = "`" * max(3, longest + 1)
    lines = re.sub(r"\r\n?", "\n", text).strip("\n")
    return f"{ticks}{language}\n{lines}\n{ticks}"


def link(text: str, address: str) -> str:
    """Return a link; what an address cannot hold, also brackets and white space, is percent-encoded."""
    return f"[{escape(text)}]({quote(address, safe='/:?#=&%+~@,;-._')})"
