"""XMPP federation of two real clusters with a real server, whichever nodes the DNS names."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from demo.parts import Talker
from impfed.cluster.ownership import Rendezvous
from tests.interop.rooms import Rooms
from tests.topology import stories
from tests.topology.clusters import (
    CLUSTERS,
    NODES,
    PADUA,
    VERONA,
    VERONESE,
    A,
    B,
    Cluster,
    Clusters,
    MovedUser,
    OneEnabled,
)
from tests.topology.stage import NAME


class XmppTestCase(stories.TopologyTestCase):
    """What people here and at the XMPP partner's do; each test leaves both clusters whole."""

    kind = Clusters
    scene: Clusters

    def setUp(self) -> None:
        super().setUp()
        self.there = {who: user.position for who, user in self.scene.veronese.items()}
        self.out = self.scene.counted("relay.out", NODES)
        self.pairs_in = self.scene.counted("s2s.pairs_in", NODES)

    def tearDown(self) -> None:
        self.scene.mend()
        super().tearDown()

    # -- people ------------------------------------------------------------------------------------

    def writes_to_verona(self, cluster: Cluster, text: str) -> None:
        """A local user writes to everybody there, at once, and all read it."""
        user, me = self.users[cluster.domain], cluster.user
        for who in VERONESE:
            user.send("message", to=f"{who}@{VERONA}", body=f"{text}, {who}")
        for who in VERONESE:
            reader = self.scene.veronese[who]
            reader.expect(
                self.there[who], 30, event="message", body=f"{text}, {who}", sender=of(me)
            )

    def verona_writes(self, who: str, cluster: Cluster, text: str) -> None:
        """Somebody there writes to a local user, who reads it."""
        self.scene.veronese[who].send("message", to=cluster.user, body=text)
        user, begun = self.users[cluster.domain], self.begun[cluster.domain]
        user.expect(begun, 30, event="message", body=text, sender=of(f"{who}@{VERONA}"))

    def see_each_other(self, cluster: Cluster, who: str) -> None:
        """A local user and somebody there ask for each other's presence, and see every change."""
        me, them = cluster.user, f"{who}@{VERONA}"
        user, other = self.users[cluster.domain], self.scene.veronese[who]
        for each in (user, other):
            each.send("answer", how="approve")  # whoever is asked: who watches is seen without it
        for asker, there in ((user, them), (other, me)):
            since = asker.position
            asker.send("subscribe", to=there)
            asker.expect(since, 30, event="presence", sender=there, kind="available")
        self.changes(user, me, other)
        self.changes(other, them, user)

    def changes(self, user: Talker, address: str, watcher: Talker) -> None:
        """Somebody is away, and back again, and a watcher sees it."""
        for show in ("away", ""):
            since = watcher.position
            user.send("presence", show=show)
            watcher.expect(since, 30, event="presence", sender=address, show=show, kind="available")

    # -- ways --------------------------------------------------------------------------------------

    def left_by(self) -> dict[str, int]:
        """Return how many stanzas have left at each node since this was asked last."""
        before, self.out = self.out, self.scene.counted("relay.out", self.out)
        return {
            name: self.out[name] - before[name]
            for name in self.out
            if self.out[name] > before[name]
        }

    def entered_at(self) -> set[str]:
        """Return the nodes to which the partner has opened streams since this was asked last."""
        before, self.pairs_in = self.pairs_in, self.scene.counted("s2s.pairs_in", self.pairs_in)
        return {name for name in self.pairs_in if self.pairs_in[name] > before[name]}

    def share(self, cluster: Cluster, without: Iterable[str] = ()) -> dict[str, int]:
        """Return how many of the pairs of a local user with those there each node should have."""
        owners = Rendezvous(set(cluster.nodes) - set(without))
        me = cluster.user
        return Counter(owners.owner((me, f"{who}@{VERONA}")) for who in VERONESE)


def of(address: str):  # type: ignore[no-untyped-def]
    """Return a test for senders: a bare address, whatever the device."""
    return lambda sender: sender.partition("/")[0] == address


