"""The wire samples of a Microsoft edge, read and answered."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from impfed.core.errors import RemoteError
from impfed.sip.framing import Pong, StreamFramer
from impfed.sip.headers import parse_event, parse_name_addr, parse_subscription_state, parse_warning
from impfed.sip.message import (
    SipMessage,
    SipRequest,
    SipResponse,
    check_request,
    check_response,
    parse_message,
    response_bytes,
)
from impfed.sip.sdp import im_answer, parse_offer
from impfed.sip.uas import screen
from impfed.sip.uri import SipUri
from tests.sip.material import DATA, each, lync

NAMES = sorted(path.stem for path in (DATA / "wire" / "lync").glob("*.sip"))
METHODS = ("INVITE", "ACK", "CANCEL", "BYE", "MESSAGE", "INFO", "OPTIONS", "SUBSCRIBE", "NOTIFY")

# The refusals that the README asks for and that can be seen in the request alone.
REFUSALS = {
    "invite-multiparty-in": (420, {"Unsupported": "com.microsoft.rtc-multiparty"}),
    "subscribe-in-batch-require": (420, {"Unsupported": "adhoclist, categoryList"}),
    "negotiate-in": (
        405,
        {"Allow": "INVITE, ACK, CANCEL, BYE, MESSAGE, INFO, OPTIONS, SUBSCRIBE, NOTIFY"},
    ),
    "invite-audio-in": (488, {}),
    "invite-audio-multipart-in": (488, {}),
    "invite-conference-in": (488, {}),
    "invite-filetransfer-in": (488, {}),
}


def cut(data: bytes) -> list[SipMessage]:
    framer = StreamFramer()
    messages = [item for item in framer.feed(data) if not isinstance(item, Pong)]
    assert framer.failure is None and framer.buffered == 0
    return messages


def request(name: str) -> SipRequest:
    message = parse_message(lync(name))
    assert isinstance(message, SipRequest)
    return message


def check_sample(test: SynchronousTestCase, name: str) -> None:
    data = lync(name)
    messages = cut(data)
    test.assertEqual(len(messages), 2 if name.startswith("stream") else 1)
    for message in messages:
        test.assertIn(message.to_bytes(), data)
        if isinstance(message, SipRequest):
            check_request(message)
            test.assertIsInstance(message.uri, SipUri)
        else:
            assert isinstance(message, SipResponse)
            check_response(message)
        test.assertNotEqual(message.from_tag, "")
        test.assertTrue(message.via.branch.startswith("z9hG4bK"))
        for value in message.values("record-route") + message.values("route"):
            address = parse_name_addr(value)
            address.check()
            assert isinstance(address.uri, SipUri)
            test.assertEqual(address.uri.param("lr"), "")
        if message.contact is not None:
            message.contact.check()
        if message.body:
            assert message.content_type is not None
            test.assertIn("/", message.content_type.essence)


@each([(name, name) for name in NAMES], "{} is read whole and every value in it makes sense.")(
    check_sample
)
class SampleTests(SynchronousTestCase):
    """All samples."""

    def test_count(self) -> None:
        """The samples are there."""
        self.assertGreaterEqual(len(NAMES), 100)


def pairs() -> dict[str, tuple[str, str]]:
    """Return each answer of ours among the samples with the request that it answers."""
    requests: dict[tuple[object, ...], str] = {}
    for name in NAMES:
        if lync(name)[:4] != b"SIP/" and not name.startswith("stream"):
            message = parse_message(lync(name))
            requests[tuple(message.get_all("via")), message.call_id, message.cseq] = name
    found = {}
    for name in NAMES:
        if name.endswith(("-out", "-out-legacy")) and lync(name)[:4] == b"SIP/":
            message = parse_message(lync(name))
            key = (tuple(message.get_all("via")), message.call_id, message.cseq)
            if key in requests:
                found[name] = (name, requests[key])
    return found


ANSWERED = pairs()


def check_answer(test: SynchronousTestCase, pair: tuple[str, str]) -> None:
    out, name = pair
    wanted = parse_message(lync(out))
    assert isinstance(wanted, SipResponse)
    own = ("contact", "allow", "content-type", "expires", "unsupported", "accept", "warning")
    headers = [(own_name, value) for own_name in own for value in wanted.get_all(own_name)]
    data = response_bytes(
        request(name), wanted.status, wanted.reason, wanted.to_tag, headers, wanted.body
    )
    made = parse_message(data)
    assert isinstance(made, SipResponse)
    test.assertEqual((made.status, made.reason), (wanted.status, wanted.reason))
    for header in ("via", "record-route", "from", "to", "call-id", "cseq", *own):
        test.assertEqual(made.get_all(header), wanted.get_all(header), header)
    test.assertEqual(made.body, wanted.body)


@each(ANSWERED.items(), "The answer {} can be written as the sample shows.")(check_answer)
class AnswerTests(SynchronousTestCase):
    """The answers among the samples, written by us."""

    def test_pairs(self) -> None:
        """Most answers among the samples find their request."""
        self.assertGreaterEqual(len(ANSWERED), 18)


def refusal_of(message: SipRequest) -> RemoteError | None:
    refusal = screen(message, METHODS)
    if refusal is None and message.method == "INVITE":
        try:
            media = message.content_type
            if media is None or media.essence != "application/sdp":
                return RemoteError(488, "")
            parse_offer(message.body)
        except RemoteError as error:
            return error
    return refusal


def check_refusal(test: SynchronousTestCase, name: str) -> None:
    refusal = refusal_of(request(name))
    wanted = REFUSALS.get(name)
    if wanted is None:
        test.assertIsNone(refusal)
    else:
        assert refusal is not None
        test.assertEqual(refusal.status, wanted[0])
        for header, value in wanted[1].items():
            test.assertEqual(dict(refusal.headers)[header], value)


INCOMING = [
    name
    for name in NAMES
    if "-out" not in name and not lync(name).startswith(b"SIP/") and not name.startswith("stream")
]


@each([(name, name) for name in INCOMING], "{} is refused if and only if the README says so.")(
    check_refusal
)
class RefusalTests(SynchronousTestCase):
    """What comes from the edge and what we refuse of it."""

    def test_all_named(self) -> None:
        """Each refusal has its sample."""
        self.assertTrue(set(REFUSALS) <= set(INCOMING))


class DialectTests(SynchronousTestCase):
    """The oddities that the README names."""

    def test_odd_case(self) -> None:
        """Names, transports and an empty epid in unusual spelling change nothing."""
        odd = request("invite-in-odd-case")
        self.assertEqual(str(odd.from_.uri), "sip:romeo@lync.example")
        self.assertEqual(str(odd.to.uri), "sip:juliet@impfed.example")
        self.assertEqual(odd.cseq, (1, "INVITE"))
        self.assertNotEqual(odd.from_tag, "")
        self.assertEqual(odd.to_tag, "")
        assert odd.content_type is not None and odd.contact is not None
        self.assertEqual(odd.content_type.essence, "application/sdp")
        self.assertTrue(parse_offer(odd.body).is_im)
        self.assertEqual(odd.to.param("epid"), "")
        self.assertEqual(odd.via.transport, "TLS")
        answer = parse_message(response_bytes(odd, 200, to_tag="ours"))
        self.assertEqual(answer.get_all("via"), odd.get_all("via"))
        self.assertEqual(answer.to_tag, "ours")

    def test_media_type_parameter(self) -> None:
        """The bare media type is compared, and raw UTF-8 in names is decoded."""
        message = request("invite-in-content-type-param")
        assert message.content_type is not None
        self.assertEqual(message.content_type.essence, "application/sdp")
        self.assertEqual(message.content_type.param("call-type"), "im")
        self.assertFalse(message.from_.display.isascii())

    def test_branchless_lower_via(self) -> None:
        """A lower Via without branch is fine and is echoed."""
        vias = request("invite-in-plain").values("via")
        self.assertEqual(len(vias), 3)
        self.assertNotIn("branch", vias[2])
        self.assertEqual(request("invite-in-plain").via.param("ms-internal-info"), "ab;12,x/Y==")

    def test_params_after_bracket(self) -> None:
        """Parameters inside the URI and after it are told apart."""
        route = parse_name_addr(request("invite-in-plain").values("record-route")[0])
        assert isinstance(route.uri, SipUri)
        self.assertEqual(route.tag, "3F1C9A5B77D24E60B1C2A3948576D0E1")
        self.assertIsNone(route.param("lr"))
        self.assertIsNone(route.uri.param("tag"))
        self.assertIsNotNone(route.uri.param("ms-route-sig"))

    def test_first_message(self) -> None:
        """The embedded text is in a header of its own, whole."""
        message = request("invite-in-first-message")
        self.assertIn("ms-body=", message.get("ms-text-format") or "")
        self.assertGreaterEqual(len(message.get_all("ms-im-format")), 1)

    def test_legacy_answer(self) -> None:
        """The answer to an old client repeats its media name and lists no types."""
        offer = parse_offer(request("invite-in-legacy-x-ms-message").body)
        answer = im_answer(offer, "198.51.100.20", "juliet@impfed.example")
        self.assertEqual(answer, parse_message(lync("invite-200-out-legacy")).body)

    def test_binary_body(self) -> None:
        """A GIF is kept octet for octet."""
        message = request("message-in-image-gif")
        self.assertTrue(message.body.startswith(b"GIF8"))
        self.assertEqual(len(message.body), int(message.get("content-length") or ""))

    def test_subscription_values(self) -> None:
        """Event and Subscription-State are read."""
        self.assertEqual(
            parse_event(request("subscribe-in-initial").get("event") or "").package, "presence"
        )
        state = parse_subscription_state(
            request("notify-in-terminated").get("subscription-state") or ""
        )
        self.assertEqual(state.state, "terminated")

    def test_warning(self) -> None:
        """The filter's 606 carries a Warning with its words."""
        warning = parse_message(lync("err-606-309-in")).get("warning") or ""
        self.assertEqual(parse_warning(warning)[0], 309)

    def test_progress_report(self) -> None:
        """101 is a provisional response like others."""
        message = parse_message(lync("invite-101-in"))
        assert isinstance(message, SipResponse)
        self.assertEqual(message.status, 101)
        self.assertIsNotNone(message.get("ms-diagnostics"))
