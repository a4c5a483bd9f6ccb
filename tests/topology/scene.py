"""An organisation whose nodes have a home server each: two clusters of two, and the ways between them."""

from __future__ import annotations

import functools
import itertools
from dataclasses import replace

from demo.home import xmpp_user
from demo.parts import PartFailed, wait_until
from tests.interop.homes import HomeProsody, together

from .node import ClusterNode, neighbour, partner
from .stage import BORDER, FOREIGN, NAME, PORT, Stage

#: Node -> the domains at home there, the first being that of its cluster's own names.
HOMES = {
    "a1": ("company.example", "second.example"),
    "a2": ("branch.group.example",),
    "b1": ("a.firm.example",),
    "b2": ("works.example",),
}
LOCAL = tuple(itertools.chain(*HOMES.values()))
#: Node -> its neighbours, and the domains that are reached through each.
NEIGHBOURS: dict[str, dict[str, tuple[str, ...]]] = {
    "a1": {"a2": HOMES["a2"], "b1": (*HOMES["b1"], *HOMES["b2"])},
    "a2": {"a1": HOMES["a1"]},
    "b1": {"a1": (*HOMES["a1"], *HOMES["a2"]), "b2": HOMES["b2"]},
    "b2": {"b1": HOMES["b1"]},
}
#: Node -> who passes on to it what comes from outside.
UPSTREAM = {"a2": "a1", "b1": "a1", "b2": "b1"}


class Scene(Stage):
    """The nodes with their home servers, and what stands before them."""

    local = LOCAL
    #: Nodes that get new requests from outside.
    entrances: tuple[str, ...] = ("a1",)
    #: More lines about a node's listener.
    listener = ""

    # -- configuration -----------------------------------------------------------------------------

    def _node(self, name: str) -> ClusterNode:
        first, *others = HOMES[name]
        netns = self.machine(name).netns
        home = HomeProsody(
            self.directory / name / "prosody", first, {NAME: "same here"}, others=tuple(others),
            module=f"federation.{first}", c2s_port=5222, component_port=5347, netns=netns,
        )  # fmt: skip
        names = [f"{name}.company.example", *HOMES[name], *self.common_names]
        if name in self.entrances:  # a partner checks it for whomever answers
            names += ["sip.company.example", *(d for d in LOCAL if d not in names)]
        return ClusterNode(
            self.directory / name, home, self.authority.issue(*names), PORT, ("", 0),
            upstreams=self.upstreams(name), netns=netns, bind=self.inner(name),
            told=self.told(name), domains=HOMES[name], federation=self.federation(name),
            listener=self.listener, home_extra=self.home_extra(name),
        )  # fmt: skip

    def upstreams(self, node: str) -> tuple[str, ...]:
        """Return the certificate names of who stands before a node."""
        return (f"{UPSTREAM[node]}.company.example",) if node in UPSTREAM else ()

    def neighbours(self, node: str) -> dict[str, tuple[str, ...]]:
        """Return a node's neighbours, and the domains that are reached through each."""
        return NEIGHBOURS[node]

    def listeners(self, node: str) -> str:
        """Return further listeners of a node."""
        return ""

    def home_extra(self, node: str) -> str:
        """Return more lines about a node's home server."""
        return ""

    def federation(self, node: str) -> str:
        """Return what a node's configuration says of others."""
        neighbours = [
            neighbour(name, domains, self.inner(name), self.told(name))
            for name, domains in self.neighbours(node).items()
        ]
        listeners = self.listeners(node)
        return "".join([listeners, *neighbours, *(partner(d, BORDER, self.hop()) for d in FOREIGN)])

    def hop(self) -> str:
        """Return the next hop of the partner's domains; "" to have the DNS asked."""
        return ""

    # -- start -------------------------------------------------------------------------------------

    def build(self) -> None:
        """Make and start all parts."""
        self.nodes |= {name: self._node(name) for name in HOMES}
        self.name_servers()
        homes = [self.begin(node.home.start, node.home.stop) for node in self.nodes.values()]
        together([self.partner, self.before, *homes])
        together(self.begin(node.start, node.stop) for node in self.nodes.values())
        together(functools.partial(self._log_in, domain) for domain in LOCAL)
        for node in self.nodes.values():
            if not wait_until(node.finds_its_neighbours, 60):
                raise PartFailed(f"no neighbours: {node.operator('status')}")
        self.after()

    def _log_in(self, domain: str) -> None:
        node = next(node for node in self.nodes.values() if domain in node.domains)
        assert isinstance(node.home, HomeProsody)
        home = replace(node.home, domain=domain)
        user = xmpp_user(self.directory / "users" / domain, home, NAME, netns=node.netns)
        self.stack.callback(user.stop)
        self.users[domain] = user

    def before(self) -> None:
        """Start what stands before the nodes."""

    def after(self) -> None:
        """Wait for what stands before the nodes to find them."""
