"""Stanzas: what arrives, as a thin view of an ElementTree element; what leaves, as finished XML.

Arriving stanzas are read lazily and cost no copy.  Leaving ones are built by templates in which
every value is escaped, so that no address, id or text can open a tag (:mod:`impfed.xmpp.xmltext`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple
from xml.etree.ElementTree import Element, ParseError, fromstring

from impfed.core.errors import LocalError, RemoteError
from impfed.xmpp.jid import JID
from impfed.xmpp.xmltext import xml_attr, xml_text

__all__ = [
    "CONDITIONS",
    "JID",
    "NS_STANZAS",
    "OutStanza",
    "Stanza",
    "StanzaError",
    "StanzaProblem",
    "element_xml",
    "error_of",
    "error_reply",
    "iq",
    "iq_result",
    "message",
    "message_error",
    "presence",
    "read_stanza",
    "xml_attr",
    "xml_text",
]

NS_STANZAS = "urn:ietf:params:xml:ns:xmpp-stanzas"
NS_XML = "http://www.w3.org/XML/1998/namespace"
_LANG = f"{{{NS_XML}}}lang"

#: Stanza error conditions of RFC 6120 section 8.3.3, each with its ordinary error type.
CONDITIONS = {
    "bad-request": "modify",
    "conflict": "cancel",
    "feature-not-implemented": "cancel",
    "forbidden": "auth",
    "gone": "cancel",
    "internal-server-error": "cancel",
    "item-not-found": "cancel",
    "jid-malformed": "modify",
    "not-acceptable": "modify",
    "not-allowed": "cancel",
    "not-authorized": "auth",
    "payment-required": "auth",
    "policy-violation": "modify",
    "recipient-unavailable": "wait",
    "redirect": "modify",
    "registration-required": "auth",
    "remote-server-not-found": "cancel",
    "remote-server-timeout": "wait",
    "resource-constraint": "wait",
    "service-unavailable": "cancel",
    "subscription-required": "auth",
    "undefined-condition": "cancel",
    "unexpected-request": "wait",
}
ERROR_TYPES = frozenset({"auth", "cancel", "continue", "modify", "wait"})


class StanzaProblem(RemoteError):
    """A stanza that breaks the rules of RFC 6120 section 8; an error stanza answers it."""

    def __init__(self, condition: str, text: str) -> None:
        super().__init__(400, text)
        self.condition = condition


class Stanza:
    """A stanza that has arrived.

    :ivar kind: "message", "presence" or "iq".
    :ivar to: recipient.
    :ivar from_: sender.
    :ivar id: the id attribute, "" if there is none.
    :ivar type: the type attribute as sent, "" if there is none (a message is then "normal").
    :ivar lang: the xml:lang attribute of the stanza itself, "" if there is none.
    :ivar element: the element; not to be changed.
    :ivar namespace: the stream's content namespace.
    :ivar handed: marks the hand-over by a home server that keeps it until acknowledged; the same
        stanza has it again when it comes again.  "" for none.
    """

    __slots__ = ("element", "from_", "handed", "id", "kind", "lang", "namespace", "to", "type")

    def __init__(self, kind: str, namespace: str, element: Element) -> None:
        """Read the attributes.

        :raises JidError: an address is missing or malformed.
        """
        attributes = element.attrib
        self.kind = kind
        self.namespace = namespace
        self.element = element
        self.to = JID.parse(attributes.get("to", ""))
        self.from_ = JID.parse(attributes.get("from", ""))
        self.id = attributes.get("id", "")
        self.type = attributes.get("type", "")
        self.lang = attributes.get(_LANG, "")
        self.handed = ""

    @classmethod
    def of(cls, element: Element) -> Stanza:
        """Return the view of an element, whose own namespace is taken as content namespace.

        :raises JidError: an address is missing or malformed.
        :raises StanzaProblem: the element is no message, presence or iq.
        """
        namespace, _, kind = element.tag.removeprefix("{").rpartition("}")
        if kind not in ("message", "presence", "iq"):
            raise StanzaProblem("bad-request", f"{kind} is no stanza")
        return cls(kind, namespace, element)

    def child(self, name: str, namespace: str = "") -> Element | None:
        """Return the first child with a name; the namespace is the stream's own unless given."""
        return self.element.find(f"{{{namespace or self.namespace}}}{name}")

    def text(self, name: str, namespace: str = "") -> str | None:
        """Return the text of the first child with a name ("" if it is empty), None without one."""
        child = self.element.find(f"{{{namespace or self.namespace}}}{name}")
        return None if child is None else child.text or ""

    def to_xml(self) -> str:
        """Return the stanza as XML, for traces and error replies."""
        return element_xml(self.element, self.namespace)

    def __repr__(self) -> str:
        return f"<{self.kind} {self.type or '-'} {self.from_} -> {self.to} id={self.id!r}>"


