"""explain, policy, user and limits: what a node answers, and the client's words."""

from __future__ import annotations

import json
from argparse import Namespace
from dataclasses import replace
from io import StringIO
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.internet.testing import StringTransport
from twisted.trial.unittest import SynchronousTestCase

from impfed.ctl import people as words
from impfed.ctl.api import COMMANDS, OPERATIONS, ControlError
from impfed.ctl.operations import Operations
from impfed.ctl.server import ControlServer
from impfed.gateway.explain import Explainer
from impfed.gateway.people import People
from impfed.policy.peers import PeerPolicy
from impfed.routing.api import Existence
from impfed.store.api import Enter
from impfed.store.records import (
    AuthorizationRecord,
    InboundSubscriptionRecord,
    LedgerEntry,
    OutboundSubscriptionRecord,
)
from impfed.xmpp.jid import JID
from tests.ctl.doubles import FakeNode
from tests.gateway.harness import CONFIG
from tests.gateway.policy_world import ALICE, ROMEO, PolicyWorld
from tests.gateway.presence_world import state_of

FOREIGN, LOCAL = "romeo@lync.example", "alice@home.example"


def story(foreign: str, local: str) -> Deferred[dict[str, Any]]:
    """A route that knows one hop for lync.example and nothing for other domains."""
    if not foreign.endswith("@lync.example"):
        return succeed({"used": "", "why": "no route leads there", "hops": []})
    hop = {
        "hop": "tls:sip.lync.example:5061",
        "tls_name": "sip.lync.example",
        "priority": 1,
        "from": "static route of lync.example",
        "state": "open",
        "reason": "",
    }
    why = "static decides; the first hop in order"
    return succeed({"used": hop["hop"], "why": why, "hops": [hop]})


class OperationsCase(SynchronousTestCase):
    config = CONFIG

    def setUp(self) -> None:
        self.world = world = PolicyWorld(self.config)
        peers = PeerPolicy(self.config.domains)
        explainer = Explainer(world.around, peers, world.im, world.presence, story)
        people = People(world.im, world.presence, world.store, self.config.local_domains)
        local = self.config.local_domains
        self.operations = Operations(explainer, people, world.presence, local)

    def ask(self, *words: str) -> list[dict[str, Any]]:
        answer = self.operations.perform(words[0], words[1:])
        return self.successResultOf(answer) if isinstance(answer, Deferred) else answer

    def refused(self, *words: str) -> str:
        with self.assertRaises(ControlError) as caught:
            self.ask(*words)
        return str(caught.exception)


