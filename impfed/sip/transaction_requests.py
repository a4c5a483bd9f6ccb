"""The two requests that the transaction layer itself makes: ACK of a refusal, and CANCEL."""

from __future__ import annotations

from impfed.core.errors import LocalError
from impfed.sip.message import OutgoingRequest


def top_via(data: bytes) -> str:
    """Return the Via value of a rendered request of ours.

    :raises LocalError: if the first header is not a Via.
    """
    lines = data.split(b"\r\n", 2)
    if len(lines) < 3 or not lines[1].startswith(b"Via: "):
        raise LocalError("A rendered request must begin with its Via")
    return lines[1][5:].decode("utf-8", "surrogateescape")


def _derived(request: OutgoingRequest, method: str, to: str | None) -> OutgoingRequest:
    headers = [("Max-Forwards", "70")]
    for name, value in request.headers:
        lower = name.lower()
        if lower in ("route", "from", "call-id"):
            headers.append((name, value))
        elif lower == "to":
            headers.append((name, value if to is None else to))
    headers.append(("CSeq", f"{request.cseq} {method}"))
    return OutgoingRequest(method, request.uri, headers, b"", request.cseq, request.call_id)


def refusal_ack(request: OutgoingRequest, data: bytes, to: str) -> bytes:
    """Write the ACK of a 300-699 answer (RFC 3261 section 17.1.1.3).

    :param request: the INVITE.
    :param data: the INVITE as sent; its Via is used again.
    :param to: To value of the answer.
    """
    return _derived(request, "ACK", to).render(top_via(data))


def cancel_of(request: OutgoingRequest) -> OutgoingRequest:
    """Make the CANCEL of an INVITE (RFC 3261 section 9.1); to be sent with the INVITE's Via."""
    return _derived(request, "CANCEL", None)
