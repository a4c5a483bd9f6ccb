"""Dialogs as stories: who calls whom, through which proxies, and what comes back."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial import unittest

from impfed.core.errors import LocalError, RemoteError
from impfed.sip.dialog import Dialog, is_loose
from impfed.sip.errors import SipParseError
from impfed.sip.message import (
    OutgoingRequest,
    SipRequest,
    SipResponse,
    parse_message,
    response_bytes,
)

LYNC = Path(__file__).parent.parent / "data" / "wire" / "lync"


def sample(name: str) -> SipRequest | SipResponse:
    return parse_message((LYNC / f"{name}.sip").read_bytes())


def sent(request: OutgoingRequest) -> SipRequest:
    message = parse_message(request.render("SIP/2.0/TLS fed.impfed.example:5061;branch=z9hG4bKx"))
    assert isinstance(message, SipRequest)
    return message


def our_invite() -> OutgoingRequest:
    invite = sample("invite-out-minimal")
    assert isinstance(invite, SipRequest)
    headers = [
        (name, value)
        for name in ("max-forwards", "from", "to", "call-id", "cseq", "contact")
        for value in invite.get_all(name)
    ]
    return OutgoingRequest("INVITE", invite.uri_text, headers, b"", 1, invite.call_id)


def theirs(
    method: str,
    cseq: int,
    *,
    contact: str = "<sip:romeo@192.0.2.10:5061;transport=tls>",
    from_tag: str = "far",
    record_route: tuple[str, ...] = (),
) -> SipRequest:
    lines = [
        f"{method} sip:juliet@fed.impfed.example:5061;transport=tls SIP/2.0",
        "Via: SIP/2.0/TLS 192.0.2.10:5061;branch=z9hG4bK" + str(cseq),
        *(f"Record-Route: {value}" for value in record_route),
        f"From: <sip:romeo@lync.example>;tag={from_tag};epid=4b7e19f0a2",
        "To: <sip:juliet@impfed.example>",
        "Call-ID: story",
        f"CSeq: {cseq} {method}",
        "Max-Forwards: 70",
        *([f"Contact: {contact}"] if contact else []),
        "Content-Length: 0",
    ]
    message = parse_message("".join(line + "\r\n" for line in [*lines, ""]).encode())
    assert isinstance(message, SipRequest)
    return message


class LyncTests(unittest.SynchronousTestCase):
    """The dialog of the wire samples, ours to theirs."""

    def setUp(self) -> None:
        answer = sample("invite-200-in")
        assert isinstance(answer, SipResponse)
        self.dialog = Dialog.uac(our_invite(), answer, "jf-90817")

    def assert_means(self, ours: SipRequest, name: str) -> None:
        """Our request says what the sample says."""
        theirs = sample(name)
        assert isinstance(theirs, SipRequest)
        self.assertEqual((ours.method, ours.uri_text), (theirs.method, theirs.uri_text))
        self.assertEqual(ours.values("route"), theirs.values("route"))
        self.assertEqual(ours.from_.text, theirs.from_.text)
        self.assertEqual(ours.to.without_params, theirs.to.without_params)
        self.assertEqual(sorted(ours.to.params), sorted(theirs.to.params))
        self.assertEqual(ours.call_id, theirs.call_id)
        self.assertEqual(ours.cseq, theirs.cseq)

    def test_ack(self) -> None:
        """The ACK goes to the GRUU, along the Record-Routes reversed, byte for byte."""
        self.assert_means(sent(self.dialog.ack(1)), "ack-out")

    def test_message(self) -> None:
        """The first MESSAGE has the next number and the same way."""
        request = self.dialog.request("MESSAGE", [("Content-Type", "text/plain")], b"hello")
        self.assert_means(sent(request), "message-out")
        self.assertEqual(request.cseq, 2)

    def test_bye(self) -> None:
        """After a MESSAGE and an INFO comes the sample's BYE."""
        bye = sample("bye-out")
        while self.dialog.local_cseq < bye.cseq.number - 1:
            self.dialog.request("MESSAGE")
        self.assert_means(sent(self.dialog.request("BYE")), "bye-out")

    def test_in(self) -> None:
        """Their INVITE, then their MESSAGE, INFO and BYE, all belong to the dialog that it made."""
        invite = sample("invite-in-plain")
        assert isinstance(invite, SipRequest)
        message = sample("message-in-text-plain")
        assert isinstance(message, SipRequest)
        dialog = Dialog.uas(invite, message.to_tag)
        self.assertEqual(dialog.key, (message.call_id, message.to_tag))
        dialog.accept(message)
        self.assertEqual(dialog.remote_cseq, message.cseq.number)
        ours = sent(dialog.request("INFO"))
        self.assertEqual(
            ours.values("route"),
            [value.partition(">")[0] + ">" for value in invite.values("record-route")],
        )
        contact = invite.contact
        assert contact is not None
        self.assertEqual(ours.uri_text, contact.uri_text)
        self.assertEqual(ours.to.text.count("tag="), 1)
        self.assertEqual(ours.to.param("epid"), invite.from_.param("epid"))


