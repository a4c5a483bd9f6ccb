"""An XMPP client driven over standard input and output, one JSON object a line.

The first line logs in: ``{"jid": …, "password": …, "host": …, "port": …}``; each further line is a
command: ``{"do": "message", "to": …, "body": …}``.  Everything that arrives is printed as an event.
It imports nothing from impfed: what it sees, a user would see.
"""

import asyncio
import json
import sys
from typing import Any
from xml.etree import ElementTree as ET
from xml.sax.saxutils import escape

import slixmpp

CHAT_STATES = "http://jabber.org/protocol/chatstates"
STANZAS = "urn:ietf:params:xml:ns:xmpp-stanzas"
STATES = {"active", "composing", "paused", "inactive", "gone"}


def report(event: str, **values: Any) -> None:
    print(json.dumps({"event": event, **values}), flush=True)


class Client(slixmpp.ClientXMPP):
    def __init__(self, jid: str, password: str) -> None:
        super().__init__(jid, password)
        self.enable_direct_tls = False
        self.enable_starttls = False
        self.enable_plaintext = True
        self.auto_authorize = None  # people decide, that is the tests
        self.auto_subscribe = False
        self.register_plugin("xep_0199")
        self["feature_mechanisms"].unencrypted_scram = True
        self.add_event_handler("session_start", self.session_started)
        self.add_event_handler("failed_all_auth", lambda _: report("refused"))
        self.add_event_handler("disconnected", lambda _: report("disconnected"))
        for kind in ("message", "presence", "iq"):
            matcher = slixmpp.xmlstream.matcher.MatchXPath(f"{{jabber:client}}{kind}")
            handler = slixmpp.xmlstream.handler.Callback(f"all {kind}", matcher, self.arrived)
            self.register_handler(handler)

    async def session_started(self, _: object) -> None:
        self.send_presence()
        await self.get_roster()
        report("online", jid=str(self.boundjid))

    def arrived(self, stanza: Any) -> None:
        xml = stanza.xml
        get = xml.get
        values = {
            "from": get("from", ""),
            "to": get("to", ""),
            "id": get("id", ""),
            "type": get("type", ""),
            "xml": ET.tostring(xml, encoding="unicode"),
        }
        for name in ("body", "show", "status", "subject", "thread"):
            element = xml.find(f"{{jabber:client}}{name}")
            if element is not None:
                values[name] = element.text or ""
        for child in xml:
            space, _, name = child.tag[1:].partition("}")
            if space == CHAT_STATES and name in STATES:
                values["state"] = name
        error = xml.find("{jabber:client}error")
        if error is not None:
            for child in error:
                space, _, name = child.tag[1:].partition("}")
                if space == STANZAS and name == "text":
                    values["text"] = child.text
                elif space == STANZAS:
                    values["condition"] = name
        report(xml.tag.partition("}")[2], **values)

    def do_message(self, to: str, body: str = "", id: str = "", payload: str = "") -> None:
        content = f"<body>{escape(body)}</body>" if body else ""
        head = f"<message to='{to}' type='chat' id='{id or self.new_id()}'>"
        self.do_raw(f"{head}{content}{payload}</message>")

    def do_typing(self, to: str, state: str = "composing") -> None:
        self.do_message(to, payload=f"<{state} xmlns='{CHAT_STATES}'/>")

    def do_presence(
        self, show: str = "", status: str = "", priority: int = 0, type: str = ""
    ) -> None:
        self.send_presence(
            pshow=show or None, pstatus=status or None, ppriority=priority, ptype=type or None
        )

    def do_subscribe(self, to: str) -> None:
        self.send_presence(pto=to, ptype="subscribe")

    def do_unsubscribe(self, to: str) -> None:
        self.send_presence(pto=to, ptype="unsubscribe")

    def do_approve(self, to: str) -> None:
        self.send_presence(pto=to, ptype="subscribed")

    def do_decline(self, to: str) -> None:
        self.send_presence(pto=to, ptype="unsubscribed")

    def do_raw(self, xml: str) -> None:
        self.send_raw(xml)

    def do_quit(self) -> None:
        self.disconnect()


async def main() -> None:
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    login = json.loads(await reader.readline())
    client = Client(login["jid"], login["password"])
    client.connect(login["host"], login["port"])
    while line := await reader.readline():
        command = json.loads(line)
        name = command.pop("do")
        try:
            getattr(client, f"do_{name}")(**command)
        except Exception as error:  # the test must see it, whatever it is
            report("fault", what=repr(error))
    await client.disconnect()


if __name__ == "__main__":
    asyncio.run(main())
