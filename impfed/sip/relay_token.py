"""Relay tokens: what a node writes into its URIs and branches, so that any other node finds it again.

Nodes share one public address, so a wrong port mapping, an edge that routes by name, or a balancer
may hand a request within a dialog, or an answer, to a node that knows nothing of it.  A token in our
Contact names the node that does: signed with a secret that the nodes share, bound to the dialog
(Call-ID and our tag), and good for a time.  It holds a *name*, never an address: who reads it looks the
name up among the nodes that he knows, so nobody can steer us elsewhere.

A token is ``signature-expiry-name``: the signature is 30 hexadecimal digits (one third says which
dialog, two thirds that all of it is ours), the expiry a number of minutes since the epoch, and the name
percent-escaped.  A branch of ours ends in ``-signature-name``, the same for all: whoever got a request of
ours can make up more of them, but all that he gains is that our nodes pass an answer on to one that
drops it.
"""

from __future__ import annotations

import hmac
import re
from enum import Enum
from urllib.parse import quote, unquote

from impfed.sip.uri import SipUri

#: The URI parameter of our Contact that holds a token.
PARAMETER = "relay"

#: Seconds for which a token is good when nobody says otherwise.
LIFETIME = 12 * 3600.0

_BUCKET = 60.0  # seconds; the unit of the expiry
_DIALOG = 5  # octets that say which dialog it is
_SIGNATURE = 10  # octets of HMAC-SHA256
_LONGEST = 400
_TOKEN = re.compile(r"([0-9a-f]{10})([0-9a-f]{20})-([0-9a-f]{1,9})-(.+)", re.ASCII | re.DOTALL)
_BRANCH = re.compile(r"z9hG4bK[0-9a-z]+-([0-9a-f]{20})-(\S+?)(?:\.[0-9a-f]{16})?", re.ASCII)


class Flaw(Enum):
    """Why a token counts for nothing; the value says it in words."""

    FORGED = "its signature is not ours: it is forged, or the nodes have different relay secrets"
    OTHER_DIALOG = "it is a token of ours, but of another dialog"
    EXPIRED = "it has expired"


class RelayTokens:
    """Makes and checks the tokens of one node.

    :param node: this node's name.
    :param secret: what the nodes share.
    :param lifetime: seconds for which a token is good.
    :ivar mark: the end of each branch of ours, which says whose it is.
    """

    def __init__(self, node: str, secret: bytes, lifetime: float = LIFETIME) -> None:
        self.node = node
        self._secret = secret
        self._lifetime = lifetime
        self._name = quote(node, safe="")
        self.mark = f"-{self._signed('branch', self._name)}-{self._name}"

    def token(self, call_id: str, tag: str, now: float) -> str:
        """Return the token of a dialog of ours.

        :param tag: our tag.
        """
        minutes = f"{int((now + self._lifetime) / _BUCKET) + 1:x}"
        dialog = self._dialog(call_id, tag)
        return (
            f"{dialog}{self._signed('token', dialog, minutes, self._name)}-{minutes}-{self._name}"
        )

    def contact(self, value: str, call_id: str, tag: str, now: float) -> str:
        """Return a Contact value of ours with the dialog's token in its URI.

        :param value: a name-addr that ends with its URI, ``<sip:...>``; anything else stays as it is.
        """
        if not value.endswith(">"):
            return value
        return f"{value[:-1]};{PARAMETER}={self.token(call_id, tag, now)}>"

    def owner(self, token: str, call_id: str, tag: str, now: float) -> str | Flaw:
        """Return the name of the node that a token names, or what is wrong with the token.

        :param call_id: Call-ID of the request that carries it.
        :param tag: its To tag, which is ours.
        """
        found = _TOKEN.fullmatch(token) if len(token) <= _LONGEST else None
        if found is None:
            return Flaw.FORGED
        dialog, signature, minutes, name = found.groups()
        name = quote(name, safe="")  # a URI's reader may have undone the escapes already
        if not hmac.compare_digest(signature, self._signed("token", dialog, minutes, name)):
            return Flaw.FORGED
        if not hmac.compare_digest(dialog, self._dialog(call_id, tag)):
            return Flaw.OTHER_DIALOG
        if now >= int(minutes, 16) * _BUCKET:
            return Flaw.EXPIRED
        return unquote(name)

    def branch_owner(self, branch: str) -> str:
        """Return the name of the node whose branch it is; "" when it does not say so, or lies."""
        found = _BRANCH.fullmatch(branch) if len(branch) <= _LONGEST else None
        if found is None:
            return ""
        signature, name = found.groups()
        if not hmac.compare_digest(signature, self._signed("branch", name)):
            return ""
        return unquote(name)

    def sign(self, purpose: str, *parts: str) -> str:
        """Return a signature of parts that another node can check by making it again."""
        return self._signed(f"sign {purpose}", *parts)

    def _dialog(self, call_id: str, tag: str) -> str:
        return self._digest(("dialog", call_id, tag), _DIALOG)

    def _signed(self, *parts: str) -> str:
        return self._digest(parts, _SIGNATURE)

    def _digest(self, parts: tuple[str, ...], octets: int) -> str:
        text = "".join([f"{len(part)}:{part}" for part in parts])  # no two lists give one text
        digest = hmac.digest(self._secret, text.encode("utf-8", "surrogateescape"), "sha256")
        return digest[:octets].hex()


def token_of(uri: SipUri) -> str | None:
    """Return the token that a URI carries, None for none."""
    return uri.param(PARAMETER)
