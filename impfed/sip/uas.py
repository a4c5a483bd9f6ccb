"""What a user agent server looks at before it looks at what is meant (RFC 3261 section 8.2).

Syntax comes first and is not here: :func:`impfed.sip.message.check_request`.
"""

from __future__ import annotations

from collections.abc import Collection

from impfed.core.errors import RemoteError
from impfed.sip.message import DIALOG_FORMING, REASONS, SipRequest, SipResponse
from impfed.sip.uri import SipUri

KNOWN_METHODS = frozenset(
    (
        "ACK",
        "BENOTIFY",
        "BYE",
        "CANCEL",
        "INFO",
        "INVITE",
        "MESSAGE",
        "NEGOTIATE",
        "NOTIFY",
        "OPTIONS",
        "PRACK",
        "PUBLISH",
        "REFER",
        "REGISTER",
        "SERVICE",
        "SUBSCRIBE",
        "UPDATE",
    )
)
"""Methods that exist: one of them that is not allowed is 405, any other is 501 (section 8.2.1)."""

_UNANSWERED = frozenset(("ACK", "BENOTIFY"))
_ORDER = ("INVITE", "ACK", "CANCEL", "BYE", "MESSAGE", "INFO", "OPTIONS", "SUBSCRIBE", "NOTIFY")

# Bodies of an INVITE that are judged by what they offer: 415 makes a Microsoft proxy try again.
_OFFERS = frozenset(("application/sdp", "application/ms-conf-invite+xml"))


def allow_value(methods: Collection[str]) -> str:
    """Write an Allow value: the usual methods in the usual order, then the others by name."""
    usual = [method for method in _ORDER if method in methods]
    return ", ".join(usual + sorted(set(methods).difference(usual)))


def screen(
    request: SipRequest,
    methods: Collection[str],
    extensions: Collection[str] = frozenset(),
) -> RemoteError | None:
    """Check method, scheme, extensions, Contact and body type, in the order of RFC 3261 8.2.

    Max-Forwards is not looked at: the end of the way may be reached with 0 hops left.  Nor is
    Proxy-Require, which is for proxies (Microsoft's clients send it end to end).

    :param request: a request that passed :func:`~impfed.sip.message.check_request`.
    :param methods: methods that are allowed.
    :param extensions: option tags that are understood, in lower case.
    :returns: the refusal to answer with, or None; always None for ACK and BENOTIFY, which are
        never answered.
    """
    method = request.method
    if method in _UNANSWERED:
        return None
    if method not in methods:
        status = 405 if method in KNOWN_METHODS else 501
        return _refusal(status, ("Allow", allow_value(methods)))
    if not isinstance(request.uri, SipUri):
        return _refusal(416)
    if method != "CANCEL" and request.get("require") is not None:
        unknown = [tag for tag in request.values("require") if tag.lower() not in extensions]
        if unknown:
            return _refusal(420, ("Unsupported", ", ".join(unknown)))
    if method in DIALOG_FORMING and not request.to_tag and request.contact is None:
        return RemoteError(400, "Missing Contact header field")
    if method == "INVITE":
        return _screen_invite(request)
    return _screen_encoding(request)


def _screen_invite(request: SipRequest) -> RemoteError | None:
    """Refuse an INVITE whose body we cannot read, or that takes no session description back."""
    accepted = [value.partition(";")[0].strip().lower() for value in request.values("accept")]
    if accepted and not {"application/sdp", "application/*", "*/*"}.intersection(accepted):
        return _refusal(406, ("Warning", '399 impfed "The answer is application/sdp"'))
    media = request.content_type
    if request.body and media is not None:
        essence = media.essence
        if essence not in _OFFERS and not essence.startswith("multipart/"):
            return _refusal(415, ("Accept", "application/sdp"))
    return _screen_encoding(request)


def _screen_encoding(request: SipRequest) -> RemoteError | None:
    """Refuse a compressed body (section 8.2.3)."""
    if not request.body or request.get("content-encoding") is None:
        return None
    if any(encoding.lower() != "identity" for encoding in request.values("content-encoding")):
        return _refusal(415, ("Accept-Encoding", "identity"))
    return None


def _refusal(status: int, *headers: tuple[str, str]) -> RemoteError:
    return RemoteError(status, REASONS[status], headers)


def for_us(response: SipResponse) -> bool:
    """Tell whether a response is at its end: a user agent drops one with a second Via (8.1.3.3)."""
    return len(response.values("via")) == 1
