"""A far side with thousands of watchers and presentities: plain asyncio, nothing of ``impfed``.

Usage: python -m bench.presencefar LISTEN_PORT NODE_PORT NODE_NAME DOMAIN CERTIFICATE KEY CA

It listens for the node's SUBSCRIBEs and has one connection of its own to the node, as a Microsoft
edge does.  Commands on standard input, one JSON object a line: ``watch`` (count, users, domain,
rate), ``refresh`` (count, rate), ``state`` (activity), ``announce`` (activity, rate), ``mark``,
``report``, ``order``, ``forget``, ``close``, ``open``, ``quit``.  Times are seconds since the last
``mark``.
"""

from __future__ import annotations

import asyncio
import json
import re
import ssl
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

_STATE = re.compile(rb"<(?:\w+:)?basic>(\w+)<.*?(?:<(?:\w+:)?activity>(\w+)<.*)?\Z", re.S)
_LENGTH = re.compile(rb"\r\ncontent-length\s*:\s*(\d+)", re.I)
_TAG = re.compile(r";\s*tag=([^;\s]+)", re.I)
_NAMES = {"v": "via", "f": "from", "t": "to", "i": "call-id", "m": "contact", "l": "content-length"}


def emit(event: str, **details: Any) -> None:
    """Write one event."""
    sys.stdout.write(json.dumps({"event": event, **details}) + "\n")
    sys.stdout.flush()


def tag(value: str) -> str:
    """Return the tag of a From or To value, "" without one."""
    found = _TAG.search(value.partition(">")[2])
    return found[1] if found else ""


@dataclass(slots=True)
class Message:
    """A message: start line, headers by lower-case name in order, body."""

    start: str
    headers: dict[str, list[str]]
    body: bytes

    def one(self, name: str) -> str:
        """Return the first value of a header, "" without one."""
        return self.headers.get(name, [""])[0]


def parse(data: bytes, body: bytes) -> Message:
    """Read a message's head."""
    start, *lines = data.decode().split("\r\n")
    headers: dict[str, list[str]] = {}
    for line in lines:
        name, _, value = line.partition(":")
        name = name.strip().lower()
        headers.setdefault(_NAMES.get(name, name), []).append(value.strip())
    return Message(start, headers, body)


@dataclass(slots=True)
class Watcher:
    """One of ours who watches somebody at the node."""

    number: int
    user: str
    target: str
    call_id: str
    cseq: int = 0
    to_tag: str = ""
    contact: str = ""
    state: str = ""
    asked_at: float = 0.0


@dataclass(slots=True)
class Watched:
    """A subscription of the node to one of ours."""

    local: str
    remote: str
    call_id: str
    target: str
    cseq: int = 0


