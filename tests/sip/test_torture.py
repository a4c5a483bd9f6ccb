"""The torture messages of RFC 4475 and the IPv6 messages of RFC 5118, for a parser and a UAS."""

from __future__ import annotations

import re
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from impfed.sip.errors import SipParseError
from impfed.sip.framing import StreamFramer, parse_datagram
from impfed.sip.message import (
    SipMessage,
    SipRequest,
    SipResponse,
    check_request,
    parse_message,
    response_bytes,
)
from impfed.sip.sdp import parse_offer
from impfed.sip.uas import for_us, screen
from impfed.sip.uri import SipUri
from tests.sip.material import each, octets, table

METHODS = ("INVITE", "ACK", "CANCEL", "BYE", "MESSAGE", "INFO", "OPTIONS", "SUBSCRIBE", "NOTIFY")

# What is known to go wrong, with the reason.  A case that passes although it stands here fails.
EXPECTED_FAILURES: dict[str, str] = {}

# The answer of an IM-only user agent to each message of RFC 4475; where its index leaves a choice,
# this is ours.  488: a good INVITE whose only fault is to offer audio.  405: wants a registrar.
ANSWERS: dict[str, int | str] = {
    "wsinv.dat": 488,
    "intmeth.dat": 501,
    "esc01.dat": 488,
    "escnull.dat": 405,
    "esc02.dat": 501,
    "lwsdisp.dat": 200,
    "longreq.dat": 488,
    "dblreq.dat": 405,
    "semiuri.dat": 200,
    "transports.dat": 200,
    "mpart01.dat": 200,
    "unreason.dat": "taken",
    "noreason.dat": "taken",
    "badinv01.dat": 400,
    "clerr.dat": 400,
    "ncl.dat": 400,
    "scalar02.dat": 400,
    "scalarlg.dat": "discarded",
    "quotbal.dat": 400,
    "ltgtruri.dat": 400,
    "lwsruri.dat": 400,
    "lwsstart.dat": 400,
    "trws.dat": 400,
    "escruri.dat": 400,
    "baddate.dat": 488,
    "regbadct.dat": 405,
    "badaspec.dat": 400,
    "baddn.dat": 400,
    "badvers.dat": 505,
    "mismatch01.dat": 400,
    "mismatch02.dat": 400,
    "bigcode.dat": "discarded",
    "badbranch.dat": 400,
    "insuf.dat": 400,
    "unkscm.dat": 416,
    "novelsc.dat": 416,
    "unksm2.dat": 405,
    "bext01.dat": 420,
    "invut.dat": 415,
    "regaut01.dat": 405,
    "multi01.dat": 400,
    "mcl01.dat": 400,
    "bcast.dat": "discarded",
    "zeromf.dat": 200,
    "cparam01.dat": 405,
    "cparam02.dat": 405,
    "regescrt.dat": 405,
    "sdp01.dat": 406,
    "inv2543.dat": 400,  # without a Contact no dialog can be made
}

# Refused by the parser proper or by the check that goes with it, although the index says "either".
CHOSEN_TO_REFUSE = (
    "quotbal.dat",
    "ltgtruri.dat",
    "lwsruri.dat",
    "lwsstart.dat",
    "trws.dat",
    "escruri.dat",
    "badaspec.dat",
    "baddn.dat",
)


def read(data: bytes) -> SipMessage:
    """Parse and check, as what arrives is."""
    message = parse_datagram(data)
    if isinstance(message, SipRequest):
        check_request(message)
    return message


def answer(data: bytes) -> int | str:
    """Return what a user agent does: a status code, or "taken", "discarded", "silence"."""
    try:
        message = read(data)
    except SipParseError as error:
        if data.startswith(b"SIP/"):
            return "discarded"
        if not isinstance(error.head, SipRequest):
            return "silence"
        response_bytes(error.head, error.status, error.reason, "ours", error.headers)
        return error.status
    if isinstance(message, SipResponse):
        return "taken" if for_us(message) else "discarded"
    assert isinstance(message, SipRequest)
    refusal = screen(message, METHODS)
    if refusal is not None:
        return refusal.status
    if message.method == "INVITE":
        try:
            parse_offer(message.body)
        except SipParseError as error:
            return error.status
    return 200


def material(folder: str, entry: dict[str, Any]) -> bytes:
    """Return a message, mended where the index says that the printed one has a printer's fault."""
    data = octets(folder, entry["file"])
    if entry["file"] == "baddn.dat":
        return data + b"\r\n"
    if folder == "rfc5118" and entry["content_length"] != [str(entry["body_bytes"])]:
        length = f"Content-Length: {entry['body_bytes']}\r\n".encode()
        return re.sub(rb"Content-Length: \d+\r\n", length, data)
    return data


def expecting(test: SynchronousTestCase, name: str, problem: str) -> None:
    """Fail on a problem that is not expected, and on an expected one that is gone."""
    if name in EXPECTED_FAILURES:
        test.assertNotEqual(problem, "", f"{name} passes: take it off the list")
    else:
        test.assertEqual(problem, "", name)


