"""Addresses: SIP URIs to JIDs and back (RFC 7247 section 6), and the names our users have outside.

A ``sips:`` address is never translated (RFC 7247 section 8): the hop to an XMPP client could not
keep what the scheme promises.
"""

from __future__ import annotations

import re
from functools import lru_cache
from urllib.parse import quote, unquote_to_bytes

from impfed.core.errors import RemoteError
from impfed.sip.errors import SipParseError
from impfed.sip.uri import OtherUri, SipUri, parse_uri
from impfed.xmpp.jid import JID, JidError, escape_local, unescape_local

#: Characters that stand for themselves in the user part of a SIP URI (RFC 7247 table 1).
_USER_SAFE = "!$&'()*+,-./;=?_~"

#: Characters that stand for themselves in a URI parameter (RFC 3261 section 25.1, "pvalue").
_PARAMETER_SAFE = "-_.!~*'()[]/:&+$"


#: A local part that is its own user part: nothing in it is escaped on either side.
_as_it_is = re.compile(r"[A-Za-z0-9._-]+\Z").match


class AddressError(RemoteError):
    """An address that has no counterpart on the other side."""


def jid_of(uri: SipUri | OtherUri) -> JID:
    """Return the JID of a ``sip:``, ``im:`` or ``pres:`` URI (RFC 7247 section 6.4).

    The user part becomes the local part, escaped by XEP-0106; a ``gr`` parameter becomes the
    resource. Password, port and every other parameter are left out.

    :raises AddressError: 416 for ``sips:`` and unknown schemes, 404 without a user part, 400 for a
        user part that no JID can carry.
    """
    if isinstance(uri, OtherUri):
        return _other_jid(uri)
    if uri.scheme != "sip":
        raise AddressError(416, "A sips: address cannot be reached here")
    if not uri.user:
        raise AddressError(404, "The address names no user")
    host = f"[{uri.host}]" if ":" in uri.host else uri.host
    return _make_jid(uri.user, host, uri.param("gr") or "")


def _other_jid(uri: OtherUri) -> JID:
    if uri.scheme not in ("im", "pres"):
        raise AddressError(416, f"Addresses of scheme {uri.scheme}: cannot be reached here")
    address = uri.text.partition(":")[2].partition("?")[0].partition(";")[0]
    user, at, host = address.partition("@")
    if not at or not user:
        raise AddressError(404, "The address names no user")
    return _make_jid(user, host, "")


@lru_cache(maxsize=8192)  # the same few people write again and again
def _make_jid(user: str, host: str, resource: str) -> JID:
    try:
        plain = unquote_to_bytes(user.encode("utf-8", "surrogateescape")).decode("utf-8")
        return JID.of(escape_local(plain), host, resource)
    except (UnicodeError, JidError) as problem:
        raise AddressError(400, f"Address cannot be translated: {problem}") from None


def uri_of(jid: JID) -> str:
    """Return the ``sip:`` URI of a JID (RFC 7247 section 6.5); a resource becomes ``;gr=``.

    :raises AddressError: 400 for a local part that is not the escaped form of any text, for two
        such JIDs would share one SIP address.
    """
    host = _ascii_host(jid.domain)
    if not jid.resource and _as_it_is(jid.local):
        return f"sip:{jid.local}@{host}"
    if not jid.local:
        return f"sip:{host}"
    try:
        user = unescape_local(jid.local)
        unique = escape_local(user) == jid.local
    except JidError as problem:
        raise AddressError(400, f"{jid.bare} has no SIP address: {problem}") from None
    if not unique:
        raise AddressError(400, f"{jid.bare} has no SIP address of its own")
    address = f"sip:{quote(user, safe=_USER_SAFE)}@{host}"
    return f"{address};gr={quote(jid.resource, safe=_PARAMETER_SAFE)}" if jid.resource else address


def _ascii_host(domain: str) -> str:
    if domain.isascii():
        return domain
    try:
        return domain.encode("idna").decode("ascii")
    except UnicodeError:
        raise AddressError(400, f"{domain} is no domain name") from None


def jid_of_text(text: str) -> JID:
    """Return the bare JID of a URI in text form.

    :raises AddressError: if the text is no URI or has no JID.
    """
    try:
        return jid_of(parse_uri(text)).bare
    except SipParseError as problem:
        raise AddressError(problem.status, problem.reason) from None


class Aliases:
    """Local users' addresses as the world outside knows them.

    Keys inside are always JIDs; what is shown outside may differ (a mail address, for example).
    This one is the identity; whoever knows other names overrides both methods.
    """

    def to_outside(self, jid: JID) -> JID:
        """Return the address that peers see for a local user's JID."""
        return jid

    def to_inside(self, jid: JID) -> JID:
        """Return the local user's JID for an address that a peer used."""
        return jid
