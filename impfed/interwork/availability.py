"""Availability: XMPP's (show, status) pair against PIDF's basic status, activity and note.

The rows are data, one file for each kind of peer in ``impfed/interwork/kinds``; an operator may
replace rows.  *Busy* travels over XMPP as ``away`` with the status text "Busy", or one that begins
"Busy (";
*Idle* likewise as ``away`` with "Idle" (SPEC section 6).
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from typing import Any

from impfed.core.errors import LocalError


@dataclass(frozen=True, slots=True)
class Availability:
    """How available somebody is, in XMPP's terms (RFC 6121 section 4.7.2).

    :ivar show: "", "away", "chat", "dnd", "xa", or what else a client wrote.
    :ivar status: free text, or text with one of the markers that this module knows.
    :ivar priority: -128 to 127; of the resource it came from.
    :ivar display_name: how the person wants to be called, "" if not said.
    """

    available: bool
    show: str = ""
    status: str = ""
    priority: int = 0
    display_name: str = ""


#: Nobody there, nothing said.
OFFLINE = Availability(False)


@dataclass(frozen=True, slots=True)
class PidfState:
    """One tuple of a PIDF document with what the person's part of the document adds.

    :ivar open: the basic status.
    :ivar activities: RPID activity tokens, lower case, in the document's order.
    :ivar note: free text.
    :ivar show: XMPP's own show, carried along by RFC 8048 section 6.
    :ivar priority: contact priority, 0 to 127.
    """

    open: bool
    activities: tuple[str, ...] = ()
    note: str = ""
    show: str = ""
    priority: int = 0
    display_name: str = ""


def marked(status: str, marker: str) -> bool:
    """Tell whether a status text is a marker: the word itself, or the word with "(...)" after
    it.
    """
    return status == marker or status.startswith(f"{marker} (")


def _unmark(status: str, marker: str) -> str:
    """The free text in a marked status: what stands in its brackets."""
    if not marker or not marked(status, marker):
        return status
    inner = status[len(marker) + 2 :]
    return inner[:-1] if inner.endswith(")") else inner


#: Order among resources of equal priority, best first: (show, marker).
_ORDER = (
    ("chat", ""),
    ("", ""),
    ("away", "Busy"),
    ("away", ""),
    ("away", "Idle"),
    ("xa", ""),
    ("dnd", ""),
)


def _rank(availability: Availability) -> int:
    show = availability.show
    if show == "away":
        for marker in ("Busy", "Idle"):
            if marked(availability.status, marker):
                return _ORDER.index((show, marker))
    # A show that nobody knows counts as available.
    return _ORDER.index((show, "")) if (show, "") in _ORDER else _ORDER.index(("", ""))


def combine(resources: Iterable[Availability]) -> Availability:
    """Return the one availability that stands for all of a user's resources (SPEC section 6).

    Any available one beats none; a negative priority counts only when there is no other; the
    highest priority wins; among equals the first of chat, available, Busy, away, Idle, xa, dnd.
    """
    everything = list(resources)
    present = [one for one in everything if one.available]
    if not present:
        return everything[-1] if everything else OFFLINE
    return max(present, key=lambda one: (one.priority >= 0, one.priority, -_rank(one)))


@dataclass(frozen=True, slots=True)
class ToXmpp:
    """A row from the peer to us.

    :ivar state: the peer's own word for the state, for people who read the table.
    :ivar open: the basic status that the row matches.
    :ivar activities: tokens of which one must be there; none: the row matches without any.
    :ivar status: marker that the stanza's status begins with, "" for none.
    :ivar detail: what stands in the marker's brackets.
    """

    state: str
    open: bool
    activities: tuple[str, ...] = ()
    show: str = ""
    status: str = ""
    detail: str = ""


@dataclass(frozen=True, slots=True)
class FromXmpp:
    """A row from us to the peer.

    :ivar shows: values of show that the row matches; none: any.
    :ivar status: marker that the status must be, "" for any.
    :ivar activity: token that is sent, "" for none.
    """

    state: str
    available: bool
    shows: tuple[str, ...] = ()
    status: str = ""
    open: bool = True
    activity: str = ""


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of SIP peer: its tables and its form of PIDF.

    :ivar name: "microsoft", "office365" or "simple".
    :ivar form: "draft" (activities inside ``status``, as Microsoft reads them) or "rpid" (RFC
        4480).
    :ivar pending_document: whether a pending subscription's NOTIFY carries a closed document.
    :ivar refuses_by_403: whether 403 means a missing allow entry of the peer's administrator, not
        the presentity's own refusal.
    :ivar page_mode: whether MESSAGE outside a dialog is ordinary for this kind.
    :ivar typing: "keyboard" (INFO KeyboardActivity) or "iscomposing" (RFC 3994).
    """

    name: str
    form: str
    pending_document: bool
    refuses_by_403: bool
    page_mode: bool
    typing: str
    to_rows: tuple[ToXmpp, ...]
    from_rows: tuple[FromXmpp, ...]

    @classmethod
    def load(cls, name: str, replaced: Mapping[str, Any] | None = None) -> Kind:
        """Return a kind by name, read from its data file.

        :param replaced: an operator's rows, ``{"to_xmpp": [...], "from_xmpp": [...]}`` as in the
            file; a row takes the place of the one with the same ``state``, or is tried before all
            others.
        :raises LocalError: if there is no such kind, or a row is wrong.
        """
        kind = _load(name)
        return kind.with_rows(replaced) if replaced else kind

    @classmethod
    def parse(cls, data: Mapping[str, Any]) -> Kind:
        """Build a kind from the contents of a data file.

        :raises LocalError: naming the row that is wrong.
        """
        try:
            return cls(
                name=data["name"],
                form=data["form"],
                pending_document=data["pending_document"],
                refuses_by_403=data["refuses_by_403"],
                page_mode=data["page_mode"],
                typing=data["typing"],
                to_rows=tuple(_to_row(row) for row in data["to_xmpp"]),
                from_rows=tuple(_from_row(row) for row in data["from_xmpp"]),
            )
        except KeyError as missing:
            raise LocalError(f"kind data without {missing}") from None

    def with_rows(self, replaced: Mapping[str, Any]) -> Kind:
        """Return the kind with an operator's rows in the place of its own.

        :raises LocalError: naming what is wrong with a row.
        """
        try:
            to_rows = [_to_row(row) for row in replaced.get("to_xmpp", ())]
            from_rows = [_from_row(row) for row in replaced.get("from_xmpp", ())]
        except KeyError as missing:
            raise LocalError(f"kind {self.name}: a row without {missing}") from None
        return replace(
            self,
            to_rows=_replaced(self.to_rows, to_rows),
            from_rows=_replaced(self.from_rows, from_rows),
        )

    def to_xmpp(self, state: PidfState) -> Availability:
        """Return what an XMPP client is shown for a state of the peer's."""
        if not state.open:
            return replace(OFFLINE, status=state.note, display_name=state.display_name)
        if state.show in ("away", "chat", "dnd", "xa"):
            return Availability(True, state.show, state.note, state.priority, state.display_name)
        row = next((row for row in self.to_rows if _matches(row, state)), None)
        show, status = (row.show, _status(row, state.note)) if row else ("", state.note)
        return Availability(True, show, status, state.priority, state.display_name)

    def from_xmpp(self, availability: Availability) -> PidfState:
        """Return what the peer is told for an availability of our user's."""
        for row in self.from_rows:
            if _covers(row, availability):
                activities = (row.activity,) if row.activity else ()
                marker = row.status or next(
                    (
                        word
                        for word in ("Busy", "Idle")
                        if availability.show == "away" and marked(availability.status, word)
                    ),
                    "",
                )
                return PidfState(
                    row.open,
                    activities,
                    _unmark(availability.status, marker),
                    availability.show if row.open and availability.show in _SHOWS else "",
                    max(0, availability.priority),
                    availability.display_name,
                )
        raise LocalError(f"kind {self.name} has no row for {availability}")


