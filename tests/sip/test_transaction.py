"""The transaction layer as stories: matching, repetition, CANCEL, ACK, limits."""

from __future__ import annotations

from twisted.trial import unittest

from impfed.core.errors import LocalError
from impfed.sip.message import SipRequest, parse_message, response_bytes
from impfed.sip.transaction import (
    AckArrived,
    CancelArrived,
    Failed,
    FailureCause,
    RequestArrived,
    ResponseArrived,
    Send,
    ServerTransaction,
    State,
    StateError,
    Stray,
    TimerValues,
    Transactions,
)
from impfed.sip.transaction_tables import TABLES, Do, Input, Machine
from tests.sip.transaction_kit import Wire, outgoing, rendered, request, response, told

UDP, TLS = Wire(reliable=False), Wire(reliable=True)


def sending_times(layer: Transactions, start: float, word: str) -> list[float]:
    """Run all timers and return when, after the start, something was sent."""
    times = []
    while (due := layer.next_timer) is not None:
        times += [due - start for done in told(layer.handle_timers(due)) if done == word]
    return times


def arrived(layer: Transactions, message: SipRequest, source: Wire) -> ServerTransaction:
    """Let a request arrive and return its transaction."""
    (action,) = layer.receive_request(message, source, 0.0)
    assert isinstance(action, RequestArrived)
    return action.transaction


class RepetitionTests(unittest.SynchronousTestCase):
    """What is repeated, when, and over what."""

    def test_invite_over_udp(self) -> None:
        """An INVITE over UDP is repeated at intervals that double without end, until timer B."""
        layer, message = Transactions(), outgoing("INVITE")
        layer.send_request(
            rendered(message, "z9hG4bKa"), message, "z9hG4bKa", UDP, False, 0.0, None
        )
        times = sending_times(layer, 0.0, "send INVITE")
        self.assertEqual(times, [0.5, 1.5, 3.5, 7.5, 15.5, 31.5])

    def test_message_over_udp(self) -> None:
        """Another request over UDP is repeated at intervals that double up to T2, until timer F."""
        layer, message = Transactions(), outgoing("MESSAGE")
        layer.send_request(
            rendered(message, "z9hG4bKa"), message, "z9hG4bKa", UDP, False, 0.0, None
        )
        times = sending_times(layer, 0.0, "send MESSAGE")
        self.assertEqual(times, [0.5, 1.5, 3.5, 7.5, 11.5, 15.5, 19.5, 23.5, 27.5, 31.5])

    def test_nothing_over_tls(self) -> None:
        """Over TLS no request is repeated, and it fails after 64*T1 all the same."""
        for method in ("INVITE", "MESSAGE"):
            layer, message = Transactions(), outgoing(method)
            layer.send_request(
                rendered(message, "z9hG4bKa"), message, "z9hG4bKa", TLS, True, 0.0, None
            )
            self.assertEqual(layer.handle_timers(31.9), [])
            self.assertEqual(told(layer.handle_timers(32.0)), ["failed timeout", "ended"])
            self.assertEqual(len(layer), 0)

    def test_refusal_over_udp(self) -> None:
        """A refusal of an INVITE is repeated over UDP until its ACK, at most 64*T1 long."""
        layer = Transactions()
        transaction = arrived(layer, request("INVITE"), UDP)
        data = response_bytes(transaction.request, 486, to_tag="us")
        layer.respond(transaction, 486, data, 0.0)
        times = sending_times(layer, 0.0, "send 486")
        self.assertEqual(times, [0.5, 1.5, 3.5, 7.5, 11.5, 15.5, 19.5, 23.5, 27.5, 31.5])

    def test_2xx_over_tls(self) -> None:
        """Our 2xx to an INVITE is repeated over TLS too, and without ACK the user hears of it."""
        layer = Transactions()
        transaction = arrived(layer, request("INVITE"), TLS)
        data = response_bytes(transaction.request, 200, to_tag="us")
        layer.respond(transaction, 200, data, 0.0)
        times = []
        last: list[str] = []
        while (due := layer.next_timer) is not None:
            last = told(layer.handle_timers(due))
            times += [due for word in last if word == "send 200"]
        self.assertEqual(times, [0.5, 1.5, 3.5, 7.5, 11.5, 15.5, 19.5, 23.5, 27.5, 31.5])
        self.assertEqual(last, ["failed no ACK", "ended"])

    def test_other_timer_values(self) -> None:
        """All timers follow from the values given."""
        layer, message = Transactions(TimerValues(t1=0.1, t2=0.2)), outgoing()
        layer.send_request(
            rendered(message, "z9hG4bKa"), message, "z9hG4bKa", UDP, False, 0.0, None
        )
        times = sending_times(layer, 0.0, "send MESSAGE")
        self.assertEqual([round(time, 3) for time in times[:4]], [0.1, 0.3, 0.5, 0.7])
        self.assertLess(times[-1], 6.4)

    def test_automatic_100(self) -> None:
        """An INVITE gets a 100 after 200 ms unless our core has answered."""
        layer = Transactions()
        transaction = arrived(layer, request("INVITE"), TLS)
        (action,) = layer.handle_timers(0.2)
        assert isinstance(action, Send)
        answer = parse_message(action.data)
        self.assertEqual((answer.get("cseq"), answer.to_tag), ("1 INVITE", ""))
        self.assertTrue(action.data.startswith(b"SIP/2.0 100 "))
        self.assertIs(action.to, TLS)
        transaction = arrived(layer, request("INVITE", branch="z9hG4bKb", cseq=2), TLS)
        layer.respond(transaction, 180, response_bytes(transaction.request, 180, to_tag="us"), 0.3)
        self.assertEqual(layer.handle_timers(1.0), [])


