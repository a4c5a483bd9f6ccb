"""A file with rows of an availability table: what an operator may write into it."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from impfed.config.problems import Unsuitable, did_you_mean
from impfed.config.values import PATH, Kind

_WORD, _WORDS, _TRUTH = "a text", "a list of texts", "true or false"
_SHOWS = ("", "away", "chat", "dnd", "xa")

#: Keys of the rows of each table: what they hold, and whether they must be there.
_TABLES: dict[str, dict[str, tuple[str, bool]]] = {
    "to_xmpp": {
        "state": (_WORD, True),
        "basic": ('"open" or "closed"', True),
        "activity": (_WORDS, False),
        "show": (_WORD, False),
        "status": (_WORD, False),
        "detail": (_WORD, False),
    },
    "from_xmpp": {
        "state": (_WORD, True),
        "available": (_TRUTH, True),
        "show": (_WORDS, False),
        "status": (_WORD, False),
        "basic": ('"open" or "closed"', True),
        "activity": (_WORD, False),
    },
    "from_peer": {
        "state": (_WORD, True),
        "show": (_WORDS, True),
        "status": (_WORD, False),
        "becomes": (_WORD, True),
        "unless_all_jabber": (_TRUTH, False),
    },
}
_TABLES["to_peer"] = _TABLES["from_peer"]


def _read(value: Any, base: Path) -> dict[str, Any]:
    path = PATH.read(value, base)
    try:
        rows = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise Unsuitable(f"{path}: {error.strerror}") from None
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise Unsuitable(f"{path} is not TOML: {error}") from None
    rows.pop("name", None)
    for table, entries in rows.items():
        if table not in _TABLES:
            hint = did_you_mean(table, list(_TABLES))
            raise Unsuitable(f"{path}: there is no table {table}", hint)
        if not isinstance(entries, list) or not all(isinstance(row, dict) for row in entries):
            raise Unsuitable(f"{path}: found [{table}]", f"write [[{table}]]")
        for number, row in enumerate(entries, 1):
            _check(f"{path}: {table}[{number}]", table, row)
    return rows


def _check(where: str, table: str, row: Mapping[str, Any]) -> None:
    known = _TABLES[table]
    for key, found in row.items():
        if key not in known:
            raise Unsuitable(f"{where} has no key {key}", did_you_mean(key, list(known)))
        if not _fits(known[key][0], found):
            raise Unsuitable(f"{where}: {key} is {known[key][0]}, not {found!r}")
    for key, (_, required) in known.items():
        if required and key not in row:
            raise Unsuitable(f"{where} has no {key}")
    show = row.get("becomes", row.get("show", "") if table == "to_xmpp" else "")
    if show not in _SHOWS:
        raise Unsuitable(f'{where}: "{show}" is no show of XMPP', did_you_mean(show, _SHOWS))


def _fits(what: str, found: Any) -> bool:
    if what is _WORDS:
        return isinstance(found, list) and all(isinstance(each, str) for each in found)
    if what is _TRUTH:
        return isinstance(found, bool)
    return isinstance(found, str) and (what is _WORD or found in ("open", "closed"))


MAPPING_FILE = Kind(
    "a TOML file with rows `[[to_xmpp]]` and `[[from_xmpp]]` (SIP) or `[[from_peer]]` and"
    " `[[to_peer]]` (XMPP), as in the program's own tables",
    _read,
)
