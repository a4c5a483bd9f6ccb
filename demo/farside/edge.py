"""The edge: connections to the node, requests out with their answers, requests in to the users."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from . import dialect, rules
from .connections import Connection, context
from .dialect import Person, response
from .rules import Dialog
from .wire import Message, address_of, parameters, uri_of

Emit = Callable[..., None]
Handler = Callable[[Connection, Message, "Dialog | None", Person], None]


def bracketed(host: str) -> str:
    """Return a host as it stands before a port: an IPv6 address in brackets."""
    return f"[{host}]" if ":" in host else host


class Refused(Exception):
    """A request of ours was not accepted."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(f"{status} {reason}")
        self.status, self.reason = status, reason


@dataclass
class Settings:
    """Where the far side is and where the node is.

    :ivar other_nodes: certificate names of the partner's nodes that connect to us besides; with
        them the node may be a proxy, and record its route.
    :ivar edge: certificate name of a proxy of our own side that stands where the node is said to be:
        it checks who speaks for which domain, and records its route; "" without.
    """

    domain: str
    host: str
    port: int
    node_host: str
    node_port: int
    node_name: str
    certificate: Path
    key: Path
    ca: Path
    accept_delay: float = 2.0
    other_nodes: tuple[str, ...] = ()
    edge: str = ""
    users: dict[str, Person] = field(default_factory=dict)

    @property
    def proxied(self) -> bool:
        """Whether there may be a proxy between us and the node that answers."""
        return bool(self.other_nodes or self.edge)


