"""The proxy's own story: forwarding, forking, the best answer, CANCEL, timer C, loops, breadth."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from impfed.core.errors import RemoteError
from impfed.proxy.best import best_of
from impfed.proxy.core import TIMER_C
from impfed.proxy.values import TABLE, Drop, Input, Relay, Reply, SendAck, State
from impfed.sip.message import SipResponse, parse_message
from tests.proxy.kit import OWN, Bench, invite, said, target


def relayed(effects) -> SipResponse:
    """Return the response that goes up."""
    (relay,) = [each for each in effects if isinstance(each, Relay)]
    response = parse_message(relay.data)
    assert isinstance(response, SipResponse)
    return response


class ForwardTests(SynchronousTestCase):
    """One request, one target."""

    def setUp(self) -> None:
        self.bench = Bench()

    def test_there_and_back(self) -> None:
        """A request goes on with our Via on top; its answer comes back without it."""
        self.bench.forward(invite(), target("hop", record_route=f"<sip:{OWN};lr>"))
        hop, sent = self.bench.sent[0]
        self.assertEqual((hop, sent.via.host, sent.via.transport), ("hop", OWN, "TLS"))
        self.assertEqual(sent.get("max-forwards"), "69")
        self.assertEqual(sent.values("record-route"), [f"<sip:{OWN};lr>"])
        self.assertEqual(sent.via.branch, self.bench.branches[0].branch)
        self.assertEqual(said(self.bench.answer(0, 100)), [])
        self.assertEqual(said(self.bench.answer(0, 180)), [("Relay", 180)])
        effects = self.bench.answer(0, 200)
        self.assertEqual(said(effects), [("Relay", 200)])
        self.assertEqual(relayed(effects).values("via"), invite().values("via"))
        self.assertEqual(len(self.bench.proxy), 0)

    def test_every_success_of_an_invite_goes_up(self) -> None:
        """Each 2xx to an INVITE is forwarded, repeats and late ones too; of a MESSAGE only the first."""
        for method, more in (("INVITE", [("Relay", 200)]), ("MESSAGE", [])):
            bench = Bench()
            bench.forward(invite(method=method))
            self.assertEqual(said(bench.answer(0, 200)), [("Relay", 200)])
            self.assertEqual(said(bench.answer(0, 200, tag="other")), more)

    def test_received(self) -> None:
        """Where the request came from is added to the Via that was on top."""
        self.bench.request(invite(), "192.0.2.9")
        self.bench.decide(target("hop"))
        self.assertEqual(
            self.bench.sent[0][1].values("via")[1],
            "SIP/2.0/TLS a.example:5061;branch=z9hG4bKa1;received=192.0.2.9",
        )

    def test_target_uri(self) -> None:
        """The Request-URI becomes the target's; behind a Route it stays."""
        self.bench.forward(invite(), target("hop", uri="sip:bob@10.0.0.2"))
        self.assertEqual(self.bench.sent[0][1].uri_text, "sip:bob@10.0.0.2")
        bench = Bench()
        bench.forward(invite("Route: <sip:next.example;lr>\n"), target("hop", uri="sip:x@y"))
        self.assertEqual(bench.sent[0][1].uri_text, "sip:bob@b.example")

    def test_no_target(self) -> None:
        """Without a target the answer is 480; a refusal is passed on as it is."""
        self.bench.request(invite())
        self.assertEqual(said(self.bench.decide()), [("Reply", 480)])
        bench = Bench()
        bench.request(invite())
        assert bench.context is not None
        effects = bench.proxy.decided(bench.context, RemoteError(404, "Not Here"), 0.0)
        self.assertEqual(said(effects), [("Reply", 404)])
        self.assertEqual(len(bench.proxy), 0)

    def test_response_for_nobody(self) -> None:
        """An answer without a second Via is for nobody behind us: dropped, and the caller told."""
        self.bench.forward(invite())
        sent = self.bench.sent[0][1]
        head = f"SIP/2.0 200 OK\nVia: {sent.values('via')[0]}\n" + "".join(
            f"{name}: {sent.get(name.lower())}\n" for name in ("From", "To", "Call-ID", "CSeq")
        )
        response = parse_message(head.replace("\n", "\r\n").encode() + b"\r\n")
        effects = self.bench.proxy.response(self.bench.branches[0], response, 0.0)
        self.assertEqual(said(effects), [("Reply", 502), ("Drop", None)])

    def test_stray_responses_are_dropped(self) -> None:
        """A response to nothing of ours goes nowhere, whatever its Vias say."""
        self.bench.forward(invite())
        effects = self.bench.answer(0, 200)
        self.assertIsInstance(self.bench.proxy.stray(relayed(effects))[0], Drop)