class RouteTests(unittest.SynchronousTestCase):
    """Route sets (section 12.1) and how requests follow them (section 12.2.1.1)."""

    def test_uas_keeps_order(self) -> None:
        """As UAS the route set is the Record-Route in its order, split at commas."""
        invite = theirs("INVITE", 1, record_route=("<sip:a;lr>, <sip:b;lr;x=1>;y=2", "<sip:c;lr>"))
        dialog = Dialog.uas(invite, "ours")
        self.assertEqual(dialog.route_set, ("<sip:a;lr>", "<sip:b;lr;x=1>", "<sip:c;lr>"))

    def test_strict_router(self) -> None:
        """A first hop without lr becomes the Request-URI and the target the last Route."""
        invite = theirs(
            "INVITE", 1, record_route=("<sip:strict.example;method=INVITE;x=1>", "<sip:b;lr>")
        )
        ours = sent(Dialog.uas(invite, "ours").request("BYE"))
        self.assertEqual(ours.uri_text, "sip:strict.example;x=1")
        self.assertEqual(
            ours.values("route"), ["<sip:b;lr>", "<sip:romeo@192.0.2.10:5061;transport=tls>"]
        )

    def test_what_is_loose(self) -> None:
        """lr counts as a URI parameter only: in any case, with a value, before headers."""
        for route in (
            "<sip:p;lr>",
            "<sip:p;LR=on;x>",
            '"P" <sip:u@p;x=y;lr?a=b>',
            "<sip:[::1]:5061;lr>",
        ):
            self.assertTrue(is_loose(route), route)
        for route in ("<sip:p>;lr", "<sip:p;lrx>", "<sip:u;lr@p>", "<sip:p;x=lr>", "<sip:p?x=;lr>"):
            self.assertFalse(is_loose(route), route)

    def test_bare_uri(self) -> None:
        """A Record-Route without brackets gets them around all of it: its lr is meant."""
        dialog = Dialog.uas(theirs("INVITE", 1, record_route=("sip:a.example;lr",)), "ours")
        self.assertEqual(dialog.route_set, ("<sip:a.example;lr>",))

    @given(
        st.lists(
            st.from_regex(
                r"<sip:[a-z]{1,8}(:[0-9]{4})?(;[a-z]{2,5}(=[A-Za-z0-9_.:+/]{1,9})?){0,4};lr>",
                fullmatch=True,
            ),
            max_size=4,
        )
    )
    @settings(max_examples=60, deadline=None)
    def test_bytes_are_kept(self, routes: list[str]) -> None:
        """What a proxy put into Record-Route comes back to it byte for byte."""
        dialog = Dialog.uas(theirs("INVITE", 1, record_route=tuple(routes)), "ours")
        self.assertEqual(sent(dialog.request("BYE")).values("route"), routes)