class OneNodeTests(XmppTestCase):
    """One node of the first cluster is enabled, and published."""

    kind = OneEnabled

    def test_both_ways(self) -> None:
        """All that comes in and goes out passes that node, for whichever users, and is spread no more."""
        self.writes_to_verona(A, "Good morrow")
        self.assertEqual(self.left_by(), {"a1": len(VERONESE)})
        self.verona_writes("romeo", A, "Is the day so young?")
        self.see_each_other(A, "prince")
        self.assertEqual(self.entered_at() - {*B.nodes}, {"a1"})
        self.left_by()
        self.writes_to_verona(B, "But new struck nine")
        self.assertEqual(self.left_by(), self.share(B))

    def test_node_killed(self) -> None:
        """While that node is dead who writes is told at once, and what he writes later passes again."""
        self.scene.kill("a1")
        self.scene.settle(A, ["a1"])
        user = self.users[A.domain]
        user.send("message", to=f"romeo@{VERONA}", body="Here's much to do")
        begun = self.begun[A.domain]
        told = user.expect(begun, 10, event="refused", condition="remote-server-timeout")
        self.assertEqual(told["body"], "Here's much to do")
        self.scene.mend()
        self.writes_to_verona(A, "With hate")
        self.verona_writes("tybalt", A, "But more with love")


class SeveralNodesTests(XmppTestCase, Rooms):
    """Every node of both clusters is enabled."""

    def test_outbound(self) -> None:
        """What users write leaves evenly, at the nodes of their own cluster, whoever holds the link."""
        for cluster in CLUSTERS:
            self.writes_to_verona(cluster, "Good morrow")
            self.assertEqual(self.left_by(), self.share(cluster))
        self.assertEqual(set(self.share(A).values()), {2})

    def test_inbound(self) -> None:
        """What the partner sends enters at a node of the cluster that the domain belongs to."""
        for cluster in CLUSTERS:
            self.scene.publish(cluster.domain, *cluster.nodes)
            self.verona_writes("romeo", cluster, "But soft")
            entered = self.entered_at()
            self.assertTrue(entered and entered <= set(cluster.nodes), entered)

    def test_presence(self) -> None:
        """Users of both clusters see people there, and are seen."""
        self.see_each_other(A, "prince")
        self.see_each_other(B, "laurence")

    def test_one_record(self) -> None:
        """With one node published all comes in there, and what goes out is spread over all the same."""
        self.scene.publish(A.domain, "a2")
        self.verona_writes("romeo", A, "She speaks")
        self.assertEqual(self.entered_at(), {"a2"})
        self.writes_to_verona(A, "Ay me")
        self.assertEqual(self.left_by(), self.share(A))

    def test_subset(self) -> None:
        """With some nodes published the others get nothing from outside, and send their part."""
        self.scene.publish(A.domain, "a1", "a3")
        self.verona_writes("tybalt", A, "Peace?")
        self.assertLessEqual(self.entered_at(), {"a1", "a3"})
        self.writes_to_verona(A, "I hate the word")
        self.assertEqual(self.left_by(), self.share(A))

    def test_node_killed(self) -> None:
        """A dead node's part leaves at the others at once; back again it has the same part."""
        for victim in ("a2", "b1"):
            cluster = next(each for each in CLUSTERS if victim in each.nodes)
            self.writes_to_verona(cluster, f"With {victim}")
            self.left_by()
            self.scene.kill(victim)
            self.out.pop(victim), self.pairs_in.pop(victim)
            self.writes_to_verona(cluster, f"Without {victim}")
            self.assertEqual(self.left_by(), self.share(cluster, [victim]))
            self.verona_writes("benvolio", cluster, f"Where is {victim}?")
            self.scene.mend()
            self.out |= self.scene.counted("relay.out", [victim])
            self.writes_to_verona(cluster, f"With {victim} again")
            self.assertEqual(self.left_by(), self.share(cluster))

    def test_rooms(self) -> None:
        """A room domain has records of its own; when the node dies by which people come, others lead there."""
        (rooms,) = A.rooms
        room, owner, guest = f"council@{rooms}", self.users[A.domain], self.scene.veronese["paris"]
        self.scene.publish(rooms, *A.nodes)
        self.join(owner, room, "owner")
        self.unlock(owner, room)
        self.join(guest, room, "guest")
        (victim,) = self.entered_at()
        self.scene.kill(victim)
        self.scene.settle(A, [victim])
        for speaker, nick, text in ((guest, "guest", "Any news?"), (owner, "owner", "None")):
            self.say(speaker, room, text)
            for listener in (owner, guest):
                listener.expect(event="message", sender=f"{room}/{nick}", body=text)


