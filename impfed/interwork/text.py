"""Message texts: what is read from SIP bodies, what goes out of XMPP stanzas, and long ones in
pieces.
"""

from __future__ import annotations

import binascii
import codecs
import quopri
import re
from dataclasses import dataclass

from impfed.core.errors import RemoteError
from impfed.interwork.xhtml import reduce_html
from impfed.sip.errors import SipParseError
from impfed.sip.headers import MediaType, parse_media_type
from impfed.sip.message import SipRequest
from impfed.xmpp.stanza import Stanza

#: Media types that are read, as the Accept header of a 415 names them.
ACCEPTED_TYPES = "text/plain, text/html, multipart/alternative"

_FORBIDDEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")
# Codecs that decode text in linear time; Python knows others that do not.
_CHARSET = re.compile(
    r"utf-?8|us-?ascii|ascii|iso-?8859-?\d{1,2}|latin-?\d{1,2}|(windows|cp)-?\d{3,5}|utf-?(16|32)(-?[lb]e)?"
    r"|koi8-[ru]|shift[-_]?jis|sjis|euc-?(jp|kr)|iso-2022-(jp|kr)|gb(2312|k|18030)|big5(-hkscs)?"
)
_MAX_PARTS = 20


@dataclass(frozen=True, slots=True)
class IncomingText:
    """A text as XMPP clients get it.

    :ivar plain: the body; never holds a character that XML forbids.
    :ivar xhtml: the XHTML-IM extension element, serialised; "" for none.
    """

    plain: str
    xhtml: str = ""


class UnsupportedMedia(RemoteError):
    """A body of a type that is not read: 415 with the types that are."""

    def __init__(self, essence: str) -> None:
        super().__init__(
            415, f"Unsupported Media Type {essence}"[:120], (("Accept", ACCEPTED_TYPES),)
        )


class EncryptedOnly(RemoteError):
    """A stanza whose only content is encrypted end to end: it goes back to its sender.

    :ivar condition: stanza error condition.
    :ivar text: why, in words for the sender.
    """

    condition = "not-acceptable"

    def __init__(self, method: str) -> None:
        self.text = (
            f"This message was encrypted end to end ({method}), which the recipient's system "
            "cannot read. It was not delivered. "
            "Switch encryption off for this contact and send it again."
        )
        super().__init__(488, "Encrypted content cannot be delivered")


def clean_text(text: str) -> str:
    """Return text with line ends as LF and every character that XML forbids as U+FFFD."""
    return _FORBIDDEN.sub("\ufffd", text.replace("\r\n", "\n").replace("\r", "\n"))


def decode_text(body: bytes, charset: str) -> str:
    """Decode octets; an unknown or unfit charset is read as UTF-8, what does not fit as U+FFFD."""
    name = charset.strip().strip('"').lower() or "utf-8"
    if not _CHARSET.fullmatch(name) or name in ("us-ascii", "ascii", "usascii"):
        name = "utf-8"
    try:
        return codecs.decode(body, name, "replace").removeprefix("\ufeff")
    except (LookupError, UnicodeError):
        return body.decode("utf-8", "replace")


def read_text(content_type: MediaType | None, body: bytes) -> IncomingText:
    """Return the text of a MESSAGE body; no Content-Type counts as ``text/plain``.

    :raises UnsupportedMedia: 415 with Accept, for every other type.
    """
    if content_type is None:
        return _plain(body, "")
    essence = content_type.essence
    charset = _param(content_type, "charset")
    if essence == "text/plain":
        return _plain(body, charset)
    if essence == "text/html":
        return _html(body, charset)
    if essence == "multipart/alternative":
        return _alternative(content_type, body)
    raise UnsupportedMedia(essence)


def _param(content_type: MediaType, name: str) -> str:
    for key, value in content_type.params:
        if key.lower() == name:
            return (value or "").strip('"')
    return ""


def _plain(body: bytes, charset: str) -> IncomingText:
    return IncomingText(clean_text(decode_text(body, charset)).rstrip("\n"))


def _html(body: bytes, charset: str) -> IncomingText:
    plain, xhtml = reduce_html(clean_text(decode_text(body, charset)))
    return IncomingText(clean_text(plain), xhtml)


def _alternative(content_type: MediaType, body: bytes) -> IncomingText:
    """Plain part for the body, HTML part for XHTML-IM; one of them may be missing."""
    plain = marked_up = None
    for part_type, data in _parts(_param(content_type, "boundary"), body):
        charset = _param(part_type, "charset")
        if part_type.essence == "text/plain" and plain is None:
            plain = _plain(data, charset)
        elif part_type.essence == "text/html" and marked_up is None:
            marked_up = _html(data, charset)
    if plain is None and marked_up is None:
        raise UnsupportedMedia(content_type.essence)
    if plain is None or not plain.plain:
        return marked_up or IncomingText("")
    return IncomingText(plain.plain, marked_up.xhtml if marked_up else "")


