"""CPU of the SIP reader and writer, beside sipmessage on the same octets.

    python -m bench.bench_parser            a table
    python -m bench.bench_parser --json     the same as JSON, for bench.run

Each message is one of 256 that differ in tags, branch, Call-ID and CSeq, as the messages of 256
conversations do, so caches help here as much as in life and no more.  Subjects are interleaved in
rounds; the figure is the median over rounds of CPU microseconds per message, and the ratio is taken
between medians of the same run.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import sys
import time
from collections.abc import Callable

import sipmessage

from impfed.sip.framing import Pong, StreamFramer
from impfed.sip.message import (
    OutgoingRequest,
    SipRequest,
    check_request,
    parse_message,
    response_bytes,
)

COUNT = 256
TARGET, GOAL = 0.2, 0.1  # ours / sipmessage, parsing what a gateway needs
SDP = (
    "v=0\r\no=- 0 0 IN IP4 10.0.0.5\r\ns=session\r\nc=IN IP4 10.0.0.5\r\nt=0 0\r\n"
    "m=message 5060 sip null\r\na=accept-types:text/plain multipart/alternative image/gif "
    "text/rtf text/html application/x-ms-ink application/ms-imdn+xml text/x-msmsgsinvite \r\n"
)
ROUTE = "<sip:sip.lync.example:5061;transport=tls;lr;ms-route-sig=aaR0dXRlU2lnMDFYWVo>;tag=3F1C9A5B"


def head(number: int, method: str, uri: str, to_tag: str) -> list[str]:
    """Return the lines that all messages of the bench begin with."""
    return [
        f"{method} {uri} SIP/2.0",
        f"Via: SIP/2.0/TLS 192.0.2.{number % 4}:5061;branch=z9hG4bK{number * 7919:08X}.1122334455;"
        "branched=FALSE",
        f"Via: SIP/2.0/TLS 10.20.0.{number % 4}:5061;branch=z9hG4bK{number * 104729:08X}.0011;"
        "branched=FALSE;ms-received-port=50211;ms-received-cid=3E8A00",
        "Max-Forwards: 68",
        f'From: "User {number}"<sip:user{number}@lync.example>;tag={number * 31337:08x};epid=4b7e19f0',
        f"To: <sip:peer{number}@impfed.example>{to_tag}",
        f"Call-ID: {number * 15485863:032x}",
        f"CSeq: {number + 2} {method}",
    ]


def finish(lines: list[str], body: str) -> bytes:
    """Join the lines and give them a length and the body."""
    lines.append(f"Content-Length: {len(body)}")
    return ("\r\n".join(lines) + "\r\n\r\n" + body).encode()


def chat(number: int) -> bytes:
    """Return a MESSAGE in a dialog, 878 octets."""
    lines = head(number, "MESSAGE", "sip:fed.impfed.example:5061;transport=tls", ";tag=8fa6c1d204")
    lines += [
        "User-Agent: UCCAPI/15.0.4971.1000 OC/15.0.4971.1000 (Skype for Business)",
        "Supported: ms-dialog-route-set-update",
        "Supported: timer",
        "Content-Type: text/plain; charset=UTF-8",
    ]
    room = 878 - len(finish(list(lines), "")) - 2
    return finish(lines, ("But soft, what light through yonder window breaks? " * 9)[:room])


def invite(number: int) -> bytes:
    """Return an INVITE of about 1.7 kB with repeated headers, as Microsoft's clients send it."""
    lines = head(number, "INVITE", f"sip:peer{number}@impfed.example", "")
    lines += [f"Record-Route: {ROUTE}{number:04x}"]
    lines += [
        f"Contact: <sip:user{number}@lync.example;opaque=user:epid:Qm9yZWQtUm9tZW8tRXBpZABB;gruu>",
        "User-Agent: UCCAPI/15.0.4971.1000 OC/15.0.4971.1000 (Skype for Business)",
        "Supported: ms-dialog-route-set-update",
        "Supported: timer",
        "Supported: histinfo",
        "Supported: ms-sender",
        f"Ms-Conversation-ID: AdHqX1v7bGxKQmVyb25h{number:04d}==",
        "ms-keep-alive: UAC;hop-hop=yes",
        "Allow: INVITE, BYE, ACK, CANCEL, INFO, MESSAGE, UPDATE, REFER, NOTIFY, BENOTIFY",
        "Content-Type: application/sdp",
    ]
    return finish(lines, SDP)


def ours_named(data: bytes) -> object:
    """Read and name every header line, decode nothing."""
    return parse_message(data)


def ours_typed(data: bytes) -> object:
    """Decode what a gateway needs of every message."""
    message = parse_message(data)
    assert isinstance(message, SipRequest)
    return (
        message.from_,
        message.from_tag,
        message.to,
        message.to_tag,
        message.cseq,
        message.via.branch,
        message.call_id,
        message.uri_text,
    )


def ours_checked(data: bytes) -> object:
    """Decode the same and refuse what no user agent may act on."""
    ours_typed_message = parse_message(data)
    assert isinstance(ours_typed_message, SipRequest)
    check_request(ours_typed_message)
    message = ours_typed_message
    return message.from_tag, message.to_tag, message.via.branch