class MatchingTests(unittest.SynchronousTestCase):
    """Which message belongs to which transaction."""

    def test_response_with_additions_in_via(self) -> None:
        """A response belongs to the transaction with its branch, whatever else is in the Via."""
        layer, message = Transactions(), outgoing()
        data = rendered(message, "z9hG4bKa")
        ours, _ = layer.send_request(data, message, "z9hG4bKa", TLS, True, 0.0, "me")
        answer = response(data, 200, "r", ";received=192.0.2.9;ms-received-cid=2B7F00")
        first, second = layer.receive_response(answer, TLS, 0.1)
        assert isinstance(first, ResponseArrived)
        self.assertIs(first.transaction, ours)
        self.assertEqual(ours.user, "me")
        self.assertEqual(told([second]), ["ended"])

    def test_stray_response(self) -> None:
        """A response with an unknown branch or another method is a stray."""
        layer, message = Transactions(), outgoing()
        data = rendered(message, "z9hG4bKa")
        layer.send_request(data, message, "z9hG4bKa", TLS, True, 0.0, None)
        for other in (
            rendered(message, "z9hG4bKb"),
            rendered(outgoing("INFO"), "z9hG4bKa"),
        ):
            (action,) = layer.receive_response(response(other, 200), TLS, 0.1)
            self.assertIsInstance(action, Stray)

    def test_same_branch_from_another_sender(self) -> None:
        """Two senders may use the same branch: sent-by is part of the match."""
        layer = Transactions()
        first = arrived(layer, request(), TLS)
        second = arrived(layer, request(via="SIP/2.0/TLS other.example", call_id="call-9"), TLS)
        self.assertIsNot(first, second)

    def test_repeated_request_without_branch(self) -> None:
        """A request of RFC 2543 is matched by its Via, Call-ID, From tag, CSeq and URI."""
        layer = Transactions()
        old = "SIP/2.0/UDP old.example:5060"
        transaction = arrived(layer, request("INVITE", via=old, branch=""), UDP)
        again = request("INVITE", via=old, branch="")
        self.assertEqual(layer.receive_request(again, UDP, 0.1), [])
        layer.respond(transaction, 486, response_bytes(transaction.request, 486, to_tag="us"), 0.2)
        ack = request("ACK", via=old, branch="", to_tag="us")
        self.assertEqual(layer.receive_request(ack, UDP, 0.3), [])
        self.assertIs(transaction.state, State.CONFIRMED)
        fresh = request("INVITE", via=old, branch="", cseq=2)
        self.assertEqual(told(layer.receive_request(fresh, UDP, 0.4)), ["request INVITE"])

    def test_ack_of_2xx(self) -> None:
        """The ACK of a 2xx has its own branch, finds the INVITE and is passed on once."""
        layer = Transactions()
        transaction = arrived(layer, request("INVITE"), TLS)
        layer.respond(transaction, 200, response_bytes(transaction.request, 200, to_tag="us"), 0.0)
        ack = request("ACK", branch="z9hG4bKack", to_tag="us")
        (action,) = layer.receive_request(ack, TLS, 0.1)
        assert isinstance(action, AckArrived)
        self.assertIs(action.transaction, transaction)
        self.assertEqual(layer.receive_request(ack, TLS, 0.2), [])
        self.assertEqual(layer.handle_timers(31.9), [])
        self.assertEqual(told(layer.handle_timers(32.0)), ["ended"])

    def test_stray_ack(self) -> None:
        """An ACK that fits nothing is passed on without a transaction."""
        (action,) = Transactions().receive_request(request("ACK", to_tag="us"), TLS, 0.0)
        assert isinstance(action, AckArrived)
        self.assertIsNone(action.transaction)

    def test_merged_request(self) -> None:
        """A copy of a request that came another way is marked; within a dialog there is none."""
        layer = Transactions()
        self.assertFalse(arrived(layer, request("SUBSCRIBE"), TLS).merged)
        copy = arrived(layer, request("SUBSCRIBE", branch="z9hG4bKtwo"), TLS)
        self.assertTrue(copy.merged)
        in_dialog = request("SUBSCRIBE", branch="z9hG4bKthree", to_tag="us")
        self.assertFalse(arrived(layer, in_dialog, TLS).merged)

    def test_spiral(self) -> None:
        """What a proxy has passed on may come back on another way: that is no merged request."""
        layer = Transactions()
        first = arrived(layer, request("SUBSCRIBE"), TLS)
        first.proxied = True
        self.assertFalse(arrived(layer, request("SUBSCRIBE", branch="z9hG4bKtwo"), TLS).merged)
        third = arrived(layer, request("SUBSCRIBE", branch="z9hG4bKthree"), TLS)
        self.assertTrue(third.merged)  # the second is ours to answer, as far as is known
        layer.respond(first, 200, b"", 0.1)
        layer.handle_timers(0.2)
        fourth = arrived(layer, request("SUBSCRIBE", branch="z9hG4bKfour"), TLS)
        self.assertTrue(fourth.merged)  # the end of the first has not made the layer forget