def _parts(boundary: str, body: bytes) -> list[tuple[MediaType, bytes]]:
    """The parts of a multipart body (RFC 2046 section 5.1.1), content transfer encoding undone."""
    if not boundary or len(boundary) > 200:
        raise SipParseError("multipart body without a boundary")
    delimiter = b"\r\n--" + boundary.encode("utf-8", "surrogateescape")
    parts = []
    for piece in (b"\r\n" + body).split(delimiter)[1 : _MAX_PARTS + 1]:
        if piece.startswith(b"--"):
            break
        head, _, data = piece.lstrip(b" \t").removeprefix(b"\r\n").partition(b"\r\n\r\n")
        if piece.lstrip(b" \t").startswith(b"\r\n\r\n"):
            head, data = b"", piece.lstrip(b" \t")[4:]
        fields = _fields(head)
        media = parse_media_type(fields.get("content-type", "text/plain"))
        parts.append((media, _transfer_decoded(data, fields.get("content-transfer-encoding", ""))))
    return parts


def _fields(head: bytes) -> dict[str, str]:
    text = re.sub(r"\r\n[ \t]+", " ", head.decode("utf-8", "replace"))
    pairs = (line.partition(":") for line in text.split("\r\n"))
    return {name.strip().lower(): value.strip() for name, _, value in pairs if value}


def _transfer_decoded(data: bytes, encoding: str) -> bytes:
    name = encoding.lower()
    if name == "base64":
        try:
            return binascii.a2b_base64(data)
        except binascii.Error:
            return data
    return quopri.decodestring(data) if name == "quoted-printable" else data


def embedded_text(request: SipRequest) -> IncomingText | None:
    """Return the first text that Microsoft puts into an INVITE's head, or None.

    ``ms-text-format`` holds the plain form, ``ms-im-format`` richer ones, both base64.
    """
    found = None
    for name in ("ms-text-format", "ms-im-format"):
        for value in request.get_all(name):
            text = _embedded(value)
            if text is not None and text.plain:
                if name == "ms-text-format":
                    found = found or text
                elif found is None:
                    return text
                elif text.xhtml and not found.xhtml:
                    found = IncomingText(found.plain, text.xhtml)
    return found


def _embedded(value: str) -> IncomingText | None:
    # The body is split off first: base64's "=" and "/" are no part of a media type.
    head, marker, body = value.partition("ms-body=")
    if not marker:
        return None
    try:
        media = parse_media_type(head.strip().rstrip(";").strip())
        data = binascii.a2b_base64(body.partition(";")[0].strip().strip('"') + "==")
        return read_text(media, data)
    except (RemoteError, binascii.Error, ValueError):
        return None


def split_text(text: str, limit: int) -> list[str]:
    """Cut a text into pieces of at most ``limit`` characters, between words where there are any.

    Blanks at a cut are dropped; nothing else is.
    """
    pieces = []
    rest = text
    while len(rest) > limit:
        window = rest[: limit + 1]
        cut = max(window.rfind(blank) for blank in (" ", "\n", "\t"))
        if cut <= 0:
            pieces.append(rest[:limit])
            rest = rest[limit:]
            continue
        if piece := rest[:cut].rstrip():
            pieces.append(piece)
        rest = rest[cut:].lstrip()
    if rest or not pieces:
        pieces.append(rest)
    return pieces


_CORRECTION = "urn:xmpp:message-correct:0"
_ENCRYPTED = (
    ("encrypted", "eu.siacs.conversations.axolotl", "OMEMO"),
    ("encrypted", "urn:xmpp:omemo:1", "OMEMO"),
    ("encrypted", "urn:xmpp:omemo:2", "OMEMO"),
    ("openpgp", "urn:xmpp:openpgp:0", "OpenPGP"),
    ("x", "jabber:x:encrypted", "OpenPGP"),
    ("e2e", "urn:ietf:params:xml:ns:xmpp-e2e", "S/MIME"),
    ("encryption", "urn:xmpp:eme:0", "see XEP-0380"),
)
# What has a text only as a fall-back for clients that do not know it.
_UNSENT = (
    ("reactions", "urn:xmpp:reactions:0"),
    ("retract", "urn:xmpp:message-retract:0"),
    ("retract", "urn:xmpp:message-retract:1"),
    ("apply-to", "urn:xmpp:fasten:0"),
    ("displayed", "urn:xmpp:chat-markers:0"),
    ("received", "urn:xmpp:receipts"),
)


def outgoing_text(stanza: Stanza) -> str | None:
    """Return the text that a message stanza sends to a SIP contact, or None if it sends none.

    A correction (XEP-0308) goes as new text marked "Correction: "; reactions, retractions, markers
    and chat states send nothing.

    :raises EncryptedOnly: if its only content is encrypted end to end.
    """
    for name, namespace, method in _ENCRYPTED:
        if stanza.child(name, namespace) is not None:
            raise EncryptedOnly(method)
    body = stanza.text("body")
    if not body:
        return None
    if body.startswith("?OTR"):
        raise EncryptedOnly("OTR")
    if any(stanza.child(name, namespace) is not None for name, namespace in _UNSENT):
        return None
    text = clean_text(body)
    return f"Correction: {text}" if stanza.child("replace", _CORRECTION) is not None else text