class RefusalTests(SynchronousTestCase):
    """What is answered at once, and never looked up."""

    def refused(self, request, **options):
        bench = Bench(**options)
        effects = bench.request(request)
        self.assertIsInstance(effects[0], Reply, effects)
        return effects[0].error

    def test_no_hops_left(self) -> None:
        """Max-Forwards 0 is 483; a request without the header is forwarded with 70."""
        text = invite().to_bytes().replace(b"Max-Forwards: 70", b"Max-Forwards: 0")
        self.assertEqual(self.refused(parse_message(text)).status, 483)
        bench = Bench()
        bench.forward(parse_message(invite().to_bytes().replace(b"Max-Forwards: 70\r\n", b"")))
        self.assertEqual(bench.sent[0][1].get("max-forwards"), "70")

    def test_extensions(self) -> None:
        """Unknown tags of Proxy-Require are 420 and named; known ones, and Require, pass."""
        error = self.refused(invite("Proxy-Require: foo, Path\nRequire: bar\n"), known=["path"])
        self.assertEqual((error.status, error.headers), (420, (("Unsupported", "foo"),)))
        Bench().forward(invite("Require: bar\n"))

    def test_scheme(self) -> None:
        """A scheme that we do not serve is 416."""
        self.assertEqual(self.refused(invite(uri="tel:+1555")).status, 416)

    def test_permission(self) -> None:
        """What is not permitted is refused before anybody is asked where it goes."""
        bench = Bench()
        bench.permitted = RemoteError(403, "Not Here")
        self.assertEqual(said(bench.request(invite())), [("Reply", 403)])
        (question,) = bench.asked
        self.assertEqual((str(question.uri), question.by_route), ("sip:bob@b.example", False))

    def test_permission_sees_the_route(self) -> None:
        """A Route beyond us is what the permission is asked about, not the innocent Request-URI."""
        bench = Bench()
        bench.permitted = RemoteError(403, "No Relaying")
        bench.request(invite("Route: <sip:victim.example;lr>\n"))
        self.assertEqual((bench.asked[0].uri.host, bench.asked[0].by_route),
                         ("victim.example", True))  # fmt: skip

    def test_loop(self) -> None:
        """A request that comes back the way it left is 482; with another Request-URI it is a spiral."""
        bench = Bench()
        bench.forward(invite())
        again = bench.sent[0][1]
        self.assertEqual(said(bench.request(again)), [("Reply", 482)])
        other = parse_message(
            again.to_bytes().replace(b"sip:bob@b.example SIP", b"sip:c@b.example SIP")
        )
        self.assertEqual(said(bench.request(other)), [("Locate", None)])

    def test_loop_through_our_route(self) -> None:
        """A loop that our own Route value started is found when it closes for the first time."""
        bench = Bench()
        bench.forward(invite(f"Route: <sip:{OWN};lr>\n"))
        self.assertEqual(said(bench.request(bench.sent[0][1])), [("Reply", 482)])

    def test_no_loop_by_forgery(self) -> None:
        """A Via of somebody else with our fingerprint in it is no loop."""
        bench = Bench()
        bench.forward(invite())
        text = bench.sent[0][1].to_bytes().replace(OWN.encode(), b"other.example")
        self.assertEqual(said(bench.request(parse_message(text))), [("Locate", None)])


