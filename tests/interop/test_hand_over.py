"""What a real Prosody with mod_impfed keeps until a node has it: through cuts, kills and absences."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

from twisted.internet import reactor as _reactor
from twisted.internet.defer import Deferred

from demo.parts import ROOT, wait_until
from demo.story import ROMEO
from impfed.transport.directory import DirectoryQueries
from impfed.transport.home import Existence, LinkLimits
from impfed.xmpp.reader import ReaderLimits
from impfed.xmpp.stanza import OutStanza, Stanza
from tests.interop.node_story import NodeCase
from tests.interop.test_prosody_link import LinkCase, is_down, is_up, stanza

reactor: Any = _reactor
BOB = "bob@lync.example"


def text(body: str) -> Callable[[Any], bool]:
    def wanted(what: Any) -> bool:
        return isinstance(what, Stanza) and what.text("body") == body

    return wanted


class LinkTests(LinkCase):
    """Home links of a node against a real Prosody; the gateway is the test's."""

    async def start_with(self, **options: object) -> None:
        """Start Prosody with options of the module."""
        lines = "".join(f"\t{name} = {value}\n" for name, value in options.items())
        await self.start(components=lines)

    def settle_after(self, seconds: float | None) -> None:
        """Have the node say so long after a stanza has come that it is safe; None for never."""

        def settled(done: Callable[[], None]) -> None:
            done()
            if not self.links.links[0].status()["unacknowledged"]:
                waiting, self.settled = self.settled, []
                for each in waiting:
                    each.callback(None)

        def settle(done: Callable[[], None], foreign: str) -> None:
            if seconds is not None:
                reactor.callLater(seconds, settled, done)

        self.settle = settle

    def make_links(self, **changes: Any) -> Any:
        links, gateway = super().make_links(**changes)
        for link in links.links:
            link._handover._settle = lambda done, foreign: self.settle(done, foreign)
        return links, gateway

    def setUp(self) -> None:
        self.settled: list[Deferred[None]] = []
        self.settle_after(0.0)

    def texts(self, gateway: Any = None) -> list[tuple[str, str]]:
        """The texts that have come, each with the mark of its hand-over."""
        stanzas = (gateway or self.gateway).stanzas
        return [(each.text("body"), each.handed) for each in stanzas if each.kind == "message"]

    async def acknowledged(self, writer: Any) -> None:
        """Write one more text, and wait until the module knows that we have everything."""
        done = self.gateway.wait(text("the last"))
        writer.do("message", to=BOB, body="the last")
        await done
        settled: Deferred[None] = Deferred()
        self.settled.append(settled)
        await settled.addTimeout(20, reactor)
        # Its answer comes after it has read what was written before the question.
        self.assertEqual(await self.existence("alice@home.example"), Existence.EXISTS)

    async def test_cut(self) -> None:
        """A link that breaks again and again loses nothing; what comes twice has the same mark."""
        self.settle_after(0.03)
        await self.start()
        await self.start_links()
        alice = await self.log_in("alice")
        bodies = [f"text {number:03}" for number in range(300)]
        waits = [self.gateway.wait(text(bodies[number]), 60) for number in (50, 120, 200, 299)]
        for body in bodies:
            alice.do("message", to=BOB, body=body)
        for wait in waits[:3]:
            await wait
            down, up = self.gateway.wait(is_down), self.gateway.wait(is_up)
            self.links.links[0]._connection.transport.abortConnection()
            await down
            await up
        await waits[3]
        got = self.texts()
        self.assertEqual({body for body, _ in got}, set(bodies))
        self.assertEqual(len(set(got)), len(bodies), "a text has come with two marks")
        self.assertEqual(list(dict.fromkeys(body for body, _ in got)), bodies)
        await self.acknowledged(alice)
        up = self.gateway.wait(is_up)
        self.links.links[0]._connection.transport.abortConnection()
        await up
        self.gateway.stanzas.clear()
        await self.acknowledged(alice)
        self.assertEqual([body for body, _ in self.texts()], ["the last"])

    async def test_another_node(self) -> None:
        """What one node has not acknowledged another one gets, in order, with the same marks."""
        self.settle_after(None)
        await self.start()
        await self.start_links()
        alice = await self.log_in("alice")
        last = self.gateway.wait(text("4"))
        for number in range(5):
            alice.do("message", to=BOB, body=str(number))
        await last
        other, gateway = self.make_links()
        last = gateway.wait(text("4"))
        await self.links.stopService()
        other.startService()
        await last
        self.assertEqual(self.texts(gateway), self.texts())
        self.assertEqual([body for body, _ in self.texts()], list("01234"))

    async def test_waits_for_a_node(self) -> None:
        """Texts and presence that are sent while no node is there come when one is, in order."""
        await self.start()
        alice = await self.log_in("alice")
        for number in range(3):
            alice.do("message", to=BOB, body=str(number))
        alice.do("subscribe", to=BOB)
        self.links, self.gateway = self.make_links()
        asked = self.gateway.wait(stanza("presence", "subscribe"))
        self.links.startService()
        await asked
        self.assertEqual([body for body, _ in self.texts()], ["0", "1", "2"])
        self.assertEqual(self.links.status()[0]["hand_over"], "acknowledged")

    async def test_nobody_comes(self) -> None:
        """After a time texts come back, later ones at once; a request stays until a node is there."""
        await self.start_with(impfed_patience=2)
        alice = await self.log_in("alice")
        for body in ("first", "second"):
            refused = alice.event(event="message", type="error", body=body)
            alice.do("message", to=BOB, body=body)
            self.assertEqual((await refused)["condition"], "remote-server-timeout")
        alice.do("subscribe", to=BOB)
        alice.do("raw", xml=f"<iq type='get' id='q1' to='{BOB}'><query xmlns='x'/></iq>")
        self.assertEqual(
            (await alice.event(event="iq", id="q1"))["condition"], "remote-server-timeout"
        )
        self.links, self.gateway = self.make_links()
        asked = self.gateway.wait(stanza("presence", "subscribe"))
        self.links.startService()
        await asked
        self.assertEqual(self.texts(), [])
        came = self.gateway.wait(text("third"))
        alice.do("message", to=BOB, body="third")
        await came

    async def test_goes_away(self) -> None:
        """A text that its node has taken to its grave comes back when no other one comes."""
        self.settle_after(None)
        await self.start_with(impfed_patience=2)
        await self.start_links()
        alice = await self.log_in("alice")
        came = self.gateway.wait(text("x"))
        refused = alice.event(event="message", type="error", body="x")
        alice.do("message", to=BOB, body="x")
        await came
        await self.links.stopService()
        self.assertEqual((await refused)["condition"], "remote-server-timeout")

    async def test_silent(self) -> None:
        """A node that is connected and says nothing any more is given up, and its texts come back."""
        self.settle_after(None)
        await self.start_with(impfed_patience=2)
        await self.start_links()
        alice = await self.log_in("alice")
        down = self.gateway.wait(is_down)
        refused = alice.event(event="message", type="error", body="x")
        alice.do("message", to=BOB, body="x")
        self.assertIn("connection-timeout", (await down)[2])
        await self.links.stopService()
        self.assertEqual((await refused)["condition"], "remote-server-timeout")

    async def test_busy(self) -> None:
        """A node that goes on acknowledging is kept, however long there is something on its way."""
        self.settle_after(0.3)
        await self.start_with(impfed_patience=1)
        await self.start_links()
        alice = await self.log_in("alice")
        connection = self.links.links[0]._connection
        end = reactor.seconds() + 4
        while reactor.seconds() < end:
            came = self.gateway.wait(text("one more"))
            alice.do("message", to=BOB, body="one more")
            await came
        self.assertIs(self.links.links[0]._connection, connection)

    async def test_too_much(self) -> None:
        """More than is kept comes back at once; what is kept arrives."""
        await self.start_with(impfed_keep=4)
        alice = await self.log_in("alice")
        refused = [alice.event(event="message", type="error", body=str(each)) for each in (4, 5)]
        for number in range(6):
            alice.do("message", to=BOB, body=str(number))
        for each in refused:
            self.assertEqual((await each)["condition"], "resource-constraint")
        self.links, self.gateway = self.make_links()
        last = self.gateway.wait(text("3"))
        self.links.startService()
        await last
        self.assertEqual([body for body, _ in self.texts()], list("0123"))

    async def test_too_long(self) -> None:
        """A stanza that is longer than the node takes comes back, and breaks nothing."""
        await self.start()
        context = LinkLimits(reader=ReaderLimits(stanza=16 * 1024))
        alice = await self.log_in("alice")
        refused = alice.event(event="message", type="error", body="x" * 30_000)
        alice.do("message", to=BOB, body="x" * 30_000)
        self.links, self.gateway = self.make_links()
        self.patch(DirectoryQueries, "greeting", limited(context.reader.stanza))
        came = self.gateway.wait(text("y"))
        self.links.startService()
        self.assertEqual((await refused)["condition"], "policy-violation")
        refused = alice.event(event="message", type="error", body="z" * 30_000)
        alice.do("message", to=BOB, body="z" * 30_000)
        self.assertEqual((await refused)["condition"], "policy-violation")
        alice.do("message", to=BOB, body="y")
        await came

    async def test_earlier_node(self) -> None:
        """A node that acknowledges nothing gets what waited, and all that follows, without numbers."""
        await self.start()
        alice = await self.log_in("alice")
        alice.do("message", to=BOB, body="1")
        self.patch(DirectoryQueries, "greeting", limited(None))
        self.links, self.gateway = self.make_links()
        second = self.gateway.wait(text("2"))
        up = self.gateway.wait(is_up)
        first = self.gateway.wait(text("1"))
        self.links.startService()
        await up
        await first
        alice.do("raw", xml=f"<message to='{BOB}' n='17'><body>2</body></message>")
        await second
        self.assertEqual(self.texts(), [("1", ""), ("2", "")])
        self.assertEqual(self.links.status()[0]["hand_over"], "not acknowledged")

    async def test_reload(self) -> None:
        """A reload of the module forgets neither what waits nor the connection and its numbers."""
        plugins = f'{ROOT}/etc/prosody", "{Path(__file__).with_name("prosody_modules")}'
        await self.start(
            plugins=plugins, components='Component "reload.home.example" "reload_test"\n'
        )
        alice = await self.log_in("alice")
        alice.do("message", to=BOB, body="1")
        await self.reload(alice)
        self.links, self.gateway = self.make_links()
        first = self.gateway.wait(text("1"))
        self.links.startService()
        await first
        await self.reload(alice)
        second = self.gateway.wait(text("2"))
        alice.do("message", to=BOB, body="2")
        await second
        await self.acknowledged(alice)
        queues = {mark.partition(":")[0] for _, mark in self.texts()}
        self.assertEqual([body for body, _ in self.texts()], ["1", "2", "the last"])
        self.assertEqual(len(queues), 1)
        self.assertNotEqual(queues, {""})

    async def reload(self, writer: Any) -> None:
        """Have the module reloaded."""
        done = self.prosody.line(lambda line: "reloaded: yes" in line)
        writer.do("message", to="reload.home.example", body=self.prosody.address)
        await done

    async def test_server_stops(self) -> None:
        """What waits for a node when Prosody is stopped goes back to its sender first."""
        await self.start()
        alice = await self.log_in("alice")
        alice.do("message", to=BOB, body="1")
        pong = alice.event(event="iq", id="p1")
        alice.do(
            "raw", xml="<iq type='get' id='p1' to='home.example'><ping xmlns='urn:xmpp:ping'/></iq>"
        )
        await pong
        refused = alice.event(event="message", type="error", body="1")
        await self.prosody.stop()
        self.assertEqual((await refused)["condition"], "remote-server-timeout")

    async def test_forged_number(self) -> None:
        """A number that a client has put on his stanza goes no further."""
        await self.start()
        await self.start_links()
        alice = await self.log_in("alice")
        came = self.gateway.wait(text("1"))
        alice.do("raw", xml=f"<message to='{BOB}' n='17'><body>1</body></message>")
        number = (await came).handed.rpartition(":")[2]
        self.assertNotEqual(number, "17")


