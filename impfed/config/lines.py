"""Line numbers of the keys of a TOML file, which :mod:`tomllib` does not tell.

A scanner, not a parser: it follows headers, keys, brackets and strings of a file that tomllib has
accepted.  A key inside an inline table has the line of the key that holds the table.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TypeAlias

#: From a key path, with positions in arrays of tables counted from 0, to its line counted from 1.
Path: TypeAlias = tuple[str | int, ...]

_HEADER = re.compile(r"\s*(\[\[?)\s*([^\]]+?)\s*\]\]?\s*(?:#.*)?\Z")
_KEY = re.compile(r"""\s*((?:[\w-]+|"[^"]*"|'[^']*')(?:\s*\.\s*(?:[\w-]+|"[^"]*"|'[^']*'))*)\s*=""")
_PARTS = re.compile(r"""[\w-]+|"[^"]*"|'[^']*'""")
_STRING = re.compile(
    r'"""(?:[^\\]|\\.)*?"""|' + r"'''.*?'''|" + r'"(?:[^"\\\n]|\\.)*"|' + r"'[^'\n]*'|#[^\n]*",
    re.DOTALL,
)


def key_lines(text: str) -> Mapping[Path, int]:
    """Return the line of every section header and every key of a TOML text."""
    found: dict[Path, int] = {}
    counts: dict[Path, int] = {}
    section: Path = ()
    depth = 0
    blanked = _STRING.sub(_blank, text)
    for number, (line, bare) in enumerate(
        zip(text.split("\n"), blanked.split("\n"), strict=True), start=1
    ):
        if depth == 0 and (header := _HEADER.match(line)) and bare.lstrip().startswith("["):
            section = _entered(_PARTS.findall(header[2]), len(header[1]) == 2, counts)
            found.setdefault(section, number)
            continue
        if depth == 0 and (key := _KEY.match(line)):
            parts = tuple(part.strip("\"'") for part in _PARTS.findall(key[1]))
            found.setdefault(section + parts, number)
        depth += sum(bare.count(mark) for mark in "[{") - sum(bare.count(mark) for mark in "]}")
    return found


def line_of(lines: Mapping[Path, int], path: Path) -> int | None:
    """Return the line of a key, or of the nearest thing around it; None when nothing is known."""
    while path:
        if path in lines:
            return lines[path]
        path = path[:-1]
    return None


def _blank(string: re.Match[str]) -> str:
    return re.sub(r"[^\n]", "x", string[0]) if string[0][0] != "#" else ""


def _entered(parts: list[str], repeated: bool, counts: dict[Path, int]) -> Path:
    path: Path = ()
    for position, part in enumerate(parts):
        path = (*path, part.strip("\"'"))
        if repeated and position == len(parts) - 1:
            counts[path] = counts.get(path, -1) + 1
        if path in counts:
            path = (*path, counts[path])
    return path
