"""The partner: a SIP server with its users, in the dialect of Microsoft's edges where it matters."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any
from xml.etree import ElementTree

from twisted.internet.protocol import ClientFactory, Factory, Protocol

from demo.farside.wire import Framer, Message, address_of, parameters, uri_of
from tests.simulation.accounts import Presence
from tests.simulation.cast import PARTNER, PARTNER_USERS
from tests.simulation.history import History
from tests.simulation.loop import SimReactor
from tests.simulation.referee import Referee

_SDP_BODY = (
    f"v=0\r\no=- 0 0 IN IP4 {PARTNER}\r\ns=session\r\nc=IN IP4 {PARTNER}\r\nt=0 0\r\n"
    "m=message 5060 sip null\r\na=accept-types:text/plain\r\n"
).encode()
#: How a state looks to XMPP users, and what the partner's users see of what those show.
_AS_PRESENCE: dict[str, Presence] = {
    "available": ("", ""), "busy": ("away", "Busy"), "away": ("away", ""), "offline": None,
}  # fmt: skip
_AS_STATE = {("", ""): "available", ("away", ""): "away", ("dnd", ""): "busy", None: "offline"}
STATES = tuple(_AS_PRESENCE)
_PIDF = "{urn:ietf:params:xml:ns:pidf}"
_STATUS = "urn:ietf:params:xml:ns:pidf:status:rpid-status"

#: Seconds from one SUBSCRIBE of a watcher to the next: each has one in the quiet time at the end of a run,
#: for a notifier may have given up a subscription whose NOTIFY nobody answered (RFC 6665 section 4.2.2).
_REFRESH = 180.0

Answered = Callable[[int], None]


@dataclass
class Dialog:
    """A dialog as the partner keeps it; ``role`` is who began it."""

    call_id: str
    ours: str  # From or To value with our tag
    theirs: str
    target: str
    routes: list[str]
    local: str  # our user's address
    remote: str
    cseq: int = 1
    event: str = ""
    expires: float = 0.0

    @property
    def key(self) -> tuple[str, str]:
        return self.call_id, parameters(self.ours)["tag"]


@dataclass
class _Pending:
    message: Message
    done: Answered
    dialog: Dialog | None


class _Wire(Protocol):
    """One connection."""

    transport: Any

    def __init__(self, partner: Partner) -> None:
        self._partner = partner
        self._framer = Framer()
        self.pending: dict[str, _Pending] = {}
        self.open = False

    def connectionMade(self) -> None:
        self.open = True
        self._partner.wires.append(self)

    def dataReceived(self, data: bytes) -> None:
        if data == b"\r\n\r\n":
            self.transport.write(b"\r\n")
        for message in self._framer.feed(data):
            self._partner.arrived(message, self)

    def connectionLost(self, reason: Any = None) -> None:
        self.open = False
        self._partner.wires.remove(self)
        pending, self.pending = self.pending, {}
        for each in pending.values():
            each.done(408)


@dataclass
class Conversation:
    """What one of our users writes to one of theirs: one text after the other.

    :ivar text: what has been sent, and not been answered; "" for nothing.
    """

    text: str = ""
    queue: list[str] = field(default_factory=list)
    dialog: Dialog | None = None
    busy: bool = False


class Partner:
    """The far side.

    :ivar up: whether its process lives.
    :ivar users: state of each user: "available", "busy", "away" or "offline".
    :ivar seen: what each of our users was last shown of each contact.
    :ivar watched: pairs (our user, their contact) that are to be watched.
    """

    def __init__(
        self, reactor: SimReactor, history: History, nodes: Sequence[str], referee: Referee
    ) -> None:
        self.referee = referee
        self.reactor = reactor
        self.history = history
        self.users = dict.fromkeys(PARTNER_USERS, "available")
        self.nodes = nodes
        self.wires: list[_Wire] = []
        self.seen: dict[tuple[str, str], str] = {}
        self.dialogs: dict[tuple[str, str], Dialog] = {}
        self.watching: dict[tuple[str, str], Dialog] = {}
        self.notified: dict[tuple[str, str], int] = {}
        self._told: dict[tuple[str, str], str] = {}
        self._conversations: dict[tuple[str, str], Conversation] = {}
        self._numbers = itertools.count(1)
        self._cseqs: dict[tuple[str, str], int] = {}
        self.up = False

    def start(self) -> None:
        """Listen; the users log in, and look for those whom they watch."""
        self.up = True
        factory = Factory()
        factory.noisy = False
        factory.buildProtocol = lambda _: _Wire(self)  # type: ignore[method-assign]
        self.reactor.listenTCP(5060, factory)
        for user, contact in list(self.watching):
            self.watch(user, contact)

    def restart(self, away: float) -> None:
        """Kill it, and start it again after some seconds; it knows of no dialog then.

        Who has written something sees his own connection break, and knows no more of it.
        """
        if not self.up:
            return
        self.up = False
        loop, network = self.reactor.loop, self.reactor.network
        network.process_died(self.reactor, False)
        self.reactor = SimReactor(loop, network, PARTNER)
        self.wires.clear()
        self.dialogs.clear()
        self.seen.clear()
        self._cseqs.clear()
        conversations, self._conversations = self._conversations, {}
        for each in conversations.values():
            for text in [each.text, *each.queue]:
                self.history.returned(text, "the sender's server is gone")
        loop.after(away, self.start)

    def _token(self) -> str:
        return f"{self.reactor.loop.random.getrandbits(48):012x}"

    # -- sending ---------------------------------------------------------------------------------

    def _request(
        self, method: str, uri: str, headers: list[tuple[str, str]], body: bytes, done: Answered,
        dialog: Dialog | None = None,
    ) -> None:  # fmt: skip
        """Send a request to a node; ``done`` hears the status, 408 for none."""
        via = f"SIP/2.0/TCP {PARTNER}:5060;branch=z9hG4bK{self._token()}"
        lines = [("Via", via), ("Max-Forwards", "68"), *headers]
        message = Message(f"{method} {uri} SIP/2.0", lines, body)
        pending = _Pending(message, done, dialog)
        standing = [wire for wire in self.wires if wire.open]
        if standing:
            self._put(standing[-1], pending)
            return
        factory = ClientFactory()
        factory.noisy = False
        wire = _Wire(self)
        factory.buildProtocol = lambda _: wire  # type: ignore[method-assign]
        factory.clientConnectionFailed = lambda *_: done(408)  # type: ignore[method-assign]
        made = wire.connectionMade

        def connected() -> None:
            made()
            self._put(wire, pending)

        wire.connectionMade = connected  # type: ignore[method-assign]
        host = self.reactor.loop.random.choice(self.nodes)
        self.reactor.connectTCP(host, 5060, factory, timeout=10)

    def _put(self, wire: _Wire, pending: _Pending) -> None:
        branch = pending.message.branch
        self.referee.asks(pending.message)
        wire.transport.write(pending.message.encode())
        if pending.message.method == "ACK":
            return
        wire.pending[branch] = pending
        self.reactor.callLater(32.0, self._give_up, wire, branch)

    def _give_up(self, wire: _Wire, branch: str) -> None:
        pending = wire.pending.pop(branch, None)
        if pending is not None:
            self.referee.unanswered(pending.message)
            wire.transport.abortConnection()  # silence this long: it is half-open
            pending.done(408)

    def _in_dialog(
        self, dialog: Dialog, method: str, headers: list[tuple[str, str]], body: bytes,
        done: Answered,
    ) -> None:  # fmt: skip
        dialog.cseq += 1
        lines = [("Route", route) for route in dialog.routes]
        lines += [("From", dialog.ours), ("To", dialog.theirs), ("Call-ID", dialog.call_id)]
        lines += [("CSeq", f"{dialog.cseq} {method}"), *headers]
        self._request(method, dialog.target, lines, body, done, dialog)

    # -- what comes ------------------------------------------------------------------------------

    def arrived(self, message: Message, wire: _Wire) -> None:
        """A message."""
        if not message.is_request:
            self.referee.answered(message)
            self._response(message, wire)
            return
        self.referee.asked(message)
        if message.method == "ACK":
            return
        status, headers, body, tag = self._answer(message)
        lines = [("Via", via) for via in message.values("via")]
        to = message.get("to")
        if tag and "tag=" not in to:
            to += f";tag={tag}"
        lines += [("From", message.get("from")), ("To", to), ("Call-ID", message.get("call-id"))]
        lines += [("CSeq", message.get("cseq")), *headers]
        wire.transport.write(Message(f"SIP/2.0 {status} Answer", lines, body).encode())
        self._afterwards(message)

    def _response(self, message: Message, wire: _Wire) -> None:
        if message.status < 200:
            return
        pending = wire.pending.pop(message.branch, None)
        if pending is None:
            return
        if pending.message.method in ("INVITE", "SUBSCRIBE") and message.status < 300:
            self._confirmed(pending, message)
        pending.done(message.status)

    def _confirmed(self, pending: _Pending, message: Message) -> None:
        dialog = pending.dialog
        assert dialog is not None
        dialog.theirs = message.get("to")
        dialog.target = uri_of(message.get("contact"))
        self.dialogs[dialog.key] = dialog
        if pending.message.method == "INVITE":
            lines = [("From", dialog.ours), ("To", dialog.theirs), ("Call-ID", dialog.call_id)]
            lines.append(("CSeq", f"{pending.message.cseq} ACK"))
            self._request("ACK", dialog.target, lines, b"", lambda _: None, dialog)

    def _known(self, message: Message) -> Dialog | None:
        return self.dialogs.get((message.get("call-id"), message.tag("to")))

    def _answer(self, message: Message) -> tuple[int, list[tuple[str, str]], bytes, str]:
        contact = ("Contact", f"<sip:{PARTNER}:5060;transport=tcp>")
        if not message.tag("to"):
            user = address_of(message.uri)
            if user not in self.users:
                return 404, [], b"", self._token()
            if message.method not in ("INVITE", "SUBSCRIBE"):
                return 481, [], b"", self._token()
            tag = self._token()
            dialog = Dialog(
                message.get("call-id"), f"{message.get('to')};tag={tag}", message.get("from"),
                uri_of(message.get("contact")), [], user, address_of(uri_of(message.get("from"))),
                message.cseq + 1000,
            )  # fmt: skip
            self.dialogs[dialog.key] = dialog
            if message.method == "INVITE":
                return 200, [contact, ("Content-Type", "application/sdp")], _SDP_BODY, tag
            dialog.event = "presence"
            return 200, [contact, ("Expires", self._renewed(dialog, message))], b"", tag
        known = self._known(message)
        if known is None:
            return 481, [], b"", ""
        return self._within(known, message, contact)

    def _within(
        self, dialog: Dialog, message: Message, contact: tuple[str, str]
    ) -> tuple[int, list[tuple[str, str]], bytes, str]:
        if message.cseq < self._cseqs.get(dialog.key, 0):
            return 500, [], b"", ""
        self._cseqs[dialog.key] = message.cseq
        if message.method in ("INVITE", "SUBSCRIBE") and message.get("contact"):
            dialog.target = uri_of(message.get("contact"))
        if message.method == "INVITE":
            return 200, [contact, ("Content-Type", "application/sdp")], _SDP_BODY, ""
        if message.method == "SUBSCRIBE":
            return 200, [contact, ("Expires", self._renewed(dialog, message))], b"", ""
        if message.method == "MESSAGE":
            text = message.body.decode()
            self.history.shown(text, dialog.local, self.reactor.loop.now)
        elif message.method == "BYE":
            del self.dialogs[dialog.key]
            for conversation in self._conversations.values():
                if conversation.dialog is dialog:
                    conversation.dialog = None
        elif message.method in ("NOTIFY", "BENOTIFY"):
            self._shown(dialog, message)
        return 200, [contact], b"", ""

    def _renewed(self, dialog: Dialog, message: Message) -> str:
        wanted = int(message.get("expires") or 3600)
        if wanted == 0:
            dialog.expires = 0.0
            return "0"
        granted = min(wanted, 600)
        dialog.expires = self.reactor.loop.now + granted
        return str(granted)

    def _afterwards(self, message: Message) -> None:
        """After the answer to a SUBSCRIBE comes the NOTIFY."""
        if message.method != "SUBSCRIBE":
            return
        tag = message.tag("to")
        for dialog in list(self.dialogs.values()):
            if dialog.call_id == message.get("call-id") and (not tag or dialog.key[1] == tag):
                self._notify(dialog)

    # -- presence --------------------------------------------------------------------------------

    def _notify(self, dialog: Dialog) -> None:
        left = dialog.expires - self.reactor.loop.now
        state = f"active;expires={int(left)}" if left > 0 else "terminated;reason=timeout"
        headers = [("Event", "presence"), ("Subscription-State", state)]
        headers.append(("Contact", f"<sip:{PARTNER}:5060;transport=tcp>"))
        body = b""
        if left > 0:
            headers.append(("Content-Type", "application/pidf+xml"))
            body = self._document(dialog.local)
        else:
            self.dialogs.pop(dialog.key, None)

        def answered(status: int) -> None:
            if status == 481:
                self.dialogs.pop(dialog.key, None)
            elif status in (408, 480, 500) and dialog.key in self.dialogs:
                self.reactor.callLater(5.0, self._notify_again, dialog)

        self._in_dialog(dialog, "NOTIFY", headers, body, answered)

    def _notify_again(self, dialog: Dialog) -> None:
        if dialog.key in self.dialogs and dialog.expires > self.reactor.loop.now:
            self._notify(dialog)

    def _document(self, user: str) -> bytes:
        state = self.users[user]
        basic = "closed" if state == "offline" else "open"
        words = "" if state in ("available", "offline") else state
        activity = (
            f"<ep:activities><ep:activity>{words}</ep:activity></ep:activities>" if words else ""
        )
        return (
            f'<?xml version="1.0"?><presence xmlns="urn:ietf:params:xml:ns:pidf" xmlns:ep='
            f'"{_STATUS}" entity="sip:{user}"><tuple id="0"><status><basic>{basic}</basic>'
            f"{activity}</status></tuple></presence>"
        ).encode()

    def presence(self, user: str) -> Presence:
        """Return what an XMPP user is to see of one of ours."""
        return _AS_PRESENCE[self.users[user]]

    @staticmethod
    def as_state(presence: Presence) -> str:
        """Return what our users are to see of what an XMPP user shows."""
        return _AS_STATE[presence]

    def show(self, user: str, state: str) -> None:
        """One of our users changes his state."""
        self.users[user] = state
        for dialog in list(self.dialogs.values()):
            if dialog.local == user and dialog.event and dialog.expires > self.reactor.loop.now:
                self._notify(dialog)

    def watch(self, user: str, contact: str) -> None:
        """One of our users watches one of theirs, from now on and for ever."""
        old = self.watching.get((user, contact))
        expires = [("Event", "presence"), ("Expires", "900"), ("Accept", "application/pidf+xml")]
        mine = ("Contact", f"<sip:{user.partition('@')[0]}@{PARTNER}:5060;transport=tcp>")
        headers = [*expires, mine]
        if old is not None and old.key in self.dialogs:
            self._in_dialog(
                old, "SUBSCRIBE", headers, b"", lambda s: self._watched(user, contact, s)
            )
            return
        dialog = Dialog(
            self._token(), f"<sip:{user}>;tag={self._token()}", f"<sip:{contact}>",
            f"sip:{contact}", [], user, contact,
        )  # fmt: skip
        self.dialogs[dialog.key] = dialog
        self.watching[user, contact] = dialog
        lines = [("From", dialog.ours), ("To", dialog.theirs), ("Call-ID", dialog.call_id)]
        lines += [("CSeq", "1 SUBSCRIBE"), *headers]
        self._request(
            "SUBSCRIBE",
            dialog.target,
            lines,
            b"",
            lambda s: self._watched(user, contact, s),
            dialog,
        )

    def _watched(self, user: str, contact: str, status: int) -> None:
        dialog = self.watching[user, contact]
        if status >= 300:
            if status != 408 or "tag=" not in dialog.theirs:
                self.dialogs.pop(dialog.key, None)
            self.reactor.callLater(5.0, self.watch, user, contact)
        else:
            self.reactor.callLater(_REFRESH, self.watch, user, contact)

    def _shown(self, dialog: Dialog, message: Message) -> None:
        pair = (dialog.local, dialog.remote)
        if not message.body:
            return
        root = ElementTree.fromstring(message.body)
        basic = root.findtext(f"{_PIDF}tuple/{_PIDF}status/{_PIDF}basic") or ""
        activity = next((e.text for e in root.iter(f"{{{_STATUS}}}activity")), "") or "available"
        self.seen[pair] = activity if basic == "open" else "offline"
        if message.get("subscription-state").startswith("terminated"):
            self.dialogs.pop(dialog.key, None)
            self.reactor.callLater(2.0, self.watch, dialog.local, dialog.remote)

    # -- texts -----------------------------------------------------------------------------------

    def write(self, user: str, contact: str, text: str) -> None:
        """One of our users writes to one of theirs, unless he is not connected."""
        if not self.up:
            return
        self.history.sent(text, user, contact, self.reactor.loop.now)
        conversation = self._conversations.setdefault((user, contact), Conversation())
        conversation.queue.append(text)
        self._next(user, contact, conversation)

    def _next(self, user: str, contact: str, conversation: Conversation) -> None:
        if conversation.busy or not conversation.queue:
            return
        conversation.busy = True
        if conversation.dialog is None or conversation.dialog.key not in self.dialogs:
            self._invite(user, contact, conversation)
            return
        text = conversation.text = conversation.queue.pop(0)

        def answered(status: int) -> None:
            conversation.busy = False
            conversation.text = ""
            if status in (481, 480) and conversation.dialog is not None:
                self.dialogs.pop(conversation.dialog.key, None)
                conversation.dialog = None
            if status == 481:
                conversation.queue.insert(0, text)  # surely not delivered: in a new session, then
            elif status >= 300:
                self.history.returned(text, str(status))
            self._next(user, contact, conversation)

        headers = [("Content-Type", "text/plain; charset=UTF-8")]
        self._in_dialog(conversation.dialog, "MESSAGE", headers, text.encode(), answered)

    def _invite(self, user: str, contact: str, conversation: Conversation) -> None:
        dialog = Dialog(
            self._token(), f"<sip:{user}>;tag={self._token()}", f"<sip:{contact}>",
            f"sip:{contact}", [], user, contact,
        )  # fmt: skip
        lines = [("From", dialog.ours), ("To", dialog.theirs), ("Call-ID", dialog.call_id)]
        lines += [("CSeq", "1 INVITE"), ("Content-Type", "application/sdp")]
        lines.append(("Contact", f"<sip:{user.partition('@')[0]}@{PARTNER}:5060;transport=tcp>"))

        def answered(status: int) -> None:
            conversation.busy = False
            if status < 300:
                conversation.dialog = dialog
            else:
                texts, conversation.queue = conversation.queue, []
                for text in texts:
                    self.history.returned(text, str(status))
            self._next(user, contact, conversation)

        self._request("INVITE", dialog.target, lines, _SDP_BODY, answered, dialog)