class ExplainTests(OperationsCase):
    def outcomes(self, *addresses: str) -> tuple[str, ...]:
        """Return the outcomes, and check that nothing was sent, counted or kept."""
        world = self.world
        before = (world.metrics.snapshot(), world.store._records, len(world.stack.sent))
        lines = self.ask("explain", *addresses)
        after = (world.metrics.snapshot(), world.store._records, len(world.stack.sent))
        self.assertEqual(after, before)
        self.assertEqual((world.home.sent, world.home.deliveries), ([], []))
        return tuple(line["result"] for line in lines if line["step"] == "outcome")

    def line(self, step: str, *addresses: str) -> dict[str, Any]:
        (found,) = [each for each in self.ask("explain", *addresses) if each["step"] == step]
        return found

    def test_stranger_writes_and_subscribes(self) -> None:
        """A message passes, a subscription is pending and asked about."""
        self.assertEqual(self.outcomes(FOREIGN, LOCAL), ("delivered", "pending"))
        self.assertIn("sip.lync.example", self.line("peer", FOREIGN, LOCAL)["why"])
        self.assertEqual(self.line("authorization", FOREIGN, LOCAL)["result"], "asked")
        self.assertIn("default", self.line("user policy", *self._sub(FOREIGN, LOCAL))["why"])

    def _sub(self, *addresses: str) -> tuple[str, ...]:
        lines = self.ask("explain", *addresses)
        users = [each for each in lines if each["step"] == "user policy"]
        self.assertEqual([each["about"] for each in users], ["message", "subscription"])
        self.ask = lambda *_: [each for each in lines if each["about"] == "subscription"]
        return addresses

    def test_every_decision(self) -> None:
        """Each rule leads to its outcome, and the explanation names it."""
        world = self.world
        cases = (
            (lambda: world.block(), ("refused with 480", "active"), "for romeo@lync.example"),
            (lambda: world.block("lync.example"), ("refused with 480", "active"), "the domain"),
            (
                lambda: world.policies.set_default(ALICE, "block"),
                ("refused with 480", "active"),
                "default",
            ),
            (lambda: self._answered("approved"), ("delivered", "active"), "approved"),
            (lambda: self._answered("declined"), ("delivered", "active"), "declined"),
            (lambda: self._answered("pending"), ("delivered", "pending"), "asked"),
        )
        for decide, outcomes, why in cases:
            self.setUp()
            world = self.world
            decide()
            self.assertEqual(self.outcomes(FOREIGN, LOCAL), outcomes, why)
            whys = " ".join(each["why"] for each in self.ask("explain", FOREIGN, LOCAL))
            self.assertIn(why, whys)

    def _answered(self, answer: Any) -> None:
        self.world.presence.authorizations.decide_inbound((ALICE, ROMEO), answer)

    def test_allow(self) -> None:
        """Allow without asking says whether the roster can be changed, else that it is asked."""
        self.world.allow()
        self.assertEqual(self.outcomes(FOREIGN, LOCAL), ("delivered", "pending"))
        self.assertEqual(self.line("roster", FOREIGN, LOCAL)["result"], "not possible")
        roster = self.world.with_roster()
        self.assertEqual(self.outcomes(FOREIGN, LOCAL), ("delivered", "active"))
        self.assertEqual(roster.approved, [])

    def test_foreign_domain_unknown(self) -> None:
        """A domain that is not configured ends at the first gate, in both directions."""
        self.assertEqual(self.outcomes("x@else.example", LOCAL), ("refused with 403",))
        self.assertEqual(self.outcomes(LOCAL, "x@else.example"), ("returned with an error",))

    def test_existence(self) -> None:
        """Who does not exist gets nothing and sends nothing; who may exist is said to."""
        self.assertEqual(self.line(f"user {LOCAL}", FOREIGN, LOCAL)["result"], "unknown")
        self.world.existing[LOCAL] = Existence.ABSENT
        self.assertEqual(self.outcomes(FOREIGN, LOCAL), ("refused with 404",))
        self.assertEqual(self.outcomes(LOCAL, FOREIGN), ("nothing",))

    def test_home_link_down(self) -> None:
        """A home server out of reach holds messages off."""
        self.world.home.busy = True
        self.assertEqual(
            self.outcomes(FOREIGN, LOCAL), ("refused with 480 and Retry-After", "pending")
        )
        self.assertEqual(self.line("home link", LOCAL, FOREIGN)["result"], "not usable")

    def test_outwards(self) -> None:
        """A local user's message needs an INVITE, his wish a SUBSCRIBE, over the hop of the route."""
        self.assertEqual(self.outcomes(LOCAL, FOREIGN), ("delivered", "SUBSCRIBE is sent"))
        hop = self.line("hop tls:sip.lync.example:5061", LOCAL, FOREIGN)
        self.assertIn("must carry sip.lync.example", hop["why"])
        self.assertIn("static route of lync.example", hop["why"])

    def test_outwards_with_what_stands(self) -> None:
        """A session and a subscription that stand are used."""
        self.world.watching()
        self.world.romeo_opens()
        self.assertEqual(self.outcomes(LOCAL, FOREIGN), ("delivered", "approved"))
        self.assertEqual(self.line("session", LOCAL, FOREIGN)["result"], "open")
        self.assertEqual(self.line("subscription", LOCAL, FOREIGN)["result"], "active")

    def test_outwards_without_route(self) -> None:
        """Without a hop nothing goes, and why is said."""
        self.assertEqual(
            self.outcomes(LOCAL, "benvolio@simple.example"),
            ("returned with an error", "tried again later"),
        )

    def test_blocked_does_not_stop_what_we_send(self) -> None:
        """A local user may write to somebody whom he blocks."""
        self.world.block()
        self.assertEqual(self.outcomes(LOCAL, FOREIGN), ("delivered", "SUBSCRIBE is sent"))

    def test_nonsense(self) -> None:
        """Two local, two foreign, a domain, no address: each is refused in words."""
        self.assertIn("both are local", self.refused("explain", LOCAL, "bob@home.example"))
        self.assertIn("neither is local", self.refused("explain", FOREIGN, "x@simple.example"))
        self.assertIn("is a domain", self.refused("explain", "lync.example", LOCAL))
        self.assertIn("no address", self.refused("explain", "a b@lync.example", LOCAL))
        self.assertIn("usage: explain FROM TO", self.refused("explain", LOCAL))


