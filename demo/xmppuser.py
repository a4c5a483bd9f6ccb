"""An XMPP user at the end of a pipe: slixmpp, commands in, events out, one JSON object a line.

Usage: python -m demo.xmppuser JID PASSWORD HOST:PORT

Commands: ``message`` (to, body), ``typing`` (to, state), ``subscribe``, ``approve``, ``decline``,
``unsubscribe`` (to), ``presence`` (show, status, type), ``raw`` (xml), ``ping``, ``quit``, and
``answer`` (how: approve or decline), from which on it answers by itself whoever asks.
Events: ``online``, ``message``, ``typing``, ``presence``, ``asked``, ``answers`` (it does so from
now on), ``pong`` (the server has handled what was sent before), ``wire`` (every stanza).
"""

from __future__ import annotations

import asyncio
import json
import sys
import threading
from typing import Any

from slixmpp import ClientXMPP
from slixmpp.xmlstream import ET, tostring
from slixmpp.xmlstream.handler import Callback
from slixmpp.xmlstream.matcher import MatchXPath

#: Presence type of an answer.
ANSWERS: dict[str, Any] = {"approve": "subscribed", "decline": "unsubscribed"}
STATES = "http://jabber.org/protocol/chatstates"
XHTML = "http://www.w3.org/1999/xhtml"


def emit(event: str, **details: Any) -> None:
    """Write one event."""
    sys.stdout.write(json.dumps({"event": event, **details}, ensure_ascii=False) + "\n")
    sys.stdout.flush()


class User(ClientXMPP):
    """The client; it approves nobody by itself unless it is told to."""

    def __init__(self, jid: str, password: str) -> None:
        super().__init__(jid, password)
        self.auto_authorize = None
        self.auto_subscribe = False
        self._answer = ""
        self.add_event_handler("session_start", self._started)
        self.add_event_handler("failed_all_auth", lambda _: emit("error", text="login refused"))
        self.add_event_handler("disconnected", lambda reason: emit("offline", reason=str(reason)))
        for kind, handle in (("message", self._message), ("presence", self._presence)):
            every = MatchXPath(f"{{jabber:client}}{kind}")
            self.register_handler(Callback(f"every {kind}", every, handle))
        self.add_filter("in", lambda stanza: self._wire("received", stanza))
        self.add_filter("out", lambda stanza: self._wire("sent", stanza))

    def _wire(self, direction: str, stanza: Any) -> Any:
        if getattr(stanza, "name", "") in ("message", "presence", "iq"):
            emit("wire", direction=direction, text=str(stanza))
        return stanza

    async def _started(self, _: Any) -> None:
        self.send_presence()
        await self.get_roster()
        emit("online", jid=str(self.boundjid))

    def _message(self, message: Any) -> None:
        details = {"sender": str(message["from"]), "to": str(message["to"]), "id": message["id"]}
        states = [child.tag.rpartition("}")[2] for child in message.xml
                  if child.tag.startswith(f"{{{STATES}}}")]  # fmt: skip
        kind = message["type"]
        if kind == "error":
            error = message["error"]
            emit("refused", condition=error["condition"], text=error["text"], kind=error["type"],
                 body=message["body"], **details)  # fmt: skip
        elif message["body"]:
            rich = message.xml.find(f".//{{{XHTML}}}body")
            emit("message", body=message["body"], states=states,
                 xhtml="" if rich is None else tostring(rich), **details)  # fmt: skip
        elif states:
            emit("typing", state=states[0], **details)

    def _presence(self, presence: Any) -> None:
        if str(presence["from"].bare) == self.boundjid.bare:
            return
        raw = presence.xml.get("type", "available")
        emit(
            "asked" if raw == "subscribe" else "presence",
            sender=str(presence["from"].bare), resource=presence["from"].resource, kind=raw,
            show=presence.xml.findtext("{jabber:client}show") or "", status=presence["status"],
        )  # fmt: skip
        if raw == "subscribe" and self._answer:
            self.send_presence(pto=presence["from"].bare, ptype=ANSWERS[self._answer])

    def run(self, command: dict[str, str]) -> None:
        """Do what a command says."""
        do, to = command["do"], command.get("to", "")
        if do == "message":
            message = self.make_message(mto=to, mbody=command["body"], mtype="chat")
            message["id"] = command.get("id") or message["id"]
            message.append(ET.Element(f"{{{STATES}}}active"))
            message.send()
        elif do == "typing":
            message = self.make_message(mto=to, mtype="chat")
            message.append(ET.Element(f"{{{STATES}}}{command.get('state', 'composing')}"))
            message.send()
        elif do == "answer":
            self._answer = command["how"]
            emit("answers", how=self._answer)
        elif do == "ping":
            ping: Any = self.make_iq_get("urn:xmpp:ping", ito=self.boundjid.domain)
            ping.send(callback=lambda _: emit("pong"))
        elif do == "raw":
            self.send_raw(command["xml"])
        elif do == "presence":
            kind: Any = command.get("type") or None
            show: Any = command.get("show") or None
            self.send_presence(pshow=show, pstatus=command.get("status") or None, ptype=kind)
        else:
            self.send_presence(pto=to, ptype=ANSWERS.get(do, do))


async def serve(user: User, host: str, port: int) -> None:
    """Connect and run commands until the end of input."""
    loop = asyncio.get_running_loop()
    lines: asyncio.Queue[str] = asyncio.Queue()

    def pump() -> None:
        for line in sys.stdin:
            loop.call_soon_threadsafe(lines.put_nowait, line.strip())
        loop.call_soon_threadsafe(lines.put_nowait, "quit")

    user.enable_direct_tls = False
    user.enable_starttls = False
    user.enable_plaintext = True
    user.plugin["feature_mechanisms"].unencrypted_plain = True
    user.connect(host, port)
    threading.Thread(target=pump, daemon=True).start()
    while (line := await lines.get()) != "quit":
        if line:
            user.run(json.loads(line))
    await user.disconnect()


def main() -> None:
    """Read the arguments and serve."""
    jid, password, address = sys.argv[1:]
    host, _, port = address.rpartition(":")

    async def run() -> None:
        await serve(User(jid, password), host, int(port))

    asyncio.run(run())


if __name__ == "__main__":
    main()
