"""Home links against a real ejabberd, with slixmpp as an independent client."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred, gatherResults

from impfed.transport.home import Existence, Outcome, RosterOutcome
from tests.interop.ejabberd import Ejabberd
from tests.interop.roster_story import ALICE, BOB, RosterStory, ask
from tests.interop.servers import Child
from tests.interop.test_prosody_link import BothModes, LinkCase, is_down, is_up


class EjabberdCase(LinkCase):
    """Starts an ejabberd and a node's home links, and stops both."""

    mode = "component"
    options: dict[str, bool] = {}
    timeout = 120

    async def start(self, **options: Any) -> None:
        self.server = Ejabberd(
            Path(self.mktemp()).absolute(), foreign=self.foreign, **{**self.options, **options}
        )
        self.prosody: Any = self.server  # the name that the shared stories use
        self.addCleanup(self.server.stop)
        await self.server.start()


class EjabberdLinkTests(EjabberdCase):
    """Components on a stock ejabberd."""

    test_conversation = BothModes.test_conversation
    test_barrier = BothModes.test_barrier
    watch = BothModes.watch

    async def test_barrier_holds(self) -> None:
        """Among many messages in flight every unknown user's is refused and no other."""
        self.foreign = ("lync.example", "simple.example")
        await self.start()
        await self.start_links()
        while not all(link.up for link in self.links.links):
            await self.gateway.wait(is_up)
        await self.log_in("alice")
        chance = random.Random(7)
        for turn in range(10):
            users = [chance.choice(["alice", "nobody", "noone"]) for _ in range(200)]
            users[::40] = ["carol"] * 5  # offline; her server keeps a hundred messages
            batch = [self.deliver(user, f"m{turn}-{n}") for n, user in enumerate(users)]
            outcomes = await gatherResults(batch)
            wrong = [
                (user, each)
                for user, each in zip(users, outcomes, strict=True)
                if (each.outcome is Outcome.ACCEPTED) != (user in ("alice", "carol"))
            ]
            self.assertEqual(wrong, [])

    async def test_wrong_secret(self) -> None:
        """A wrong secret is said in words."""
        await self.start()
        links, _ = self.make_links(secret="guess")
        failed = self.watch(links.links[0])
        links.startService()
        await failed
        self.assertIn("the secret is wrong", links.links[0].status()["reason"])

    async def test_unknown_component(self) -> None:
        """ejabberd refuses a component that it does not have like a wrong secret; so do the words."""
        await self.start()
        self.foreign = ("other.example",)
        links, _ = self.make_links()
        failed = self.watch(links.links[0])
        links.startService()
        await failed
        self.assertIn("a component that it does not have", links.links[0].status()["reason"])

    async def test_restart(self) -> None:
        """When ejabberd goes the link says so, and once it is back the link comes up again."""
        await self.start()
        await self.start_links()
        down = self.gateway.wait(is_down)
        await self.server.server.stop()
        await down
        up = self.gateway.wait(is_up, 60.0)
        self.server.server = Child()
        await self.server.boot()
        await up
        self.assertEqual((await self.deliver("carol", "m2")).outcome, Outcome.ACCEPTED)

    async def test_nothing_leaks_while_the_node_is_away(self) -> None:
        """Without a node ejabberd has no route to the domain; the sample keeps S2S closed for it."""
        await self.start()
        alice = await self.log_in("alice")
        refused = alice.event(event="message", type="error")
        alice.do("message", to="bob@lync.example", body="hi")
        answer = await refused
        self.assertIn("policy", answer["xml"])

    async def test_existence_unknown(self) -> None:
        """Without the module nothing is known of who exists, and no roster can be written."""
        await self.start()
        await self.start_links()
        self.assertEqual(await self.existence("alice@home.example"), Existence.UNKNOWN)
        answer = await ask(self.links.approve, ALICE, BOB)
        self.assertEqual(answer.outcome, RosterOutcome.UNAVAILABLE)


class EjabberdPrivilegeTests(EjabberdCase):
    """mod_privilege (XEP-0356) grants everything about rosters, without our module."""

    options = {"privilege": True}

    async def test_approve(self) -> None:
        """ejabberd 23 cannot approve by XEP-0356: the answer says so, and then the status too."""
        await self.start()
        granted: Deferred[None] = Deferred()
        await self.start_links()
        rosters = self.links.links[0]._rosters
        original = rosters.advertised

        def advertised(stanza: Any) -> bool:
            found = original(stanza)
            granted.callback(None)
            return found

        if not self.links.can_write_rosters("home.example"):
            self.patch(rosters, "advertised", advertised)
            await granted
        self.assertEqual(self.links.status()[0]["rosters"], {"home.example": "by XEP-0356"})
        answer = await ask(self.links.approve, ALICE, BOB)
        self.assertEqual(answer.outcome, RosterOutcome.UNAVAILABLE)
        self.assertFalse(self.links.can_write_rosters("home.example"))
        self.assertIn("no: ", self.links.status()[0]["rosters"]["home.example"])


class EjabberdModuleTests(RosterStory, EjabberdCase):
    """With our module for ejabberd."""

    options = {"module": True}

    async def test_existence(self) -> None:
        """The module knows who exists, who does not, and where it cannot tell."""
        await self.begin()
        self.assertEqual(await self.existence("nobody@home.example"), Existence.ABSENT)
        self.assertEqual(await self.existence("alice@other.example"), Existence.UNKNOWN)


class EjabberdBothTests(EjabberdCase):
    """Our module goes before mod_privilege where both are there."""

    options = {"module": True, "privilege": True}
    begin = RosterStory.begin
    test_status = RosterStory.test_status
    test_approve_without_asking = RosterStory.test_approve_without_asking
