"""The control channel: commands on standard input, events on standard output, one a line.

A command is a JSON object, or plain words:

    {"do": "im", "from": "romeo", "to": "alice@home.example", "text": "...", "id": "7"}
    im romeo alice@home.example But soft!

Commands: ``im``, ``html``, ``typing`` (text: type or idle), ``leave``, ``withdraw`` (an invitation is
cancelled as soon as it is being tried), ``conference``, ``multiparty``, ``subscribe``, ``refresh``,
``unsubscribe``, ``presence`` (words: who, state, note), ``quit``. Each ends with an event ``done``
that carries its id and the status of the answer.

Events: ``ready`` (port), ``wire`` (every SIP message, and when), ``connection``, ``negotiate``,
``session``, ``moved`` (a re-INVITE), ``im``, ``typing``, ``left``, ``presence``, ``watcher``,
``unwatched``, ``done``, ``error`` and, for every breach of what a Microsoft edge insists on,
``violation``.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import sys
import threading
from pathlib import Path
from typing import Any

from .dialect import Person
from .edge import Edge, Refused, Settings
from .instant import Instant
from .presence import Presence


def emit(event: str, **details: Any) -> None:
    """Write one event."""
    sys.stdout.write(json.dumps({"event": event, **details}, ensure_ascii=False) + "\n")
    sys.stdout.flush()


def read_command(line: str) -> dict[str, str]:
    """Return a command line as a dictionary; plain words are allowed for people."""
    if line.startswith("{"):
        command = json.loads(line)
        return {str(name): str(value) for name, value in command.items()}
    do, *words = line.split(" ", 3)
    names = ("from", "state", "text") if do == "presence" else ("from", "to", "text")
    return {"do": do, **dict(zip(names, words, strict=False))}


class FarSide:
    """The users' hands: runs commands."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.edge = Edge(settings, emit)
        self.instant = Instant(self.edge)
        self.presence = Presence(self.edge)

    def person(self, name: str) -> Person:
        """Return the user that is meant, with or without domain."""
        address = name if "@" in name else f"{name}@{self.settings.domain}"
        try:
            return self.settings.users[address]
        except KeyError:
            raise Refused(404, f"no user {address} here") from None

    async def run(self, command: dict[str, str]) -> None:
        """Do what a command says; always ends with an event."""
        try:
            status, reason = await self._do(command)
        except Refused as error:
            status, reason = error.status, error.reason
        except KeyError as error:
            status, reason = 0, f"no such command, or its {error} is missing"
        except OSError as error:
            status, reason = 0, f"{type(error).__name__}: {error}"
        emit(
            "done", id=command.get("id", ""), do=command.get("do", ""), status=status, reason=reason
        )

    async def _do(self, command: dict[str, str]) -> tuple[int, str]:
        do = command["do"]
        person = self.person(command["from"])
        if do == "presence":
            told = await self.presence.change(person, command["state"], command.get("text", ""))
            return 200, f"{told} watchers told"
        peer, text = command["to"], command.get("text", "")
        if do == "im":
            answer = await self.instant.say(person, peer, text)
        elif do == "html":
            answer = await self.instant.say(person, peer, text, "text/html; charset=UTF-8")
        elif do == "typing":
            answer = await self.instant.type(person, peer, text or "type")
        elif do == "leave":
            answer = await self.instant.leave(person, peer)
        elif do == "withdraw":
            answer = await self.instant.withdraw(person, peer)
        elif do == "conference":
            answer = await self.instant.conference(person, peer)
        elif do == "multiparty":
            answer = await self.instant.multiparty(person, peer)
        elif do == "subscribe":
            answer = await self.presence.watch(person, peer)
        elif do == "refresh":
            answer = await self.presence.refresh(person, peer)
        elif do == "unsubscribe":
            answer = await self.presence.unwatch(person, peer)
        else:
            raise Refused(400, f"unknown command {do}")
        return answer.status, answer.reason

    async def serve(self) -> None:
        """Listen, run commands until ``quit`` or the end of input."""
        loop = asyncio.get_running_loop()
        lines: asyncio.Queue[str] = asyncio.Queue()

        def pump() -> None:
            for line in sys.stdin:
                loop.call_soon_threadsafe(lines.put_nowait, line.strip())
            loop.call_soon_threadsafe(lines.put_nowait, "quit")

        await self.edge.start()
        emit("ready", port=self.settings.port)
        threading.Thread(target=pump, daemon=True).start()
        while (line := await lines.get()) != "quit":
            if not line:
                continue
            try:
                command = read_command(line)
            except ValueError as error:
                emit("error", text=f"no command: {error}")
                continue
            self.edge.spawn(self.run(command))
        await self.edge.stop()
        emit("end", violations=self.edge.breaches)


def main() -> int:
    """Read the arguments and serve; exit code 1 if there was a violation."""
    parser = argparse.ArgumentParser(prog="farside", description=__doc__.partition("\n")[0])
    parser.add_argument("--domain", default="lync.example")
    parser.add_argument("--listen", default="127.0.0.1:0", metavar="HOST:PORT")
    parser.add_argument("--node", required=True, metavar="HOST:PORT", help="where the node listens")
    parser.add_argument("--node-name", required=True, help="name in the node's certificate")
    parser.add_argument("--other-node", action="append", default=[], metavar="NAME",
                        help="name in the certificate of another node, which connects to us")  # fmt: skip
    parser.add_argument("--edge", default="", metavar="NAME",
                        help="we are behind a proxy of our own with this certificate")  # fmt: skip
    parser.add_argument("--certificate", type=Path, required=True)
    parser.add_argument("--key", type=Path, required=True)
    parser.add_argument("--ca", type=Path, required=True)
    parser.add_argument("--user", action="append", default=[], metavar="USER[@DOMAIN]=NAME")
    parser.add_argument("--accept-delay", type=float, default=2.0, metavar="SECONDS")
    options = parser.parse_args()
    host, _, port = options.listen.rpartition(":")
    node_host, _, node_port = options.node.rpartition(":")
    settings = Settings(
        options.domain, host.strip("[]"), int(port), node_host.strip("[]"), int(node_port),
        options.node_name, options.certificate, options.key, options.ca, options.accept_delay,
        tuple(options.other_node), options.edge,
    )  # fmt: skip
    for entry in options.user or ["romeo=Romeo"]:
        user, _, name = entry.partition("=")
        address = user if "@" in user else f"{user}@{options.domain}"
        settings.users[address] = Person.make(address, name or user)
    far_side = FarSide(settings)
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(far_side.serve())
    return 1 if far_side.edge.breaches else 0


if __name__ == "__main__":
    sys.exit(main())