class AckTests(unittest.SynchronousTestCase):
    """The two sorts of ACK that we send."""

    def setUp(self) -> None:
        self.layer = Transactions()
        self.invite = outgoing("INVITE", 7, ("<sip:edge.lync.example;lr>",))
        self.data = rendered(self.invite, "z9hG4bKa")
        self.ours, _ = self.layer.send_request(
            self.data, self.invite, "z9hG4bKa", UDP, False, 0.0, None
        )

    def test_refusal(self) -> None:
        """The ACK of a refusal has the INVITE's branch, URI and Route, and the answer's To."""
        actions = self.layer.receive_response(response(self.data, 486, "busy"), UDP, 0.1)
        self.assertEqual(told(actions), ["send ACK", "response 486 busy"])
        assert isinstance(actions[0], Send)
        ack = parse_message(actions[0].data)
        assert isinstance(ack, SipRequest)
        self.assertEqual(ack.uri_text, "sip:romeo@lync.example")
        self.assertEqual(ack.via.branch, "z9hG4bKa")
        self.assertEqual(len(ack.values("via")), 1)
        self.assertEqual(ack.values("route"), ["<sip:edge.lync.example;lr>"])
        self.assertEqual((ack.to_tag, ack.from_tag), ("busy", "juliet1"))
        self.assertEqual(ack.get("cseq"), "7 ACK")
        self.assertIsNone(ack.get("contact"))
        again = self.layer.receive_response(response(self.data, 486, "busy"), UDP, 0.2)
        self.assertEqual(told(again), ["send ACK"])

    def test_repeated_2xx(self) -> None:
        """The ACK of a 2xx goes again with each repetition; another To tag is a fork for the core."""
        self.assertEqual(
            told(self.layer.receive_response(response(self.data, 200, "a"), UDP, 0.1)),
            ["response 200 a"],
        )
        again = self.layer.receive_response(response(self.data, 200, "a"), UDP, 0.2)
        self.assertEqual(again, [])  # the core has not acknowledged it yet, but will
        (sent,) = self.layer.acknowledge(self.ours, "a", b"ACK 1", TLS, 0.3)
        assert isinstance(sent, Send)
        self.assertEqual((sent.data, sent.to), (b"ACK 1", TLS))
        (repeated,) = self.layer.receive_response(response(self.data, 200, "a"), UDP, 0.4)
        assert isinstance(repeated, Send)
        self.assertEqual((repeated.data, repeated.to), (b"ACK 1", TLS))
        fork = self.layer.receive_response(response(self.data, 200, "b"), UDP, 0.5)
        self.assertEqual(told(fork), ["response 200 b"])

    def test_late_acknowledgement(self) -> None:
        """An ACK can be sent even after the transaction is forgotten."""
        self.layer.receive_response(response(self.data, 200, "a"), UDP, 0.1)
        self.layer.handle_timers(40.0)
        self.assertEqual(len(self.layer), 0)
        actions = self.layer.acknowledge(self.ours, "a", b"ACK sip:x SIP/2.0", TLS, 41.0)
        self.assertEqual(told(actions), ["send ACK"])


