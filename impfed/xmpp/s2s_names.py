"""Domain names of federation: one form inside (as in JIDs), another in DNS and certificates."""

from __future__ import annotations

import idna

from impfed.xmpp.jid import JID, JidError


def domain_of(text: str) -> str:
    """Return the prepared form of a text that must be a domain, and nothing but a domain.

    :raises JidError: it is none, or it has a local part or resource.
    """
    jid = JID.parse(text)
    if jid.local or jid.resource:
        raise JidError(text, "a domain alone was expected")
    return jid.domain


def ascii_domain(domain: str) -> str:
    """Return a domain as DNS and certificates spell it: lower case, A-labels (RFC 5890).

    :raises JidError: it cannot be written so.
    """
    if domain.isascii():
        return domain.lower().rstrip(".")
    try:
        return idna.encode(domain, uts46=True).decode("ascii").lower()
    except UnicodeError as error:
        raise JidError(domain, f"no DNS name: {error}") from error