def parser_problem(entry: dict[str, Any], data: bytes) -> str:
    try:
        read(data)
    except SipParseError as error:
        if entry["parser"] == "reject":
            return ""
        if entry["parser"] == "either":
            return "" if entry["file"] in CHOSEN_TO_REFUSE else f"refused: {error}"
        # The syntax is good, a higher layer refuses: then an answer must be possible.
        return "" if isinstance(error.head, SipRequest) else f"refused: {error}"
    if entry["parser"] == "reject" or entry["file"] in CHOSEN_TO_REFUSE:
        return "accepted"
    return ""


RFC4475 = table("rfc4475", "index.json")["messages"]
COUNTED = [(entry["file"], entry) for entry in RFC4475 if entry["cls"] != "extra"]
RFC5118 = [(entry["file"], entry) for entry in table("rfc5118", "index.json")["messages"]]


def check_parser(test: SynchronousTestCase, entry: dict[str, Any]) -> None:
    problem = parser_problem(entry, material("rfc4475", entry))
    expecting(test, entry["file"], problem)


def check_answer(test: SynchronousTestCase, entry: dict[str, Any]) -> None:
    got, wanted = answer(material("rfc4475", entry)), ANSWERS[entry["file"]]
    expecting(test, entry["file"], "" if got == wanted else f"{got}, not {wanted}")


@each(COUNTED, "The parser takes or refuses {} as the index says.")(check_parser)
class Rfc4475ParserTests(SynchronousTestCase):
    """RFC 4475 as a parser sees it."""


@each(COUNTED, "A user agent server answers {} as the index says.")(check_answer)
class Rfc4475UasTests(SynchronousTestCase):
    """RFC 4475 as a user agent server sees it."""


class Rfc4475ValueTests(SynchronousTestCase):
    """What the valid messages of RFC 4475 must be read as."""

    def message(self, name: str) -> SipMessage:
        return parse_message(octets("rfc4475", name))

    def test_complete(self) -> None:
        """All 49 messages have an answer and none is expected to fail."""
        self.assertEqual({name for name, _ in COUNTED}, set(ANSWERS))
        self.assertEqual(len(ANSWERS), 49)
        self.assertEqual(EXPECTED_FAILURES, {})

    def test_wsinv(self) -> None:
        """Folds, compact forms, blanks and leading zeros do not change the values."""
        message = self.message("wsinv.dat")
        self.assertEqual(message.cseq, (9, "INVITE"))
        self.assertEqual(message.to.tag, "1918181833n")
        self.assertEqual(message.to.uri_text, "sip:vivekg@chair-dnrc.example.com")
        self.assertEqual(message.from_.display, 'J Rosenberg \\"')
        self.assertEqual(message.from_.tag, "98asjd8")
        self.assertEqual(message.call_id, "wsinv.ndaksdj@192.0.2.1")
        self.assertEqual(message.get("max-forwards"), "0068")
        self.assertEqual(len(message.values("via")), 3)
        self.assertEqual(message.via.host, "192.0.2.2")
        self.assertEqual(message.via.branch, "390skdjuw")
        self.assertEqual(message.get("subject"), "")
        self.assertEqual(
            message.get("newfangledheader"), "newfangled value continued newfangled value"
        )
        self.assertEqual(len(message.values("route")), 1)
        assert message.content_type is not None
        self.assertEqual(message.content_type.essence, "application/sdp")
        assert message.contact is not None
        self.assertEqual(message.contact.param("q"), "0.33")
        self.assertEqual(message.contact.param("newparam"), "newvalue")

    def test_intmeth(self) -> None:
        """Odd methods, escapes, control characters and UTF-8 are kept."""
        message = self.message("intmeth.dat")
        assert isinstance(message, SipRequest)
        self.assertEqual(message.method, "!interesting-Method0123456789_*+`.%indeed'~")
        self.assertEqual(message.to.display, "BEL:\x07 NUL:\x00 DEL:\x7f")
        self.assertIsInstance(message.uri, SipUri)

    def test_esc01(self) -> None:
        """Escapes are undone once."""
        message = self.message("esc01.dat")
        assert isinstance(message, SipRequest) and isinstance(message.uri, SipUri)
        self.assertEqual(message.uri.unescaped_user, "sips:user@example.com")
        assert message.contact is not None and isinstance(message.contact.uri, SipUri)
        self.assertEqual(message.contact.uri.param("name"), "value%41")
        self.assertEqual(message.contact.uri.param("lr"), "")

    def test_esc02(self) -> None:
        """A percent sign in a header name is no escape: two Contacts, not three."""
        message = self.message("esc02.dat")
        self.assertEqual(len(message.values("contact")), 2)
        self.assertEqual(message.from_.display or message.to.display, "%Z%45")

    def test_escnull(self) -> None:
        """Escaped NULs truncate nothing."""
        contacts = self.message("escnull.dat").values("contact")
        self.assertEqual(
            contacts, ["<sip:%00@host5.example.com>", "<sip:%00%00@host5.example.com>"]
        )

    def test_semiuri(self) -> None:
        """Semicolons before the @ belong to the user part."""
        message = self.message("semiuri.dat")
        assert isinstance(message, SipRequest) and isinstance(message.uri, SipUri)
        self.assertEqual(message.uri.unescaped_user, "user;par=u@example.net")
        self.assertEqual(message.uri.params, ())

    def test_longreq(self) -> None:
        """Long values and 34 Vias are read."""
        self.assertEqual(len(self.message("longreq.dat").values("via")), 34)

    def test_transports(self) -> None:
        """Any transport token may stand in a Via."""
        message = self.message("transports.dat")
        transports = [value.split()[0].rpartition("/")[2] for value in message.values("via")]
        self.assertEqual(transports, ["UDP", "SCTP", "TLS", "UNKNOWN", "TCP"])

    def test_dblreq_datagram(self) -> None:
        """In a datagram the octets after the body are dropped."""
        self.assertEqual(self.message("dblreq.dat").body, b"")

    def test_dblreq_stream(self) -> None:
        """On a stream the same octets are two requests."""
        methods = [
            item.method
            for item in StreamFramer().feed(octets("rfc4475", "dblreq.dat"))
            if isinstance(item, SipRequest)
        ]
        self.assertEqual(methods, ["REGISTER", "INVITE"])

    def test_mpart01(self) -> None:
        """A binary body is kept octet for octet."""
        self.assertEqual(len(self.message("mpart01.dat").body), 553)

    def test_unreason(self) -> None:
        """A reason phrase may hold UTF-8."""
        message = self.message("unreason.dat")
        assert isinstance(message, SipResponse)
        self.assertTrue(message.reason.startswith("= 2**3 * 5**2 "))
        self.assertIn("\u0442\u043e", message.reason)

    def test_noreason(self) -> None:
        """A reason phrase may be empty."""
        message = self.message("noreason.dat")
        assert isinstance(message, SipResponse)
        self.assertEqual((message.status, message.reason), (100, ""))

    def test_cparam(self) -> None:
        """Parameters belong to the header without brackets, to the URI within them."""
        bare, bracketed = self.message("cparam01.dat").contact, self.message("cparam02.dat").contact
        assert bare is not None and bracketed is not None
        self.assertEqual(bare.params, (("unknownparam", None),))
        self.assertEqual(bracketed.params, ())
        self.assertIn(";unknownparam", bracketed.uri_text)

    def test_baddn_unterminated(self) -> None:
        """A datagram whose head never ends is refused without an answer."""
        self.assertEqual(answer(octets("rfc4475", "baddn.dat")), "silence")

    def test_extra(self) -> None:
        """The stray message of the archive is refused."""
        self.assertRaises(SipParseError, read, octets("rfc4475", "test.dat"))