class CancelTests(unittest.SynchronousTestCase):
    """CANCEL, both ways (RFC 3261 section 9)."""

    def start(self, reliable: bool = True) -> None:
        self.layer = Transactions()
        self.invite = outgoing("INVITE", 7, ("<sip:edge.lync.example;lr>",))
        self.data = rendered(self.invite, "z9hG4bKa")
        self.ours, _ = self.layer.send_request(
            self.data, self.invite, "z9hG4bKa", Wire(reliable), reliable, 0.0, None
        )

    def test_waits_for_provisional(self) -> None:
        """Our CANCEL waits for the first provisional answer."""
        self.start()
        self.assertEqual(self.layer.cancel(self.ours, 0.1), [])
        actions = self.layer.receive_response(response(self.data, 100), TLS, 0.2)
        self.assertEqual(told(actions), ["response 100", "send CANCEL"])

    def test_form(self) -> None:
        """Our CANCEL has the INVITE's URI, Via, Route, From, To, Call-ID and number."""
        self.start()
        self.layer.receive_response(response(self.data, 180), TLS, 0.1)
        (action,) = self.layer.cancel(self.ours, 0.2)
        assert isinstance(action, Send)
        cancel, invite = parse_message(action.data), parse_message(self.data)
        assert isinstance(cancel, SipRequest) and isinstance(invite, SipRequest)
        self.assertEqual(cancel.uri_text, invite.uri_text)
        for name in ("via", "route", "from", "to", "call-id"):
            self.assertEqual(cancel.get_all(name), invite.get_all(name))
        self.assertEqual(cancel.get("cseq"), "7 CANCEL")
        self.assertEqual(self.layer.cancel(self.ours, 0.3), [])

    def test_answered(self) -> None:
        """The answer to our CANCEL stays inside; that to the INVITE reaches the core."""
        self.start()
        self.layer.receive_response(response(self.data, 180), TLS, 0.1)
        (action,) = self.layer.cancel(self.ours, 0.2)
        assert isinstance(action, Send)
        self.assertEqual(self.layer.receive_response(response(action.data, 200), TLS, 0.3), [])
        actions = self.layer.receive_response(response(self.data, 487), TLS, 0.4)
        self.assertEqual(told(actions), ["send ACK", "response 487 r1", "ended"])

    def test_overtaken_by_2xx(self) -> None:
        """A 2xx that was faster than our CANCEL reaches the core."""
        self.start()
        self.layer.receive_response(response(self.data, 180), TLS, 0.1)
        self.layer.cancel(self.ours, 0.2)
        actions = self.layer.receive_response(response(self.data, 200), TLS, 0.3)
        self.assertEqual(told(actions), ["response 200 r1"])

    def test_no_answer_at_all(self) -> None:
        """Without an answer the INVITE fails 64*T1 after the CANCEL, which is repeated over UDP."""
        self.start(reliable=False)
        self.layer.receive_response(response(self.data, 180), UDP, 0.0)
        self.layer.cancel(self.ours, 0.0)
        words = []
        while (due := self.layer.next_timer) is not None:
            words += told(self.layer.handle_timers(due))
        self.assertEqual(words.count("send CANCEL"), 10)
        self.assertEqual(words[-2:], ["failed timeout", "ended"])
        self.assertEqual(len(self.layer), 0)

    def test_only_invites(self) -> None:
        """Other requests are never cancelled."""
        layer, message = Transactions(), outgoing()
        ours, _ = layer.send_request(
            rendered(message, "z9hG4bKa"), message, "z9hG4bKa", TLS, True, 0.0, None
        )
        self.assertEqual(layer.cancel(ours, 0.1), [])

    def test_theirs(self) -> None:
        """Their CANCEL is answered 200 and passed on; our 487 is then acknowledged."""
        layer = Transactions()
        transaction = arrived(layer, request("INVITE"), TLS)
        actions = layer.receive_request(request("CANCEL"), TLS, 0.1)
        self.assertEqual(told(actions), ["send 200", "CANCEL"])
        assert isinstance(actions[0], Send) and isinstance(actions[1], CancelArrived)
        answer = parse_message(actions[0].data)
        self.assertEqual(answer.get("cseq"), "1 CANCEL")
        self.assertNotEqual(answer.to_tag, "")
        self.assertIs(actions[1].transaction, transaction)
        data = response_bytes(transaction.request, 487, to_tag="us")
        self.assertEqual(told(layer.respond(transaction, 487, data, 0.2)), ["send 487"])
        ack = request("ACK", to_tag="us")
        self.assertEqual(told(layer.receive_request(ack, TLS, 0.3)), ["ended"])
        self.assertEqual(len(layer), 0)

    def test_theirs_too_late(self) -> None:
        """Their CANCEL after our final answer is answered 200 and has no effect."""
        layer = Transactions()
        transaction = arrived(layer, request("INVITE"), TLS)
        layer.respond(transaction, 200, response_bytes(transaction.request, 200, to_tag="us"), 0.0)
        self.assertEqual(told(layer.receive_request(request("CANCEL"), TLS, 0.1)), ["send 200"])

    def test_theirs_for_nothing(self) -> None:
        """Their CANCEL of an INVITE that we do not know gets 481."""
        actions = Transactions().receive_request(request("CANCEL"), TLS, 0.0)
        self.assertEqual(told(actions), ["send 481"])

    def test_theirs_repeated(self) -> None:
        """A repeated CANCEL over UDP has its answer repeated and is not passed on again."""
        layer = Transactions()
        arrived(layer, request("INVITE"), UDP)
        layer.receive_request(request("CANCEL"), UDP, 0.0)
        self.assertEqual(told(layer.receive_request(request("CANCEL"), UDP, 0.5)), ["send 200"])