def read_stanza(xml: str, namespace: str = "jabber:component:accept") -> Stanza:
    """Return the stanza that :meth:`Stanza.to_xml` has written, on another node perhaps.

    :raises StanzaProblem: the text is no stanza.
    """
    try:
        (element,) = fromstring(f"<stream xmlns='{namespace}'>{xml}</stream>")
    except (ParseError, ValueError) as error:
        raise StanzaProblem("bad-request", f"no stanza: {error}") from error
    return Stanza.of(element)


class OutStanza(NamedTuple):
    """A stanza on its way out.

    :ivar kind: "message", "presence" or "iq".
    :ivar to: recipient.
    :ivar from_: sender.
    :ivar id: its id, "" if it has none.
    :ivar xml: the whole stanza; names without prefix are in the stream's content namespace.
    :ivar answers: the mark of the hand-over that it is the last word on (:attr:`Stanza.handed`).
    """

    kind: str
    to: JID
    from_: JID
    id: str
    xml: str
    answers: str = ""

    @property
    def tells_of_failure(self) -> bool:
        """Whether it is a message of type error: its reader must get it, and nobody can be told else."""
        return self.kind == "message" and " type='error'" in self.xml[: self.xml.find(">")]


def _head(kind: str, to: JID, from_: JID, id: str, type: str, lang: str = "") -> str:
    head = f"<{kind} from='{from_.attribute}' to='{to.attribute}'"
    if id:
        head += f" id='{xml_attr(id)}'"
    if type:
        head += f" type='{xml_attr(type)}'"
    if lang:
        head += f" xml:lang='{xml_attr(lang)}'"
    return head


def message(
    to: JID,
    from_: JID,
    *,
    id: str = "",
    type: str = "chat",
    body: str | None = None,
    payload: str = "",
    lang: str = "",
) -> OutStanza:
    """Build a message.

    :param body: text, None for no body at all.
    :param payload: extension elements, serialised and escaped already.
    """
    content = payload if body is None else f"<body>{xml_text(body)}</body>{payload}"
    xml = f"{_head('message', to, from_, id, type, lang)}>{content}</message>"
    return OutStanza("message", to, from_, id, xml)


def presence(
    to: JID,
    from_: JID,
    *,
    type: str = "",
    show: str = "",
    status: str = "",
    priority: int | None = None,
    payload: str = "",
    id: str = "",
) -> OutStanza:
    """Build a presence stanza; an empty type is "available" (RFC 6121 section 4.7.1)."""
    content = f"<show>{xml_text(show)}</show>" if show else ""
    if status:
        content += f"<status>{xml_text(status)}</status>"
    if priority is not None:
        content += f"<priority>{int(priority)}</priority>"
    xml = f"{_head('presence', to, from_, id, type)}>{content}{payload}</presence>"
    return OutStanza("presence", to, from_, id, xml)


def iq(to: JID, from_: JID, *, id: str, type: str, payload: str = "") -> OutStanza:
    """Build an IQ; type is "get", "set" or "result"."""
    xml = f"{_head('iq', to, from_, id, type)}>{payload}</iq>"
    return OutStanza("iq", to, from_, id, xml)


def iq_result(request: Stanza, payload: str = "") -> OutStanza:
    """Answer an IQ of type get or set."""
    return iq(request.from_, request.to, id=request.id, type="result", payload=payload)


def _error_element(condition: str, type: str, text: str) -> str:
    if condition not in CONDITIONS:
        raise LocalError(f"{condition!r} is no stanza error condition of RFC 6120")
    type = type or CONDITIONS[condition]
    if type not in ERROR_TYPES:
        raise LocalError(f"{type!r} is no stanza error type of RFC 6120")
    words = f"<text xmlns='{NS_STANZAS}'>{xml_text(text)}</text>" if text else ""
    return f"<error type='{type}'><{condition} xmlns='{NS_STANZAS}'/>{words}</error>"


def answerable(stanza: Stanza) -> bool:
    """Whether a stanza that went nowhere is answered with an error."""
    if stanza.kind == "iq":
        return stanza.type in ("get", "set")
    if stanza.kind == "presence":
        return stanza.type in ("", "subscribe")
    return stanza.type != "error"


