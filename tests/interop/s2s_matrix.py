"""The settings and certificates that are played with real servers, which of them are when, and the record.

``make test`` plays every pair of settings with certificates that come round in turn; with
IMPFED_SOAK in the environment (``make soak``) every combination is played.  Where IMPFED_RECORD
names a file, each case writes there what it has seen; ``scripts/s2s-outcomes`` makes a page of it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

from impfed.testing.pki import Issued
from impfed.xmpp.s2s_security import Certificate, Direction, Outcome, Security, Tls
from tests.transport.s2s_kit import World

SOAK = bool(os.environ.get("IMPFED_SOAK"))
#: What was seen when every combination was last played.
RECORDED = Path(__file__).parents[1] / "data" / "s2s-outcomes.tsv"
OUR_SETTINGS = {
    "strict": Security(Tls.REQUIRED),
    "TLS without certificates": Security(Tls.REQUIRED, certificates=False),
    "optional": Security(Tls.OPTIONAL, certificates=False),
    "clear": Security(Tls.NONE, certificates=False),
    "no SASL": Security(Tls.REQUIRED, certificates=False, sasl_in=False, sasl_out=False),
}
#: What the peers' settings are in our words.
PEER_SETTINGS = {
    "strict": Security(Tls.REQUIRED),
    "TLS without certificates": Security(Tls.REQUIRED, certificates=False),
    "optional": Security(Tls.OPTIONAL, certificates=False),
    "clear": Security(Tls.NONE, certificates=False),
}
#: How Prosody is told so.
PROSODY: dict[str, dict[str, Any]] = {
    "strict": {},
    "TLS without certificates": {"secure_auth": False},
    "optional": {"secure_auth": False, "require_encryption": False},
    "clear": {"secure_auth": False, "require_encryption": False, "disabled": ("tls",)},
}
#: How ejabberd is told so: ``s2s_use_starttls``, and the ``access`` of mod_s2s_dialback.
EJABBERD = {
    "strict": ("required", "none"),
    "TLS without certificates": ("required", "all"),
    "optional": ("optional", "all"),
    "clear": ("false", "all"),
}
SERVERS: dict[str, Iterable[str]] = {"Prosody": PROSODY, "ejabberd": EJABBERD}
CERTIFICATES = [
    Certificate.VALID,
    Certificate.EXPIRED,
    Certificate.WRONG_NAME,
    Certificate.SELF_SIGNED,
    Certificate.UNKNOWN_CA,
]


class Case(NamedTuple):
    """Names of both sides' settings, and what each finds of the other's certificate."""

    ours: str
    theirs: str
    our_certificate: Certificate
    peer_certificate: Certificate


class Seen(NamedTuple):
    """What became of the streams of one direction.

    :ivar how: "over TLS, by SASL EXTERNAL" and the like; "" where no stanza passed.
    :ivar words: what the sender or the log was told where none passed.
    """

    how: str
    words: str = ""


def agrees(foretold: Outcome, direction: Direction, seen: Seen) -> bool:
    """Whether what was seen is what was foretold.

    Who opens a stream cannot tell whether the other side took his key for the sake of his
    certificate or asked about it, and servers that do not know XEP-0344 always ask.
    """
    if not foretold.up:
        return not seen.how
    if direction is Direction.OUT and foretold.method == "certificate":
        return seen.how in (str(foretold), "over TLS, by dialback")
    return seen.how == str(foretold)


Record = dict[tuple[str, Case, Direction], Seen]


def write_seen(path: Path, server: str, case: Case, seen: dict[Direction, Seen]) -> None:
    """Add what a case has shown to a record."""
    states = (case.our_certificate.value, case.peer_certificate.value)
    with path.open("a", encoding="utf-8") as file:
        for direction, one in seen.items():
            words = " ".join(one.words.split())
            cells = (server, *case[:2], *states, direction.value, one.how, words)
            file.write("\t".join(cells) + "\n")


def read_record(path: Path = RECORDED) -> Record:
    """Return what a record says; of a case that was played again, the last."""
    record: Record = {}
    for line in path.read_text("utf-8").splitlines():
        if line.startswith("#"):
            continue
        server, ours, theirs, mine, peers, direction, how, words = line.split("\t")
        case = Case(ours, theirs, Certificate(mine), Certificate(peers))
        record[server, case, Direction(direction)] = Seen(how, words)
    return record


def selection(peers: Iterable[str], soak: bool = SOAK) -> list[Case]:
    """Return the cases to play with a server that knows these settings."""
    if soak:
        return [Case(*case) for case in product(OUR_SETTINGS, peers, CERTIFICATES, CERTIFICATES)]
    chosen = []
    for number, (ours, theirs) in enumerate(product(OUR_SETTINGS, peers)):
        mine = CERTIFICATES[number % 5] if number % 3 else Certificate.VALID
        others = CERTIFICATES[(2 * number + 1) % 5] if number % 4 else Certificate.VALID
        chosen.append(Case(ours, theirs, mine, others))
    return chosen


def make(world: World, state: Certificate, name: str) -> Issued:
    """Make a certificate in that state for a domain."""
    if state is Certificate.EXPIRED:
        return world.issue(name, days=-1)
    if state is Certificate.WRONG_NAME:
        return world.issue("other.example")
    if state is Certificate.SELF_SIGNED:
        return world.self_signed(name)
    if state is Certificate.UNKNOWN_CA:
        return world.issue(name, ca=world.other_ca)
    return world.issue(name)
