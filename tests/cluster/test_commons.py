"""Records that belong to all nodes, through a store that is away, loses some, or all."""

from __future__ import annotations

from collections.abc import Iterable

from twisted.trial.unittest import SynchronousTestCase

from impfed.gateway.commons import Commons
from impfed.store.api import Delete, Put, StoreError, StoreFault
from impfed.store.records import LearnedDomainRecord, Record
from tests.cluster.kit import Cluster, Node

Kind = LearnedDomainRecord


class Memory:
    """What one node knows of all domains."""

    kinds: tuple[type[Record], ...] = (Kind,)

    def __init__(self, node: Node) -> None:
        self.node = node
        self.known: dict[str, Record] = {}
        self.told: list[str] = []
        self.commons = Commons(node.store, (self,))
        user = node.user
        user.changed = self.commons.changed  # type: ignore[method-assign]
        user.reload = self.commons.reload  # type: ignore[method-assign, assignment]
        user.rewrite = self.rewrite  # type: ignore[method-assign, assignment]

    def rewrite(self) -> object:
        repeated = self.node.store.repeat()
        return repeated.addCallback(lambda _: self.commons.fill())

    def records(self, kind: type[Record]) -> Iterable[Record]:
        return self.known.values()

    def changed(self, kind: type[Record], key: str, record: Record | None) -> None:
        self.told.append(key)
        if record is None:
            self.known.pop(key, None)
        else:
            self.known[key] = record

    def learn(self, domain: str, protocol: str = "sip") -> None:
        record = self.known[domain] = Kind(domain, protocol)  # type: ignore[arg-type]
        self.node.store.write([Put(record)])

    def forget(self, domain: str) -> None:
        del self.known[domain]
        self.node.store.write([Delete(Kind, domain)])


class CommonRecordTests(SynchronousTestCase):
    """Three nodes; each has the same in memory, and so has the store."""

    def setUp(self) -> None:
        self.cluster = Cluster("n1", "n2", "n3")
        self.model = self.cluster.model
        self.cluster.run(3.0)
        self.one, self.two, self.three = map(Memory, self.cluster.nodes.values())
        self.one.learn("a.example")
        self.two.learn("b.example")
        self.cluster.run(0.5)

    def links(self, cut: bool) -> None:
        for node in self.cluster.nodes.values():
            (node.link.cut if cut else node.link.heal)()

    def check(self, *domains: str) -> None:
        for memory in (self.one, self.two, self.three):
            self.assertEqual(sorted(memory.known), list(domains), memory.node.name)
        stored = self.successResultOf(self.loaded())
        self.assertEqual([record.domain for record in stored], list(domains))

    def loaded(self) -> object:
        loaded = self.one.node.store.load(Kind)
        self.cluster.run(0.2)
        return loaded

    def test_all_know(self) -> None:
        """What one node learns or forgets all know."""
        self.check("a.example", "b.example")
        self.three.forget("a.example")
        self.cluster.run(0.5)
        self.check("b.example")

    def test_changed_while_the_store_is_away(self) -> None:
        """What the store could not take is made when it is back."""
        self.links(cut=True)
        self.cluster.run(5.0)
        self.one.learn("c.example")
        self.two.forget("b.example")
        self.cluster.run(20.0)
        self.links(cut=False)
        self.cluster.run(5.0)
        self.check("a.example", "c.example")

    def test_refused(self) -> None:
        """What a full store has refused is made when it takes writes again."""
        self.model.failing = StoreError(StoreFault.OUT_OF_MEMORY, "made up")
        self.one.learn("c.example")
        self.cluster.run(1.0)
        self.model.failing = None
        self.one.learn("d.example")  # it notices with the next write
        self.cluster.run(1.0)
        self.check("a.example", "b.example", "c.example", "d.example")

    def test_emptied(self) -> None:
        """A store that comes back empty is filled again, with what was learned long ago, too."""
        self.cluster.run(700.0, step=0.5)
        self.links(cut=True)
        self.cluster.run(5.0)
        self.model.empty()
        self.links(cut=False)
        self.cluster.run(5.0)
        self.check("a.example", "b.example")

    def test_went_back(self) -> None:
        """A store that has lost the last minute is told again what was changed, and what was removed."""
        before = {place: dict(rows) for place, rows in self.model._records.items()}
        self.three.forget("b.example")
        self.one.learn("c.example")
        self.two.learn("a.example", "xmpp")
        self.cluster.run(0.5)
        self.model._records = before
        for name in self.cluster.nodes:
            self.model._nodes[name].number = b"1"
        self.cluster.run(2.0)
        self.check("a.example", "c.example")
        self.assertEqual(self.three.known["a.example"], Kind("a.example", "xmpp"))

    def test_changed_by_another_node_since(self) -> None:
        """What another node has changed after this one is not changed back."""
        self.one.learn("b.example", "xmpp")
        self.cluster.run(0.5)
        self.two.node.store.repeat()
        self.cluster.run(0.5)
        self.assertEqual(self.one.known["b.example"], Kind("b.example", "xmpp"))

    def test_missed(self) -> None:
        """Who has missed changes takes in what is different now, what is gone included."""
        self.model._feed += 5  # some that nobody has heard of
        del self.model._records[Kind.kind][b"a.example"]
        self.one.node.store.superseded(Kind, ["a.example"])
        self.three.learn("c.example")
        self.cluster.run(1.0)
        self.assertEqual(sorted(self.two.known), ["b.example", "c.example"])
        self.assertEqual(sorted(self.two.told), ["a.example", "a.example", "c.example"])

    def test_fetched_later(self) -> None:
        """A change that cannot be fetched when it is heard of is taken in when the store answers again."""
        deaf = self.two.node.link
        deaf.afterwards = lambda operation: operation == "get"  # the answers are lost
        self.one.learn("c.example")
        self.one.forget("a.example")
        self.cluster.run(8.0)
        self.assertEqual(sorted(self.two.known), ["a.example", "b.example"])
        self.one.learn("c.example", "xmpp")
        deaf.afterwards = lambda operation: False
        self.cluster.run(8.0)
        self.check("b.example", "c.example")
        self.assertEqual(self.two.known["c.example"], Kind("c.example", "xmpp"))