def limited(limit: int | None) -> Callable[..., OutStanza]:
    """Return a greeting that speaks of another limit, or of no acknowledgements at all."""
    original = DirectoryQueries.greeting

    def greeting(self: DirectoryQueries, id: str, now: float, _: int) -> OutStanza:
        said = original(self, id, now, limit or 0)
        if limit is None:
            said = said._replace(xml=said.xml.replace(" acknowledges='true' limit='0'", ""))
        return said

    return greeting


class NodeTests(NodeCase):
    """A whole node, killed while texts flow."""

    def test_killed_while_texts_flow(self) -> None:
        """However often the node dies no text is lost, and copies exist only of what a kill fell on."""
        user, since = self.someone("friar"), self.far.position
        count, kills = 400, []
        for number in range(count):
            user.send("message", to=ROMEO, body=f"text {number:03}")
        for number in (40, 150, 260):
            self.far.expect(since, 60, event="im", text=f"text {number:03}")
            part = self.stage.node.part
            assert part is not None
            part.kill()
            part.process.wait()
            self.assertTrue(wait_until(self.read_to_the_end))
            kills.append(self.far.position)
            self.stage.node.start()
        self.far.expect(since, 120, event="im", text=f"text {count - 1:03}")
        seen = [event["text"] for event in self.far.seen(since, event="im")]
        texts = [f"text {number:03}" for number in range(count)]
        self.assertEqual(set(texts) - set(seen), set())
        self.assertEqual(list(dict.fromkeys(seen)), texts)
        self.assertEqual(user.seen(event="refused"), [])
        for begin, end in pairwise([since, *kills, self.far.position]):
            told = self.far.events[begin:end]
            copies = Counter(event["text"] for event in told if event["event"] == "im")
            self.assertEqual([body for body, times in copies.items() if times > 1], [])

    def read_to_the_end(self) -> bool:
        """Whether the far side has seen the end of every connection that the node has made."""
        made = self.far.seen(event="connection", ours=False)
        return len(made) == len(self.far.seen(event="disconnected"))
