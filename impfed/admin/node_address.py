"""Who answers at the node's own address, for example ``federation.company.example``.

A user writes ``login`` there and gets a one-time link to his page; whatever else he writes gets him
a help text.  Only local users get here: the home link refuses everybody else.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure
from zope.interface import implementer

from impfed.admin.commands import FEATURES, Commands
from impfed.admin.login import RateLimit, TooMany
from impfed.admin.options_api import ForeignDomain
from impfed.core.ids import IdSource
from impfed.core.log import EventLog
from impfed.core.metrics import Metrics
from impfed.transport.home import IOwnAddress
from impfed.xmpp.jid import JID
from impfed.xmpp.stanza import OutStanza, Stanza, message, presence, xml_text

log = EventLog("impfed.admin")

#: Answers that one user gets within :data:`ANSWER_WINDOW` seconds; two machines must not talk for ever.
ANSWERS, ANSWER_WINDOW = 20, 60.0

_LOGIN_WORDS = frozenset({"login", "log in", "logon", "log on", "sign in", "link"})
#: Elements of messages that we cannot read: OMEMO, OpenPGP, and XEP-0380's word for it.
_ENCRYPTED = (
    ("encrypted", "eu.siacs.conversations.axolotl"),
    ("encrypted", "urn:xmpp:omemo:2"),
    ("openpgp", "urn:xmpp:openpgp:0"),
    ("encryption", "urn:xmpp:eme:0"),
)
#: The text of a link is not to lie in archives, nor on other devices.
_PRIVATE = "<no-permanent-store xmlns='urn:xmpp:hints'/><no-copy xmlns='urn:xmpp:hints'/>"


class Sends(Protocol):
    """The home links, as far as they are used here."""

    def send(self, stanza: OutStanza) -> bool:
        """Write a stanza; False if there is no link."""
        ...


@implementer(IOwnAddress)
class NodeAddress:
    """Answers messages, presence and commands.

    :param link_for: makes a one-time link for a local user, or fails with TooMany; None where there
        is no page.
    :param domains: the foreign domains whose people can be reached.
    """

    def __init__(
        self,
        home: Sends,
        ids: IdSource,
        metrics: Metrics,
        seconds: Callable[[], float],
        commands: Commands,
        link_for: Callable[[JID], Deferred[str]] | None,
        domains: Callable[[], Sequence[ForeignDomain]],
    ) -> None:
        self._home = home
        self._ids = ids
        self._metrics = metrics
        self._commands = commands
        self._link_for = link_for
        self._domains = domains
        self._rate = RateLimit(ANSWERS, ANSWER_WINDOW, seconds)
        self.features = FEATURES

    # -- messages ----------------------------------------------------------------------------------

    def stanza_arrived(self, stanza: Stanza) -> None:
        """Take a message or presence from a local user to the node itself."""
        if not stanza.from_.local:
            return  # a server speaks, not a person
        if stanza.kind == "presence":
            self._presence_arrived(stanza)
            return
        body = (stanza.text("body") or "").strip()
        if stanza.type not in ("", "chat", "normal") or not body:
            return
        try:
            self._rate.take(stanza.from_.bare)
        except TooMany:
            self._metrics.count("admin.unanswered")
            return
        if any(stanza.child(name, space) is not None for name, space in _ENCRYPTED):
            self._reply(stanza, "I cannot read encrypted messages. Switch encryption off for me.")
        elif " ".join(body.lower().strip("/!.\"'“”‘’ ").split()) in _LOGIN_WORDS:
            self._login(stanza)
        else:
            self._reply(stanza, self.help_text(stanza.to.domain))

    def _login(self, stanza: Stanza) -> None:
        user = stanza.from_.bare
        if self._link_for is None:
            text = "There is no web page here. Use the commands in your chat program's menu."
            self._reply(stanza, text)
            return
        made = self._link_for(user)
        made.addCallbacks(partial(self._link, stanza, user), partial(self._no_link, stanza))

    def _no_link(self, stanza: Stanza, failure: Failure) -> None:
        self._metrics.count("admin.login_refused")
        text = "No link can be made at present. Ask again in a minute."
        if isinstance(failure.value, TooMany):
            minutes = max(1, round(failure.value.wait / 60))
            plural = "" if minutes == 1 else "s"
            text = f"You asked for many links. Ask again in {minutes} minute{plural}."
        else:
            log.failure("no_link", "a login link cannot be made", failure)
        self._reply(stanza, text)

    def _link(self, stanza: Stanza, user: JID, link: str) -> None:
        self._metrics.count("admin.links")
        log.info("link_sent", "a login link was sent to {user}", user=str(user))
        text = (
            f"Your User Options: {link}\n"
            "The link works once, for 5 minutes, and for you alone: do not pass it on."
        )
        self._reply(stanza, text, _PRIVATE)

    def help_text(self, domain: str) -> str:
        """Return what somebody is told who wrote anything but ``login``.

        :param domain: the node's own address.
        """
        domains = self._domains()
        lines = ["I connect you with people at other organisations."]
        if domains:
            lines[0] = "I connect you with people at:"
            for each in domains[:20]:
                words = f" ({each.description})" if each.description else ""
                lines.append(f"• {each.name}{words}")
            if len(domains) > 20:
                lines.append(f"• and {len(domains) - 20} more")
            lines.append(f"Add them in your chat program like anybody else: name@{domains[0].name}")
        if self._link_for is not None:
            lines.append(
                "Write login, and I send you a link to your User Options: who may see you, requests"
                " that wait for your answer, new contacts."
            )
        lines.append(
            f"Many chat programs show the same as commands of {domain} (in Gajim and Psi:"
            " “Execute command…”)."
        )
        return "\n".join(lines)

    def _reply(self, stanza: Stanza, text: str, payload: str = "") -> None:
        thread = stanza.child("thread")
        if thread is not None and thread.text:
            payload += f"<thread>{xml_text(thread.text)}</thread>"
        reply = message(
            stanza.from_,
            stanza.to,
            id=self._ids.token(),
            type=stanza.type if stanza.type == "chat" else "normal",
            body=text,
            payload=payload,
        )
        if not self._home.send(reply):
            log.warn("unsent", "an answer to {user} could not be sent", user=str(stanza.from_.bare))

    # -- presence: whoever wants us on his contact list may have us there ---------------------------

    def _presence_arrived(self, stanza: Stanza) -> None:
        user, own = stanza.from_.bare, stanza.to.bare
        if stanza.type == "subscribe":
            self._home.send(presence(user, own, type="subscribed"))
        if stanza.type in ("subscribe", "probe"):
            self._home.send(presence(user, own, status="Write login, or anything for help"))
        elif stanza.type == "unsubscribe":
            self._home.send(presence(user, own, type="unsubscribed"))

    # -- commands ----------------------------------------------------------------------------------

    def iq_arrived(self, stanza: Stanza) -> bool:
        """Answer an IQ of type get or set; False leaves it to the home link."""
        if not stanza.from_.local or stanza.to.local:
            return False
        return self._commands.iq_arrived(stanza, self._home.send)
