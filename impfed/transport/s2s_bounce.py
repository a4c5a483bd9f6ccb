"""Errors for stanzas that cannot be delivered, or cannot be read."""

from __future__ import annotations

from impfed.xmpp.jid import JID, JidError
from impfed.xmpp.reader import NS_STREAMS, BadStanza, StanzaReader
from impfed.xmpp.s2s_parts import NS_SERVER
from impfed.xmpp.stanza import (
    NS_STANZAS,
    OutStanza,
    Stanza,
    error_reply,
    xml_attr,
    xml_text,
)

_HEADER = f"<stream:stream xmlns='{NS_SERVER}' xmlns:stream='{NS_STREAMS}'>".encode()


def bounced(stanza: OutStanza, condition: str, words: str) -> Stanza | None:
    """Return the error for an outgoing stanza, as if the far side had sent it.

    None for what is never answered: errors and results.
    """
    original = read_stanza(stanza.xml)
    if original is None or original.type in ("error", "result"):
        return None
    return read_stanza(error_reply(original, condition, text=words).xml)


def bad_stanza_reply(bad: BadStanza) -> OutStanza | None:
    """Return the error for a stanza whose addresses are malformed; None if none can be sent."""
    get = bad.element.get
    if get("type") in ("error", "result"):
        return None
    try:
        sender = JID.parse(get("from", ""))
        local = JID.parse(get("to", "").partition("/")[0].rpartition("@")[2])
    except JidError:
        return None
    id = get("id", "")
    # The address itself cannot stand in a stanza, so its domain answers.
    xml = (
        f"<{bad.kind} type='error' from='{local.attribute}' to='{sender.attribute}'"
        f" id='{xml_attr(id)}'><error type='modify'><jid-malformed xmlns='{NS_STANZAS}'/>"
        f"<text xmlns='{NS_STANZAS}'>{xml_text(bad.problem)}</text></error></{bad.kind}>"
    )
    return OutStanza(bad.kind, sender, local, id, xml)


def read_stanza(xml: str) -> Stanza | None:
    """Return a stanza written in the namespace of server streams; None if it is none."""
    reader = StanzaReader(NS_SERVER)
    reader.feed(_HEADER)
    for item in reader.feed(xml.encode("utf-8", "replace")):
        if isinstance(item, Stanza):
            return item
    return None
