"""People who meet in a room."""

from __future__ import annotations

from demo.parts import Talker


class Rooms:
    """What people do in rooms (XEP-0045)."""

    def join(self, user: Talker, room: str, nick: str) -> None:
        """Enter a room, and see oneself in it."""
        since = user.position
        muc = "<x xmlns='http://jabber.org/protocol/muc'/>"
        user.send("raw", xml=f"<presence to='{room}/{nick}'>{muc}</presence>")
        user.expect(since, event="presence", sender=room, resource=nick, kind="available")

    def unlock(self, user: Talker, room: str) -> None:
        """Open a room that one has made."""
        since = user.position
        form = "<x xmlns='jabber:x:data' type='submit'/>"
        query = f"<query xmlns='http://jabber.org/protocol/muc#owner'>{form}</query>"
        user.send("raw", xml=f"<iq to='{room}' type='set' id='unlock'>{query}</iq>")
        user.expect(
            since, event="wire", direction="received",
            text=lambda text: 'id="unlock"' in (text or "") and 'type="result"' in text,
        )  # fmt: skip

    def say(self, user: Talker, room: str, text: str) -> None:
        """Say something to all."""
        xml = f"<message to='{room}' type='groupchat'><body>{text}</body></message>"
        user.send("raw", xml=xml)

    def meet(self, owner: Talker, guest: Talker, room: str) -> None:
        """Have two people meet in a room, talk, change state, and part."""
        self.join(owner, room, "owner")
        self.unlock(owner, room)
        self.join(guest, room, "guest")
        owner.expect(event="presence", sender=room, resource="guest", kind="available")
        guest.expect(event="presence", sender=room, resource="owner", kind="available")
        for speaker, nick, text in ((owner, "owner", "Welcome!"), (guest, "guest", "Thanks!")):
            self.say(speaker, room, text)
            for listener in (owner, guest):
                listener.expect(event="message", sender=f"{room}/{nick}", body=text)
        since = owner.position
        guest.send("raw", xml=f"<presence to='{room}/guest'><show>dnd</show></presence>")
        owner.expect(since, event="presence", sender=room, resource="guest", show="dnd")
        since = owner.position
        private = f"<message to='{room}/owner' type='chat'><body>between us</body></message>"
        guest.send("raw", xml=private)
        owner.expect(since, event="message", sender=f"{room}/guest", body="between us")
        guest.send("raw", xml=f"<presence to='{room}/guest' type='unavailable'/>")
        owner.expect(since, event="presence", sender=room, resource="guest", kind="unavailable")
