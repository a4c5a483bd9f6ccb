"""Users of a played XMPP server, with their clients: texts, presence, subscriptions (RFC 6121)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any
from xml.sax.saxutils import escape, quoteattr

from tests.simulation.history import History
from tests.simulation.loop import SimReactor

#: What somebody shows: ("", "") for available without a text; None for offline.
Presence = tuple[str, str] | None

_UNAVAILABLE = (
    "<error type='cancel'>"
    "<service-unavailable xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error>"
)


def domain_of(address: str) -> str:
    """Return the domain of an address."""
    return address.partition("/")[0].rpartition("@")[2]


class Accounts:
    """What every XMPP server does for its users; how stanzas travel is up to the kind of server.

    :param namespace: that of stanzas on its streams.
    :ivar users: presence of each user.
    :ivar seen: presence that each user was last shown of each contact.
    :ivar may_see_us: pairs (user, contact) whose contact sees the user.
    """

    def __init__(
        self, reactor: SimReactor, history: History, users: Iterable[str], namespace: str
    ) -> None:
        self.reactor = reactor
        self.history = history
        self.users: dict[str, Presence] = dict.fromkeys(users, ("", ""))
        self.seen: dict[tuple[str, str], Presence] = {}
        self.may_see_us: set[tuple[str, str]] = set()
        self.wanted: set[tuple[str, str]] = set()
        self._subscribed: set[tuple[str, str]] = set()
        self._space = f"{{{namespace}}}"
        self._count = 0
        self.written: dict[str, str] = {}  # texts by their stanzas' ids

    # -- how stanzas travel ------------------------------------------------------------------------

    def say(self, xml: str, contact: str) -> None:
        """Send presence, or a message of the server's own."""
        raise NotImplementedError

    def send_text(self, id: str, xml: str, contact: str) -> None:
        """Send a user's message."""
        raise NotImplementedError

    def answer(self, xml: str, contact: str) -> None:
        """Send the answer to a question."""
        self.say(xml, contact)

    # -- what users do -----------------------------------------------------------------------------

    def write(self, user: str, contact: str, text: str) -> None:
        """A user writes to somebody outside."""
        self._count += 1
        id = f"h{self._count}"
        self.history.sent(text, user, contact, self.reactor.loop.now)
        self.written[id] = text
        self.send_text(
            id,
            f"<message from='{user}/pc' to='{contact}' id='{id}' type='chat'>"
            f"<body>{escape(text)}</body></message>",
            contact,
        )

    def show(self, user: str, presence: Presence) -> None:
        """A user changes his presence, or logs out."""
        self.users[user] = presence
        for each, contact in sorted(self.may_see_us):
            if each == user:
                self._tell(user, contact)

    def watch(self, user: str, contact: str) -> None:
        """A user asks to see somebody outside."""
        self.wanted.add((user, contact))
        self.ask(user, contact)

    def ask(self, user: str, contact: str) -> None:
        """Ask for the presence that a user wants to see."""
        if (user, contact) in self._subscribed:
            self.say(f"<presence from='{user}/pc' to='{contact}' type='probe'/>", contact)
        else:
            self.say(f"<presence from='{user}' to='{contact}' type='subscribe'/>", contact)

    def _tell(self, user: str, contact: str) -> None:
        head = f"<presence from='{user}/pc' to='{contact}'"
        presence = self.users[user]
        if presence is None:
            self.say(f"{head} type='unavailable'/>", contact)
            return
        show, status = presence
        inner = f"<show>{show}</show>" if show else ""
        inner += f"<status>{escape(status)}</status>" if status else ""
        self.say(f"{head}>{inner}</presence>", contact)

    # -- what comes --------------------------------------------------------------------------------

    def handle(self, element: Any) -> None:
        """Take a stanza for one of the users, or for the server."""
        handlers: dict[str, Callable[[Any, str, str], None]] = {
            "message": self._message,
            "presence": self._presence,
            "iq": self._iq,
        }
        kind = element.tag.removeprefix(self._space)
        handlers[kind](element, element.get("to", ""), element.get("from", ""))

    def _message(self, element: Any, to: str, sender: str) -> None:
        text = element.findtext(f"{self._space}body") or ""
        id, user = element.get("id", ""), to.partition("/")[0]
        if element.get("type") == "error":
            words = "".join(child.tag.rpartition("}")[2] for child in element.iter())
            self.history.returned(self.written.get(id) or text, words)
        elif user not in self.users:
            head = f"<message from='{to}' to='{sender}' id={quoteattr(id)} type='error'>"
            self.say(f"{head}{_UNAVAILABLE}</message>", sender)
        elif text:
            self.history.shown(text, user, self.reactor.loop.now)

    def _presence(self, element: Any, to: str, sender: str) -> None:
        user, contact = to.partition("/")[0], sender.partition("/")[0]
        type = element.get("type", "")
        if type == "subscribe":
            self.may_see_us.add((user, contact))
            self.say(f"<presence from='{user}' to='{contact}' type='subscribed'/>", contact)
            self._tell(user, contact)
        elif type == "probe":
            if (user, contact) in self.may_see_us:
                self._tell(user, contact)
            else:
                self.say(f"<presence from='{user}' to='{contact}' type='unsubscribed'/>", contact)
        elif type == "subscribed":
            self._subscribed.add((user, contact))
        elif type == "unsubscribed":
            self._subscribed.discard((user, contact))
            self.seen[user, contact] = None
        elif type == "unavailable":
            self.seen[user, contact] = None
        elif type == "":
            show = element.findtext(f"{self._space}show") or ""
            self.seen[user, contact] = (show, element.findtext(f"{self._space}status") or "")

    def _iq(self, element: Any, to: str, sender: str) -> None:
        if element.get("type") not in ("get", "set"):
            return
        head = f"<iq from='{to}' to='{sender}' id={quoteattr(element.get('id', ''))}"
        if any(child.tag == "{urn:xmpp:ping}ping" for child in element):
            self.answer(f"{head} type='result'/>", sender)
        else:
            self.answer(f"{head} type='error'>{_UNAVAILABLE}</iq>", sender)
