"""Following one user in the live trace: whose message is it, what is it called, what stays hidden."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import unquote

from impfed.core.logformat import HIDDEN
from impfed.core.trace import TraceLine

# Repetitions are bounded, so that no message takes long to look at, whoever wrote it.
_SIP_PARTY = re.compile(
    r"^(?:from|f|to|t|p-asserted-identity|p-preferred-identity)[ \t]{0,9}:.{0,999}?"
    r"(?:sips?|im|pres):([^@>;\s]{0,255}@)?([^>;:?\s]{1,255})",
    re.IGNORECASE | re.MULTILINE,
)
_REQUEST_URI = re.compile(
    r"[^ \r\n]{1,64} (?:sips?|im|pres):([^@>;\s]{0,255}@)?([^>;:?\s]{1,255})", re.IGNORECASE
)
_XMPP_PARTY = re.compile(r"""\s(?:from|to)\s*=\s*(?:"([^"]*)"|'([^']*)')""")
_SIP_SECRET = re.compile(
    r"^((?:proxy-)?authorization|authentication-info)([ \t]*:[ \t]*)[^\r\n]*(?:\r\n[ \t]+[^\r\n]*)*",
    re.IGNORECASE | re.MULTILINE,
)
_XMPP_SECRET = re.compile(
    r"(<(?:\w{1,32}:)?(handshake|password|auth|response|secret)\b[^<>]{0,999}>)[^<]*(</)",
    re.IGNORECASE,
)
_STATUS = re.compile(r"SIP/2\.0 (\d{3})[ ]?([^\r\n]*)")
_CSEQ = re.compile(r"^cseq[ \t]*:[ \t]*\d+[ \t]+(\S+)", re.IGNORECASE | re.MULTILINE)
_CALL_ID = re.compile(r"^(?:call-id|i)[ \t]*:[ \t]*([^\r\n]*)", re.IGNORECASE | re.MULTILINE)
_START_TAG = re.compile(r"\s*<(\w+)[^>]*>")
_ATTRIBUTE = re.compile(r"""\s(type|id)\s*=\s*(?:"([^"]*)"|'([^']*)')""")

#: XML entities that stand in an address.
_ENTITIES = (("&apos;", "'"), ("&quot;", '"'), ("&lt;", "<"), ("&gt;", ">"), ("&amp;", "&"))


def parties(line: TraceLine) -> set[str]:
    """Return the bare addresses that a message goes from and to, in lower case."""
    found = set()
    if line.protocol == "sip":
        head = line.text.partition("\r\n\r\n")[0]
        uris = [_REQUEST_URI.match(head), *_SIP_PARTY.finditer(head)]
        for uri in uris:
            if uri is not None:
                found.add((unquote(uri[1] or "") + uri[2]).lower())
    else:
        tag = _START_TAG.match(line.text)
        for match in _XMPP_PARTY.finditer(tag[0] if tag else ""):
            text = match[1] or match[2] or ""
            for entity, mark in _ENTITIES:
                text = text.replace(entity, mark)
            found.add(text.partition("/")[0].lower())
    return found


def concerns(line: TraceLine, user: str) -> bool:
    """Say whether a message is from or to a user, or, without an "@", a domain."""
    user = user.lower()
    if "@" in user:
        return user in parties(line)
    return any(party.rpartition("@")[2] == user for party in parties(line))


def redacted(line: TraceLine) -> str:
    """Return a message without credentials: SIP authorization, XMPP handshakes and passwords."""
    if line.protocol == "xmpp":
        return _XMPP_SECRET.sub(rf"\1{HIDDEN}\3", line.text)
    head, end, body = line.text.partition("\r\n\r\n")
    return _SIP_SECRET.sub(rf"\1\2{HIDDEN}", head) + end + body


def label(line: TraceLine) -> str:
    """Return what a message is called: "INVITE", "200 OK (INVITE)", "message chat"."""
    if line.protocol == "sip":
        answer = _STATUS.match(line.text)
        if answer is None:
            return line.text.partition(" ")[0]
        cseq = _CSEQ.search(line.text)
        return f"{answer[1]} {answer[2]}".strip() + (f" ({cseq[1]})" if cseq else "")
    tag = _START_TAG.match(line.text)
    if tag is None:
        return "XML"
    kinds = {match[1]: match[2] or match[3] or "" for match in _ATTRIBUTE.finditer(tag[0])}
    return f"{tag[1]} {kinds.get('type', '')}".strip()


def as_item(line: TraceLine) -> dict[str, Any]:
    """Return a message as the socket carries it."""
    item: dict[str, Any] = {
        "when": line.when,
        "protocol": line.protocol,
        "inbound": line.inbound,
        "peer": line.peer,
        "label": label(line),
        "text": redacted(line),
    }
    if line.protocol == "sip":
        call_id = _CALL_ID.search(line.text)
        item["call_id"] = call_id[1].strip() if call_id else ""
    return item
