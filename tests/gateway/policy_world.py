"""A presence world with a policy list at work, and a home server that lets us change rosters."""

from __future__ import annotations

from twisted.internet.defer import Deferred, fail, succeed
from zope.interface import implementer

from impfed.gateway.roster import IRosterWriter
from impfed.xmpp.jid import JID
from tests.gateway.harness import CONFIG
from tests.gateway.presence_world import PresenceWorld

ALICE = JID.parse("alice@home.example")
ROMEO = JID.parse("romeo@lync.example")


@implementer(IRosterWriter)
class FakeRoster:
    """Notes what it is to approve.

    :ivar answer: what it answers at once; None to answer later by ``waiting``, an exception to fail.
    """

    def __init__(self, answer: bool | Exception | None = True) -> None:
        self.answer = answer
        self.approved: list[tuple[str, str]] = []
        self.waiting: list[Deferred[bool]] = []
        self.usable = True

    def available(self, local: JID) -> bool:
        return self.usable

    def approve(self, local: JID, foreign: JID) -> Deferred[bool]:
        self.approved.append((str(local), str(foreign)))
        if self.answer is None:
            self.waiting.append(Deferred())
            return self.waiting[-1]
        if isinstance(self.answer, Exception):
            return fail(self.answer)
        return succeed(self.answer)


class PolicyWorld(PresenceWorld):
    """Alice has a list."""

    def __init__(self, config=CONFIG, store=None, at: float = 0.0) -> None:
        super().__init__(config, store, at)
        self.im.screen(self.presence.watched.gates.texts)
        self.policies = self.presence.policies

    def crash(self) -> PolicyWorld:
        fresh = PolicyWorld(self.config, self.store, at=self.clock.seconds() + 60)
        loaded = []
        fresh.presence.load(self.store).addCallback(loaded.append)
        assert loaded, "the store did not answer"
        fresh.presence.resume()
        return fresh

    def with_roster(self, answer: bool | Exception | None = True) -> FakeRoster:
        """Let the home server change rosters."""
        roster = FakeRoster(answer)
        self.presence.watched.roster = roster
        return roster

    def allow(self, subject: str = "romeo@lync.example") -> None:
        self.policies.set(ALICE, subject, "allow")

    def block(self, subject: str = "romeo@lync.example") -> None:
        self.policies.set(ALICE, subject, "block")

    def unlist(self, subject: str = "romeo@lync.example") -> None:
        self.policies.delete(ALICE, subject)

    def approved_romeo(self, show: str = "") -> str:
        """Romeo watches alice, who has let him, and sees her; returns our tag of his dialog."""
        tag = self.subscribes().to_tag
        self.notify()
        self.alice_approves(show)
        self.notify()
        self.stanzas()
        return tag

    def types(self) -> list[str]:
        """Return the types of the presence stanzas sent to the home server, and forget them."""
        return [each.get("type") for each in self.stanzas() if each.tag == "presence"]

    def count(self, name: str) -> float:
        return self.metrics.value(name)
