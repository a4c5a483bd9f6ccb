"""What a Microsoft edge and its clients write: header shapes, SDP, PIDF, typing notices."""

from __future__ import annotations

import base64
import itertools
import secrets
from dataclasses import dataclass
from xml.etree import ElementTree
from xml.sax.saxutils import escape, quoteattr

from .wire import Message

AGENT = "UCCAPI/15.0.4971.1000 OC/15.0.4971.1000 (Skype for Business)"
ALLOW = "INVITE, BYE, ACK, CANCEL, INFO, MESSAGE, UPDATE, REFER, NOTIFY, BENOTIFY"
INVITE_SUPPORTED = (
    "ms-dialog-route-set-update", "ms-embedded-first-message", "ms-delayed-accept",
    "ms-renders-isf", "ms-renders-gif", "ms-renders-mime-alternative", "timer", "histinfo",
    "ms-safe-transfer", "ms-sender", "ms-early-media", "com.microsoft.rtc-multiparty",
    "ms-conf-invite",
)  # fmt: skip
WATCHER_ACCEPT = (
    "application/msrtc-event-categories+xml, application/xpidf+xml, text/xml+msrtc.pidf, "
    "application/pidf+xml, application/rlmi+xml, multipart/related"
)
ACCEPT_TYPES = (
    "text/plain multipart/alternative image/gif text/rtf text/html application/x-ms-ink "
    "application/ms-imdn+xml text/x-msmsgsinvite "  # with the blank that the real ones have
)
PIDF = "urn:ietf:params:xml:ns:pidf"
STATUS = "urn:ietf:params:xml:ns:pidf:status:rpid-status"
CIPID = "urn:ietf:params:xml:ns:pidf:cipid"
#: Lync state -> (basic, activity) in the documents that leave the company.
STATES = {
    "available": ("open", ""), "busy": ("open", "busy"), "dnd": ("open", "busy"),
    "brb": ("open", "away"), "away": ("open", "away"), "offline": ("closed", ""),
}  # fmt: skip

Header = tuple[str, str]
_numbers = itertools.count(1)


def token(octets: int) -> str:
    """Return random hexadecimal digits, upper case."""
    return secrets.token_hex(octets).upper()


@dataclass(frozen=True)
class Person:
    """A user of the far side. The GRUU is an address that only the edge understands."""

    address: str
    name: str
    epid: str
    gruu: str

    @classmethod
    def make(cls, address: str, name: str) -> Person:
        epid = secrets.token_hex(5)
        opaque = base64.urlsafe_b64encode(f"user {epid} {address}".encode()).decode().rstrip("=")
        return cls(address, name, epid, f"sip:{address};opaque=user:epid:{opaque};gruu")


def vias(
    host: str, port: int, branch: str, client: bool = True, plain: bool = False
) -> list[Header]:
    """Edge, pool and, lowest, the client's: without a branch, as Lync clients write it.

    :param plain: no separators in quotes, which Kamailio takes for separators.
    """
    quoted = token(4) if plain else f"ab;{token(2)},x/Y=="
    lines = [
        f'SIP/2.0/TLS {host}:{port};branch={branch};branched=FALSE;ms-internal-info="{quoted}"',
        f"SIP/2.0/TLS 10.20.0.5:5061;branch=z9hG4bK{token(4)}.{token(8)};branched=FALSE;"
        "ms-received-port=50211;ms-received-cid=3E8A00",
        "SIP/2.0/tls 10.20.7.31:37737;ms-received-port=37737;ms-received-cid=1F400",
    ]
    return [("Via", line) for line in lines[: 3 if client else 2]]


def record_routes(domain: str, port: int) -> list[str]:
    """Edge first, then pool, each with signed parameters inside and after the brackets."""
    edge = (
        f"<sip:sip.{domain}:{port};transport=tls;lr;ms-key-info=jAAAAExlZGdl{token(4)};"
        f"ms-route-sig=aa{token(8)}>;tag={token(16)}"
    )
    pool = (
        f"<sip:pool01.{domain}:5061;transport=tls;opaque=state:T:F:Ci.R{token(3)};lr;"
        f"ms-route-sig=bb{token(8)}>;ms-rrsig=cc{token(8)};tag={token(16)}"
    )
    return [edge, pool]


def branch() -> str:
    """Return a branch in the form of Microsoft's proxies."""
    return f"z9hG4bK{token(4)}.{next(_numbers):016X}"


def interleave(via: list[Header], routes: list[str], hops: int = 67) -> list[Header]:
    """Mix Via and Record-Route lines with others, as seen on the wire."""
    lines = [("Record-Route", route) for route in routes]
    mixed = [*lines[:1], via[0], *lines[1:], *via[1:2], ("Max-Forwards", str(hops)), *via[2:]]
    return mixed


def sdp(owner: str) -> bytes:
    """Return an IM offer or answer; ``owner`` is the fourth word of the media line."""
    return (
        "v=0\r\no=- 0 0 IN IP4 10.20.7.31\r\ns=session\r\nc=IN IP4 10.20.7.31\r\nt=0 0\r\n"
        f"m=message 5060 sip {owner}\r\na=accept-types:{ACCEPT_TYPES}\r\n"
    ).encode()


