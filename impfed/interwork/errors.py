"""What a SIP status means as a stanza error and the reverse, and what went wrong in words.

From SIP to XMPP by RFC 7247 table 3.  From XMPP to SIP by table 2 with our own choices: never a
6xx, 401, 407 or 503 for a user's condition, for 503 makes a peer avoid the whole next hop, 6xx ends
every fork, and 401 and 407 would need a challenge.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from impfed.sip.headers import readable
from impfed.sip.message import REASONS, SipResponse


@dataclass(frozen=True, slots=True)
class Condition:
    """A stanza error.

    :ivar condition: condition of RFC 6120 section 8.3.3.
    :ivar type: error type of RFC 6120 section 8.3.2.
    """

    condition: str
    type: str


@dataclass(frozen=True, slots=True)
class SipError:
    """A SIP answer that says what a stanza error said.

    :ivar headers: what the status code asks for besides the status line.
    """

    status: int
    reason: str
    headers: tuple[tuple[str, str], ...] = ()


#: Seconds after which a peer may try again when we lack resources.
RETRY_AFTER = 30

_BY_STATUS: dict[int, tuple[str, str]] = {
    300: ("redirect", "modify"),
    301: ("gone", "cancel"),
    302: ("redirect", "modify"),
    305: ("redirect", "modify"),
    380: ("not-acceptable", "modify"),
    400: ("bad-request", "modify"),
    401: ("not-authorized", "auth"),
    402: ("bad-request", "modify"),
    403: ("forbidden", "auth"),
    404: ("item-not-found", "cancel"),
    405: ("feature-not-implemented", "cancel"),
    406: ("not-acceptable", "modify"),
    407: ("registration-required", "auth"),
    408: ("remote-server-timeout", "wait"),
    410: ("gone", "cancel"),
    413: ("policy-violation", "modify"),
    414: ("policy-violation", "modify"),
    415: ("not-acceptable", "modify"),
    416: ("not-acceptable", "modify"),
    420: ("feature-not-implemented", "cancel"),
    421: ("not-acceptable", "modify"),
    423: ("resource-constraint", "wait"),
    430: ("recipient-unavailable", "wait"),
    439: ("feature-not-implemented", "cancel"),
    440: ("policy-violation", "modify"),
    480: ("recipient-unavailable", "wait"),
    481: ("item-not-found", "cancel"),
    482: ("not-acceptable", "modify"),
    483: ("not-acceptable", "modify"),
    484: ("item-not-found", "cancel"),
    485: ("item-not-found", "cancel"),
    486: ("recipient-unavailable", "wait"),
    487: ("recipient-unavailable", "wait"),
    488: ("not-acceptable", "modify"),
    489: ("policy-violation", "modify"),
    491: ("unexpected-request", "wait"),
    493: ("bad-request", "modify"),
    500: ("internal-server-error", "cancel"),
    501: ("feature-not-implemented", "cancel"),
    502: ("remote-server-not-found", "cancel"),
    503: ("internal-server-error", "cancel"),
    504: ("remote-server-timeout", "wait"),
    505: ("not-acceptable", "modify"),
    513: ("policy-violation", "modify"),
    600: ("recipient-unavailable", "wait"),
    603: ("recipient-unavailable", "wait"),
    604: ("item-not-found", "cancel"),
    606: ("not-acceptable", "modify"),
}
_BY_CLASS: dict[int, tuple[str, str]] = {
    3: ("redirect", "modify"),
    4: ("bad-request", "modify"),
    5: ("internal-server-error", "cancel"),
    6: ("recipient-unavailable", "wait"),
}

_BY_CONDITION: dict[str, int] = {
    "bad-request": 400,
    "conflict": 400,
    "feature-not-implemented": 501,
    "forbidden": 403,
    "gone": 410,
    "internal-server-error": 500,
    "item-not-found": 404,
    "jid-malformed": 400,
    "not-acceptable": 406,
    "not-allowed": 403,
    "not-authorized": 403,
    "policy-violation": 403,
    "recipient-unavailable": 480,
    "redirect": 480,
    "registration-required": 403,
    "remote-server-not-found": 404,
    "remote-server-timeout": 408,
    "resource-constraint": 480,
    "service-unavailable": 480,
    "subscription-required": 400,
    "undefined-condition": 400,
    "unexpected-request": 400,
}


def sip_to_xmpp(status: int) -> Condition:
    """Return the stanza error for a SIP status of 300 or above (RFC 7247 table 3)."""
    row = _BY_STATUS.get(status) or _BY_CLASS.get(status // 100)
    return Condition(*(row or ("undefined-condition", "cancel")))


def xmpp_to_sip(condition: str, new_address: str = "") -> SipError:
    """Return the SIP answer for a stanza error condition.

    :param new_address: SIP URI that the error named (``gone`` and ``redirect``); without one
        ``gone`` is 410, and ``redirect``, which 302 could not say without a Contact, is 480.
    """
    status = _BY_CONDITION.get(condition, 400)
    headers: tuple[tuple[str, str], ...] = ()
    if new_address and condition in ("gone", "redirect"):
        status = 301 if condition == "gone" else 302
        headers = (("Contact", f"<{new_address}>"),)
    elif condition == "resource-constraint":
        headers = (("Retry-After", str(RETRY_AFTER)),)
    return SipError(status, REASONS.get(status, ""), headers)


#: What a status of the far side means, for the person whose message or subscription met it.
_WORDS: dict[int, str] = {
    400: "The other system could not make sense of the request.",
    403: "The other organisation does not allow this.",
    404: "There is no such user there, or the user is not enabled for federation.",
    408: "The other system did not answer in time.",
    410: "That address does not exist any more.",
    413: "The message is too large for the other system.",
    415: "The other person's program cannot read this kind of message.",
    480: "The other person is not signed in, and the other system keeps no messages.",
    481: "The conversation had ended on the other side.",
    484: "The address is not complete.",
    486: "The other person does not want to be disturbed.",
    487: "The attempt was called off before the other person answered.",
    488: "The other person's program does not take part in this kind of conversation.",
    500: "The other system has a fault.",
    501: "The other system does not know this kind of request.",
    502: "The way to the other system is broken.",
    503: "The other system is overloaded or under maintenance.",
    504: "The other system could not reach or verify ours, or one behind it did not answer.",
    600: "The other person is busy everywhere.",
    603: "The other person declined.",
    604: "There is no such user there.",
    606: "The other system's policy refused the contents.",
}
_CLASS_WORDS = {
    3: "The other person is to be reached at another address.",
    4: "The other system refused the request.",
    5: "The other system failed.",
    6: "The other person cannot be reached.",
}

#: Microsoft's diagnostic codes in words (``ms-diagnostics``).
_DIAGNOSTICS: dict[int, str] = {
    1008: "its server found no DNS record _sipfederationtls._tcp of our domain",
    1009: "our _sipfederationtls._tcp record names a host outside our SIP domain",
    1010: "our certificate does not carry the name that its server expects",
    1017: "its server cannot route between these two domains (hybrid deployment)",
    1027: "its federation policy does not let this kind of request pass",
    1034: "a federated server in front of it reported no cause",
    1047: "the TLS handshake between its server and ours failed",
    2165: "its contacts have moved to another store",
    4141: "the user's account is disabled there",
    6001: "its conference server did not answer",
    10003: "a gateway behind it answered with a failure",
    51004: "the other person ended it",
    52063: "the other person's program does not know this kind of session",
}
_DIAGNOSTIC = re.compile(
    r'\s*(\d{1,6})(?:.*?;\s*reason\s*=\s*"([^"]{0,400})")?', re.IGNORECASE | re.DOTALL
)
_WARNING = re.compile(r'\s*\d{3}\s+\S+\s+"([^"]{0,400})"')


@dataclass(frozen=True, slots=True)
class Diagnostic:
    """One entry of ``ms-diagnostics`` or ``ms-diagnostics-public``.

    :ivar code: Microsoft's code.
    :ivar reason: its own words, "" if it gave none.
    """

    code: int
    reason: str


def diagnostics(response: SipResponse) -> list[Diagnostic]:
    """Return Microsoft's diagnostics in a response, leniently read; order and blanks vary."""
    found = []
    for name in ("ms-diagnostics", "ms-diagnostics-public", "ms-client-diagnostics"):
        for value in response.get_all(name):
            if match := _DIAGNOSTIC.match(value[:2000]):
                found.append(Diagnostic(int(match[1]), readable(match[2] or "")))
    return found


def explain(response: SipResponse) -> str:
    """Say in words why the far side refused: fit for the local user and the log."""
    status = response.status
    words = _WORDS.get(status) or _CLASS_WORDS.get(
        status // 100, "The other system answered oddly."
    )
    details = []
    for one in diagnostics(response):
        text = _DIAGNOSTICS.get(one.code) or one.reason or "no words for it"
        details.append(f"{text} (Microsoft code {one.code})")
    for value in response.get_all("warning"):
        if match := _WARNING.match(value):
            details.append(readable(match[1]))
    reason = readable(response.reason)[:120]
    said = f"SIP {status} {reason}".rstrip()
    return f"{words} {said}{': ' + '; '.join(details) if details else ''}."
