"""A user who opens his client's menu of commands: slixmpp, one JSON object a line in and out.

Usage: python -m tests.interop.menu JID PASSWORD HOST:PORT

Commands: ``features`` (of), ``menu`` (of), ``open`` (of, node), ``submit`` (fields as JSON),
``cancel``, ``roster`` (of), ``presence`` (to, kind).  It imports nothing from impfed.
"""

from __future__ import annotations

import asyncio
import json
import sys
import threading
from typing import Any

from slixmpp import ClientXMPP
from slixmpp.exceptions import IqError
from slixmpp.plugins.xep_0004 import Form


def emit(event: str, **details: Any) -> None:
    print(json.dumps({"event": event, **details}, ensure_ascii=False), flush=True)


class User(ClientXMPP):
    def __init__(self, jid: str, password: str) -> None:
        super().__init__(jid, password)
        self.auto_authorize = None
        self.auto_subscribe = False
        self.enable_direct_tls = False
        self.enable_starttls = False
        self.enable_plaintext = True
        self.plugin["feature_mechanisms"].unencrypted_plain = True
        for plugin in ("xep_0004", "xep_0030", "xep_0050"):
            self.register_plugin(plugin)
        self.add_event_handler("session_start", self._started)
        self.add_event_handler("message", self._message)
        self.add_event_handler("presence_subscribe", self._asked)
        self._command: Any = None

    async def _started(self, _: Any) -> None:
        self.send_presence()
        await self.get_roster()
        emit("online", jid=str(self.boundjid))

    def _message(self, message: Any) -> None:
        items = message.xml.findall(".//{http://jabber.org/protocol/rosterx}item")
        emit(
            "message",
            sender=str(message["from"]),
            body=message["body"],
            suggested=[item.get("jid") for item in items],
        )

    def _asked(self, presence: Any) -> None:
        emit("asked", sender=str(presence["from"].bare))

    async def run(self, command: dict[str, str]) -> None:
        """Do what a command says, and report."""
        number = command.pop("id")
        try:
            details = await getattr(self, f"do_{command.pop('do')}")(**command)
        except IqError as error:
            xml = error.iq.xml.find(".//{http://jabber.org/protocol/commands}*")
            details = {
                "condition": error.condition,
                "detail": "" if xml is None else xml.tag.rpartition("}")[2],
            }
        emit("done", id=number, **details)

    async def do_features(self, of: str) -> dict[str, Any]:
        info = await self["xep_0030"].get_info(jid=of, cached=False)
        return {
            "features": sorted(info["disco_info"]["features"]),
            "identities": [list(each[:2]) for each in info["disco_info"]["identities"]],
        }

    async def do_menu(self, of: str) -> dict[str, Any]:
        found = await self["xep_0050"].get_commands(of)
        return {"menu": {node: name for _, node, name in found["disco_items"]["items"]}}

    async def do_open(self, of: str, node: str) -> dict[str, Any]:
        self._command = await self["xep_0050"].send_command(of, node, action="execute")
        return self._shown()

    async def do_submit(self, fields: str) -> dict[str, Any]:
        """Fill in the form that is open as a client would: known fields only, types checked."""
        command = self._command["command"]
        form: Form = command["form"]
        values = json.loads(fields)
        shown = form.get_fields()
        for name, value in values.items():
            field = shown[name]
            options = [option["value"] for option in field["options"]]
            wanted = value if isinstance(value, list) else [value]
            if options and not set(wanted) <= set(options):
                emit("fault", text=f"{name}: {wanted} is not among {options}")
        answer = self["xep_0004"].make_form(ftype="submit")
        for name, value in values.items():
            answer.add_field(var=name, ftype=shown[name]["type"], value=value)
        self._command = await self["xep_0050"].send_command(
            self._command["from"], command["node"], action="complete",
            sessionid=command["sessionid"], payload=answer,
        )  # fmt: skip
        return self._shown()

    async def do_cancel(self) -> dict[str, Any]:
        command = self._command["command"]
        self._command = await self["xep_0050"].send_command(
            self._command["from"], command["node"], action="cancel",
            sessionid=command["sessionid"],
        )  # fmt: skip
        return self._shown()

    async def do_roster(self, of: str) -> dict[str, Any]:
        await self.get_roster()
        if of not in self.client_roster:
            return {"item": None}
        item = self.client_roster[of]
        return {"item": {"name": item["name"], "subscription": item["subscription"]}}

    async def do_presence(self, to: str, kind: str) -> dict[str, Any]:
        self.send_presence(pto=to, ptype=kind)
        return {}

    def _shown(self) -> dict[str, Any]:
        command = self._command["command"]
        form = command.xml.find("{jabber:x:data}x")
        fields = {}
        if form is not None:
            for name, field in command["form"].get_fields().items():
                options = [option["value"] for option in field["options"]]
                fields[name] = {
                    "value": field["value"],
                    "options": options,
                    "label": field["label"],
                }
        return {
            "status": command["status"],
            "notes": [list(note) for note in command["notes"]],
            "kind": "" if form is None else form.get("type"),
            "instructions": "" if form is None else command["form"]["instructions"],
            "fields": fields,
        }


async def main() -> None:
    jid, password, address = sys.argv[1:]
    host, _, port = address.rpartition(":")
    user = User(jid, password)
    user.connect(host, int(port))
    loop = asyncio.get_running_loop()
    lines: asyncio.Queue[str] = asyncio.Queue()

    def pump() -> None:
        for line in sys.stdin:
            loop.call_soon_threadsafe(lines.put_nowait, line.strip())
        loop.call_soon_threadsafe(lines.put_nowait, "quit")

    threading.Thread(target=pump, daemon=True).start()
    while (line := await lines.get()) != "quit":
        if line:
            await user.run(json.loads(line))
    await user.disconnect()


if __name__ == "__main__":
    asyncio.run(main())
