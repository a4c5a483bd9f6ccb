"""The settings and certificates that are played with real servers, and which of them are when.

``make test`` plays every pair of settings with certificates that come round in turn; with
IMPFED_SOAK in the environment (``make soak``) every combination is played.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from itertools import product
from typing import Any, NamedTuple

from impfed.testing.pki import Issued
from impfed.xmpp.s2s_security import Certificate, Security, Tls
from tests.transport.s2s_kit import World

SOAK = bool(os.environ.get("IMPFED_SOAK"))
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
