"""The presence rewrites between XMPP domains, applied to stanzas (SPEC section 6, T7 to T10)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from copy import copy
from xml.etree.ElementTree import Element

from impfed.interwork.availability import Availability
from impfed.interwork.rewrite import Rewrite, XmppKind
from impfed.xmpp.jid import JID
from impfed.xmpp.stanza import Stanza, element_xml

_CAPS = "http://jabber.org/protocol/caps"
_MUC = "http://jabber.org/protocol/muc"
_MUC_USER = "http://jabber.org/protocol/muc#user"
#: Rooms that local users are in, altogether; beyond, presence there is rewritten like any other.
_ROOMS = 100_000


class PresenceRewriter:
    """Changes what a kind of peer needs changed; everything else passes as it came.

    :param kinds: the kinds that peers of ours are of.
    :param kind_of: finds the kind of a foreign domain.
    """

    def __init__(self, kinds: Iterable[XmppKind], kind_of: Callable[[str], XmppKind]) -> None:
        rows: list[Rewrite] = []
        inward = outward = False
        for kind in kinds:
            rows += kind.from_rows
            inward |= bool(kind.from_rows)
            outward |= bool(kind.to_rows)
        self._inward, self._outward = inward, outward
        self._watches_clients = any(row.unless_all_jabber for row in rows)
        self._kind_of = kind_of
        self._rooms: set[tuple[JID, JID]] = set()  # full address of a local user, room
        self._jabber: dict[JID, dict[str, bool]] = {}  # local user -> resource -> is it Jabber

    def inward(self, stanza: Stanza) -> str:
        """Return a foreign user's presence as XML, as the local user is to see it."""
        if not self._inward or stanza.type:
            return stanza.to_xml()
        kind = self._kind_of(stanza.from_.domain)
        if not kind.from_rows or stanza.child("x", _MUC_USER) is not None:
            return stanza.to_xml()
        clients = self._jabber.get(stanza.to.bare)
        all_jabber = bool(clients) and all(clients.values()) if clients else False
        availability = _availability(stanza)
        return _with_show(stanza, kind.inward(availability, all_jabber=all_jabber).show)

    def outward(self, stanza: Stanza) -> str:
        """Return a local user's presence as XML, as the foreign user is to see it."""
        if self._watches_clients and stanza.type in ("", "unavailable"):
            self._note_client(stanza)
        if not self._outward or self._in_room(stanza) or stanza.type:
            return stanza.to_xml()
        kind = self._kind_of(stanza.to.domain)
        if not kind.to_rows:
            return stanza.to_xml()
        return _with_show(stanza, kind.outward(_availability(stanza)).show)

    def _in_room(self, stanza: Stanza) -> bool:
        """Whether a presence belongs to a room: of ours, or of theirs since the user has entered."""
        if stanza.child("x", _MUC_USER) is not None:
            return True
        key = (stanza.from_, stanza.to.bare)
        if stanza.type == "" and stanza.child("x", _MUC) is not None and len(self._rooms) < _ROOMS:
            self._rooms.add(key)
        if stanza.type in ("unavailable", "error"):
            self._rooms.discard(key)
        return key in self._rooms

    def _note_client(self, stanza: Stanza) -> None:
        """Remember which clients a user has, by the address in their capabilities (XEP-0115)."""
        user, resource = stanza.from_.bare, stanza.from_.resource
        if stanza.type:
            clients = self._jabber.get(user)
            if clients is not None:
                clients.pop(resource, None)
                if not clients:
                    del self._jabber[user]
            return
        caps = stanza.child("c", _CAPS)
        node = caps.get("node", "").lower() if caps is not None else ""
        self._jabber.setdefault(user, {})[resource] = "cisco" in node and "jabber" in node


def _availability(stanza: Stanza) -> Availability:
    show = (stanza.text("show") or "").strip()
    return Availability(True, show, (stanza.text("status") or "").strip())


def _with_show(stanza: Stanza, show: str) -> str:
    """Return a stanza as XML with another show; untouched if it is the same."""
    if show == (stanza.text("show") or "").strip():
        return stanza.to_xml()
    name = f"{{{stanza.namespace}}}show"
    changed: Element = copy(stanza.element)
    old = changed.find(name)
    if old is not None and not show:
        changed.remove(old)
    elif old is not None:
        new = copy(old)
        new.text = show
        changed[list(changed).index(old)] = new
    else:
        new = Element(name)
        new.text = show
        changed.insert(0, new)
    return element_xml(changed, stanza.namespace)
