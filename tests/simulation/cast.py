"""Who takes part in a run: home servers and partners, where they are and who their users are."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

SECRET = "secret"
#: The name server.
NAMES = "10.0.0.53"
#: The partner that speaks SIP, and the one that speaks XMPP.
PARTNER, XMPP_PARTNER = "10.9.0.1", "10.8.0.1"
PARTNER_DOMAIN, XMPP_DOMAIN = "partner.example", "xmpp.example"
PARTNER_USERS = tuple(f"{name}@{PARTNER_DOMAIN}" for name in ("romeo", "juliet", "tybalt"))
XMPP_USERS = tuple(f"{name}@{XMPP_DOMAIN}" for name in ("mercutio", "benvolio"))


@dataclass(frozen=True)
class Home:
    """A home server.

    :ivar kind: "prosody" (with our module) or "component".
    """

    name: str
    host: str
    domain: str
    names: tuple[str, ...]
    kind: str

    @property
    def users(self) -> tuple[str, ...]:
        """Return the users' addresses."""
        return tuple(f"{name}@{self.domain}" for name in self.names)

    @property
    def gate(self) -> str:
        """Return the node's own address there, if it has one; with the module it carries everything."""
        return f"gate.{self.domain}" if self.kind == "prosody" else ""


_HOMES = (
    ("home", "10.1.0.1", "home.example", ("alice", "bob", "carol")),
    ("second", "10.1.0.2", "second.example", ("dave", "erin")),
)


@dataclass(frozen=True)
class Cast:
    """Which home servers and partners there are.

    :ivar sip: whether there is a partner that speaks SIP.
    :ivar xmpp: whether there is one that speaks XMPP.
    :ivar acks: whether that one counts stanzas (XEP-0198).
    """

    homes: tuple[Home, ...]
    sip: bool = True
    xmpp: bool = False
    acks: bool = True

    @classmethod
    def of(cls, *kinds: str, sip: bool = True, xmpp: bool = False, acks: bool = True) -> Cast:
        """Return one with home servers of these kinds."""
        homes = (Home(*each, kind) for each, kind in zip(_HOMES, kinds, strict=False))
        return cls(tuple(homes), sip, xmpp, acks)

    @classmethod
    def draw(cls, random: Random) -> Cast:
        """Draw who takes part."""
        kinds = [random.choice(("component", "prosody")) for _ in range(random.choice((1, 1, 2)))]
        sip, xmpp = random.choice(((True, False), (False, True), (True, True)))
        return cls.of(*kinds, sip=sip, xmpp=xmpp, acks=random.random() < 0.7)

    @property
    def locals(self) -> tuple[str, ...]:
        """Return everybody who has one of the home servers."""
        return tuple(user for home in self.homes for user in home.users)

    @property
    def foreign(self) -> tuple[str, ...]:
        """Return everybody else."""
        return (PARTNER_USERS if self.sip else ()) + (XMPP_USERS if self.xmpp else ())
