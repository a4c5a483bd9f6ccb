"""What passes between real XMPP clients and the partner's people, whatever lies between them.

Import this module, not its classes: trial would run them where they are imported.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from twisted.trial.unittest import SynchronousTestCase

from demo.parts import Event

from .stage import NAME, Stage, Variant, scene


class TopologyTestCase(SynchronousTestCase):
    """Tests in one running scene. Each has a foreign user of its own."""

    kind: type[Stage]
    variant = Variant()

    def setUp(self) -> None:
        self.scene = scene(self.kind, self.variant)
        self.far, self.users = self.scene.far, self.scene.users
        self.begin = self.far.position
        self.begun = {domain: user.position for domain, user in self.users.items()}

    def tearDown(self) -> None:
        self.assertEqual(self.violations(), [])

    def violations(self) -> list[Event]:
        """Return what the partner's server found wrong with what it got."""
        return self.far.seen(self.begin, event="violation")

    # -- texts -------------------------------------------------------------------------------------

    def far_does(self, do: str, who: str, to: str, status: int = 200, **details: str) -> None:
        """Let a far user do something; the answer must have that status."""
        since = self.far.position
        number = self.far.send(do, **{"from": who, "to": to, **details})
        done = self.far.expect(since, 60, event="done", id=number)
        self.assertEqual(done["status"], status, done)

    def far_writes(self, who: str, domains: Iterable[str], text: str) -> None:
        """A far user writes to our users, all at once, and each of them reads it."""
        domains, since = tuple(domains), self.far.position
        sent = [
            self.far.send(
                "im", **{"from": who, "to": f"{NAME}@{domain}", "text": f"{text} {domain}"}
            )
            for domain in domains
        ]
        for number in sent:
            done = self.far.expect(since, 60, event="done", id=number)
            self.assertEqual(done["status"], 200, done)
        for domain in domains:
            body, begun = f"{text} {domain}", self.begun[domain]
            self.users[domain].expect(begun, event="message", body=body, sender=who)

    def writes(self, domains: Iterable[str], who: str, text: str) -> None:
        """Our users write to a far user, all at once, who reads it."""
        domains, since = tuple(domains), self.far.position
        for domain in domains:
            self.users[domain].send("message", to=who, body=f"{text} {domain}")
        for domain in domains:
            wanted = {"sender": f"{NAME}@{domain}", "to": who, "text": f"{text} {domain}"}
            self.far.expect(since, 60, event="im", **wanted)

    def wire(self, direction: str, begins: str, *contains: str, since: int = 0) -> Event:
        """Return a message that the partner's server has sent or received."""

        def fits(text: str) -> bool:
            return text.startswith(begins) and all(each in text for each in contains)

        return self.far.expect(
            since or self.begin, 30, event="wire", direction=direction, text=fits
        )

    # -- presence ----------------------------------------------------------------------------------

    def far_watches(self, who: str, domains: Iterable[str]) -> None:
        """A far user asks to see our users, who say yes."""
        domains, since = tuple(domains), self.far.position
        sent = [
            self.far.send("subscribe", **{"from": who, "to": f"{NAME}@{domain}"})
            for domain in domains
        ]
        for number in sent:
            done = self.far.expect(since, 60, event="done", id=number)
            self.assertEqual(done["status"], 200, done)
        for domain in domains:
            self.users[domain].expect(self.begun[domain], 60, event="asked", sender=who)
            self.users[domain].send("approve", to=who)
        self.far_sees(who, domains, "available", since)

    def far_sees(self, who: str, domains: Iterable[str], state: str, since: int) -> None:
        """Wait until a far user sees our users so."""
        for domain in domains:
            wanted = {"sender": f"{NAME}@{domain}", "to": who, "state": state}
            self.far.expect(since, 60, event="presence", subscription="active", **wanted)

    def show(self, who: str, domains: Iterable[str], show: str, state: str) -> None:
        """Our users show something, and a far user sees it."""
        domains, since = tuple(domains), self.far.position
        for domain in domains:
            self.users[domain].send("presence", show=show)
        self.far_sees(who, domains, state, since)

    def watches(self, domains: Iterable[str], who: str) -> None:
        """Our users ask to see a far user."""
        domains = tuple(domains)
        for domain in domains:
            self.users[domain].send("subscribe", to=who)
        self.sees(domains, who, self.begun, "available", "")

    def far_shows(self, who: str, domains: Iterable[str], state: str, status: str) -> None:
        """A far user shows something, and our users see it."""
        domains = tuple(domains)
        since = {domain: self.users[domain].position for domain in domains}
        self.far.send("presence", **{"from": who, "state": state})
        self.sees(domains, who, since, "available", status)

    def sees(
        self, domains: Iterable[str], who: str, since: Mapping[str, int], kind: str, status: str
    ) -> None:
        """Wait until our users see a far user so."""
        for domain in domains:
            wanted = {"sender": who, "kind": kind, "status": status}
            self.users[domain].expect(since[domain], 60, event="presence", **wanted)


class BothWays(TopologyTestCase):
    """Texts and presence in both directions, for a user of every local domain."""

    def test_texts_inwards(self) -> None:
        """A partner's user writes to a user of each node, and is answered in the same session."""
        self.far_writes("romeo@lync.example", self.users, "But soft")
        self.writes(self.users, "romeo@lync.example", "Ay me")
        self.far_writes("romeo@lync.example", self.users, "She speaks")

    def test_texts_outwards(self) -> None:
        """A user of each node writes to a partner's user, and is answered in the same session."""
        self.writes(self.users, "tybalt@lync.example", "Peace?")
        self.far_writes("tybalt@lync.example", self.users, "I hate the word")
        self.writes(self.users, "tybalt@lync.example", "As I hate hell")

    def test_presence_inwards(self) -> None:
        """A partner's user watches a user of each node, and sees every change."""
        who = "paris@lync.example"
        self.far_watches(who, self.users)
        self.show(who, self.users, "dnd", "busy")
        self.show(who, self.users, "", "available")

    def test_presence_outwards(self) -> None:
        """A user of each node watches a partner's user, and sees every change."""
        who = "juliet@lync.example"
        self.watches(self.users, who)
        self.far_shows(who, self.users, "busy", "Busy")
        self.far_shows(who, self.users, "available", "")