class SequenceTests(unittest.SynchronousTestCase):
    """Sequence numbers (section 12.2.2)."""

    def setUp(self) -> None:
        self.dialog = Dialog.uas(theirs("INVITE", 10), "ours")

    def test_going_back(self) -> None:
        """A number that goes back, or comes again, is refused with 500; nothing changes."""
        self.dialog.accept(theirs("MESSAGE", 11))
        for number in (11, 10, 1):
            with self.assertRaises(RemoteError) as caught:
                self.dialog.accept(theirs("UPDATE", number, contact="<sip:evil.example>"))
            self.assertEqual(caught.exception.status, 500)
        self.assertEqual(self.dialog.remote_cseq, 11)
        self.assertIn("192.0.2.10", self.dialog.remote_target)

    def test_gaps(self) -> None:
        """Gaps are fine."""
        self.dialog.accept(theirs("MESSAGE", 11))
        self.dialog.accept(theirs("MESSAGE", 4000))
        self.assertEqual(self.dialog.remote_cseq, 4000)

    def test_ours(self) -> None:
        """Our numbers rise by one from 1, whatever theirs are, and skip after a restart."""
        numbers = [self.dialog.request("MESSAGE").cseq for _ in range(3)]
        self.dialog.skip_numbers(0.0)
        numbers.append(self.dialog.request("MESSAGE").cseq)
        self.assertEqual(numbers, [1, 2, 3, 204])

    def test_numbers_after_loss(self) -> None:
        """A dialog restored twice from the same record uses no number twice, nor one beyond 2^31."""
        record = self.dialog.snapshot()
        numbers = []
        for now in (1_790_000_000.0, 1_790_000_010.0, 4_000_000_000.0):
            dialog = Dialog.restore(record)
            dialog.skip_numbers(now)
            numbers += [dialog.request("MESSAGE").cseq for _ in range(30)]
        self.assertEqual(len(set(numbers)), 90)
        self.assertEqual(numbers, sorted(numbers))
        self.assertLess(numbers[-1], 2**31)

    def test_numbers_after_losses(self) -> None:
        """That holds, too, for one that has skipped numbers a moment before, however often."""
        self.dialog.skip_numbers(1_790_000_000.0)
        record = self.dialog.snapshot()
        numbers = []
        for seconds in range(1, 100, 3):
            dialog = Dialog.restore(record)
            dialog.skip_numbers(1_790_000_000.0 + seconds)
            numbers += [dialog.request("NOTIFY").cseq for _ in range(10)]
        self.assertEqual(len(set(numbers)), 330)
        self.assertEqual(numbers, sorted(numbers))

    def test_ack_has_no_number(self) -> None:
        """ACK and CANCEL are not requests with a number of their own."""
        for method in ("ACK", "CANCEL"):
            self.assertRaises(LocalError, self.dialog.request, method)

    def test_other_tag(self) -> None:
        """A request with another From tag is not of this dialog."""
        with self.assertRaises(RemoteError) as caught:
            self.dialog.accept(theirs("MESSAGE", 11, from_tag="fork"))
        self.assertEqual(caught.exception.status, 481)


class TargetTests(unittest.SynchronousTestCase):
    """The remote target and what may change it."""

    def setUp(self) -> None:
        self.dialog = Dialog.uas(theirs("INVITE", 1, record_route=("<sip:a;lr>",)), "ours")

    def test_refresh(self) -> None:
        """A re-INVITE moves the target and never the route set."""
        self.dialog.accept(
            theirs("INVITE", 2, contact="<sip:romeo@192.0.2.99>", record_route=("<sip:z;lr>",))
        )
        ours = sent(self.dialog.request("MESSAGE"))
        self.assertEqual(ours.uri_text, "sip:romeo@192.0.2.99")
        self.assertEqual(ours.values("route"), ["<sip:a;lr>"])

    def test_message_does_not_refresh(self) -> None:
        """A MESSAGE's Contact means nothing."""
        self.dialog.accept(theirs("MESSAGE", 2, contact="<sip:romeo@192.0.2.99>"))
        self.assertIn("192.0.2.10", self.dialog.remote_target)

    def test_refresh_without_contact(self) -> None:
        """A target refresh without Contact leaves the target."""
        self.dialog.accept(theirs("UPDATE", 2, contact=""))
        self.assertIn("192.0.2.10", self.dialog.remote_target)

    def test_unusable_contact(self) -> None:
        """A Contact that cannot stand in a request line is refused with 400; nothing changes."""
        for contact in ("<tel:+1555>", "<sip:a b@x>", "<http://x/>"):
            with self.assertRaises(SipParseError):
                self.dialog.accept(theirs("UPDATE", 2, contact=contact))
        self.assertEqual(self.dialog.remote_cseq, 1)

    def test_missing_contact(self) -> None:
        """An INVITE without Contact cannot make a dialog."""
        with self.assertRaises(SipParseError) as caught:
            Dialog.uas(theirs("INVITE", 1, contact=""), "ours")
        self.assertEqual(caught.exception.status, 400)