def embedded(text: str) -> list[Header]:
    """Return the first text as it rides inside an INVITE, plain and richer."""

    def body(data: str) -> str:
        return base64.b64encode(data.encode()).decode()

    span = f'<SPAN lang="en-gb" style="color:#000000;">{escape(text)}</SPAN>'
    return [
        ("ms-text-format", f"text/plain; charset=UTF-8; ms-body={body(text)}"),
        ("ms-im-format", f"text/html; charset=UTF-8; ms-body={body(span)}"),
        ("ms-im-format", "text/rtf; charset=UTF-8; ms-body=" + body(r"{\rtf1\ansi -}")),
    ]


def keyboard_activity(status: str) -> bytes:
    """Return a typing notice; ``status`` is "type" or "idle"."""
    return (
        f'<?xml version="1.0"?><KeyboardActivity><status status="{status}" /></KeyboardActivity>'
    ).encode()


def read_keyboard_activity(body: bytes) -> str:
    """Return "type" or "idle"; an empty string for anything else."""
    try:
        root = ElementTree.fromstring(body)
    except ElementTree.ParseError:
        return ""
    status = root.find("status")
    if root.tag != "KeyboardActivity" or status is None:
        return ""
    return status.get("status", "")


def conference_invitation(focus: str) -> bytes:
    """Return the body of an invitation to a group chat."""
    return (
        f'<Conferencing version="2.0"><focus-uri>{escape(focus)}</focus-uri><subject/>'
        '<im available="true"><first-im/></im></Conferencing>'
    ).encode()


def pidf(person: Person, state: str, note: str = "") -> bytes:
    """Return the document that Lync makes of a user's state."""
    basic, activity = STATES[state]
    inner = f"<basic>{basic}</basic>"
    if activity:
        inner += f"<ep:activities><ep:activity>{activity}</ep:activity></ep:activities>"
    remark = f"<note>{escape(note)}</note>" if note else ""
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\r\n'
        f'<presence xmlns="{PIDF}" xmlns:ep="{STATUS}" '
        f'xmlns:et="urn:ietf:params:xml:ns:pidf:rpid-tuple" xmlns:ci="{CIPID}" '
        f"entity={quoteattr('sip:' + person.address)}>\r\n"
        f'<tuple id="0"><status>{inner}</status>{remark}</tuple>\r\n'
        f"<ci:display-name>{escape(person.name)}</ci:display-name></presence>\r\n"
    ).encode()


@dataclass(frozen=True)
class Seen:
    """What a client makes of a presence document."""

    state: str
    note: str
    name: str


def read_pidf(body: bytes) -> Seen:
    """Read a document as Lync does; raises ValueError for what it would not understand."""
    try:
        root = ElementTree.fromstring(body)
    except ElementTree.ParseError as error:
        raise ValueError(f"not well-formed: {error}") from error
    if root.tag != f"{{{PIDF}}}presence":
        raise ValueError(f"root element {root.tag}")
    tuples = root.findall(f"{{{PIDF}}}tuple")
    if len(tuples) != 1:
        raise ValueError(f"{len(tuples)} tuples instead of one")
    status = tuples[0].find(f"{{{PIDF}}}status")
    basic = None if status is None else status.findtext(f"{{{PIDF}}}basic")
    if status is None or basic not in ("open", "closed"):
        raise ValueError(f"basic status {basic!r}")
    activities = status.findall(f"{{{STATUS}}}activities/{{{STATUS}}}activity")
    words = [(activity.text or "").strip() for activity in activities]
    if any(word not in ("busy", "away") for word in words):
        raise ValueError(f"activities {words}: only busy and away are understood")
    if any(element.tag.endswith("}person") for element in root.iter()):
        raise ValueError("a person element: that is RFC 4480, not the draft")
    state = "offline" if basic == "closed" else words[0] if words else "available"
    note = tuples[0].findtext(f"{{{PIDF}}}note") or root.findtext(f"{{{PIDF}}}note") or ""
    return Seen(state, note, root.findtext(f"{{{CIPID}}}display-name") or "")


def response(
    request: Message, status: int, reason: str, source: tuple[str, int], tag: str = ""
) -> Message:
    """Return a response with what Microsoft's edge adds to our peer's top Via.

    ``tag`` may bring other parameters of the To along: ``"4f;epid=0a"``.
    """
    top, *others = request.values("via")
    host, port = source
    top += f";received={host};ms-received-port={port};ms-received-cid=2B7F00"
    to = request.get("to")
    if tag and ";tag=" not in to:
        # Parameters such as epid come before the tag, as Lync's clients write them.
        bare, _, others_of_to = tag.partition(";")
        to += f";{others_of_to};tag={bare}" if others_of_to else f";tag={tag}"
    headers = [("Via", via) for via in [top, *others]]
    headers += [("From", request.get("from")), ("To", to), ("Call-ID", request.get("call-id"))]
    return Message(f"SIP/2.0 {status} {reason}", [*headers, ("CSeq", request.get("cseq"))])
