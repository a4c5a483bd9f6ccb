"""Presence documents (PIDF, RFC 3863): written in the peer's form, read in every form met so far.

Written are two forms.  *draft* is what Microsoft reads: activities inside ``status``, the token as
text (a draft of RPID that never became an RFC).  *rpid* is the standard: RFC 4479's ``person``
with RFC 4480 activities, and RFC 8048's ``show`` inside ``status``.  Both have exactly one tuple.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from xml.etree.ElementTree import Element

from impfed.interwork.availability import Availability, Kind, PidfState, combine
from impfed.interwork.document import (
    DocumentError,
    children,
    local_name,
    namespace,
    read_document,
    text_of,
)
from impfed.xmpp.stanza import xml_attr, xml_text

#: Media type of a presence document.
PIDF_TYPE = "application/pidf+xml"

_PIDF = "urn:ietf:params:xml:ns:pidf"
_CLIENT = "jabber:client"
_BASIC = {True: "open", False: "closed"}
_HEAD = '<?xml version="1.0" encoding="UTF-8"?>\r\n'
_DRAFT_ROOT = (
    f'<presence xmlns="{_PIDF}" xmlns:ep="{_PIDF}:status:rpid-status" '
    f'xmlns:et="{_PIDF}:rpid-tuple" xmlns:ci="{_PIDF}:cipid" entity="%s">\r\n'
)
_RPID_ROOT = (
    f'<presence xmlns="{_PIDF}" xmlns:dm="{_PIDF}:data-model" '
    f'xmlns:rpid="{_PIDF}:rpid" xmlns:ci="{_PIDF}:cipid" entity="%s">\r\n'
)


def write_pidf(
    kind: Kind, availability: Availability, entity: str, display_name: str = ""
) -> bytes:
    """Return the presence document for a user, in the peer's form and by the peer's table.

    :param entity: the user's address of record, ``sip:user@domain``.
    :param display_name: used when the availability has none; "" leaves the element out.
    """
    state = kind.from_xmpp(availability)
    name = availability.display_name or display_name
    write = _write_draft if kind.form == "draft" else _write_rpid
    return write(state, entity, name).encode("utf-8")


def closed_pidf(kind: Kind, entity: str) -> bytes:
    """Return the neutral document: closed, and nothing else."""
    return write_pidf(kind, Availability(False), entity)


def _name_line(name: str) -> str:
    return f"<ci:display-name>{xml_text(name)}</ci:display-name>" if name else ""


def _write_draft(state: PidfState, entity: str, name: str) -> str:
    activities = "".join(
        f"<ep:activity>{xml_text(word)}</ep:activity>" for word in state.activities
    )
    if activities:
        activities = f"<ep:activities>{activities}</ep:activities>"
    note = f"<note>{xml_text(state.note)}</note>" if state.note else ""
    return (
        f"{_HEAD}{_DRAFT_ROOT % xml_attr(entity)}"
        f'<tuple id="0"><status><basic>{_BASIC[state.open]}</basic>{activities}</status>'
        f"{note}</tuple>\r\n{_name_line(name)}</presence>\r\n"
    )


def _write_rpid(state: PidfState, entity: str, name: str) -> str:
    show = f'<show xmlns="{_CLIENT}">{xml_text(state.show)}</show>' if state.show else ""
    note = f"<note>{xml_text(state.note)}</note>" if state.note else ""
    # Tokens come from our own data files, never from a peer: they may be element names.
    activities = "".join(f"<rpid:{word}/>" for word in state.activities)
    person = ""
    if activities:
        person = (
            f'<dm:person id="p0"><rpid:activities>{activities}</rpid:activities></dm:person>\r\n'
        )
    return (
        f"{_HEAD}{_RPID_ROOT % xml_attr(entity)}"
        f'<tuple id="t0"><status><basic>{_BASIC[state.open]}</basic>{show}</status>'
        f"<contact>{xml_text(entity)}</contact>{note}</tuple>\r\n{person}{_name_line(name)}</presence>\r\n"
    )


@dataclass(frozen=True, slots=True)
class PidfDocument:
    """A presence document as read.

    :ivar entity: whose presence it is, as written.
    :ivar states: one for each tuple, with what the person's part says added to each.
    :ivar display_name: CIPID display name, "" if absent.
    """

    entity: str
    states: tuple[PidfState, ...]
    display_name: str = ""

    def availability(self, kind: Kind) -> Availability:
        """Return the one availability that an XMPP client is shown: any open tuple wins."""
        return combine(kind.to_xmpp(state) for state in self.states)


def read_pidf(data: bytes) -> PidfDocument:
    """Read a presence document.

    :raises DocumentError: if it is no XML, has a DTD, or is no presence document.
    """
    root = read_document(data)
    if root.tag != f"{{{_PIDF}}}presence":
        raise DocumentError("not a presence document")
    persons = list(children(root, "person"))
    # RFC 4480 puts activities into the person; older documents into the root or the tuples.
    shared = [word for holder in (*persons, root) for word in _activities(holder)]
    note = next((text for holder in persons for text in _notes(holder)), "")
    note = note or next(_notes(root), "")
    name = _display_name(root)
    states = tuple(
        _tuple_state(one, shared, note, name) for one in root if one.tag == f"{{{_PIDF}}}tuple"
    )
    return PidfDocument(root.get("entity", "").strip(), states, name)


def _tuple_state(element: Element, shared: list[str], note: str, name: str) -> PidfState:
    status = next(children(element, "status"), None)
    basic = text_of(next(children(status, "basic"), None)) if status is not None else ""
    own = [
        word for holder in (status, element) if holder is not None for word in _activities(holder)
    ]
    words = tuple(dict.fromkeys((*own, *shared)))
    show = ""
    if status is not None:
        show = text_of(status.find(f"{{{_CLIENT}}}show"))
    own_note = next(
        (text for holder in (element, status) if holder is not None for text in _notes(holder)), ""
    )
    # A tuple without a basic status says "there" only by naming what the person does.
    is_open = basic.lower() == "open" or (not basic and bool(words))
    return PidfState(is_open, words, own_note or note, show, _priority(element), name)


def _activities(holder: Element) -> Iterator[str]:
    """Tokens under ``activities`` (both forms: elements of RFC 4480, text of the draft)."""
    for group in (child for child in holder if local_name(child) == "activities"):
        if "rpid" not in namespace(group):
            continue
        for entry in group:
            word = local_name(entry).lower()
            if word == "activity":
                word = text_of(entry).lower()
            if word and word not in ("note", "unknown"):
                yield word


def _notes(holder: Element) -> Iterator[str]:
    for note in children(holder, "note"):
        if text := text_of(note):
            yield text
    for group in children(holder, "activities"):
        yield from (text for note in children(group, "note") if (text := text_of(note)))


def _display_name(root: Element) -> str:
    for holder in (root, *children(root, "person"), *children(root, "tuple")):
        for child in children(holder, "display-name"):
            if "cipid" in namespace(child) and (text := text_of(child)):
                return text
    return ""


def _priority(element: Element) -> int:
    """Contact priority 0..1 as a presence priority 0..127 (RFC 8048 section 6)."""
    contact = next(children(element, "contact"), None)
    try:
        value = float(contact.get("priority", "0")) if contact is not None else 0.0
    except ValueError:
        return 0
    return round(127 * value) if 0.0 <= value <= 1.0 else 0