def error_reply(
    stanza: Stanza, condition: str, type: str = "", text: str = "", *, original: bool = True
) -> OutStanza:
    """Answer a stanza with an error that quotes its id and, by default, its content.

    :param condition: a condition of RFC 6120 section 8.3.3.
    :param type: error type; the condition's ordinary one when empty.
    :param text: words for people, without markup.
    :param original: whether the children of the stanza are sent back with the error.
    :raises LocalError: the stanza is an error or a result, which are never answered; or the
        condition or type does not exist.
    """
    if stanza.type == "error" or (stanza.kind == "iq" and stanza.type == "result"):
        raise LocalError(f"{stanza.kind} of type {stanza.type} is never answered")
    quoted = ""
    if original:
        quoted = "".join([element_xml(child, stanza.namespace) for child in stanza.element])
    head = _head(stanza.kind, stanza.from_, stanza.to, stanza.id, "error", stanza.lang)
    xml = f"{head}>{quoted}{_error_element(condition, type, text)}</{stanza.kind}>"
    return OutStanza(stanza.kind, stanza.from_, stanza.to, stanza.id, xml, stanza.handed)


def message_error(
    to: JID,
    from_: JID,
    *,
    id: str,
    condition: str,
    type: str = "",
    text: str = "",
    body: str | None = None,
    lang: str = "",
) -> OutStanza:
    """Build the error for a message that is not at hand as a stanza (from the outbox, say)."""
    quoted = "" if body is None else f"<body>{xml_text(body)}</body>"
    head = _head("message", to, from_, id, "error", lang)
    xml = f"{head}>{quoted}{_error_element(condition, type, text)}</message>"
    return OutStanza("message", to, from_, id, xml)


def presence_error(
    to: JID, from_: JID, id: str, condition: str, type: str = "", text: str = ""
) -> OutStanza:
    """Build the error for a presence stanza that is not at hand any more."""
    head = _head("presence", to, from_, id, "error")
    xml = f"{head}>{_error_element(condition, type, text)}</presence>"
    return OutStanza("presence", to, from_, id, xml)


@dataclass(frozen=True, slots=True)
class StanzaError:
    """What an error stanza says.

    :ivar condition: condition of RFC 6120, "undefined-condition" if it names none we know.
    :ivar type: "cancel", "wait", "modify", "auth" or "continue".
    :ivar text: its words, "" if there are none.
    """

    condition: str
    type: str
    text: str


def error_of(stanza: Stanza) -> StanzaError:
    """Read the error element of a stanza of type error, leniently."""
    error = stanza.child("error")
    condition, text = "undefined-condition", ""
    if error is None:
        return StanzaError(condition, "cancel", "")
    for child in error:
        name = child.tag.removeprefix(f"{{{NS_STANZAS}}}")
        if name == "text":
            text = child.text or ""
        elif name in CONDITIONS:
            condition = name
    type = error.get("type", "")
    return StanzaError(condition, type if type in ERROR_TYPES else CONDITIONS[condition], text)


def element_xml(element: Element, namespace: str = "") -> str:
    """Serialise an element where ``namespace`` is in force; prefixes are not kept, meaning is.

    Iterative, so that depth costs no stack.
    """
    parts: list[str] = []
    # What is still to be written: ready text, or an element with the namespace in force around it.
    pending: list[str | tuple[Element, str]] = [(element, namespace)]
    first = True
    while pending:
        item = pending.pop()
        if isinstance(item, str):
            parts.append(item)
            continue
        node, around = item
        tail = "" if first else xml_text(node.tail or "")
        first = False
        own, _, name = node.tag.removeprefix("{").rpartition("}")
        declared = f" xmlns='{xml_attr(own)}'" if own != around else ""
        attributes = _attributes_xml(node)
        text = xml_text(node.text or "")
        if not text and not len(node):
            parts.append(f"<{name}{declared}{attributes}/>{tail}")
            continue
        parts.append(f"<{name}{declared}{attributes}>{text}")
        pending.append(f"</{name}>{tail}")
        pending.extend((child, own) for child in reversed(node))
    return "".join(parts)


def _attributes_xml(element: Element) -> str:
    parts = []
    for count, (key, value) in enumerate(element.attrib.items()):
        space, _, name = key.removeprefix("{").rpartition("}")
        if not space:
            parts.append(f" {name}='{xml_attr(value)}'")
        elif space == NS_XML:
            parts.append(f" xml:{name}='{xml_attr(value)}'")
        else:
            prefix = f"a{count}"
            parts.append(f" xmlns:{prefix}='{xml_attr(space)}' {prefix}:{name}='{xml_attr(value)}'")
    return "".join(parts)