class LimitTests(unittest.SynchronousTestCase):
    """Too many pending transactions."""

    def test_incoming(self) -> None:
        """Over the limit a request gets 500 with Retry-After and leaves nothing behind."""
        layer = Transactions(limit=1)
        arrived(layer, request(), TLS)
        (action,) = layer.receive_request(request(branch="z9hG4bKb", cseq=2), TLS, 0.0)
        assert isinstance(action, Send)
        self.assertTrue(action.data.startswith(b"SIP/2.0 500 "))
        answer = parse_message(action.data)
        self.assertIsNotNone(answer.get("retry-after"))
        self.assertNotEqual(answer.to_tag, "")
        self.assertIsNone(action.transaction)
        self.assertEqual((len(layer), layer.refused), (1, 1))

    def test_repetition_is_no_new_request(self) -> None:
        """A repeated request is recognised even at the limit."""
        layer = Transactions(limit=1)
        arrived(layer, request(), UDP)
        self.assertEqual(layer.receive_request(request(), UDP, 0.1), [])

    def test_outgoing(self) -> None:
        """Over the limit a request of ours fails at once and is not sent."""
        layer, message = Transactions(limit=1), outgoing()
        layer.send_request(rendered(message, "z9hG4bKa"), message, "z9hG4bKa", TLS, True, 0.0, None)
        transaction, (action,) = layer.send_request(
            rendered(message, "z9hG4bKb"), message, "z9hG4bKb", TLS, True, 0.0, None
        )
        assert isinstance(action, Failed)
        self.assertIs(action.cause, FailureCause.OVERLOAD)
        self.assertIs(transaction.state, State.TERMINATED)
        self.assertEqual(layer.transport_failed(transaction, 0.1, "x"), [])

    def test_forgotten_request(self) -> None:
        """A request that our core never answers is forgotten after 64*T1."""
        layer = Transactions()
        transaction = arrived(layer, request(), TLS)
        self.assertEqual(told(layer.handle_timers(32.0)), ["failed timeout", "ended"])
        self.assertEqual(len(layer), 0)
        data = response_bytes(transaction.request, 200, to_tag="us")
        self.assertEqual(layer.respond(transaction, 200, data, 33.0), [])


