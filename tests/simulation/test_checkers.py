"""The checkers of the simulation: each notices what it is there for."""

from __future__ import annotations

from collections.abc import Callable, Collection
from itertools import count
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from demo.farside.wire import Message
from impfed.core.ids import IdSource
from impfed.gateway.dialogs import DialogTable
from impfed.gateway.im_outbox import Outbox
from impfed.gateway.partner import Partner
from impfed.sip.dialog import Dialog
from impfed.sip.transaction_engine import Engine
from impfed.store.records import OutboxRecord
from impfed.transport.s2s_route import Route
from impfed.xmpp.s2s_base import Input
from impfed.xmpp.s2s_out import OutgoingStream, State
from tests.simulation.cast import PARTNER_DOMAIN, Cast
from tests.simulation.connection import End
from tests.simulation.history import History
from tests.simulation.loop import START
from tests.simulation.referee import Referee
from tests.simulation.world import Faults, World

_EVERYBODY = Cast.of("prosody", "component", xmpp=True)
_NODES = "10.2."

#: What becomes of octets that a node writes, by the end of the connection that it writes to.
Change = Callable[[End, bytes], Collection[bytes]]


class CheckerCase(SynchronousTestCase):
    """Runs in which the nodes break a rule."""

    def on_the_wire(self, change: Change) -> None:
        """Change what nodes write."""
        write = End.write

        def changed(end: End, data: bytes) -> None:
            from_node = end.here[0].startswith(_NODES)
            for piece in change(end, data) if from_node else (data,):
                write(end, piece)

        self.patch(End, "write", changed)

    def replaced(self, before: bytes, after: bytes) -> None:
        """Have nodes write something else than they do, wherever it stands."""
        self.on_the_wire(lambda end, data: (data.replace(before, after),))

    def assert_noticed(self, words: str, faults: Faults | None = None, runs: int = 1) -> None:
        """The first run shows it, or one of more, where a fault has to come at the right moment."""
        problems: list[str] = []
        for seed in range(1, runs + 1):
            problems += World(seed, faults or Faults(), 60.0, _EVERYBODY).run()
            if words in "\n".join(problems):
                return
        self.fail(f"not noticed: {words}; but {problems}")

    def now_and_then(self, real: Callable[[Any], str]) -> Callable[[Any], str]:
        """Return a source of identifiers that gives each of them twice."""
        left: list[str] = []

        def twice(ids: Any) -> str:
            if left:
                return left.pop()
            left.append(real(ids))
            return left[0]

        return twice


class SipTests(CheckerCase):
    """What the partner's referee sees."""

    def test_two_final_responses(self) -> None:
        """A second final response to a request is noticed."""
        self.on_the_wire(
            lambda end, data: (data,) * (1 + (data.startswith(b"SIP/2.0 200") and b"MESS" in data))
        )
        self.assert_noticed("SIP: after 200")

    def test_no_final_response(self) -> None:
        """A request without any is noticed when nothing is wrong otherwise."""
        calm = START + 60.0 + 115.0

        def change(end: End, data: bytes) -> Collection[bytes]:
            late = end.network.loop.now > calm
            return () if late and data.startswith(b"SIP/2.0 200") else (data,)

        self.on_the_wire(change)
        self.assert_noticed("SIP: no answer")

    def test_changed_via(self) -> None:
        """A Via that comes back other than it was sent is noticed."""
        self.on_the_wire(
            lambda end, data: (
                data.replace(b"branch=", b"x;branch=") if data.startswith(b"SIP/2.0") else data,
            )
        )
        self.assert_noticed("what was pushed is not what was popped")

    def test_hops(self) -> None:
        """A Max-Forwards that does not fall by one with each hop is noticed."""
        self.replaced(b"Max-Forwards: 70", b"Max-Forwards: 69")
        self.assert_noticed("SIP: Max-Forwards 69 after 1 hops")

    def test_whose_users(self) -> None:
        """A request for a user of nobody's is noticed."""
        self.replaced(b"From: <sip:alice@home.example", b"From: <sip:alice@other.example")
        self.assert_noticed("it is between ['other.example'")

    def test_branch_used_twice(self) -> None:
        """Branches are never used again."""
        self.patch(IdSource, "branch", self.now_and_then(IdSource.branch))
        self.assert_noticed("SIP: the branch was that of a")

    def test_tag_used_twice(self) -> None:
        """Tags are never used again."""
        self.patch(IdSource, "tag", self.now_and_then(IdSource.tag))
        self.assert_noticed("SIP: the tag was used with")

    def test_sequence(self) -> None:
        """Numbers that do not grow, here after a node was started anew, are noticed."""
        self.patch(Dialog, "skip_numbers", lambda dialog, now: setattr(dialog, "local_cseq", 0))
        self.assert_noticed("SIP: CSeq 1 after", Faults(kill=20.0))

    def test_after_the_end(self) -> None:
        """A NOTIFY after the one that says that the subscription is terminated is noticed."""
        self.replaced(b"Subscription-State: active;", b"Subscription-State: terminated;")
        self.assert_noticed("NOTIFY after the subscription was terminated", runs=4)

    def test_two_speakers(self) -> None:
        """A node that speaks in a dialog which another has taken over is noticed."""
        history = History()
        seconds = count().__next__
        referee = Referee(history, ("home.example",), lambda call_id: "10.2.0.2", seconds)
        for number, host in enumerate(("10.2.0.1", "10.2.0.2", "10.2.0.1"), 1):
            self.assertEqual(history.problems, [])
            referee.asked(
                Message(
                    f"SUBSCRIBE sip:romeo@{PARTNER_DOMAIN} SIP/2.0",
                    [
                        ("Via", f"SIP/2.0/TCP {host}:5060;branch=z9hG4bK{number}"),
                        ("Max-Forwards", "70"),
                        ("From", "<sip:alice@home.example>;tag=a"),
                        ("To", f"<sip:romeo@{PARTNER_DOMAIN}>;tag=b"),
                        ("Call-ID", "c"),
                        ("CSeq", f"{number} SUBSCRIBE"),
                    ],
                )
            )
        (problem,) = history.problems
        self.assertIn("10.2.0.1 speaks after 10.2.0.2, but it is 10.2.0.2's", problem)