class ForkTests(unittest.SynchronousTestCase):
    """Several 2xx to one INVITE."""

    def answer(self, tag: str, contact: str) -> SipResponse:
        data = response_bytes(
            sent(our_invite()), 200, to_tag=tag, headers=[("Contact", contact)] if contact else []
        )
        message = parse_message(data)
        assert isinstance(message, SipResponse)
        return message

    def test_two_dialogs(self) -> None:
        """Each To tag makes its own dialog; each can be acknowledged and ended by itself."""
        first = Dialog.uac(our_invite(), self.answer("one", "<sip:r@one.example>"), "jf-90817")
        second = Dialog.uac(our_invite(), self.answer("two", "<sip:r@two.example>"), "jf-90817")
        self.assertEqual(first.key, second.key)
        ack, bye = sent(second.ack(1)), sent(second.request("BYE"))
        self.assertEqual((ack.uri_text, ack.to_tag), ("sip:r@two.example", "two"))
        self.assertEqual((bye.uri_text, bye.to_tag), ("sip:r@two.example", "two"))
        self.assertEqual((str(ack.cseq), str(bye.cseq)), ("1 ACK", "2 BYE"))
        self.assertEqual(sent(first.request("MESSAGE")).to_tag, "one")

    def test_answer_without_contact(self) -> None:
        """A 2xx without Contact can still be acknowledged and ended, at the Request-URI."""
        dialog = Dialog.uac(our_invite(), self.answer("one", ""), "jf-90817")
        self.assertEqual(dialog.ack(1).uri, "sip:romeo@lync.example")

    def test_refreshed_by_answer(self) -> None:
        """The Contact of a 2xx to our refresh moves the target."""
        dialog = Dialog.uac(our_invite(), self.answer("one", "<sip:r@one.example>"), "jf-90817")
        dialog.refresh_target(self.answer("one", "<sip:r@moved.example>"))
        self.assertEqual(dialog.request("BYE").uri, "sip:r@moved.example")
        dialog.refresh_target(self.answer("one", ""))
        self.assertEqual(dialog.request("BYE").uri, "sip:r@moved.example")


class StoreTests(unittest.SynchronousTestCase):
    """Dialogs in the store."""

    def test_round_trip(self) -> None:
        """A dialog comes back from plain values as it was, also when tuples became lists."""
        dialog = Dialog.uas(theirs("INVITE", 5, record_route=("<sip:a;lr>",)), "ours")
        dialog.request("MESSAGE")
        values = dialog.snapshot()
        again = Dialog.restore({**values, "route_set": list(values["route_set"])})
        self.assertEqual(again.snapshot(), values)
        self.assertEqual(again.request("BYE").headers, dialog.request("BYE").headers)

    def test_missing_value(self) -> None:
        """A record without all values is a fault of ours."""
        self.assertRaises(LocalError, Dialog.restore, {"call_id": "x"})


class TagTests(unittest.SynchronousTestCase):
    """Where the tag stands in From does not matter."""

    def test_positions(self) -> None:
        """The tag is cut out wherever it stands; all else stays as written."""
        for value, rest in (
            ("<sip:r@x>;tag=far;epid=1", "<sip:r@x>;epid=1"),
            ("<sip:r@x>;epid=1;tag=far", "<sip:r@x>;epid=1"),
            ('"R;tag=no" <sip:r@x;tag=no>;EPID="a;tag=b" ; Tag = far', None),
            ("sip:r@x;tag=far", "sip:r@x"),
        ):
            request = theirs("INVITE", 1)
            head = request.head.replace(request.from_.text, value)
            message = parse_message((head + "\r\n").encode())
            assert isinstance(message, SipRequest)
            dialog = Dialog.uas(message, "ours")
            self.assertEqual(dialog.remote_tag, "far")
            expected = rest or '"R;tag=no" <sip:r@x;tag=no>;EPID="a;tag=b"'
            self.assertEqual(dialog.remote.replace(" ;", ";").rstrip(), expected)
            again = sent(dialog.request("MESSAGE"))
            self.assertEqual(again.to_tag, "far")
