"""Which way a request has to go by its Route values and its Request-URI (RFC 3261 sections 16.4, 16.5)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from impfed.sip.headers import parse_name_addr
from impfed.sip.message import SipRequest
from impfed.sip.uri import OtherUri, SipUri

#: Says whether a URI (of a Route, or a strict router's Request-URI) is one that we have put there.
Ours = Callable[[SipUri], bool]


@dataclass(frozen=True, slots=True)
class Way:
    """Where a request wants to go, once our own traces are taken out.

    :ivar uri: the Request-URI to send.
    :ivar routes: Route values that are left.
    :ivar popped: how many values of ours were on top.
    :ivar rebuilt: whether more than the top has changed, so that all Route lines are written anew.
    :ivar next: the URI that the next hop is found from: the first Route left, else the Request-URI.
    :ivar ours: the URIs of ours that were taken out; they may carry what we once wrote into them.
    :ivar strict: whether the element before us is a strict router.
    """

    uri: str
    routes: tuple[str, ...]
    popped: int
    rebuilt: bool
    next: str
    ours: tuple[SipUri, ...]
    strict: bool = False


def way_of(request: SipRequest, ours: Ours) -> Way:
    """Return a request's way.

    :raises SipParseError: 400 when a Route value or the Request-URI cannot be read.
    """
    uri = request.uri_text
    routes = request.values("route") if request.get("route") is not None else []
    taken: list[SipUri] = []
    strict = False
    target = request.uri
    if routes and isinstance(target, SipUri) and target.param("lr") is not None and ours(target):
        # A strict router has put our Record-Route URI into the Request-URI: the real one is last.
        strict = True
        taken.append(target)
        uri = parse_name_addr(routes.pop()).uri_text
    elif isinstance(target, SipUri) and target.param("maddr") is not None:
        uri = _without_maddr(target, ours) or uri
    popped = 0
    while routes:
        found = parse_name_addr(routes[0]).uri
        if not isinstance(found, SipUri) or not ours(found):
            break
        taken.append(found)
        routes.pop(0)
        popped += 1
    next_ = uri
    rebuilt = strict
    if routes:
        first = parse_name_addr(routes[0])
        next_ = first.uri_text
        if not _loose(first.uri):
            # Section 16.6 step 6: the strict router after us wants itself as Request-URI.
            routes = [*routes[1:], f"<{uri}>"]
            uri = first.uri_text
            rebuilt = True
    return Way(uri, tuple(routes), popped, rebuilt, next_, tuple(taken), strict)


def _loose(uri: SipUri | OtherUri) -> bool:
    return isinstance(uri, SipUri) and uri.param("lr") is not None


def _without_maddr(uri: SipUri, ours: Ours) -> str:
    """Return a URI whose ``maddr`` is us, without it (section 16.4); "" when it is not."""
    host = uri.param("maddr") or ""
    there = SipUri(uri.scheme, "", None, host.strip("[]").lower(), uri.port, ())
    if not ours(there):
        return ""
    left = tuple((name, value) for name, value in uri.params if name.lower() != "maddr")
    return str(SipUri(uri.scheme, uri.user, uri.password, uri.host, None, left, uri.headers))