def check_rfc5118(test: SynchronousTestCase, entry: dict[str, Any]) -> None:
    data = material("rfc5118", entry)
    problem = ""
    try:
        read(data)
    except SipParseError as error:
        if entry["parser"] == "accept":
            problem = f"refused: {error}"
        elif answer(data) != 400:
            problem = f"{answer(data)}, not 400"
    else:
        # Where the RFC leaves the choice (three colons), ours is to refuse.
        if entry["parser"] != "accept":
            problem = "accepted"
        elif isinstance(answer(data), int) and answer(data) not in (200, 405, 488):
            problem = f"answered {answer(data)}"
    expecting(test, entry["file"], problem)


@each(RFC5118, "Parser and user agent server do with {} what the index says.")(check_rfc5118)
class Rfc5118Tests(SynchronousTestCase):
    """RFC 5118, IPv6."""

    def uri(self, name: str) -> SipUri:
        message = parse_message(octets("rfc5118", name))
        assert isinstance(message, SipRequest) and isinstance(message.uri, SipUri)
        return message.uri

    def test_all(self) -> None:
        """All 12 messages are here."""
        self.assertEqual(len(RFC5118), 12)

    def test_ports(self) -> None:
        """A number inside the brackets is no port."""
        ambiguous, clear = self.uri("port-ambiguous.dat"), self.uri("port-unambiguous.dat")
        self.assertEqual((ambiguous.host, ambiguous.port), ("2001:db8::10:5070", None))
        self.assertEqual((clear.host, clear.port), ("2001:db8::10", 5070))

    def test_received(self) -> None:
        """The received parameter is read with brackets and without."""
        for name in ("via-received-param-with-delim.dat", "via-received-param-no-delim.dat"):
            via = parse_message(octets("rfc5118", name)).via
            self.assertEqual((via.param("received") or "").strip("[]"), "2001:db8::9:255")

    def test_mixed_vias(self) -> None:
        """The Via chain may mix both families."""
        message = parse_message(octets("rfc5118", "mult-ip-in-header.dat"))
        self.assertEqual(message.via.host, "[2001:db8::9:1]")
        self.assertEqual(len(message.values("via")), 3)

    def test_mapped(self) -> None:
        """An IPv4 address mapped into IPv6 is a host."""
        self.assertEqual(SipUri.parse("sip:a@[::ffff:192.0.2.1]").host, "::ffff:192.0.2.1")
