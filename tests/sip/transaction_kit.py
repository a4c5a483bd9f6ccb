"""What the tests of the transaction layer share: messages, transports, and a way to say what happened."""

from __future__ import annotations

from impfed.sip.message import (
    OutgoingRequest,
    SipRequest,
    SipResponse,
    parse_message,
    response_bytes,
)
from impfed.sip.transaction import (
    AckArrived,
    Action,
    CancelArrived,
    Ended,
    Failed,
    RequestArrived,
    ResponseArrived,
    Send,
    Stray,
)


class Wire:
    """A destination or source; all that the layer may look at is ``reliable``."""

    def __init__(self, reliable: bool = True) -> None:
        self.reliable = reliable


VIA = "SIP/2.0/TLS edge.lync.example:5061"


def request(
    method: str = "MESSAGE",
    *,
    branch: str = "z9hG4bKone",
    via: str = VIA,
    to_tag: str = "",
    from_tag: str = "romeo1",
    call_id: str = "call-1",
    cseq: int = 1,
    cseq_method: str = "",
    extra: str = "",
    uri: str = "sip:juliet@impfed.example",
) -> SipRequest:
    """Make a request as it comes from the far side."""
    tag = f";tag={to_tag}" if to_tag else ""
    branch = f";branch={branch}" if branch else ""
    text = (
        f"{method} {uri} SIP/2.0\r\n"
        f"Via: {via}{branch}\r\n"
        "Max-Forwards: 70\r\n"
        f"From: <sip:romeo@lync.example>;tag={from_tag}\r\n"
        f"To: <sip:juliet@impfed.example>{tag}\r\n"
        f"Call-ID: {call_id}\r\n"
        f"CSeq: {cseq} {cseq_method or method}\r\n"
        "Contact: <sip:romeo@192.0.2.10:5061;transport=tls>\r\n"
        f"{extra}Content-Length: 0\r\n\r\n"
    )
    message = parse_message(text.encode())
    assert isinstance(message, SipRequest)
    return message


def outgoing(
    method: str = "MESSAGE", cseq: int = 1, routes: tuple[str, ...] = ()
) -> OutgoingRequest:
    """Make a request of ours."""
    headers = [("Max-Forwards", "70")]
    headers += [("Route", route) for route in routes]
    headers += [
        ("From", "<sip:juliet@impfed.example>;tag=juliet1"),
        ("To", "<sip:romeo@lync.example>"),
        ("Call-ID", "call-2"),
        ("CSeq", f"{cseq} {method}"),
        ("Contact", "<sip:juliet@fed.impfed.example:5061;transport=tls>"),
    ]
    return OutgoingRequest(method, "sip:romeo@lync.example", headers, b"", cseq, "call-2")


def rendered(message: OutgoingRequest, branch: str) -> bytes:
    """Render a request of ours as the transport does."""
    return message.render(f"SIP/2.0/TLS fed.impfed.example:5061;branch={branch}")


def response(data: bytes, status: int, tag: str = "r1", via_extra: str = "") -> SipResponse:
    """Make the far side's answer to a rendered request; via_extra is put at the end of our Via."""
    sent = parse_message(data)
    assert isinstance(sent, SipRequest)
    answer = response_bytes(sent, status, to_tag="" if status == 100 else tag)
    head, _, rest = answer.partition(b"\r\nFrom:")
    message = parse_message(head + via_extra.encode() + b"\r\nFrom:" + rest)
    assert isinstance(message, SipResponse)
    return message


def told(actions: list[Action]) -> list[str]:
    """Say in words what actions there are, in order."""
    words = []
    for action in actions:
        match action:
            case Send(data=data):
                start = data.split(b" ", 2)
                if start[0] == b"SIP/2.0":
                    words.append("send " + start[1].decode())
                else:
                    words.append("send " + start[0].decode())
            case RequestArrived(request=arrived):
                words.append("request " + arrived.method)
            case ResponseArrived(response=answer):
                words.append(f"response {answer.status} {answer.to_tag}".rstrip())
            case AckArrived(transaction=None):
                words.append("stray ACK")
            case AckArrived():
                words.append("ACK")
            case CancelArrived():
                words.append("CANCEL")
            case Failed(cause=cause):
                words.append("failed " + cause.value)
            case Stray(response=answer):
                words.append(f"stray {answer.status}")
            case Ended():
                words.append("ended")
    return words
