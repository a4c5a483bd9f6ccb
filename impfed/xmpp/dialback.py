"""Server dialback: keys by XEP-0185, elements and errors by XEP-0220.

A key says who it was made for, by whom, and for which stream, under a secret that all nodes share;
so the node that is asked whether a key is right need not be the one that made it.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass
from hashlib import sha256
from xml.etree.ElementTree import Element

from impfed.xmpp.stanza import NS_STANZAS
from impfed.xmpp.xmltext import xml_attr, xml_text

NS_DIALBACK = "jabber:server:dialback"
NS_FEATURE = "urn:xmpp:features:dialback"

RESULT = f"{{{NS_DIALBACK}}}result"
VERIFY = f"{{{NS_DIALBACK}}}verify"

#: Dialback error conditions (XEP-0220 section 2.5), each with its ordinary error type.
CONDITIONS = {
    "bad-request": "modify",
    "forbidden": "auth",
    "internal-server-error": "cancel",
    "item-not-found": "cancel",
    "not-allowed": "cancel",
    "not-authorized": "auth",
    "policy-violation": "cancel",
    "remote-connection-failed": "cancel",
    "remote-server-not-found": "cancel",
    "remote-server-timeout": "wait",
    "resource-constraint": "wait",
}


class DialbackKeys:
    """Makes and checks keys (XEP-0185 section 3).

    :param secret: shared by all nodes of the cluster; never shown.
    """

    __slots__ = ("_hashed",)

    def __init__(self, secret: str) -> None:
        self._hashed = sha256(secret.encode()).hexdigest().encode()

    def key(self, receiving: str, originating: str, stream_id: str) -> str:
        """Return the key with which ``originating`` proves itself to ``receiving`` on a stream."""
        text = f"{receiving} {originating} {stream_id}"
        return hmac.new(self._hashed, text.encode(), sha256).hexdigest()

    def right(self, receiving: str, originating: str, stream_id: str, key: str) -> bool:
        """Say whether a key is right, in constant time; white space around it does not count."""
        wanted = self.key(receiving, originating, stream_id)
        return hmac.compare_digest(wanted.encode(), key.strip().encode("utf-8", "replace"))


@dataclass(frozen=True, slots=True)
class DialbackElement:
    """A ``<db:result/>`` or ``<db:verify/>`` as it came.

    :ivar from_: domain, as sent.
    :ivar to: domain, as sent.
    :ivar type: "" for a question; "valid", "invalid" or "error" for an answer.
    :ivar key: the key of a question.
    :ivar condition: condition of an answer of type error.
    """

    from_: str
    to: str
    id: str
    type: str
    key: str
    condition: str

    @classmethod
    def of(cls, element: Element) -> DialbackElement:
        """Read the element."""
        get = element.get
        condition = ""
        for child in element:
            if child.tag.endswith("}error"):
                condition = _condition(child)
        return cls(
            get("from", ""),
            get("to", ""),
            get("id", ""),
            get("type", ""),
            (element.text or "").strip(),
            condition,
        )


def _condition(error: Element) -> str:
    for child in error:
        space, _, name = child.tag.removeprefix("{").rpartition("}")
        if space == NS_STANZAS and name != "text":
            return name
    return "undefined-condition"


def result(from_: str, to: str, key: str) -> str:
    """Ask the peer to accept ``from_`` on this stream."""
    return f"<db:result from='{xml_attr(from_)}' to='{xml_attr(to)}'>{xml_text(key)}</db:result>"


def verify(from_: str, to: str, stream_id: str, key: str) -> str:
    """Ask the authoritative server of ``to`` whether it made a key for a stream."""
    head = f"<db:verify from='{xml_attr(from_)}' to='{xml_attr(to)}' id='{xml_attr(stream_id)}'"
    return f"{head}>{xml_text(key)}</db:verify>"


def result_answer(from_: str, to: str, valid: bool) -> str:
    """Answer a request: ``to`` is accepted, or not."""
    head = f"<db:result from='{xml_attr(from_)}' to='{xml_attr(to)}'"
    return f"{head} type='{'valid' if valid else 'invalid'}'/>"


def verify_answer(from_: str, to: str, stream_id: str, valid: bool) -> str:
    """Answer whether a key was ours."""
    head = f"<db:verify from='{xml_attr(from_)}' to='{xml_attr(to)}' id='{xml_attr(stream_id)}'"
    return f"{head} type='{'valid' if valid else 'invalid'}'/>"


def result_error(from_: str, to: str, condition: str, text: str = "") -> str:
    """Answer a request with a dialback error; the stream goes on (XEP-0220 section 2.4)."""
    head = f"<db:result from='{xml_attr(from_)}' to='{xml_attr(to)}' type='error'>"
    return f"{head}{_error(condition, text)}</db:result>"


def verify_error(from_: str, to: str, stream_id: str, condition: str, text: str = "") -> str:
    """Answer the question for a key with a dialback error."""
    head = f"<db:verify from='{xml_attr(from_)}' to='{xml_attr(to)}' id='{xml_attr(stream_id)}'"
    return f"{head} type='error'>{_error(condition, text)}</db:verify>"


def _error(condition: str, text: str) -> str:
    type = CONDITIONS.get(condition, "cancel")
    words = f"<text xmlns='{NS_STANZAS}'>{xml_text(text)}</text>" if text else ""
    return f"<error type='{type}'><{condition} xmlns='{NS_STANZAS}'/>{words}</error>"
