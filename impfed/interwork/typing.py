"""Typing notices in both SIP dialects, against the two chat states that matter (XEP-0085).

Microsoft sends INFO with a KeyboardActivity document, everybody else MESSAGE with RFC 3994's
``application/im-iscomposing+xml``.
"""

from __future__ import annotations

from impfed.interwork.document import DocumentError, children, local_name, read_document, text_of
from impfed.sip.headers import MediaType

#: Media type of Microsoft's notice.
KEYBOARD_TYPE = "application/xml"

#: Media type of RFC 3994's notice.
ISCOMPOSING_TYPE = "application/im-iscomposing+xml"

_KEYBOARD = b'<?xml version="1.0"?><KeyboardActivity><status status="%b" /></KeyboardActivity>'
_ISCOMPOSING = (
    '<?xml version="1.0" encoding="UTF-8"?>\r\n'
    '<isComposing xmlns="urn:ietf:params:xml:ns:im-iscomposing">\r\n'
    "<state>{state}</state>\r\n<contenttype>text/plain</contenttype>\r\n{refresh}</isComposing>\r\n"
)


def read_typing(content_type: MediaType | None, body: bytes) -> str | None:
    """Return the chat state of a typing notice.

    :returns: "composing", "active" (stopped typing), or None if this is no typing notice that can
        be read: such a request is still answered with 200.
    """
    essence = content_type.essence if content_type is not None else ""
    if essence not in (KEYBOARD_TYPE, ISCOMPOSING_TYPE, "text/xml"):
        return None
    try:
        root = read_document(body)
    except DocumentError:
        return None
    name = local_name(root)
    if name == "KeyboardActivity":
        status = next(children(root, "status"), None)
        word = status.get("status", "") if status is not None else ""
        return {"type": "composing", "idle": "active"}.get(word.lower())
    if name == "isComposing":
        word = text_of(next(children(root, "state"), None)).lower()
        # RFC 3994 section 3.2: every state but "active" counts as idle.
        return "composing" if word == "active" else "active"
    return None


def keyboard_activity(composing: bool) -> bytes:
    """Return the body of Microsoft's typing notice, sent by INFO."""
    return _KEYBOARD % (b"type" if composing else b"idle")


def iscomposing(composing: bool, refresh: int = 60) -> bytes:
    """Return RFC 3994's typing notice, sent by MESSAGE.

    :param refresh: seconds after which the receiver may believe that typing has stopped.
    """
    line = f"<refresh>{refresh}</refresh>\r\n" if composing else ""
    return _ISCOMPOSING.format(state="active" if composing else "idle", refresh=line).encode(
        "ascii"
    )