class PolicyCommandTests(OperationsCase):
    def test_list(self) -> None:
        """A list has its entries, what was answered in clients, and the default."""
        self.world.presence.authorizations.decide_inbound((ALICE, ROMEO), "declined")
        self.ask("policy", LOCAL, "block", "lync.example")
        self.ask("policy", LOCAL, "allow", "Paris@lync.example")
        items = self.ask("policy", LOCAL, "default", "block")
        self.assertEqual(self.ask("policy", LOCAL), items)
        self.assertEqual(
            [(each["subject"], each["decision"], each["by"]) for each in items],
            [
                ("lync.example", "block", "list"),
                ("paris@lync.example", "allow", "list"),
                ("romeo@lync.example", "declined", "client"),
                ("(everybody else)", "block", "default"),
            ],
        )

    def test_acts_at_once(self) -> None:
        """What an operator decides is done at once, and can be undone."""
        self.world.approved_romeo("away")
        self.ask("policy", LOCAL, "block", FOREIGN)
        self.assertEqual(state_of(self.world.notify()), (False, "", ""))
        self.ask("policy", LOCAL, "delete", FOREIGN)
        self.assertEqual(state_of(self.world.notify())[:2], (True, "away"))
        self.ask("policy", LOCAL, "clear", FOREIGN)
        self.assertEqual(self.world.types(), ["subscribe"])

    def test_nonsense(self) -> None:
        """Wrong words, foreign users, and what is not there are refused."""
        self.assertIn("no local user", self.refused("policy", FOREIGN))
        self.assertIn("no local user", self.refused("policy", "home.example"))
        self.assertIn("no entry", self.refused("policy", LOCAL, "delete", FOREIGN))
        self.assertIn("has not answered", self.refused("policy", LOCAL, "clear", FOREIGN))
        self.assertIn("is a domain", self.refused("policy", LOCAL, "clear", "lync.example"))
        self.assertIn('"ask" or "block"', self.refused("policy", LOCAL, "default", "allow"))
        for wrong in ((), (LOCAL, "allow"), (LOCAL, "permit", FOREIGN), (LOCAL, "list", "x")):
            self.assertIn("usage: policy LOCAL-USER", self.refused("policy", *wrong))