class Edge:
    """Everything between the wire and the users' sessions."""

    def __init__(self, settings: Settings, emit: Emit) -> None:
        self.settings = settings
        self.emit = emit
        self.dialogs: dict[tuple[str, str], Dialog] = {}
        self.handlers: dict[str, Handler] = {}
        self.accepted: list[Connection] = []
        self.breaches = 0
        self._own: Connection | None = None
        self._opening = asyncio.Lock()
        self._branches: set[str] = set()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._server: asyncio.Server | None = None

    # ------------------------------------------------------------ plumbing

    def spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Run something beside; an exception in it is an error event, never silence."""

        def ended(task: asyncio.Task[Any]) -> None:
            self._tasks.discard(task)
            if not task.cancelled() and task.exception() is not None:
                self.emit("error", text=f"{type(task.exception()).__name__}: {task.exception()}")

        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(ended)
        return task

    def violation(self, rule: str, detail: str) -> None:
        """Tell of a breach."""
        self.breaches += 1
        self.emit("violation", rule=rule, detail=detail)

    def breaches_of(self, found: list[rules.Breach]) -> bool:
        """Tell of each breach; return whether there was one."""
        for rule, detail in found:
            self.violation(rule, detail)
        return bool(found)

    async def start(self) -> None:
        """Listen."""
        s = self.settings
        tls = context(True, s.certificate, s.key, s.ca)
        self._server = await asyncio.start_server(self._accepted, s.host, s.port, ssl=tls)
        s.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Close everything."""
        for connection in [*self.accepted, *([self._own] if self._own else [])]:
            connection.close()
        if self._server is not None:
            self._server.close()
        for task in list(self._tasks):
            task.cancel()

    def _wire(self, connection: Connection, direction: str, message: Message) -> None:
        self.emit(
            "wire", at=time.time(), direction=direction, connection=connection.number, ours=connection.ours,
            text=message.encode().decode("utf-8", "backslashreplace"),
        )  # fmt: skip

    async def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = Connection(
            reader, writer, False, self._message_arrived, self._wire, self.violation
        )
        self.emit("connection", ours=False, number=connection.number, names=connection.names)
        self.breaches_of(self._certificate(connection, *self.settings.other_nodes))
        self.accepted.append(connection)
        # Cancelled when the program ends: nobody is left to be told.
        with contextlib.suppress(asyncio.CancelledError):
            await connection.run()
        self.accepted.remove(connection)
        self.emit("disconnected", number=connection.number)

    def _certificate(self, connection: Connection, *others: str) -> list[rules.Breach]:
        return rules.certificate(connection.names, self.settings.node_name, *others)

    async def own_connection(self) -> Connection:
        """Return our connection to the node, opened now if need be, after NEGOTIATE."""
        async with self._opening:
            if self._own is None or not self._own.alive:
                self._own = await self._open()
            return self._own

    async def _open(self) -> Connection:
        s = self.settings
        tls = context(False, s.certificate, s.key, s.ca)
        try:
            reader, writer = await asyncio.open_connection(
                s.node_host, s.node_port, ssl=tls, server_hostname=s.node_name
            )
        except ssl.SSLCertVerificationError as error:
            self.violation("certificate", f"{s.node_name}: {error.verify_message}")
            raise
        connection = Connection(
            reader, writer, True, self._message_arrived, self._wire, self.violation
        )
        self.emit("connection", ours=True, number=connection.number, names=connection.names)
        self.breaches_of(self._certificate(connection))
        self.spawn(connection.run())
        await self._negotiate(connection)
        return connection

    async def _negotiate(self, connection: Connection) -> None:
        """Offer compression before anything else, as Microsoft's edges do."""
        s, node = self.settings, bracketed(self.settings.node_host)
        message = Message(
            f"NEGOTIATE sip:{node}:{s.node_port} SIP/2.0",
            [
                ("Via", f"SIP/2.0/TLS {bracketed(s.host)}:{s.port};branch={dialect.branch()}"),
                ("From", f"<sip:sip.{s.domain}>;tag={dialect.token(6)}"),
                ("To", f"<sip:{node}:{s.node_port}>"),
                ("Call-ID", dialect.token(16).lower()),
                ("CSeq", "1 NEGOTIATE"),
                ("Max-Forwards", "0"),
                ("Compression", "LZ77-64K"),
            ],
        )
        final = await self.exchange(connection, message)
        self.emit("negotiate", status=final.status)
        connection.ping()  # and a keep-alive, which is no message

    # -------------------------------------------------------- requests out

    async def exchange(
        self,
        connection: Connection,
        message: Message,
        settle: Callable[[Message], None] | None = None,
        timeout: float = 40.0,
        tried: Callable[[Message], None] | None = None,
    ) -> Message:
        """Send a request, check every response, return the final one.

        ``settle`` is called with a final response before anything that came after it is read,
        and again for each repetition of the answer to an INVITE; ``tried`` with the others.
        """
        answered: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        key = (message.branch, message.method)

        def arrived(got: Message | None) -> None:
            if got is None:
                if not answered.done():
                    answered.set_exception(ConnectionError("connection lost"))
                return
            self.breaches_of(rules.answer(message, got, self.settings.proxied))
            if got.status < 200 and tried is not None:
                tried(got)
            if got.status >= 200:
                if answered.done() and message.method != "INVITE":
                    self.violation("response", f"a second final response: {got.start}")
                if settle is not None:
                    settle(got)
                if not answered.done():
                    answered.set_result(got)

        connection.pending[key] = arrived
        connection.send(message)
        try:
            return await asyncio.wait_for(asyncio.shield(answered), timeout)
        except TimeoutError:
            self.violation("no-answer", f"no final response to {message.start} in {timeout:.0f} s")
            raise Refused(408, "no answer") from None
        finally:
            if message.method != "INVITE":
                asyncio.get_running_loop().call_later(5, lambda: connection.pending.pop(key, None))

    def request(
        self,
        method: str,
        dialog: Dialog,
        extra: list[dialect.Header] | None = None,
        body: bytes = b"",
        client: bool = True,
    ) -> Message:
        """Return a request of a user; the first one of a dialog asks to be routed back here."""
        s = self.settings
        first = not dialog.remote_tag
        here = bracketed(s.host)
        via = dialect.vias(here, s.port, dialect.branch(), client, plain=bool(s.edge))
        routes = dialog.routes if first else []
        to = f"{dialog.remote};tag={dialog.remote_tag}" if dialog.remote_tag else dialog.remote
        headers = [
            *dialect.interleave(via, routes),
            *(("Route", route) for route in ([] if first else dialog.beyond)),
            ("FROM" if method == "INFO" else "From", dialog.local),
            ("To", to),
            ("Call-ID", dialog.call_id),
            ("CSeq", f"{dialog.local_cseq} {method}"),
        ]
        if method in ("INVITE", "SUBSCRIBE", "NOTIFY"):
            headers.append(("Contact", f"<{dialog.gruu}>"))
        headers.append(("User-Agent", dialect.AGENT))
        target = dialog.target if dialog.remote_tag else f"sip:{dialog.peer}"
        return Message(f"{method} {target} SIP/2.0", [*headers, *(extra or [])], body)

    async def inside(
        self,
        method: str,
        dialog: Dialog,
        extra: list[dialect.Header] | None = None,
        body: bytes = b"",
        client: bool = True,
        settle: Callable[[Message], None] | None = None,
    ) -> Message:
        """Send a request within a dialog, over the connection the dialog came by if it stands."""
        dialog.local_cseq += 1
        message = self.request(method, dialog, extra, body, client)
        connection = dialog.connection
        if not isinstance(connection, Connection) or not connection.alive:
            if not self.settings.edge:
                self._check_target(dialog)
            connection = await self.own_connection()
        return await self.exchange(connection, message, settle)

    def _check_target(self, dialog: Dialog) -> None:
        """The node's Contact has to be an address that leads to the node."""
        s = self.settings
        uri = uri_of(dialog.beyond[0]) if dialog.beyond else dialog.target
        host, _, port = uri.removeprefix("sip:").rpartition("@")[2].partition(";")[0].partition(":")
        if host not in (s.node_name, s.node_host) or int(port or 5061) != s.node_port:
            self.violation("contact", f"{uri} does not lead to the node")

    def new_dialog(self, person: Person, peer: str, name: bool = True) -> Dialog:
        """Return a dialog that we are about to open."""
        tag = dialect.token(5).lower()
        display = f'"{person.name}"' if name else ""
        dialog = Dialog(
            user=person.address,
            peer=peer,
            call_id=dialect.token(16).lower(),
            local=f"{display}<sip:{person.address}>;tag={tag};epid={person.epid}",
            remote=f"<sip:{peer}>",
            local_tag=tag,
            remote_tag="",
            gruu=person.gruu,
            routes=dialect.record_routes(self.settings.domain, self.settings.port),
        )
        self.dialogs[dialog.key] = dialog
        return dialog

    # --------------------------------------------------------- requests in

    def _message_arrived(self, connection: Connection, message: Message) -> None:
        if not message.is_request:
            waiter = connection.pending.get((message.branch, message.method))
            if waiter is None:
                self.violation("response", f"{message.start} that nobody waits for here")
            else:
                waiter(message)
            return
        try:
            self._request_arrived(connection, message)
        except (ValueError, IndexError) as error:
            self.violation("syntax", f"{message.start}: {error}")
            self.reply(connection, message, 400, "Bad Request")

    def _request_arrived(self, connection: Connection, message: Message) -> None:
        bad = self.breaches_of(rules.request(message, self._branches))
        self._branches.add(message.branch)
        if self.settings.edge not in connection.names:
            bad |= self.breaches_of(rules.sender(message, connection.names))
        person = self.settings.users.get(address_of(uri_of(message.get("to"))))
        dialog = None
        if "tag" in parameters(message.get("to")):
            dialog = self.dialogs.get((message.get("call-id"), message.tag("to")))
            if dialog is None or person is None:
                if message.method != "ACK":
                    self.reply(connection, message, 481, "Call leg/transaction does not exist")
                return
            if message.method not in ("CANCEL",) and not dialog.state.get("refused"):
                bad |= self.breaches_of(rules.inside(message, dialog))
        elif person is None:
            if message.method != "ACK":
                self.reply(connection, message, 404, "Not Found", dialect.token(6))
            return
        elif message.method not in ("ACK", "CANCEL", "OPTIONS", "MESSAGE"):
            bad |= self.breaches_of(rules.outside(message, person.address))
        if bad and message.method != "ACK":
            # An edge that finds its signatures or names changed lets nothing through.
            self.reply(connection, message, 403, "Forbidden", dialect.token(6))
            return
        handler = self.handlers.get(message.method)
        if handler is None:
            self.reply(connection, message, 405, "Method Not Allowed", dialect.token(6))
        else:
            handler(connection, message, dialog, person)

    def reply(
        self,
        connection: Connection,
        message: Message,
        status: int,
        reason: str,
        tag: str = "",
        extra: list[dialect.Header] | None = None,
        body: bytes = b"",
    ) -> Message:
        """Answer a request; returns what was sent."""
        answer = response(message, status, reason, connection.peer, tag)
        answer.headers += extra or []
        if status >= 400:
            answer.headers.append(("Server", "RTC/6.0"))
        answer.body = body
        connection.send(answer)
        return answer