class XmppTests(CheckerCase):
    """What the XMPP servers see."""

    def test_before_the_handshake(self) -> None:
        """A stanza on a home link before its handshake is noticed."""
        early = b"<presence from='partner.example' to='alice@home.example'/>"

        def change(end: End, data: bytes) -> Collection[bytes]:
            return (data, early) if b"'jabber:component:accept'" in data else (data,)

        self.on_the_wire(change)
        self.assert_noticed("presence came before the handshake")

    def test_before_dialback(self) -> None:
        """A stanza to a foreign server that has not accepted our domain yet is noticed."""

        def opened(stream: OutgoingStream, item: object) -> tuple[Input, None]:
            stream._prove_us(item)
            return Input.GO_OPEN, None

        choosing = {**OutgoingStream.TABLE[State.CHOOSING]}
        choosing[Input.GO_DIALBACK] = (State.DIALBACK, opened)
        table = {**OutgoingStream.TABLE, State.CHOOSING: choosing}
        self.patch(OutgoingStream, "TABLE", table)
        self.assert_noticed("to 'xmpp.example'; proven is []")

    def test_wrong_domain(self) -> None:
        """A stanza to a home server from a domain that the component does not have is noticed."""
        self.replaced(b"from='romeo@partner.example", b"from='romeo@home.example")
        self.assert_noticed("sends from 'home.example' to ")


class TextTests(CheckerCase):
    """What becomes of texts."""

    def test_order(self) -> None:
        """Texts that a process which was killed has left, and the next one sends newest first, are noticed."""
        restore = Outbox.restore

        def newest_first(outbox: Outbox, records: list[OutboxRecord]) -> None:
            for record in sorted(records, key=lambda each: each.id, reverse=True):
                restore(outbox, [record])

        self.patch(Outbox, "restore", newest_first)
        self.assert_noticed(" was shown before ", Faults(kill=15.0, part=10.0), runs=8)


class PresenceTests(CheckerCase):
    """What people see of each other."""

    def test_partner_forgets(self) -> None:
        """Subscriptions that a restarted partner has forgotten, and that nobody renews, are noticed."""
        self.patch(Partner, "flow_closed", lambda partner, flow: None)
        self.assert_noticed("@partner.example as ", Faults(partner=20.0), runs=4)


class BoundTests(CheckerCase):
    """What piles up, and what does not come back."""

    def test_transactions(self) -> None:
        """Transactions that never end are noticed."""
        self.patch(Engine, "_linger", lambda *_: None)
        self.assert_noticed(" SIP transactions")

    def test_dialogs(self) -> None:
        """Dialogs that nobody has any more are noticed."""
        self.patch(DialogTable, "remove", lambda table, owner: None)
        self.assert_noticed("dialogs of nobody", Faults(kill=1e9, reset=0.05))

    def test_unread(self) -> None:
        """A node that writes on and on to who does not read is noticed."""
        self.on_the_wire(lambda end, data: (data,) * (1000 if end.mute else 1))
        self.assert_noticed("node1 writes what nobody reads", Faults(part=10.0), runs=8)

    def test_no_recovery(self) -> None:
        """What does not work again long after the last fault is noticed."""
        wait = Route._wait

        def for_ever(route: Route, words: str, lasting: str) -> None:
            wait(route, words, lasting)
            route._retry_at += 1e6

        self.patch(Route, "_wait", for_ever)
        self.assert_noticed("not shown, though nothing is wrong any more", Faults(restart=10.0))
