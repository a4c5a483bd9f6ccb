"""The home links of a node of the kit: connected as soon as they are held."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from twisted.internet.defer import Deferred, succeed

from impfed.config.model import HomeConfig
from impfed.testing.fakes import FakeHome
from impfed.transport.rosters import DONE, Deed
from impfed.xmpp.barrier import ACCEPTED
from impfed.xmpp.jid import JID
from impfed.xmpp.stanza import OutStanza


@dataclass(eq=False)
class Link:
    """A link to the home server, which takes everything."""

    home: HomeConfig
    written: list[str]
    up: bool = False

    def pass_on(self, out: OutStanza) -> bool:
        self.written.append(out.xml)
        return True


class Links(FakeHome):
    """Everything is accepted at once.

    :ivar written: what the home server got, in order; of all nodes that are given the same list.
    :ivar able: whether it lets us write rosters.
    :ivar deeds: what was done to rosters: deed, user, contact, name.
    :ivar told: what is said of that.
    """

    def __init__(self, home: HomeConfig, written: list[str]) -> None:
        super().__init__()
        self.written = written
        self.one = Link(home, written)
        self.able = True
        self.deeds: list[tuple[str, str, str, str]] = []
        self.told = DONE

    def can_write_rosters(self, domain: str) -> bool:
        return self.one.up and self.able

    def change_roster(self, deed: Deed, local: JID, foreign: JID, name: str, done: Any) -> None:
        self.deeds.append((deed.value, local.text, foreign.text, name))
        done(self.told)

    def hold(self, name: str) -> None:
        self.one.up = True
        self.user.link_up(self.one)

    def let_go(self, name: str) -> Deferred[None]:
        self.one.up = False
        return succeed(None)

    def link(self, local: str, foreign: str) -> Link:
        return self.one

    def keeps(self, name: str) -> bool:
        return True

    def unconfirmed(self, name: str) -> int:
        return 0

    def send(self, stanza: OutStanza) -> bool:
        return self.one.pass_on(stanza)

    def deliver(self, stanza: OutStanza, done: Any) -> None:
        self.one.pass_on(stanza)
        done(ACCEPTED)