class TableTests(unittest.SynchronousTestCase):
    """The tables themselves."""

    def test_unknown_pair(self) -> None:
        """An input that a state does not know is a fault of ours and says so."""
        layer = Transactions()
        transaction = arrived(layer, request(), TLS)
        with self.assertRaises(StateError) as caught:
            layer.step(transaction, Input.TIMER_A, 0.0, [])
        self.assertIn("TIMER_A in state TRYING", str(caught.exception))
        self.assertIsInstance(caught.exception, LocalError)

    def test_every_outside_event_is_written_out(self) -> None:
        """Each state but New and Terminated has a cell for all that can come from outside."""
        network = {
            Machine.INVITE_CLIENT: {Input.R1XX, Input.R2XX, Input.R3XX_6XX, Input.TU_CANCEL},
            Machine.CLIENT: {Input.R1XX, Input.R2XX, Input.R3XX_6XX, Input.TU_CANCEL},
            Machine.INVITE_SERVER: {Input.REQUEST, Input.ACK, Input.CANCEL},
            Machine.SERVER: {Input.REQUEST},
        }
        core = {Input.TU_1XX, Input.TU_2XX, Input.TU_3XX_6XX}
        for machine, table in TABLES.items():
            wanted = network[machine] | {Input.TRANSPORT_ERROR}
            if machine in (Machine.INVITE_SERVER, Machine.SERVER):
                wanted |= core
            for state, row in table.items():
                if state not in (State.NEW, State.TERMINATED):
                    self.assertLessEqual(wanted, row.keys(), f"{machine.name} {state.name}")

    def test_end_and_terminated_go_together(self) -> None:
        """A cell that leads to Terminated ends the transaction last of all, and no other cell does."""
        for machine, table in TABLES.items():
            for state, row in table.items():
                for input_, cell in row.items():
                    ends = bool(cell.actions) and cell.actions[-1] is Do.END
                    self.assertEqual(
                        ends, cell.state is State.TERMINATED, f"{machine} {state} {input_}"
                    )

    def test_every_state_is_reachable(self) -> None:
        """Each state of a table can be reached from New."""
        for machine, table in TABLES.items():
            seen, todo = {State.NEW}, [State.NEW]
            while todo:
                for cell in table[todo.pop()].values():
                    if cell.state is not None and cell.state not in seen:
                        seen.add(cell.state)
                        todo.append(cell.state)
            self.assertEqual(seen, set(table), machine.name)