class UserCommandTests(OperationsCase):
    def setUp(self) -> None:
        super().setUp()
        world = self.world
        world.approved_romeo()
        world.watching("benvolio@simple.example")
        world.romeo_opens()
        world.policies.set_domain(ALICE, "simple.example", "block")
        entry = LedgerEntry("m1", "in", LOCAL, FOREIGN, received_at=1.0)
        world.store.write([Enter(entry)])

    def kept(self, kind: type) -> list[str]:
        return [record.local for record in self.successResultOf(self.world.store.load(kind))]

    def test_remove(self) -> None:
        """Watchers hear that the user is gone, contacts are left, and nothing is kept."""
        world = self.world
        (done,) = self.ask("user", "remove", LOCAL)
        self.assertEqual(
            {key: done[key] for key in ("watchers", "contacts", "sessions", "policies", "ledger")},
            {"watchers": 1, "contacts": 1, "sessions": 1, "policies": 1, "ledger": 1},
        )
        requests = {each.method: each for each in world.stack.sent}
        state = requests["NOTIFY"].message.get("subscription-state")
        self.assertEqual(state, "terminated;reason=noresource")
        self.assertEqual(requests["SUBSCRIBE"].message.get("expires"), "0")
        self.assertIn("BYE", requests)
        for sent in world.stack.sent:
            sent.answer(200, to_tag="n1" if sent.method == "SUBSCRIBE" else "w1")
        self.assertEqual(self.kept(InboundSubscriptionRecord), [])
        self.assertEqual(self.kept(AuthorizationRecord), [])
        self.assertEqual(world.policies.entries(ALICE), [])
        self.assertEqual(world.ledger(), [])

    def test_rename(self) -> None:
        """List, answers and ledger move; contacts are subscribed to anew by the new address."""
        world = self.world
        (done,) = self.ask("user", "rename", LOCAL, "alicia@home.example")
        self.assertEqual((done["now"], done["contacts"]), ("alicia@home.example", 1))
        subscribes = [each for each in world.stack.sent if each.method == "SUBSCRIBE"]
        old, new = subscribes
        self.assertEqual(old.message.get("expires"), "0")
        self.assertIn("alicia@home.example", new.message.from_.text)
        alicia = JID.parse("alicia@home.example")
        self.assertEqual([each.subject for each in world.policies.entries(alicia)],
                         ["simple.example"])  # fmt: skip
        self.assertEqual(world.presence.authorizations.inbound((alicia, ROMEO)), "approved")
        self.assertEqual(world.presence.authorizations.inbound((ALICE, ROMEO)), "none")
        self.assertIn("alicia@home.example", self.kept(OutboundSubscriptionRecord))
        self.assertEqual([each.local for each in world.ledger()], ["alicia@home.example"])
        world.stack.sent.clear()
        world.home.sent.clear()
        world.subscribes(call_id="new", to="alicia@home.example")
        self.assertTrue(world.notify().get("subscription-state").startswith("active"))
        self.assertNotIn("subscribe", world.types())

    def test_nonsense(self) -> None:
        """Foreign users, the same address twice and wrong words are refused."""
        self.assertIn("no local user", self.refused("user", "remove", FOREIGN))
        self.assertIn("no local user", self.refused("user", "rename", LOCAL, FOREIGN))
        self.assertIn("already", self.refused("user", "rename", LOCAL, LOCAL))
        for wrong in ((), ("remove",), ("delete", LOCAL), ("rename", LOCAL)):
            self.assertIn("usage: user remove", self.refused("user", *wrong))


class LimitsCommandTests(OperationsCase):
    config = replace(
        CONFIG,
        presence=replace(
            CONFIG.presence, contacts_per_user=1, watchers_per_user=2, pending_per_domain=2
        ),
    )

    def test_nobody(self) -> None:
        """Without anybody at a limit the list is empty."""
        self.assertEqual(self.ask("limits"), [])

    def test_everybody(self) -> None:
        """Users at a limit and domains that were refused are listed."""
        world = self.world
        for number in range(3):
            who = f"u{number}@lync.example"
            world.subscribes(call_id=f"c{number}", who=who, to=f"l{number}@home.example")
        world.subscribes(call_id="b1", who="u0@lync.example")
        world.stack.sent.clear()
        world.watching()
        found = {(each["limit"], each["who"]): each for each in self.ask("limits")}
        self.assertEqual(
            set(found),
            {
                ("contacts_per_user", "alice@home.example"),
                ("pending_per_domain", "lync.example"),
                ("domain", "lync.example"),
            },
        )
        flood = found["domain", "lync.example"]
        self.assertEqual(flood["refused"], 2)
        self.assertIn("unanswered", flood["reason"])


