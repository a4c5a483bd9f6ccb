"""IM sessions of the far side's users, opened by either side."""

from __future__ import annotations

import asyncio
from collections import defaultdict

from . import dialect, rules
from .connections import Connection
from .dialect import Person
from .edge import Edge, Refused
from .rules import Dialog
from .wire import Message, address_of, parameters, uri_of

Pair = tuple[str, str]
PLAIN = "text/plain; charset=UTF-8"
DIAGNOSTICS = (
    '13004;reason="Request was proxied to one or more registered endpoints";'
    'source="pool01.lync.example";Count="1";appName="InboundRouting"'
)
SESSION_HEADERS: list[dialect.Header] = [
    ("Supported", "ms-dialog-route-set-update"),
    ("Supported", "timer"),
]


class Instant:
    """All IM sessions, one for each pair of a user here and an address there."""

    def __init__(self, edge: Edge) -> None:
        self.edge = edge
        self.sessions: dict[Pair, Dialog] = {}
        self._order: defaultdict[Pair, asyncio.Lock] = defaultdict(asyncio.Lock)
        edge.handlers |= {
            "INVITE": self._invited,
            "ACK": self._acknowledged,
            "CANCEL": self._cancelled,
            "MESSAGE": self._told,
            "INFO": self._informed,
            "BYE": self._left,
            "OPTIONS": self._asked,
        }

    # ------------------------------------------------------------ outwards

    async def say(self, person: Person, peer: str, text: str, kind: str = PLAIN) -> Message:
        """Send a text in the session of the pair, which is opened when there is none."""
        pair = (person.address, peer)
        async with self._order[pair]:
            for attempt in (1, 2):
                dialog = self.sessions.get(pair) or await self._open(person, peer, text)
                answer = await self.edge.inside(
                    "MESSAGE", dialog, [*SESSION_HEADERS, ("Content-Type", kind)], text.encode()
                )
                if answer.status in (408, 481) and attempt == 1:
                    self._forget(dialog)
                    continue
                if answer.status >= 300:
                    raise Refused(answer.status, answer.reason)
                return answer
        raise Refused(481, "no session")

    async def type(self, person: Person, peer: str, status: str) -> Message:
        """Send a typing notice; it never opens a session."""
        dialog = self.sessions.get((person.address, peer))
        if dialog is None:
            raise Refused(481, "no session to type in")
        answer = await self.edge.inside(
            "INFO",
            dialog,
            [("Supported", "timer"), ("Content-Type", "application/xml")],
            dialect.keyboard_activity(status),
        )
        if answer.status != 200:
            self.edge.violation("info", f"KeyboardActivity was answered {answer.status}")
        return answer

    async def leave(self, person: Person, peer: str) -> Message:
        """Close the session's window."""
        dialog = self.sessions.get((person.address, peer))
        if dialog is None:
            raise Refused(481, "no session to leave")
        self._forget(dialog)
        return await self.edge.inside("BYE", dialog)

    async def withdraw(self, person: Person, peer: str) -> Message:
        """Invite, and cancel it as soon as it is being tried; returns the answer to the INVITE."""
        dialog = self.edge.new_dialog(person, peer)
        connection = await self.edge.own_connection()
        extra = [("Content-Type", "application/sdp")]
        message = self.edge.request("INVITE", dialog, extra, dialect.sdp("null"))
        cancel = self._cancel_of(message)

        def tried(answer: Message) -> None:
            if answer.status == 100:
                self.edge.spawn(self._withdrawn(connection, cancel))

        def settle(answer: Message) -> None:
            if answer.status >= 300:
                connection.send(self._ack_of_refusal(message, answer))

        answer = await self.edge.exchange(connection, message, settle, 40.0, tried)
        self._forget(dialog)
        return answer

    async def _withdrawn(self, connection: Connection, cancel: Message) -> None:
        answer = await self.edge.exchange(connection, cancel)
        if answer.status != 200:
            self.edge.violation("cancel", f"CANCEL was answered {answer.start}")

    @staticmethod
    def _cancel_of(message: Message) -> Message:
        return Message(
            f"CANCEL {message.uri} SIP/2.0",
            [
                ("Via", message.values("via")[0]),
                ("Max-Forwards", "69"),
                ("From", message.get("from")),
                ("To", message.get("to")),
                ("Call-ID", message.get("call-id")),
                ("CSeq", f"{message.cseq} CANCEL"),
            ],
        )

    async def conference(self, person: Person, peer: str) -> Message:
        """Invite to a group chat; federated partners must refuse with 488."""
        dialog = self.edge.new_dialog(person, peer)
        body = dialect.conference_invitation(
            f"sip:{person.address};gruu;opaque=app:conf:focus:id:{dialect.token(4)}"
        )
        kind = ("Content-Type", "application/ms-conf-invite+xml")
        return await self._refusal(dialog, [("Supported", "ms-sender"), kind], body, 488)

    async def multiparty(self, person: Person, peer: str) -> Message:
        """Invite to an old-style group chat; federated partners must refuse with 420."""
        dialog = self.edge.new_dialog(person, peer)
        third = f"mercutio@{self.edge.settings.domain}"
        extra = [
            ("Require", "com.microsoft.rtc-multiparty"),
            ("TriggeredInvite", "TRUE"),
            ("EndPoints", f"<sip:{person.address}>, <sip:{peer}>, <sip:{third}>"),
            ("Content-Type", "application/sdp"),
        ]
        return await self._refusal(dialog, extra, dialect.sdp("null"), 420)

    async def _refusal(
        self, dialog: Dialog, extra: list[dialect.Header], body: bytes, wanted: int
    ) -> Message:
        answer = await self._invite(dialog, extra, body)
        self._forget(dialog)
        if answer.status != wanted:
            self.edge.violation("refusal", f"{wanted} expected, got {answer.start}")
        if answer.status == 420 and "com.microsoft.rtc-multiparty" not in answer.values(
            "unsupported"
        ):
            self.edge.violation("refusal", f"Unsupported: {answer.values('unsupported')}")
        return answer

    async def _open(self, person: Person, peer: str, text: str) -> Dialog:
        dialog = self.edge.new_dialog(person, peer)
        extra = [
            ("Content-Length", ""),
            *(("Supported", option) for option in dialect.INVITE_SUPPORTED),
            ("Roster-Manager", f"sip:{person.address}"),
            ("EndPoints", f"<sip:{person.address}>, <sip:{peer}>"),
            ("ms-keep-alive", "UAC;hop-hop=yes"),
            ("Allow", dialect.ALLOW),
            ("ms-subnet", "10.20.7.0"),
            ("Ms-Conversation-ID", f"AdHq{dialect.token(8)}=="),
            ("history-info", f"<sip:{peer}>;index=1"),
            *dialect.embedded(text),
            ("Content-Type", "application/sdp"),
        ]
        answer = await self._invite(dialog, extra, dialect.sdp("null"))
        if answer.status >= 300:
            self._forget(dialog)
            raise Refused(answer.status, answer.reason)
        self.edge.breaches_of(rules.offer(answer))
        self.sessions[(person.address, peer)] = dialog
        return dialog

    async def _invite(self, dialog: Dialog, extra: list[dialect.Header], body: bytes) -> Message:
        connection = await self.edge.own_connection()
        message = self.edge.request("INVITE", dialog, extra, body)

        def settle(answer: Message) -> None:
            if answer.status >= 300:
                connection.send(self._ack_of_refusal(message, answer))
                return
            dialog.answered(message, answer)
            connection.send(self.edge.request("ACK", dialog))

        return await self.edge.exchange(connection, message, settle, 90.0)

    @staticmethod
    def _ack_of_refusal(message: Message, answer: Message) -> Message:
        return Message(
            f"ACK {message.uri} SIP/2.0",
            [
                ("Via", message.values("via")[0]),
                ("Max-Forwards", "69"),
                ("From", message.get("from")),
                ("To", answer.get("to")),
                ("Call-ID", message.get("call-id")),
                ("CSeq", f"{message.cseq} ACK"),
            ],
        )

    def _forget(self, dialog: Dialog) -> None:
        pair = (dialog.user, dialog.peer)
        if self.sessions.get(pair) is dialog:
            del self.sessions[pair]

    # ------------------------------------------------------------- inwards

    def _invited(
        self, connection: Connection, message: Message, dialog: Dialog | None, person: Person
    ) -> None:
        if dialog is not None:
            self._moved(connection, message, dialog)
            return
        peer = address_of(uri_of(message.get("from")))
        dialog = self.edge.new_dialog(person, peer)
        dialog.remote = message.get("from").partition(";tag=")[0]
        dialog.call_id = message.get("call-id")
        dialog.remote_tag = message.tag("from")
        dialog.local = f"<sip:{person.address}>;tag={dialog.local_tag};epid={person.epid}"
        dialog.target = uri_of(message.get("contact"))
        dialog.beyond = message.values("record-route")
        dialog.local_cseq, dialog.remote_cseq = 0, message.cseq
        dialog.theirs, dialog.connection = True, connection
        dialog.state = {"invite": message}
        _acknowledgements(dialog)[message.cseq] = asyncio.Event()
        self.edge.dialogs[dialog.key] = dialog
        self.edge.emit("session", sender=peer, to=person.address, display=message.get("from"))
        self.edge.spawn(self._ring(connection, message, dialog, person))

    def _moved(self, connection: Connection, message: Message, dialog: Dialog) -> None:
        """A re-INVITE: the node's Contact is another one from now on, and nobody is asked."""
        self.edge.breaches_of(rules.offer(message))
        dialog.target, dialog.connection = uri_of(message.get("contact")), connection
        # The ACK of one before may be on its way still, from another node by another connection.
        _acknowledgements(dialog)[message.cseq] = asyncio.Event()
        self.edge.emit(
            "moved", sender=dialog.peer, to=dialog.user, call=dialog.call_id, contact=dialog.target
        )
        self.edge.spawn(self._accept(connection, message, dialog, dialog.local_tag))

    async def _ring(
        self, connection: Connection, message: Message, dialog: Dialog, person: Person
    ) -> None:
        """100, 101 and 180 at once; the 200 when somebody has clicked on the notice."""
        tag = f"{dialog.local_tag};epid={person.epid}"
        self.edge.reply(connection, message, 100, "Trying")
        report = [("ms-diagnostics", DIAGNOSTICS), ("Server", "InboundRouting/6.0.0.0")]
        self.edge.reply(connection, message, 101, "Progress Report", dialect.token(2), report)
        self.edge.reply(connection, message, 180, "Ringing", tag)
        await asyncio.sleep(self.edge.settings.accept_delay)
        if dialog.state.get("refused"):
            self.edge.reply(connection, message, 487, "Request Terminated", tag)
            return
        await self._accept(connection, message, dialog, tag)

    async def _accept(
        self, connection: Connection, message: Message, dialog: Dialog, tag: str
    ) -> None:
        """200, until it is acknowledged."""
        acked = _acknowledgements(dialog)[message.cseq]
        for wait in (0.5, 1.0, 2.0, 4.0, 4.0, 4.0):
            self._answer(connection, message, dialog, tag)
            try:
                await asyncio.wait_for(acked.wait(), wait)
                return
            except TimeoutError:
                continue
        self.edge.violation("ack", f"no ACK for the session of {dialog.peer} and {dialog.user}")

    def _answer(self, connection: Connection, message: Message, dialog: Dialog, tag: str) -> None:
        extra = [
            *(("Record-Route", route) for route in dialog.recorded),
            ("Contact", f"<{dialog.gruu}>"),
            ("User-Agent", dialect.AGENT),
            ("Supported", "ms-sender"),
            ("Supported", "ms-dialog-route-set-update"),
            ("Allow", dialect.ALLOW),
            ("Content-Type", "application/sdp"),
        ]
        owner = f"sip:{dialog.user}"
        self.edge.reply(connection, message, 200, "OK", tag, extra, dialect.sdp(owner))

    def _acknowledged(
        self, connection: Connection, message: Message, dialog: Dialog | None, person: Person
    ) -> None:
        if dialog is None:
            return
        if message.cseq > dialog.remote_cseq:
            self.edge.violation("cseq", f"ACK {message.cseq} for INVITE {dialog.remote_cseq}")
        acked = _acknowledgements(dialog).get(message.cseq)
        if acked is None:
            return
        acked.set()
        if not dialog.state.get("refused"):
            self.sessions[(dialog.user, dialog.peer)] = dialog

    def _cancelled(
        self, connection: Connection, message: Message, dialog: Dialog | None, person: Person
    ) -> None:
        for other in self.edge.dialogs.values():
            invite = other.state.get("invite")
            if isinstance(invite, Message) and invite.branch == message.branch:
                other.state["refused"] = True
                self.edge.reply(connection, message, 200, "OK", other.local_tag)
                return
        self.edge.reply(connection, message, 481, "Call leg/transaction does not exist")

    def _told(
        self, connection: Connection, message: Message, dialog: Dialog | None, person: Person
    ) -> None:
        if dialog is None:
            self.edge.violation("page-mode", "MESSAGE outside a session")
            self.edge.reply(connection, message, 405, "Method Not Allowed", dialect.token(6))
            return
        kind = message.get("content-type")
        if kind.partition(";")[0].strip().lower() != "text/plain":
            self.edge.violation("content-type", f"MESSAGE with {kind}: text/plain was expected")
            self.edge.reply(connection, message, 415, "Unsupported Media Type")
            return
        if parameters(kind).get("charset", "utf-8").lower() != "utf-8":
            self.edge.violation("content-type", kind)
        acked = _acknowledgements(dialog)
        if acked and not acked[max(acked)].is_set():
            self.edge.violation("ack", "MESSAGE before the ACK")
        text = message.body.decode("utf-8", "replace")
        self.edge.reply(connection, message, 200, "OK")
        self.edge.emit("im", sender=dialog.peer, to=person.address, text=text)

    def _informed(
        self, connection: Connection, message: Message, dialog: Dialog | None, person: Person
    ) -> None:
        if dialog is None:
            self.edge.reply(connection, message, 481, "Call leg/transaction does not exist")
            return
        state = dialect.read_keyboard_activity(message.body)
        if state not in ("type", "idle") or message.get("content-type") != "application/xml":
            self.edge.violation("info", f"{message.get('content-type')}: {message.body!r}")
        self.edge.reply(connection, message, 200, "OK")
        self.edge.emit("typing", sender=dialog.peer, to=person.address, state=state)

    def _left(
        self, connection: Connection, message: Message, dialog: Dialog | None, person: Person
    ) -> None:
        if dialog is None:
            self.edge.reply(connection, message, 481, "Call leg/transaction does not exist")
            return
        self._forget(dialog)
        self.edge.dialogs.pop(dialog.key, None)
        self.edge.reply(connection, message, 200, "OK")
        self.edge.emit("left", sender=dialog.peer, to=person.address, call=dialog.call_id)

    def _asked(
        self, connection: Connection, message: Message, dialog: Dialog | None, person: Person
    ) -> None:
        self.edge.reply(
            connection, message, 200, "OK", dialect.token(6), [("Allow", dialect.ALLOW)]
        )


def _acknowledgements(dialog: Dialog) -> dict[int, asyncio.Event]:
    """Return what tells that the INVITE with a CSeq number has been acknowledged."""
    found = dialog.state.setdefault("acked", {})
    assert isinstance(found, dict)
    return found