class ForkTests(SynchronousTestCase):
    """Several targets, one answer."""

    def setUp(self) -> None:
        self.bench = Bench()

    def test_first_success_cancels_the_others(self) -> None:
        """A 2xx goes up at once and the other branches are cancelled; their 487 are not heard of."""
        self.bench.forward(invite(), target("a"), target("b"))
        self.assertEqual([hop for hop, _ in self.bench.sent], ["a", "b"])
        self.bench.answer(1, 180)
        self.assertEqual(said(self.bench.answer(0, 200)), [("Relay", 200), ("Cancel", None)])
        self.assertEqual(said(self.bench.answer(1, 487)), [])
        self.assertEqual(len(self.bench.proxy), 0)

    def test_success_in_spite_of_cancel(self) -> None:
        """A branch that answers 200 though it was cancelled makes a dialog, so that goes up too."""
        self.bench.forward(invite(), target("a"), target("b"))
        self.bench.answer(0, 200)
        self.assertEqual(said(self.bench.answer(1, 200, tag="3")), [("Relay", 200)])

    def test_best_answer(self) -> None:
        """The lowest class goes up when all have answered; a 6xx beats everything and ends the rest."""
        self.bench.forward(invite(), target("a"), target("b"), target("c"))
        self.assertEqual(said(self.bench.answer(0, 500)), [])
        self.assertEqual(said(self.bench.answer(1, 404)), [])
        self.assertEqual(said(self.bench.answer(2, 486)), [("Relay", 404)])
        bench = Bench()
        bench.forward(invite(), target("a"), target("b"))
        bench.answer(1, 180)
        self.assertEqual(said(bench.answer(0, 603)), [("Cancel", None)])
        self.assertEqual(said(bench.answer(1, 487)), [("Relay", 603)])

    def test_choice(self) -> None:
        """The rules of choice, as a table."""
        for statuses, wanted in (
            ([], 408),
            ([404, 302, 500], 302),
            ([404, 407, 486], 407),
            ([486, 484, 415], 415),
            ([500, 503], 500),
            ([503, 504], 504),
            ([404, 600, 401], 600),
            ([486, 404], 486),
        ):
            self.assertEqual(best_of([(each, None) for each in statuses])[0], wanted, statuses)

    def test_challenges_are_gathered(self) -> None:
        """A 401 or 407 goes up with the challenges of all branches."""
        self.bench.forward(invite(), target("a"), target("b"))
        self.bench.answer(0, 401, ("WWW-Authenticate", 'Digest realm="a"'))
        up = relayed(self.bench.answer(1, 407, ("Proxy-Authenticate", 'Digest realm="b"')))
        self.assertEqual(up.get_all("www-authenticate"), ['Digest realm="a"'])
        self.assertEqual(up.get_all("proxy-authenticate"), ['Digest realm="b"'])

    def test_one_group_after_the_other(self) -> None:
        """Targets of the next group are tried when those before have failed, not after a 6xx."""
        targets = (target("a"), target("b", group=1), target("c", group=2))
        self.bench.forward(invite(), *targets)
        self.assertEqual(said(self.bench.answer(0, 486)), [("Start", "b")])
        self.assertEqual(said(self.bench.answer(1, 603)), [("Relay", 603)])

    def test_next_leg(self) -> None:
        """A hop that cannot be reached, or says 503, is followed by the next; a 486 is an answer."""
        self.bench.forward(invite(), target("a", "b", "c", "d"))
        self.assertEqual(said(self.bench.fail(0)), [("Start", "b")])
        self.assertEqual(said(self.bench.answer(1, 503)), [("Start", "c")])
        self.assertEqual(said(self.bench.fail(2, 408)), [("Start", "d")])
        self.assertNotEqual(self.bench.branches[1].branch, self.bench.branches[2].branch)
        self.assertEqual(said(self.bench.answer(3, 486)), [("Relay", 486)])

    def test_service_unavailable_stays_here(self) -> None:
        """A 503 is never passed on, for it would take us out of the caller's routing: it becomes 500."""
        self.bench.forward(invite())
        self.assertEqual(said(self.bench.answer(0, 503)), [("Reply", 500)])
        bench = Bench()
        bench.forward(invite())
        self.assertEqual(said(bench.fail(0, 503)), [("Reply", 500)])

    def test_timeout(self) -> None:
        """A branch without any answer counts as 408."""
        self.bench.forward(invite(method="MESSAGE"))
        self.assertEqual(said(self.bench.fail(0, 408)), [("Reply", 408)])
        self.assertEqual(said(self.bench.fail(0, 408)), [])

    def test_no_cancel_of_others(self) -> None:
        """Only an INVITE is cancelled; of a MESSAGE the other branches' answers are just not heard."""
        self.bench.forward(invite(method="MESSAGE"), target("a"), target("b"))
        self.assertEqual(said(self.bench.answer(0, 200)), [("Relay", 200)])
        self.assertEqual(said(self.bench.answer(1, 404)), [])
        self.assertEqual(len(self.bench.proxy), 0)


