"""A load at the XMPP end: a XEP-0114 component that swallows texts, or sends them at a rate.

Usage: python -m bench.xmppload DOMAIN SECRET HOST:PORT [SHOW]

It imports nothing from ``impfed``. Commands on standard input, one JSON object a line:
``send`` (to_domain, rate, pairs, seconds, body), ``subscribe`` (to_domain, count, rate), ``show``
(show), ``announce`` (show, rate), ``report``, ``quit``. Events: ``ready``, ``sent``, ``subscribing``,
``report`` (counts, and in ``shows`` how many contacts are how). Subscriptions are approved and
answered with presence, probes with the present show; ``announce`` tells all who have asked.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import sys
import threading
import time
from collections import Counter
from typing import Any
from xml.parsers import expat
from xml.sax.saxutils import quoteattr

PAIRS = 100


def emit(event: str, **details: Any) -> None:
    """Write one event."""
    sys.stdout.write(json.dumps({"event": event, **details}) + "\n")
    sys.stdout.flush()


class Component(asyncio.Protocol):
    """The component's stream; expat counts what arrives."""

    def __init__(self, domain: str, secret: str) -> None:
        self.domain, self.secret = domain, secret
        self.counts: Counter[str] = Counter(texts=0, errors=0, pings=0, subscriptions=0)
        self.show = ""
        self.asked: dict[tuple[str, str], None] = {}  # user, and who has asked how he is
        self.shows: dict[tuple[str, str], str] = {}  # user and contact: how the contact is
        self.transport: asyncio.WriteTransport | None = None
        self._depth = 0
        self._stanza: tuple[str, dict[str, str]] = ("", {})
        self._has_body = False
        self._show = ""
        self._text: list[str] = []
        self._out: list[str] = []
        self._parser = expat.ParserCreate()
        self._parser.StartElementHandler = self._start
        self._parser.EndElementHandler = self._end
        self._parser.CharacterDataHandler = self._text.append

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.WriteTransport)
        self.transport = transport
        self.write(
            "<stream:stream xmlns='jabber:component:accept' "
            f"xmlns:stream='http://etherx.jabber.org/streams' to={quoteattr(self.domain)}>"
        )

    def connection_lost(self, error: Exception | None) -> None:
        emit("offline", reason=str(error))

    def write(self, text: str) -> None:
        """Send text."""
        assert self.transport is not None
        self.transport.write(text.encode())

    def data_received(self, data: bytes) -> None:
        self._parser.Parse(data)
        if self._out:
            self.write("".join(self._out))
            self._out.clear()

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        self._depth += 1
        if self._depth == 1:
            digest = hashlib.sha1((attributes["id"] + self.secret).encode()).hexdigest()
            self._out.append(f"<handshake>{digest}</handshake>")
        elif self._depth == 2:
            self._stanza, self._has_body, self._show = (name, attributes), False, ""
        elif name == "body":
            self._has_body = True
        self._text.clear()

    def _end(self, name: str) -> None:
        self._depth -= 1
        if name == "show":
            self._show = "".join(self._text)
        if self._depth != 1:
            return
        name, attributes = self._stanza
        kind = attributes.get("type", "")
        if name == "handshake":
            emit("ready")
        elif name == "message":
            if kind == "error":
                self.counts["errors"] += 1
            elif self._has_body:
                self.counts["texts"] += 1
        elif name == "iq" and kind in ("get", "set"):
            self.counts["pings"] += 1
            self._answer("iq", attributes, "result")
        elif name == "presence" and kind == "subscribe":
            self.counts["subscriptions"] += 1
            self.asked[attributes["to"].partition("/")[0], attributes["from"]] = None
            self._answer("presence", attributes, "subscribed")
            self._answer("presence", attributes, "", "/load")
        elif name == "presence" and kind == "probe":
            self.counts["probes"] += 1
            self._answer("presence", attributes, "", "/load")
        elif name == "presence":
            pair = attributes["to"].partition("/")[0], attributes["from"].partition("/")[0]
            self.shows[pair] = kind or self._show
            self.counts[{"": "presences"}.get(kind, "errors" if kind == "error" else kind)] += 1

    def _answer(self, name: str, to: dict[str, str], kind: str, resource: str = "") -> None:
        words = f" type='{kind}'" if kind else ""
        if "id" in to:
            words += f" id={quoteattr(to['id'])}"
        source, target = quoteattr(to["to"] + resource), quoteattr(to["from"])
        inner = f"<show>{self.show}</show>" if resource and self.show else ""
        self._out.append(f"<{name} from={source} to={target}{words}>{inner}</{name}>")

    async def subscribe(self, to_domain: str, count: int, rate: float) -> None:
        """Let each user ask to see the one of the same number over there, at a rate."""
        begin = time.monotonic()
        for number in range(count):
            if (pause := begin + number / rate - time.monotonic()) > 0:
                await asyncio.sleep(pause)
            self.write(
                f"<presence from='u{number}@{self.domain}' to='c{number}@{to_domain}'"
                " type='subscribe'/>"
            )

    async def announce(self, show: str, rate: float) -> None:
        """Tell everybody who has asked how our users are now, at a rate."""
        self.show = show
        begin = time.monotonic()
        for number, (user, contact) in enumerate(list(self.asked)):
            if (pause := begin + number / rate - time.monotonic()) > 0:
                await asyncio.sleep(pause)
            inner = f"<show>{show}</show>" if show else ""
            self.write(f"<presence from='{user}/load' to='{contact}'>{inner}</presence>")

    async def send(self, to_domain: str, rate: float, pairs: int, seconds: float, body: int) -> int:
        """Send texts at a rate, open loop, over so many pairs of users; returns the number."""
        assert self.transport is not None
        sent, begin = 0, time.monotonic()
        filler = ("xxxxxxx " * (body // 8 + 1))[: max(0, body - 22)]
        while (now := time.monotonic() - begin) < seconds:
            due = int(now * rate)
            chunk = []
            for number in range(sent, due):
                pair = number % pairs
                chunk.append(
                    f"<message type='chat' from='u{pair}@{self.domain}/load' "
                    f"to='v{pair}@{to_domain}' id='l{number}'>"
                    f"<body>T{time.monotonic_ns()};{filler}</body></message>"
                )
            sent = due
            if chunk:
                self.write("".join(chunk))
            await asyncio.sleep(0.001)
        return sent


async def serve(component: Component) -> None:
    """Run commands until the end of input."""
    loop = asyncio.get_running_loop()
    lines: asyncio.Queue[str] = asyncio.Queue()

    def pump() -> None:
        for line in sys.stdin:
            loop.call_soon_threadsafe(lines.put_nowait, line.strip())
        loop.call_soon_threadsafe(lines.put_nowait, "quit")

    threading.Thread(target=pump, daemon=True).start()
    sending: list[asyncio.Task[None]] = []
    while (line := await lines.get()) != "quit":
        command = json.loads(line) if line else {}
        if command.get("do") == "report":
            shows = Counter(component.shows.values())
            emit("report", id=command["id"], shows=shows, **component.counts)
        elif command.get("do") == "show":
            component.show = command["show"]
            emit("done", id=command["id"])
        elif command.get("do") == "announce":
            wave = component.announce(command["show"], float(command["rate"]))
            sending.append(asyncio.ensure_future(wave))
            emit("done", id=command["id"])
        elif command.get("do") == "subscribe":
            wave = component.subscribe(
                command["to_domain"], int(command["count"]), float(command["rate"])
            )
            sending.append(asyncio.ensure_future(wave))
        elif command.get("do") == "send":

            async def run(command: dict[str, str] = command) -> None:
                sent = await component.send(
                    command["to_domain"], float(command["rate"]), int(command["pairs"]),
                    float(command["seconds"]), int(command["body"]),
                )  # fmt: skip
                emit("sent", id=command["id"], texts=sent)

            sending.append(asyncio.ensure_future(run()))


def main() -> None:
    """Read the arguments and serve."""
    domain, secret, address = sys.argv[1:4]
    host, _, port = address.rpartition(":")

    async def run() -> None:
        loop = asyncio.get_running_loop()
        _, component = await loop.create_connection(
            lambda: Component(domain, secret), host, int(port)
        )
        component.show = "".join(sys.argv[4:])
        await serve(component)

    asyncio.run(run())


if __name__ == "__main__":
    main()
