"""The proxy column of RFC 4475: what is forwarded, what is refused, what is dropped."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from impfed.proxy.values import Drop, Locate, Relay, Reply, Start
from impfed.sip.errors import SipParseError
from impfed.sip.framing import parse_datagram
from impfed.sip.message import SipRequest, SipResponse, parse_message
from tests.proxy.kit import OWN, Bench, invite, target
from tests.sip.material import octets, table

# What is known to go wrong, with the reason.  A case that passes although it stands here fails.
EXPECTED_FAILURES: dict[str, str] = {}

# What the proxy does; where the RFC leaves a choice, this is ours.
DOES: dict[str, int | str] = {
    "wsinv.dat": "forward",
    "intmeth.dat": "forward",
    "esc01.dat": "forward",
    "escnull.dat": "forward",
    "esc02.dat": "forward",
    "lwsdisp.dat": "forward",
    "longreq.dat": "forward",
    "dblreq.dat": "forward",
    "semiuri.dat": "forward",
    "transports.dat": "forward",
    "mpart01.dat": "forward",
    "unreason.dat": "relay",
    "noreason.dat": "absorb",
    "badinv01.dat": 400,
    "clerr.dat": 400,
    "ncl.dat": 400,
    "scalar02.dat": 400,
    "scalarlg.dat": "discard",
    "quotbal.dat": 400,
    "ltgtruri.dat": 400,
    "lwsruri.dat": 400,
    "lwsstart.dat": 400,
    "trws.dat": 400,
    "escruri.dat": 400,
    "baddate.dat": "forward",
    "regbadct.dat": "forward",
    "badaspec.dat": 400,
    "baddn.dat": 400,
    "badvers.dat": 505,
    "mismatch01.dat": 400,
    "mismatch02.dat": 400,
    "bigcode.dat": "discard",
    "badbranch.dat": 400,
    "insuf.dat": 400,
    "unkscm.dat": 416,
    "novelsc.dat": 416,
    "unksm2.dat": "forward",
    "bext01.dat": 420,
    "invut.dat": "forward",
    "regaut01.dat": "forward",
    "multi01.dat": 400,
    "mcl01.dat": 400,
    "bcast.dat": "discard",
    "zeromf.dat": 483,
    "cparam01.dat": "forward",
    "cparam02.dat": "forward",
    "regescrt.dat": "forward",
    "sdp01.dat": "forward",
    "inv2543.dat": "forward",
}


def archived(name: str) -> bytes:
    """Return a message of the archive; one of them lacks the empty line that ends its head."""
    data = octets("rfc4475", name)
    return data + b"\r\n" if name == "baddn.dat" else data


def outcome(data: bytes) -> tuple[int | str, bytes]:
    """Return what the proxy does with a datagram, and what it sends on."""
    bench = Bench()
    try:
        parsed = parse_datagram(data)
    except SipParseError as error:
        return (error.status if error.head is not None else "discard"), b""
    if isinstance(parsed, SipResponse):
        return _response(bench, data, parsed)
    (effect,) = bench.request(parsed)
    if isinstance(effect, Reply):
        return effect.error.status, b""
    assert isinstance(effect, Locate)
    (started,) = bench.decide(target("hop", record_route=f"<sip:{OWN};lr>"))
    assert isinstance(started, Start)
    return "forward", started.data


def _response(bench: Bench, data: bytes, response: SipResponse) -> tuple[int | str, bytes]:
    if len(response.values("via")) > 1:
        # Its topmost Via is none that we have written: it fits no transaction.
        (dropped,) = bench.proxy.stray(response)
        assert isinstance(dropped, Drop)
        return "discard", b""
    # As the element behind us would send it: our Via on top, in answer to an INVITE of ours.
    bench.forward(invite())
    line = data.index(b"\r\n") + 2
    ours = bench.sent[0][1].values("via")[0].encode()
    arrived = parse_message(data[:line] + b"Via: " + ours + b"\r\n" + data[line:])
    assert isinstance(arrived, SipResponse)
    effects = bench.proxy.response(bench.branches[0], arrived, bench.now)
    if not effects:
        return "absorb", b""
    (relayed,) = effects
    assert isinstance(relayed, Relay)
    return "relay", relayed.data


class TortureTests(SynchronousTestCase):
    """Each message of RFC 4475, as one datagram."""

    def test_every_message(self) -> None:
        """Every message of the RFC stands in the table, and is treated as the table says."""
        names = {
            entry["file"]
            for entry in table("rfc4475", "index.json")["messages"]
            if entry["cls"] != "extra"
        }
        self.assertEqual(names, set(DOES))
        wrong = {}
        for name, expected in DOES.items():
            found, _ = outcome(archived(name))
            if (found == expected) is (name in EXPECTED_FAILURES):
                wrong[name] = (found, expected)
        self.assertEqual(wrong, {})

    def test_forwarded_byte_for_byte(self) -> None:
        """But for what a proxy writes itself, every line and the body pass as they came."""
        for name, expected in DOES.items():
            if expected not in ("forward", "relay"):
                continue
            original = archived(name)
            _, data = outcome(original)
            self.assertEqual(_unchanged(data), _unchanged(_cut(original)), name)

    def test_forwarded_can_be_read(self) -> None:
        """What is forwarded has one Via more, one hop less, and the same body."""
        for name, expected in DOES.items():
            if expected != "forward":
                continue
            before = parse_datagram(archived(name))
            after = parse_message(outcome(archived(name))[1])
            assert isinstance(before, SipRequest) and isinstance(after, SipRequest)
            self.assertEqual(after.values("via")[1:], before.values("via"), name)
            self.assertEqual(after.via.host, OWN)
            self.assertEqual(after.values("record-route")[1:], before.values("record-route"), name)
            hops = int(before.get("max-forwards") or 71)
            self.assertEqual(after.get("max-forwards"), str(hops - 1), name)
            self.assertEqual((after.body, after.uri_text), (before.body, before.uri_text), name)
            self.assertEqual(int(after.get("content-length") or -1), len(before.body), name)

    def test_only_the_unknown_tags(self) -> None:
        """A 420 names the tags of Proxy-Require, not those of Require."""
        parsed = parse_datagram(archived("bext01.dat"))
        assert isinstance(parsed, SipRequest)
        (reply,) = Bench().request(parsed)
        assert isinstance(reply, Reply)
        tags = parsed.values("proxy-require")
        self.assertEqual(reply.error.headers, (("Unsupported", ", ".join(tags)),))

    def test_second_request_in_a_datagram(self) -> None:
        """What follows the body of a request in its datagram is not forwarded."""
        self.assertNotIn(b"INVITE", outcome(archived("dblreq.dat"))[1])


def _cut(original: bytes) -> bytes:
    """Return a message without what follows its body."""
    return parse_datagram(original).to_bytes()


def _unchanged(data: bytes) -> list[bytes]:
    """Return the lines that no proxy touches, and the body."""
    head, _, body = data.lstrip(b"\r\n").partition(b"\r\n\r\n")
    folded = head.replace(b"\r\n ", b"\0 ").replace(b"\r\n\t", b"\0\t")
    # mpart01.dat names the proxy itself in its Route, which is taken off.
    touched = (b"max-forwards", b"max-breadth", b"route")
    own = (b"Via: SIP/2.0/TLS " + OWN.encode(), b"Record-Route: <sip:" + OWN.encode())
    lines = [
        line
        for line in folded.split(b"\r\n")
        if line.partition(b":")[0].strip().lower() not in touched and not line.startswith(own)
    ]
    added = f"Content-Length: {len(body)}".encode()
    return [line for line in lines if line != added] + [body]
