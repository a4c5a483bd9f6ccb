"""Presence subscriptions: our users watch theirs, theirs watch ours."""

from __future__ import annotations

import asyncio

from . import dialect, rules
from .connections import Connection
from .dialect import Person
from .edge import Edge, Refused
from .rules import Dialog
from .wire import Message, address_of, uri_of

Pair = tuple[str, str]
#: A NOTIFY has to follow a SUBSCRIBE within so many seconds.
PATIENCE = 10.0


class Presence:
    """All subscriptions, both ways, and the state of our users."""

    def __init__(self, edge: Edge) -> None:
        self.edge = edge
        self.watching: dict[Pair, Dialog] = {}
        self.watchers: dict[tuple[str, str], Dialog] = {}
        self.states: dict[str, tuple[str, str]] = {}
        self._notified: dict[tuple[str, str], asyncio.Event] = {}
        edge.handlers |= {"SUBSCRIBE": self._subscribed, "NOTIFY": self._notified_of}

    # ----------------------------------------------------- we watch theirs

    async def watch(self, person: Person, peer: str) -> Message:
        """Subscribe; the node must answer 200 and then notify, pending or active."""
        dialog = self.edge.new_dialog(person, peer, name=False)
        answer = await self._subscribe(dialog, 28800)
        self.watching[(person.address, peer)] = dialog
        return answer

    async def refresh(self, person: Person, peer: str) -> Message:
        """Refresh within the dialog; that brings another NOTIFY."""
        return await self._subscribe(self._watched(person, peer), 28800)

    async def unwatch(self, person: Person, peer: str) -> Message:
        """End the subscription; that brings a last NOTIFY, terminated."""
        dialog = self._watched(person, peer)
        del self.watching[(person.address, peer)]
        return await self._subscribe(dialog, 0)

    def _watched(self, person: Person, peer: str) -> Dialog:
        dialog = self.watching.get((person.address, peer))
        if dialog is None:
            raise Refused(481, "not subscribed")
        return dialog

    async def _subscribe(self, dialog: Dialog, expires: int) -> Message:
        extra = [
            ("Event", "presence"),
            ("Accept", dialect.WATCHER_ACCEPT),
            ("Supported", "com.microsoft.autoextend"),
            ("Supported", "ms-piggyback-first-notify"),
            ("Expires", str(expires)),
        ]
        notified = self._notified[dialog.key] = asyncio.Event()
        if dialog.remote_tag:
            answer = await self.edge.inside("SUBSCRIBE", dialog, extra)
        else:

            def settle(got: Message) -> None:
                if got.status < 300:
                    dialog.answered(message, got)

            connection = await self.edge.own_connection()
            message = self.edge.request("SUBSCRIBE", dialog, extra)
            answer = await self.edge.exchange(connection, message, settle)
        if answer.status >= 300:
            raise Refused(answer.status, answer.reason)
        granted = answer.get("expires")
        if not granted.isdigit() or int(granted) > expires:
            self.edge.violation("expires", f"asked for {expires}, got {granted!r}")
        try:
            await asyncio.wait_for(notified.wait(), PATIENCE)
        except TimeoutError:
            self.edge.violation("notify", f"no NOTIFY after {answer.start} for {dialog.peer}")
        return answer

    def _notified_of(
        self, connection: Connection, message: Message, dialog: Dialog | None, person: Person
    ) -> None:
        if dialog is None or dialog.key not in self._notified:
            self.edge.reply(connection, message, 481, "Subscription does not exist")
            return
        bad = self.edge.breaches_of(rules.document(message, dialog.peer))
        seen = None
        if message.body:
            try:
                seen = dialect.read_pidf(message.body)
            except ValueError as error:
                self.edge.violation("pidf", str(error))
                bad = True
        if bad:
            self.edge.reply(connection, message, 400, "Bad Request")
            return
        self.edge.reply(connection, message, 200, "OK")
        self._notified[dialog.key].set()
        self.edge.emit(
            "presence",
            sender=dialog.peer,
            to=person.address,
            subscription=message.get("subscription-state").partition(";")[0].strip(),
            state=seen.state if seen else "",
            note=seen.note if seen else "",
            name=seen.name if seen else "",
        )

    # ----------------------------------------------------- they watch ours

    def _subscribed(
        self, connection: Connection, message: Message, dialog: Dialog | None, person: Person
    ) -> None:
        if dialog is None:
            dialog = self._new_watcher(connection, message, person)
        elif dialog.key not in self.watchers:
            self.edge.reply(connection, message, 481, "Subscription does not exist")
            return
        else:
            dialog.target = uri_of(message.get("contact")) or dialog.target
        expires = min(int(message.get("expires")), 7200)
        state = f"active;expires={expires}" if expires else "terminated;reason=timeout"
        first = not dialog.state.get("answered")
        dialog.state["answered"] = True
        routes = [("Record-Route", route) for route in dialog.recorded] if first else []
        extra = [
            *routes,
            ("Contact", f"<{dialog.gruu}>"),
            ("Event", "presence"),
            ("subscription-state", state),
            ("Expires", str(expires)),
            ("Server", "RTC/6.0"),
        ]
        self.edge.reply(connection, message, 200, "OK", dialog.local_tag, extra)
        self.edge.emit(
            "watcher", sender=dialog.peer, to=person.address, expires=expires, refresh=not first
        )
        if not expires:
            del self.watchers[dialog.key]
        self.edge.spawn(self._notify(dialog, person, state))

    def _new_watcher(self, connection: Connection, message: Message, person: Person) -> Dialog:
        dialog = self.edge.new_dialog(person, address_of(uri_of(message.get("from"))))
        dialog.remote = message.get("from").partition(";tag=")[0]
        dialog.call_id = message.get("call-id")
        dialog.remote_tag = message.tag("from")
        dialog.local = f"<sip:{person.address}>;tag={dialog.local_tag}"
        dialog.target = uri_of(message.get("contact"))
        dialog.beyond = message.values("record-route")
        dialog.local_cseq, dialog.remote_cseq = 0, message.cseq
        dialog.theirs, dialog.connection = True, connection
        self.edge.dialogs[dialog.key] = dialog
        self.watchers[dialog.key] = dialog
        return dialog

    async def _notify(self, dialog: Dialog, person: Person, state: str) -> None:
        mood, note = self.states.get(person.address, ("available", ""))
        body = b"" if state.startswith("terminated") else dialect.pidf(person, mood, note)
        extra = [("Event", "presence"), ("subscription-state", state)]
        if body:
            extra.append(("Content-Type", "application/pidf+xml"))
        answer = await self.edge.inside("NOTIFY", dialog, extra, body, client=False)
        if answer.status != 200:
            self.watchers.pop(dialog.key, None)
            self.edge.emit("unwatched", sender=dialog.peer, to=person.address, status=answer.status)

    async def change(self, person: Person, state: str, note: str = "") -> int:
        """Change a user's state; returns how many watchers were told."""
        if state not in dialect.STATES:
            raise Refused(400, f"states are {', '.join(dialect.STATES)}")
        self.states[person.address] = (state, note)
        told = [dialog for dialog in self.watchers.values() if dialog.user == person.address]
        await asyncio.gather(
            *(self._notify(dialog, person, "active;expires=7200") for dialog in told)
        )
        return len(told)
