"""What a proxy looks at before it forwards (RFC 3261 section 16.3), and loops (RFC 5393 section 4)."""

from __future__ import annotations

from collections.abc import Callable, Collection

from impfed.core.errors import RemoteError
from impfed.proxy.way import Way
from impfed.sip.headers import parse_number, parse_via
from impfed.sip.message import REASONS, SipRequest, check_request
from impfed.sip.uri import OtherUri

#: Max-Breadth of a request that came without one (RFC 5393 section 5.3.3).
MAX_BREADTH = 60

_COOKIE = "z9hG4bK"


def syntax(request: SipRequest) -> None:
    """Refuse what no proxy may forward: broken syntax, another scheme, no hops left.

    :raises RemoteError: 400, 416, 483 or 505.
    """
    check_request(request)
    if isinstance(request.uri, OtherUri):
        raise RemoteError(416, REASONS[416])
    hops = request.get("max-forwards")
    if hops is not None and parse_number(hops, 255) == 0:
        raise RemoteError(483, REASONS[483])


def extensions(request: SipRequest, known: Collection[str] = ()) -> None:
    """Refuse extensions that a proxy would have to understand, and does not.

    :param known: option tags in lower case.
    :raises RemoteError: 420 with exactly the unknown tags of Proxy-Require.
    """
    if request.get("proxy-require") is None or request.method in ("ACK", "CANCEL"):
        return
    unknown = [tag for tag in request.values("proxy-require") if tag.lower() not in known]
    if unknown:
        raise RemoteError(420, REASONS[420], (("Unsupported", ", ".join(unknown)),))


def breadth(request: SipRequest) -> int:
    """Return how many branches may be under way at a time for a request (RFC 5393 section 5).

    :raises RemoteError: 400 when the header is no number, 440 when it is 0.
    """
    text = request.get("max-breadth")
    if text is None:
        return MAX_BREADTH
    number = parse_number(text, 2**31 - 1)
    if number == 0:
        raise RemoteError(440, REASONS[440])
    return min(number, MAX_BREADTH)


def fingerprint(request: SipRequest, way: Way) -> str:
    """Return a hash of whatever decides where a request goes (RFC 5393 section 4.2).

    A request that comes again with the same one is in a loop; one that comes again with another is
    on a spiral, which is allowed.  The hash is the interpreter's, which is keyed by chance: it means
    something to this process alone, as it should, and nobody outside can foresee it.
    """
    parts = (
        way.uri,
        way.next,
        way.routes,
        request.from_tag,
        request.to_tag,
        request.call_id,
        request.get("proxy-require"),
        request.get("proxy-authorization"),
    )
    # Added and not hashed with the others, so that of the next request of a dialog it is known too.
    return f"{hash(parts) + request.cseq.number & 0xFFFFFFFFFFFFFFFF:016x}"


def branch(unique: str, fingerprint: str) -> str:
    """Return a Via branch: unique, and with the fingerprint to find a loop by."""
    return f"{_COOKIE}{unique}.{fingerprint}"


def loops(request: SipRequest, fingerprint: str, own: Callable[[str, int | None], bool]) -> None:
    """Refuse a request that has been here and would go the same way again.

    :param own: says whether a Via's sent-by (host in lower case, port) is ours.
    :raises RemoteError: 482; 400 when a Via cannot be read.
    """
    end = f".{fingerprint}"
    # A fingerprint of ours that is nowhere in the head cannot be in a Via.
    if end not in request.head:
        return
    for text in request.values("via"):
        via = parse_via(text)
        if via.branch.endswith(end) and own(via.host.strip("[]").lower(), via.port):
            raise RemoteError(482, REASONS[482])