class CancelTests(SynchronousTestCase):
    """CANCEL and timer C."""

    def setUp(self) -> None:
        self.bench = Bench()

    def cancel(self):
        assert self.bench.context is not None
        return self.bench.took(self.bench.proxy.cancelled(self.bench.context, self.bench.now))

    def test_every_branch(self) -> None:
        """A CANCEL cancels every branch that is under way; the 487 that comes back goes up once."""
        self.bench.forward(invite(), target("a"), target("b"), target("c", group=1))
        self.bench.answer(0, 180)
        self.assertEqual(said(self.cancel()), [("Cancel", None)] * 2)
        self.assertEqual(said(self.cancel()), [])
        self.assertEqual(said(self.bench.answer(0, 487)), [])
        self.assertEqual(said(self.bench.answer(1, 487)), [("Relay", 487)])

    def test_before_anybody_was_found(self) -> None:
        """Cancelled while nobody knows where to, it is 487 at once and nothing is sent later."""
        self.bench.request(invite())
        self.assertEqual(said(self.cancel()), [("Reply", 487)])
        self.assertEqual(said(self.bench.decide(target("a"))), [])

    def test_no_next_leg_after_cancel(self) -> None:
        """A cancelled request is not tried elsewhere."""
        self.bench.forward(invite(), target("a", "b"))
        self.cancel()
        self.assertEqual(said(self.bench.fail(0)), [("Reply", 487)])

    def test_answer_was_faster(self) -> None:
        """A CANCEL after the final answer does nothing."""
        self.bench.forward(invite())
        self.bench.answer(0, 200)
        self.assertEqual(said(self.cancel()), [])

    def test_timer_c(self) -> None:
        """An INVITE that rings for more than three minutes is cancelled; each 1xx begins them anew."""
        self.bench.forward(invite())
        self.bench.answer(0, 180)
        self.bench.advance(TIMER_C - 1)
        self.bench.answer(0, 183)
        self.assertEqual(said(self.bench.advance(2)), [])
        self.assertEqual(said(self.bench.advance(TIMER_C)), [("Cancel", None)])
        self.assertEqual(said(self.bench.answer(0, 487)), [("Relay", 487)])
        self.assertIsNone(self.bench.proxy.next_timer)

    def test_timer_c_without_any_answer(self) -> None:
        """One that never said anything counts as 408, and so does one that ignores its CANCEL."""
        self.bench.forward(invite())
        self.assertEqual(said(self.bench.advance(TIMER_C + 1)), [("Cancel", None), ("Reply", 408)])
        self.bench = Bench()
        self.bench.forward(invite())
        self.bench.answer(0, 180)
        self.bench.advance(TIMER_C + 1)
        self.assertEqual(said(self.bench.advance(TIMER_C + 1)), [("Reply", 408)])

    def test_no_timer_c_for_others(self) -> None:
        """Other methods have no timer C."""
        self.bench.forward(invite(method="SUBSCRIBE"))
        self.assertIsNone(self.bench.proxy.next_timer)


class AckTests(SynchronousTestCase):
    """The ACK of a 2xx."""

    def ack(self, more: str = "", leg=True):
        bench = Bench()
        legs = target("hop").legs[0]
        request = invite(more, method="ACK", uri="sip:bob@10.9.9.9")
        return bench, bench.proxy.ack(request, "source", lambda question: legs if leg else None)

    def test_follows_the_route(self) -> None:
        """It follows its route set through us, without a transaction, and is never answered."""
        bench, (sent,) = self.ack(f"Route: <sip:{OWN};lr>, <sip:next.example;lr>\n")
        self.assertIsInstance(sent, SendAck)
        data = parse_message(sent.data)
        self.assertEqual(data.values("route"), ["<sip:next.example;lr>"])
        self.assertEqual(str(bench.asked[0].uri), "sip:next.example;lr")
        self.assertEqual((data.get("max-forwards"), len(data.values("via"))), ("69", 2))

    def test_dropped(self) -> None:
        """One that may not pass, or has nowhere to go, is dropped without an answer."""
        self.assertIsInstance(self.ack(leg=False)[1][0], Drop)
        bench = Bench()
        bench.permitted = RemoteError(403, "No")
        effects = bench.proxy.ack(invite(method="ACK"), "source", lambda _: None)
        self.assertIsInstance(effects[0], Drop)


class BreadthTests(SynchronousTestCase):
    """Max-Breadth (RFC 5393 section 5)."""

    def test_shared_out(self) -> None:
        """The breadth is divided among the branches; without the header it is 60."""
        bench = Bench()
        bench.forward(invite("Max-Breadth: 5\n"), target("a"), target("b"))
        self.assertEqual([sent.get("max-breadth") for _, sent in bench.sent], ["3", "2"])
        bench = Bench()
        bench.forward(invite())
        self.assertEqual(bench.sent[0][1].get("max-breadth"), "60")

    def test_too_narrow(self) -> None:
        """Where it does not suffice for all at once the rest waits; with 0 the answer is 440."""
        bench = Bench()
        bench.forward(invite("Max-Breadth: 1\n"), target("a"), target("b"))
        self.assertEqual([hop for hop, _ in bench.sent], ["a"])
        self.assertEqual(said(bench.answer(0, 486)), [("Start", "b")])
        self.assertEqual(said(Bench().request(invite("Max-Breadth: 0\n"))), [("Reply", 440)])


class TableTests(SynchronousTestCase):
    """The table of a branch."""

    def test_whole(self) -> None:
        """After the start every input has a cell in every state, and DONE is the end."""
        for state in State:
            for given in Input:
                if state is State.WAITING or given is Input.START:
                    continue
                self.assertIn((state, given), TABLE)
                if state is State.DONE:
                    self.assertEqual(TABLE[(state, given)], (State.DONE, ()))