class MovedUserTests(XmppTestCase, stories.BothWays):
    """A user has moved to the other cluster's home server, and his domain has stayed."""

    kind = MovedUser

    def test_xmpp(self) -> None:
        """What comes for him enters where his domain is published; what he writes leaves where he is now."""
        before = self.scene.counted("relay.in", NODES)
        self.verona_writes("romeo", A, "Courage, man")
        self.assertLessEqual(self.entered_at() - {*B.nodes}, {*A.nodes})
        after = self.scene.counted("relay.in", NODES)
        self.assertEqual({name for name in NODES if after[name] > before[name]}, {"b1"})
        self.writes_to_verona(A, "No, 'tis not so deep as a well")
        owners = Rendezvous(B.nodes)
        me = A.user
        share = Counter(owners.owner((me, f"{who}@{VERONA}")) for who in VERONESE)
        self.assertEqual(self.left_by(), share)
        self.see_each_other(A, "prince")

    def test_sip(self) -> None:
        """A partner's request for him enters at the routing node, which proxies it to the other cluster."""
        before = self.scene.counted("proxy.forwarded", ["a1"])
        self.far_writes("capulet@lync.example", [A.domain], "What, drawn, and talk of peace")
        self.assertGreater(self.scene.counted("proxy.forwarded", ["a1"])["a1"], before["a1"])


class WrongClusterTests(XmppTestCase):
    """The DNS names nodes of the first cluster for a domain at home in the second one."""

    def setUp(self) -> None:
        super().setUp()
        self.scene.publish(B.domain, "a1", "a2")
        self.addCleanup(self.scene.publish, B.domain, *B.nodes)

    def test_home_moved(self) -> None:
        """What comes to the cluster where the domain was is passed on to where it is; answers go straight."""
        before = self.scene.counted("relay.in", NODES)
        self.verona_writes("romeo", B, "Is thy news good, or bad?")
        self.assertLessEqual(self.entered_at() - {*B.nodes}, {"a1", "a2"})
        after = self.scene.counted("relay.in", NODES)
        self.assertEqual({name for name in NODES if after[name] > before[name]}, {"b1"})
        self.writes_to_verona(B, "Hie you to church")
        self.assertEqual(self.left_by(), self.share(B))
        self.see_each_other(B, "tybalt")

    def test_dialback(self) -> None:
        """A server that knows no authority of ours, nor we its, asks by dialback where it is led to.

        What proves a domain is the answer of the wrong cluster, also for what the right one sends.
        """
        guest, user, begun = self.scene.guest(), self.users[B.domain], self.begun[B.domain]
        me, them = B.user, f"{NAME}@{PADUA}"
        guest.send("message", to=me, body="Here will we sit")
        user.expect(begun, 30, event="message", body="Here will we sit", sender=of(them))
        user.send("message", to=them, body="In such a night")
        guest.expect(0, 30, event="message", body="In such a night", sender=of(me))
        for way, nodes in (("in", ("a1", "a2")), ("out", B.nodes)):
            proven = f"stream {way} between {B.domain} and {PADUA} by dialback"
            self.assertTrue(any(proven in self.scene.nodes[name].log for name in nodes), proven)

    def test_next_node(self) -> None:
        """It is passed on to the next node of that cluster when the first one is dead."""
        self.scene.kill("b1")
        self.scene.settle(B, ["b1"])
        self.verona_writes("paris", B, "Come you to make confession?")

    def test_nobody_there(self) -> None:
        """While all of that cluster are dead who writes is told."""
        for name in B.nodes:
            self.scene.kill(name)
        begun, me = self.there["prince"], B.user
        self.scene.veronese["prince"].send("message", to=me, body="Bring forth the parties")
        told = self.scene.veronese["prince"].expect(begun, 30, event="refused", sender=me)
        self.assertEqual(told["condition"], "remote-server-timeout")