@dataclass
class Far:
    """Everything that the far side knows."""

    listen_port: int
    node_port: int
    node_name: str
    domain: str
    contexts: tuple[ssl.SSLContext, ssl.SSLContext]
    watchers: dict[str, Watcher] = field(default_factory=dict)
    watched: dict[str, Watched] = field(default_factory=dict)
    activity: str = ""
    started: float = field(default_factory=time.monotonic)
    counts: Counter[str] = field(default_factory=Counter)
    notified: dict[str, float] = field(default_factory=dict)
    refreshed: dict[str, float] = field(default_factory=dict)
    fresh: dict[str, float] = field(default_factory=dict)
    order: list[str] = field(default_factory=list)
    waves: set[asyncio.Future[None]] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.out: Connection | None = None
        self.open_ones: set[Connection] = set()
        self.server: asyncio.AbstractServer | None = None
        self.closed = False
        self.refreshing: set[str] = set()

    def now(self) -> float:
        """Seconds since the last mark."""
        return time.monotonic() - self.started

    # -- connections -------------------------------------------------------------------------------

    async def listen(self) -> None:
        """Take connections of the node."""
        loop = asyncio.get_running_loop()
        self.server = await loop.create_server(
            lambda: Connection(self), "127.0.0.1", self.listen_port, ssl=self.contexts[0]
        )

    async def keep_connected(self) -> None:
        """Hold one connection to the node, for as long as we live."""
        loop = asyncio.get_running_loop()
        while True:
            if self.out is None and not self.closed:
                try:
                    _, self.out = await loop.create_connection(
                        lambda: Connection(self),
                        "127.0.0.1",
                        self.node_port,
                        ssl=self.contexts[1],
                        server_hostname=self.node_name,
                    )
                except (OSError, ssl.SSLError):
                    self.out = None
            await asyncio.sleep(0.05)

    def send(self, head: list[str], body: bytes = b"") -> None:
        """Send a request over our own connection; dropped while there is none."""
        if self.out is None:
            self.counts["unsent"] += 1
            return
        self.out.write(head, body)

    # -- requests of the node ----------------------------------------------------------------------

    def request(self, message: Message, connection: Connection) -> None:
        """Answer a request of the node."""
        method = message.start.partition(" ")[0]
        if method == "SUBSCRIBE":
            self.subscribe(message, connection)
        elif method == "NOTIFY":
            self.notified_of(message, connection)
        else:
            connection.answer(message, "405 Method Not Allowed")

    def subscribe(self, message: Message, connection: Connection) -> None:
        """Take a SUBSCRIBE: 200, and a NOTIFY with the state."""
        call_id, expires = message.one("call-id"), message.one("expires")
        known = self.watched.get(call_id)
        if tag(message.one("to")):
            if known is None:
                self.counts["unknown"] += 1
                connection.answer(message, "481 Subscription Does Not Exist")
                return
            self.refreshed.setdefault(call_id, self.now())
            self.order.append(message.one("from").partition("<")[2].partition(">")[0])
        else:
            local = f"{message.one('to')};tag=far{len(self.watched)}"
            known = Watched(local, message.one("from"), call_id, "")
            self.watched[call_id] = known
            self.fresh[call_id] = self.now()
        known.target = message.one("contact").partition("<")[2].partition(">")[0]
        user = known.local.partition(":")[2].partition("@")[0]
        connection.answer(
            message,
            "200 OK",
            known.local,
            [
                f"Contact: <sip:{user}@{self.domain};gruu>",
                f"Expires: {expires}",
                "Event: presence",
            ],
        )
        self.notify(
            known, "terminated;reason=timeout" if expires == "0" else f"active;expires={expires}"
        )

    def notify(self, known: Watched, state: str) -> None:
        """Send a NOTIFY with the present state."""
        known.cseq += 1
        user = known.local.partition(":")[2].partition("@")[0]
        activity = f"<ep:activities><ep:activity>{self.activity}</ep:activity></ep:activities>"
        body = (
            '<?xml version="1.0" encoding="UTF-8"?>\r\n<presence xmlns="urn:ietf:params:xml:ns:pidf"'
            ' xmlns:ep="urn:ietf:params:xml:ns:pidf:status:rpid-status"'
            f' entity="sip:{user}@{self.domain}"><tuple id="0"><status><basic>open</basic>'
            f"{activity if self.activity else ''}</status></tuple></presence>"
        )
        self.send(
            [
                f"NOTIFY {known.target} SIP/2.0",
                f"Via: SIP/2.0/TLS 127.0.0.1:{self.listen_port};branch=z9hG4bKn{time.monotonic_ns()}",
                "Max-Forwards: 69",
                f"From: {known.local}",
                f"To: {known.remote}",
                f"Call-ID: {known.call_id}",
                f"CSeq: {known.cseq} NOTIFY",
                f"Contact: <sip:{user}@{self.domain};gruu>",
                "Event: presence",
                f"subscription-state: {state}",
                "Content-Type: application/pidf+xml",
            ],
            body.encode(),
        )

    def notified_of(self, message: Message, connection: Connection) -> None:
        """Take a NOTIFY for one of our watchers."""
        watcher = self.watchers.get(message.one("call-id"))
        if watcher is None or tag(message.one("to")) != f"w{watcher.number}":
            self.counts["strange"] += 1
            connection.answer(message, "481 Subscription Does Not Exist")
            return
        found = _STATE.search(message.body)
        state = f"{found[1].decode()} {(found[2] or b'').decode()}".strip() if found else ""
        watcher.state = f"{message.one('subscription-state').partition(';')[0]} {state}".strip()
        self.counts["notifies"] += 1
        self.notified[watcher.call_id] = self.now()
        connection.answer(message, "200 OK")

    async def announce(self, rate: float) -> None:
        """Tell all subscriptions the present state, at a rate."""
        begin = time.monotonic()
        for number, known in enumerate(list(self.watched.values())):
            if (pause := begin + number / rate - time.monotonic()) > 0:
                await asyncio.sleep(pause)
            self.notify(known, "active")

    # -- our watchers ------------------------------------------------------------------------------

    def ask(self, watcher: Watcher) -> None:
        """Send a SUBSCRIBE, within its dialog if there is one."""
        watcher.cseq += 1
        watcher.asked_at = self.now()
        to_tag = f";tag={watcher.to_tag}" if watcher.to_tag else ""
        self.send(
            [
                f"SUBSCRIBE {watcher.contact or 'sip:' + watcher.target} SIP/2.0",
                f"Via: SIP/2.0/TLS 127.0.0.1:{self.listen_port};branch=z9hG4bKs{time.monotonic_ns()}",
                *(
                    ()
                    if to_tag
                    else (
                        f"Record-Route: <sip:sip.{self.domain}:5061;transport=tls;lr;ms-route-sig=aa>",
                    )
                ),
                "Max-Forwards: 67",
                f'From: "W {watcher.number}"<sip:{watcher.user}>;tag=w{watcher.number};epid=e1',
                f"To: <sip:{watcher.target}>{to_tag}",
                f"Call-ID: {watcher.call_id}",
                f"CSeq: {watcher.cseq} SUBSCRIBE",
                f"Contact: <sip:{watcher.user};opaque=user:epid:{watcher.number};gruu>",
                "Event: presence",
                "Accept: application/msrtc-event-categories+xml, application/xpidf+xml,"
                " text/xml+msrtc.pidf, application/pidf+xml, application/rlmi+xml, multipart/related",
                "Supported: com.microsoft.autoextend",
                "Supported: ms-piggyback-first-notify",
                "Expires: 28800",
            ]
        )

    def response(self, message: Message) -> None:
        """Take an answer of the node."""
        status = int(message.start.split()[1])
        if status < 200 or not message.one("cseq").endswith("SUBSCRIBE"):
            if status >= 300:
                self.counts[f"notify answered {status}"] += 1
            return
        watcher = self.watchers.get(message.one("call-id"))
        if watcher is None:
            return
        self.counts[f"subscribe answered {status}"] += 1
        if status == 200:
            watcher.to_tag = tag(message.one("to"))
            watcher.contact = message.one("contact").partition("<")[2].partition(">")[0]
            if watcher.call_id in self.refreshing:
                self.refreshing.discard(watcher.call_id)
                if not self.refreshing:
                    emit("served", at=self.now(), took=self.now() - watcher.asked_at)

    async def watch(self, count: int, users: int, domain: str, rate: float) -> None:
        """Begin subscriptions at a rate: each watcher watches one of the users."""
        begin = time.monotonic()
        for number in range(count):
            if (pause := begin + number / rate - time.monotonic()) > 0:
                await asyncio.sleep(pause)
            target = f"u{number % users}@{domain}"
            watcher = Watcher(number, f"w{number}@{self.domain}", target, f"w{number}-{begin}")
            self.watchers[watcher.call_id] = watcher
            self.ask(watcher)

    async def refresh(self, count: int, rate: float) -> None:
        """Refresh so many subscriptions at a rate, from the whole of them; says when all are answered."""
        chosen = list(self.watchers.values())[:: max(1, len(self.watchers) // count)][:count]
        while self.out is None:
            await asyncio.sleep(0.01)
        self.refreshing = {each.call_id for each in chosen}
        begin = time.monotonic()
        for number, watcher in enumerate(chosen):
            if (pause := begin + number / rate - time.monotonic()) > 0:
                await asyncio.sleep(pause)
            self.ask(watcher)

    # -- commands ----------------------------------------------------------------------------------

    def mark(self) -> None:
        """Begin to count anew."""
        self.started = time.monotonic()
        self.counts.clear()
        for each in (self.notified, self.refreshed, self.fresh):
            each.clear()
        self.order.clear()

    def report(self) -> dict[str, Any]:
        """Return what was seen since the mark."""
        return {
            "watchers": len(self.watchers),
            "watched": len(self.watched),
            "states": Counter(each.state for each in self.watchers.values()),
            "notified": len(self.notified),
            "last_notified": max(self.notified.values(), default=0.0),
            "refreshed": len(self.refreshed),
            "last_refreshed": max(self.refreshed.values(), default=0.0),
            "fresh": len(self.fresh),
            "last_fresh": max(self.fresh.values(), default=0.0),
            "counts": self.counts,
        }

    async def obey(self, command: dict[str, Any]) -> None:
        """Carry out one command."""
        do = command.get("do")
        if do == "watch":
            wave = self.watch(
                int(command["count"]), int(command["users"]), command["domain"],
                float(command["rate"]),
            )  # fmt: skip
            self.waves.add(asyncio.ensure_future(wave))
        elif do == "refresh":
            await self.refresh(int(command["count"]), float(command.get("rate", "inf")))
        elif do == "state":
            self.activity = command["activity"]
        elif do == "announce":
            self.activity = command["activity"]
            self.waves.add(asyncio.ensure_future(self.announce(float(command["rate"]))))
        elif do == "mark":
            self.mark()
        elif do == "forget":
            self.watched.clear()
        elif do == "close":
            self.closed = True
            if self.server is not None:
                self.server.close()
            for connection in list(self.open_ones):
                connection.transport.abort()
        elif do == "open":
            self.closed = False
            await self.listen()
        if do == "report":
            emit("report", id=command["id"], **self.report())
        elif do == "order":
            emit("order", id=command["id"], users=self.order)
        else:
            emit("done", id=command["id"])


class Connection(asyncio.Protocol):
    """One TLS connection, either way."""

    def __init__(self, far: Far) -> None:
        self.far = far
        self._buffer = b""
        self._pending: list[bytes] = []
        self.transport: asyncio.WriteTransport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.WriteTransport)
        self.transport = transport
        self.far.open_ones.add(self)

    def connection_lost(self, error: Exception | None) -> None:
        self.far.open_ones.discard(self)
        if self.far.out is self:
            self.far.out = None

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while True:
            self._buffer = self._buffer.lstrip(b"\r\n")
            end = self._buffer.find(b"\r\n\r\n")
            if end < 0:
                break
            found = _LENGTH.search(self._buffer, 0, end)
            total = end + 4 + (int(found[1]) if found else 0)
            if len(self._buffer) < total:
                break
            message = parse(self._buffer[:end], self._buffer[end + 4 : total])
            self._buffer = self._buffer[total:]
            if message.start.startswith("SIP/2.0"):
                self.far.response(message)
            else:
                self.far.request(message, self)

    def write(self, head: list[str], body: bytes = b"") -> None:
        """Send a message."""
        head.append(f"Content-Length: {len(body)}")
        self._pending.append("\r\n".join(head).encode() + b"\r\n\r\n" + body)
        if len(self._pending) == 1:
            asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        data, self._pending = b"".join(self._pending), []
        if not self.transport.is_closing():
            self.transport.write(data)

    def answer(
        self, request: Message, status: str, to: str = "", more: list[str] | None = None
    ) -> None:
        """Answer a request."""
        self.write(
            [
                f"SIP/2.0 {status}",
                *(f"Via: {via}" for via in request.headers["via"]),
                f"From: {request.one('from')}",
                f"To: {to or request.one('to')}",
                f"Call-ID: {request.one('call-id')}",
                f"CSeq: {request.one('cseq')}",
                *(more or []),
            ]
        )


def contexts(certificate: str, key: str, ca: str) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Return mutual TLS for both directions."""
    made = []
    for purpose in (ssl.Purpose.CLIENT_AUTH, ssl.Purpose.SERVER_AUTH):
        context = ssl.create_default_context(purpose, cafile=ca)
        context.load_cert_chain(certificate, key)
        context.verify_mode = ssl.CERT_REQUIRED
        made.append(context)
    return made[0], made[1]


async def serve(far: Far) -> None:
    """Run commands until the end of input."""
    loop = asyncio.get_running_loop()
    lines: asyncio.Queue[str] = asyncio.Queue()

    def pump() -> None:
        for line in sys.stdin:
            loop.call_soon_threadsafe(lines.put_nowait, line.strip())
        loop.call_soon_threadsafe(lines.put_nowait, "quit")

    threading.Thread(target=pump, daemon=True).start()
    await far.listen()
    keeping = asyncio.ensure_future(far.keep_connected())
    while far.out is None:
        await asyncio.sleep(0.01)
    emit("ready")
    while (line := await lines.get()) != "quit":
        await far.obey(json.loads(line))
    keeping.cancel()


def main() -> None:
    """Read the arguments and serve."""
    listen_port, node_port, node_name, domain, certificate, key, ca = sys.argv[1:]
    tls = contexts(certificate, key, ca)
    asyncio.run(serve(Far(int(listen_port), int(node_port), node_name, domain, tls)))


if __name__ == "__main__":
    main()