def theirs_typed(data: bytes) -> object:
    """Decode the same with sipmessage."""
    message = sipmessage.Message.parse(data)
    assert isinstance(message, sipmessage.Request)
    return (
        message.from_address,
        message.to_address,
        message.cseq,
        message.via[0],
        message.call_id,
        message.uri,
    )


def measure(
    subjects: dict[str, tuple[Callable[[bytes], object], list[bytes]]], rounds: int
) -> dict[str, float]:
    """Return the median CPU microseconds per call of each subject."""
    taken: dict[str, list[float]] = {name: [] for name in subjects}
    for _ in range(rounds):
        for name, (function, inputs) in subjects.items():
            gc.collect()
            begun = time.process_time_ns()
            for data in inputs:
                function(data)
            taken[name].append((time.process_time_ns() - begun) / len(inputs) / 1000)
    return {name: statistics.median(times) for name, times in taken.items()}


def writers(chats: list[bytes], invites: list[bytes]) -> dict[str, Callable[[bytes], object]]:
    """Return what writes, each taking the octets of the request it answers or stands for."""
    parsed = {data: parse_message(data) for data in (*chats, *invites)}
    sdp = SDP.encode()
    headers = [
        ("Contact", "<sip:juliet@fed.impfed.example:5061;transport=tls>"),
        ("Content-Type", "application/sdp"),
    ]

    def answer(data: bytes) -> object:
        request = parsed[data]
        assert isinstance(request, SipRequest)
        return response_bytes(request, 200)

    def accept(data: bytes) -> object:
        request = parsed[data]
        assert isinstance(request, SipRequest)
        return response_bytes(request, 200, to_tag="8fa6c1d204", headers=headers, body=sdp)

    def send(data: bytes) -> object:
        message = parsed[data]
        request = OutgoingRequest(
            "MESSAGE",
            "sip:romeo@lync.example;opaque=user:epid:Qm9yZWQtUm9tZW8tRXBpZABB;gruu",
            [
                ("Route", ROUTE),
                ("Max-Forwards", "70"),
                ("From", message.to.text),
                ("To", message.from_.text),
                ("Call-ID", message.call_id),
                ("CSeq", "3 MESSAGE"),
                ("Content-Type", "text/plain; charset=UTF-8"),
            ],
            b"hello",
        )
        return request.render("SIP/2.0/TLS fed.impfed.example:5061;branch=z9hG4bK0123456789abcdef")

    return {"200 to a MESSAGE": answer, "200 to an INVITE": accept, "MESSAGE written": send}


def framed(data: bytes) -> object:
    """Cut a stream that holds 16 messages."""
    return [item for item in StreamFramer().feed(data) if not isinstance(item, Pong)]


def run(rounds: int) -> dict[str, object]:
    """Measure everything."""
    chats = [chat(number) for number in range(COUNT)]
    invites = [invite(number) for number in range(COUNT)]
    subjects: dict[str, tuple[Callable[[bytes], object], list[bytes]]] = {}
    for kind, inputs in (("MESSAGE", chats), ("INVITE", invites)):
        subjects[f"{kind}, lines named"] = (ours_named, inputs)
        subjects[f"{kind}, typed"] = (ours_typed, inputs)
        subjects[f"{kind}, typed and checked"] = (ours_checked, inputs)
        subjects[f"{kind}, sipmessage typed"] = (theirs_typed, inputs)
    written = writers(chats, invites)
    subjects["200 to a MESSAGE"] = (written["200 to a MESSAGE"], chats)
    subjects["200 to an INVITE"] = (written["200 to an INVITE"], invites)
    subjects["MESSAGE written"] = (written["MESSAGE written"], chats)
    streams = [b"".join(chats[start : start + 16]) for start in range(0, COUNT, 16)]
    subjects["16 MESSAGEs framed"] = (framed, streams)
    figures = measure(subjects, rounds)
    figures["MESSAGE framed"] = figures.pop("16 MESSAGEs framed") / 16
    ratios = {
        kind: figures[f"{kind}, typed"] / figures[f"{kind}, sipmessage typed"]
        for kind in ("MESSAGE", "INVITE")
    }
    return {
        "octets": {"MESSAGE": len(chats[0]), "INVITE": len(invites[0])},
        "microseconds": {name: round(value, 2) for name, value in figures.items()},
        "ratio": {name: round(value, 3) for name, value in ratios.items()},
        "at_most": TARGET,
        "goal": GOAL,
        "met": all(value <= TARGET for value in ratios.values()),
    }


def main(arguments: list[str] | None = None) -> int:
    """Print the figures; exit code 1 if a target is missed."""
    parser = argparse.ArgumentParser(description="CPU of the SIP reader and writer")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--rounds", type=int, default=31)
    options = parser.parse_args(arguments)
    result = run(options.rounds)
    if options.json:
        print(json.dumps(result, indent=2))
    else:
        print(f"octets: {result['octets']}\n{'CPU per message':<32}{'µs':>8}")
        figures = result["microseconds"]
        assert isinstance(figures, dict)
        for name, value in figures.items():
            print(f"{name:<32}{value:>8.2f}")
        print(f"ours / sipmessage, typed: {result['ratio']} (at most {TARGET}, goal {GOAL})")
    return 0 if result["met"] else 1


if __name__ == "__main__":
    sys.exit(main())
