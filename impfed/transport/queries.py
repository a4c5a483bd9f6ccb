"""Answers to IQs: service discovery, ping, version by wokkel's handlers; all others are refused.

IQs are rare, so they may become domish elements; messages and presence never do.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from xml.etree.ElementTree import Element

from twisted.words.protocols.jabber.jid import InvalidFormat, internJID
from twisted.words.protocols.jabber.xmlstream import XMPPHandlerCollection
from twisted.words.xish import domish, utility
from zope.interface import implementer

import impfed
from impfed.transport import wokkel_shim  # noqa: F401  (before wokkel)
from impfed.xmpp.jid import JID
from impfed.xmpp.stanza import Stanza, error_reply

from wokkel import disco, generic, ping  # isort: skip
from wokkel.iwokkel import IDisco  # isort: skip
from wokkel.subprotocols import XMPPHandler  # isort: skip


@dataclass(frozen=True, slots=True)
class Description:
    """What service discovery says of an address (XEP-0030).

    :ivar category: category of the identity, for example "gateway".
    :ivar type: its type, for example "simple".
    :ivar name: its name for people, or "".
    :ivar features: features besides those of the handlers here.
    """

    category: str
    type: str
    name: str = ""
    features: tuple[str, ...] = ()


@implementer(IDisco)
class _Identities(XMPPHandler):  # type: ignore[misc]  # wokkel has no types
    """Feeds wokkel's discovery handler from our descriptions."""

    def __init__(self, describe: Callable[[JID], Sequence[Description]]) -> None:
        super().__init__()
        self._describe = describe

    def getDiscoInfo(self, requestor: Any, target: Any, node: str = "") -> list[Any]:
        if node:
            return []
        info: list[Any] = []
        for description in self._describe(JID.parse(target.full())):
            name = description.name or None
            info.append(disco.DiscoIdentity(description.category, description.type, name))
            info += [disco.DiscoFeature(feature) for feature in description.features]
        info += [disco.DiscoFeature(disco.NS_DISCO_INFO), disco.DiscoFeature(disco.NS_DISCO_ITEMS)]
        return info

    def getDiscoItems(self, requestor: Any, target: Any, node: str = "") -> list[Any]:
        return []


class Queries(XMPPHandlerCollection):
    """Wokkel handlers, fed with stanzas of ours; further handlers may be added.

    :param send: takes the serialised answers.
    :param describe: what discovery says of an address at one of the link's domains.
    """

    def __init__(
        self, send: Callable[[str], None], describe: Callable[[JID], Sequence[Description]]
    ) -> None:
        XMPPHandlerCollection.__init__(self)
        self._send = send
        # Stand-ins for addresses that wokkel cannot read, while their answer is being made.
        self._aliases: dict[str, str] = {}
        self._count = 0
        stream: Any = utility.EventDispatcher()
        stream.send = self.send
        self.xmlstream = stream
        for handler in (
            disco.DiscoHandler(),
            ping.PingHandler(),
            generic.VersionHandler("impfed", impfed.__version__),
            _Identities(describe),
            generic.FallbackHandler(),
        ):
            handler.setHandlerParent(self)
            handler.makeConnection(self.xmlstream)
            handler.connectionInitialized()

    def handle(self, stanza: Stanza) -> None:
        """Answer an IQ of type get or set."""
        element = to_domish(stanza.element)
        if not _understood(stanza.to.text):
            self._send(error_reply(stanza, "service-unavailable").xml)
            return
        if not _understood(stanza.from_.text):
            self._count += 1
            alias = f"alias-{self._count}.invalid"
            self._aliases[alias] = element["from"]
            element["from"] = alias
        self.xmlstream.dispatch(element)

    def send(self, element: Any) -> None:
        """Send a domish element, an answer of one of the handlers."""
        to = self._aliases.pop(element.getAttribute("to", ""), None)
        if to is not None:
            element["to"] = to
        self._send(element.toXml())


def _understood(address: str) -> bool:
    """Say whether wokkel can read an address: it knows the profiles of RFC 6122 only.

    Those have Unicode 3.2, so that a resource with an emoji is none to them.
    """
    try:
        internJID(address)
    except InvalidFormat:
        return False
    return True


def to_domish(element: Element) -> Any:
    """Return an ElementTree element as a domish element, for wokkel."""
    result = domish.Element(_name(element.tag))
    for key, value in element.attrib.items():
        result[_name(key) if key.startswith("{") else key] = value
    if element.text:
        result.addContent(element.text)
    for child in element:
        result.addChild(to_domish(child))
        if child.tail:
            result.addContent(child.tail)
    return result


def _name(key: str) -> tuple[str | None, str]:
    space, _, name = key.removeprefix("{").rpartition("}")
    return space or None, name
