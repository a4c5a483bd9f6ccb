"""Session descriptions for instant messages: ``m=message`` or ``m=x-ms-message`` (MS-SDP)."""

from __future__ import annotations

from dataclasses import dataclass

from impfed.core.errors import LocalError
from impfed.sip.errors import SipParseError


@dataclass(frozen=True, slots=True)
class ImOffer:
    """An offer of an IM session.

    :ivar media: "message", or "x-ms-message" from old clients; the answer repeats it.
    :ivar accept_types: media types in lower case that the peer lists, without those it takes
        only inside others; a hint, never a reason to refuse. Empty if there was no list.
    :ivar wrapped_types: types taken only inside a wrapper (``a=accept-wrapped-types``).
    :ivar proto: transport token of the media line, "sip" for messages in the dialog.
    """

    media: str
    accept_types: tuple[str, ...] = ()
    wrapped_types: tuple[str, ...] = ()
    proto: str = "sip"

    @property
    def is_im(self) -> bool:
        """It is what this gateway can answer: messages carried in the dialog itself."""
        return self.media in IM_MEDIA and self.proto == "sip"


IM_MEDIA = ("message", "x-ms-message")
MAX_SDP = 65536

_WARNING = (("Warning", '304 impfed "Media type not available"'),)


def parse_offer(body: bytes) -> ImOffer:
    """Read an offer: IM is an offer whose first and only media line is ``message`` over ``sip``.

    Port and format of that line carry no meaning and are not looked at.

    :raises SipParseError: 400 if it is no session description, 488 (with Warning 304) if it
        offers anything else than one IM stream.
    """
    if len(body) > MAX_SDP:
        raise SipParseError("Session description too large", 488, _WARNING)
    text = body.decode("utf-8", "replace")
    lines = [line.rstrip("\r") for line in text.split("\n")]
    if lines[0].strip() != "v=0":
        raise SipParseError("Malformed session description")
    media = [line[2:].split() for line in lines if line.startswith("m=")]
    if not media or any(len(fields) < 3 for fields in media):
        raise SipParseError("Malformed session description", 488 if not media else 400)
    offer = ImOffer(
        media[0][0].lower(),
        _types(lines, "a=accept-types:"),
        _types(lines, "a=accept-wrapped-types:"),
        media[0][2].lower(),
    )
    if len(media) > 1 or not offer.is_im:
        raise SipParseError("Not Acceptable Here", 488, _WARNING)
    return offer


def _types(lines: list[str], prefix: str) -> tuple[str, ...]:
    found: list[str] = []
    for line in lines:
        if line.lower().startswith(prefix):
            found += line[len(prefix) :].lower().split()
    return tuple(found)


def _description(host: str, media: str, target: str, accept_types: str) -> bytes:
    for text in (host, target):
        if text.split() != [text] or not text.isprintable():
            raise LocalError("Blank or line end in an address of a session description")
    family = "IP6" if ":" in host else "IP4"
    host = host.strip("[]")
    lines = [
        "v=0",
        f"o=- 0 0 IN {family} {host}",
        "s=session",
        f"c=IN {family} {host}",
        "t=0 0",
        f"m={media} 5060 sip {target}",
    ]
    if accept_types:
        lines.append(f"a=accept-types:{accept_types}")
    return ("\r\n".join(lines) + "\r\n").encode("utf-8", "surrogateescape")


def im_answer(offer: ImOffer, host: str, aor: str) -> bytes:
    """Write the answer to an IM offer: the same media name; accept-types only for "message".

    :param host: our own address or name, IPv6 without brackets.
    :param aor: address of the answering user, ``user@host``, escaped as in a URI.
    :raises LocalError: on blanks or line ends in an address.
    """
    accept_types = "text/plain" if offer.media == "message" else ""
    return _description(host, offer.media, f"sip:{aor}" if aor else "", accept_types)


def im_offer(host: str) -> bytes:
    """Write our offer of an IM session in text/plain.

    :raises LocalError: on blanks or line ends in the host.
    """
    return _description(host, "message", "null", "text/plain")