class SocketTests(SynchronousTestCase):
    """The commands over the control socket."""

    def ask(self, node: FakeNode, *request: str) -> list[dict[str, Any]]:
        client = ControlServer(None, "unused", node).buildProtocol(None)
        transport = StringTransport()
        client.makeConnection(transport)
        line = json.dumps({"command": request[0], "arguments": list(request[1:])})
        client.dataReceived(line.encode() + b"\n")
        return [json.loads(each) for each in transport.value().splitlines()]

    def test_answer(self) -> None:
        """Arguments reach the node, its items the client."""
        node = FakeNode()
        *items, end = self.ask(node, "policy", "carol@company.example", "block", "lync.example")
        self.assertEqual(node.asked, ["policy carol@company.example block lync.example"])
        self.assertEqual(items[0]["item"]["decision"], "block")
        self.assertEqual(end, {"end": True})

    def test_refusal_is_no_failure(self) -> None:
        """What is wrong with a request is said in words, without an alarm in the log."""
        node = FakeNode()
        node.refusal = "nobody has that name"
        self.assertEqual(self.ask(node, "user", "remove", "x"), [{"error": "nobody has that name"}])

    def test_every_operation_is_a_command(self) -> None:
        """The client offers them all."""
        self.assertEqual(set(COMMANDS) & OPERATIONS, OPERATIONS)


class NodeClient:
    """Answers like a node would, without a socket."""

    def __init__(self) -> None:
        self.node = FakeNode()

    def ask(self, command: str, *arguments: str) -> list[dict[str, Any]]:
        return self.node.perform(command, arguments).result


class WordsTests(SynchronousTestCase):
    def run_command(self, name: str, *arguments: str, as_json: bool = False) -> tuple[int, str]:
        out = StringIO()
        options = Namespace(arguments=list(arguments), json=as_json)
        code = words.command(name, lambda: 100)(NodeClient(), options, out)
        return code, out.getvalue()

    def test_exit_codes(self) -> None:
        """Explain says by its exit code whether both would go through; the others are done."""
        self.assertEqual(self.run_command("explain", FOREIGN, LOCAL)[0], 1)
        self.assertEqual(self.run_command("policy", LOCAL)[0], 0)
        self.assertEqual(self.run_command("limits"), (0, "nobody is at a limit\n"))

    def test_json(self) -> None:
        """As JSON each step is an object a line."""
        _, text = self.run_command("explain", FOREIGN, LOCAL, as_json=True)
        steps = [json.loads(line) for line in text.splitlines()]
        self.assertEqual([each["passes"] for each in steps], [True, True, False])

    def test_list(self) -> None:
        """A list is a table."""
        _, text = self.run_command("policy", LOCAL)
        self.assertEqual(text.split(), [
            "SUBJECT", "DECISION", "BY", "CHANGED", "AT", "lync.example", "block", "list", "-"
        ])  # fmt: skip

    def test_explanation(self) -> None:
        """What both need comes first, then each with its outcome."""
        text = words.explanation(FakeNode().answers["explain"])
        self.assertEqual(
            text.splitlines(),
            [
                "   node policy  passed: known",
                "",
                "a message",
                "=> outcome      delivered",
                "",
                "a subscription to presence",
                "=> outcome      refused with 403: nobody is asked",
                "",
                "nothing was sent",
            ],
        )

    def test_gone(self) -> None:
        """What became of a user is one sentence with the numbers."""
        (item,) = FakeNode().answers["user"]
        self.assertIn("carol@company.example is removed: 2 subscriptions", words.gone(item))
        renamed = words.gone({**item, "now": "caro@company.example"})
        self.assertIn("is caro@company.example now", renamed)
        self.assertIn("moved", renamed)