class Kinds:
    """The kinds of SIP peers, with an operator's rows in the place of ours.

    :param replaced: rows by name of the kind, as :meth:`Kind.load` takes them.
    :raises LocalError: naming the kind and the row that is wrong.
    """

    def __init__(self, replaced: Mapping[str, Mapping[str, Any]] | None = None) -> None:
        self._kinds = {name: Kind.load(name, rows) for name, rows in (replaced or {}).items()}

    def kind(self, name: str) -> Kind:
        """Return a kind by name.

        :raises LocalError: if there is no such kind.
        """
        return self._kinds.get(name) or Kind.load(name)


_SHOWS = ("away", "chat", "dnd", "xa")


def _matches(row: ToXmpp, state: PidfState) -> bool:
    if row.open != state.open:
        return False
    return not row.activities or any(token in row.activities for token in state.activities)


def _status(row: ToXmpp, note: str) -> str:
    if not row.status:
        # A note that happens to read "Busy" must not turn an away contact into a busy one.
        if row.show == "away" and (marked(note, "Busy") or marked(note, "Idle")):
            return ""
        return note
    if marked(note, row.status):
        return note
    detail = ": ".join(part for part in (row.detail, note) if part)
    return f"{row.status} ({detail})" if detail else row.status


def _covers(row: FromXmpp, availability: Availability) -> bool:
    if row.available != availability.available:
        return False
    if row.shows and availability.show not in row.shows:
        return False
    return not row.status or marked(availability.status, row.status)


def _strings(values: Sequence[str]) -> tuple[str, ...]:
    if isinstance(values, str) or not all(isinstance(value, str) for value in values):
        raise LocalError(f"expected a list of words, found {values!r}")
    return tuple(values)


def _basic(row: Mapping[str, Any]) -> bool:
    basic = row["basic"]
    if basic not in ("open", "closed"):
        raise LocalError(f'row {row["state"]!r}: basic is "open" or "closed", not {basic!r}')
    return bool(basic == "open")


def _to_row(row: Mapping[str, Any]) -> ToXmpp:
    return ToXmpp(
        row["state"],
        _basic(row),
        _strings(row.get("activity", ())),
        row.get("show", ""),
        row.get("status", ""),
        row.get("detail", ""),
    )


def _from_row(row: Mapping[str, Any]) -> FromXmpp:
    return FromXmpp(
        row["state"],
        row["available"],
        _strings(row.get("show", ())),
        row.get("status", ""),
        _basic(row),
        row.get("activity", ""),
    )


def _replaced(rows: tuple[Any, ...], by: list[Any]) -> tuple[Any, ...]:
    named = {row.state: row for row in by}
    kept = tuple(named.pop(row.state, row) for row in rows)
    return (*named.values(), *kept)


@cache
def _load(name: str) -> Kind:
    try:
        text = files("impfed.interwork").joinpath("kinds", f"{name}.toml").read_text("utf-8")
    except FileNotFoundError:
        raise LocalError(f"no kind of domain is called {name!r}") from None
    return Kind.parse(tomllib.loads(text))
