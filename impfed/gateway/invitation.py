"""Judges an INVITE: an instant message session, or something that we refuse in words (SPEC section 3)."""

from __future__ import annotations

from impfed.core.errors import RemoteError
from impfed.sip.message import SipRequest
from impfed.sip.sdp import ImOffer, parse_offer

_NO_CONFERENCE = '399 impfed "Group chat with federated contacts is not supported"'
_NO_MEDIA = '304 impfed "Only instant messages are supported"'


def not_acceptable(warning: str) -> RemoteError:
    """Return a 488 with a Warning header (RFC 3261 section 21.4.26)."""
    return RemoteError(488, "Not Acceptable Here", (("Warning", warning),))


def read_invitation(request: SipRequest) -> ImOffer:
    """Return what an INVITE offers; one without an offer leaves it to us, and gets the ordinary one.

    :raises RemoteError: 488 with a Warning for conferences, audio, video and file transfer.
    """
    _refuse_conference(request)
    media = request.content_type
    if not request.body or media is None:
        return ImOffer("message")
    if media.essence != "application/sdp":
        if media.essence == "application/ms-conf-invite+xml":
            raise not_acceptable(_NO_CONFERENCE)
        raise not_acceptable(_NO_MEDIA)
    offer = parse_offer(request.body)
    if not offer.is_im:
        raise not_acceptable(_NO_MEDIA)
    return offer


def _refuse_conference(request: SipRequest) -> None:
    contact = request.get("contact") or ""
    conference = (
        "isfocus" in contact.lower()
        or ";gruu;opaque=app:conf:" in contact.lower()
        or request.get("conference-id") is not None
        or (request.get("triggeredinvite") or "").upper() == "TRUE"
        or len(request.values("endpoints")) > 2
        or "app:conf" in (request.get("referred-by") or "")
        or request.get("join") is not None
    )
    if conference:
        raise not_acceptable(_NO_CONFERENCE)
