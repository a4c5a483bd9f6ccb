"""Kinds of XMPP peers: what presence they need changed, and what else is special (SPEC section 6).

Tables T7 to T10 of the specification say what each client *shows*; nearly every cell is that
client's own drawing of one and the same stanza.  What is left are a few rows that change a stanza,
one data file for each kind in ``impfed/interwork/kinds``.  The status text is never changed.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from importlib.resources import files
from typing import Any

from impfed.core.errors import LocalError
from impfed.interwork.availability import Availability, marked

#: Kinds of domains that are reached over XMPP.
XMPP_KINDS = ("xmpp", "sametime", "webex")


@dataclass(frozen=True, slots=True)
class Rewrite:
    """A row: what becomes of a stanza that it fits.

    :ivar state: name of the row, by which an operator replaces it.
    :ivar shows: values of show that it fits.
    :ivar status: text that the status is, or begins with before a bracket; "" for any.
    :ivar becomes: the show that is sent instead.
    :ivar unless_all_jabber: not where every available client of the local user is Jabber.
    """

    state: str
    shows: tuple[str, ...]
    status: str = ""
    becomes: str = ""
    unless_all_jabber: bool = False


@dataclass(frozen=True, slots=True)
class XmppKind:
    """A kind of XMPP peer.

    :ivar name: one of :data:`XMPP_KINDS`.
    :ivar security: what its streams need, by the keys of ``[s2s]``.
    :ivar cannot: what cannot be done with it, each in words for operators.
    """

    name: str
    security: Mapping[str, str | bool] = field(default_factory=dict)
    cannot: tuple[str, ...] = ()
    from_rows: tuple[Rewrite, ...] = ()
    to_rows: tuple[Rewrite, ...] = ()

    @classmethod
    def load(cls, name: str, replaced: Mapping[str, Any] | None = None) -> XmppKind:
        """Return a kind by name, read from its data file.

        :param replaced: an operator's rows, ``{"from_peer": [...], "to_peer": [...]}``; a row takes
            the place of the one with the same ``state``, or is tried before all others.
        :raises LocalError: if there is no such kind, or a row is wrong.
        """
        kind = _load(name)
        if not replaced:
            return kind
        return replace(
            kind,
            from_rows=_joined(kind.from_rows, _rows(replaced, "from_peer", name)),
            to_rows=_joined(kind.to_rows, _rows(replaced, "to_peer", name)),
        )

    def inward(self, availability: Availability, *, all_jabber: bool = False) -> Availability:
        """Return what a local user is sent for a presence of a foreign one.

        :param all_jabber: whether every available client of the local user is known to be Jabber.
        """
        return _changed(self.from_rows, availability, all_jabber)

    def outward(self, availability: Availability) -> Availability:
        """Return what the foreign user is sent for a presence of a local one."""
        return _changed(self.to_rows, availability, False)


def _changed(
    rows: tuple[Rewrite, ...], availability: Availability, all_jabber: bool
) -> Availability:
    if not availability.available:
        return availability
    for row in rows:
        if availability.show not in row.shows or (row.unless_all_jabber and all_jabber):
            continue
        if not row.status or marked(availability.status, row.status):
            return replace(availability, show=row.becomes)
    return availability


def _rows(data: Mapping[str, Any], table: str, name: str) -> tuple[Rewrite, ...]:
    return tuple(_row(row, name) for row in data.get(table, ()))


def _row(row: Mapping[str, Any], name: str) -> Rewrite:
    shows = row.get("show")
    if isinstance(shows, str) or not shows or not all(isinstance(each, str) for each in shows):
        raise LocalError(f"kind {name}: a row's show is a list of words, not {shows!r}")
    try:
        return Rewrite(
            row["state"],
            tuple(shows),
            row.get("status", ""),
            row["becomes"],
            bool(row.get("unless_all_jabber", False)),
        )
    except KeyError as missing:
        raise LocalError(f"kind {name}: a row without {missing}") from None


def _joined(rows: tuple[Rewrite, ...], by: tuple[Rewrite, ...]) -> tuple[Rewrite, ...]:
    named = {row.state: row for row in by}
    kept = tuple(named.pop(row.state, row) for row in rows)
    return (*named.values(), *kept)


@cache
def _load(name: str) -> XmppKind:
    if name not in XMPP_KINDS:
        raise LocalError(f"no kind of XMPP domain is called {name!r}")
    text = files("impfed.interwork").joinpath("kinds", f"{name}.toml").read_text("utf-8")
    data = tomllib.loads(text)
    return XmppKind(
        name,
        data.get("security", {}),
        tuple(data.get("cannot", ())),
        _rows(data, "from_peer", name),
        _rows(data, "to_peer", name),
    )
