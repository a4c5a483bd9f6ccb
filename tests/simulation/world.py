"""One run: an installation, its traffic, its faults, and what must be true afterwards."""

from __future__ import annotations

import gc
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from random import Random

from impfed.store.api import StoreFault
from tests.simulation.accounts import domain_of
from tests.simulation.bounds import excess
from tests.simulation.cast import NAMES, PARTNER, PARTNER_DOMAIN, XMPP_DOMAIN, XMPP_PARTNER, Cast
from tests.simulation.connection import HIGH_WATER
from tests.simulation.foreign import ForeignServer
from tests.simulation.history import History, Said
from tests.simulation.home import HomeServer
from tests.simulation.loop import START, Loop, SimReactor
from tests.simulation.names import NameServer
from tests.simulation.network import Network, Weather
from tests.simulation.partner import STATES, Partner
from tests.simulation.process import NodeProcess
from tests.simulation.referee import Referee

NODE = "10.2.0.1"
#: Seconds of traffic and faults, then seconds without faults in which all must be right again.
TROUBLED, QUIET = 300.0, 240.0
#: Seconds from one look at what the nodes have under way to the next.
_LOOK = 5.0
#: Looks at the end, of which one has to find nothing under way.
_LOOKS = 4

#: Seconds for which a server is away when it is started again.
_AWAY = (0.5, 5.0, 40.0)
#: Seconds by which a clock jumps at most.
_JUMP = 5.0

_PRESENCES = (("", ""), ("away", ""), ("dnd", ""), None)


@dataclass(frozen=True)
class Faults:
    """Which kinds of fault a run has; each as a mean number of seconds between two, 0 for never."""

    kill: float = 0.0
    lose: float = 0.0
    pause: float = 0.0
    cut: float = 0.0
    part: float = 0.0
    store: float = 0.0
    jump: float = 0.0
    sliced: float = 0.0
    reset: float = 0.0
    restart: float = 0.0
    home: float = 0.0
    partner: float = 0.0

    @classmethod
    def draw(cls, loop: Loop) -> Faults:
        """Draw which kinds are on, and how often each comes (a swarm of different runs)."""
        random = loop.random

        def often(low: float, high: float) -> float:
            return random.uniform(low, high) if random.random() < 0.5 else 0.0

        return cls(
            kill=often(20, 150),
            lose=often(60, 300),
            pause=often(20, 150),
            cut=often(10, 100),
            part=often(30, 200),
            store=often(30, 200),
            jump=often(50, 200),
            sliced=often(0.05, 0.5),
            reset=often(0.0005, 0.01),
            restart=often(30, 200),
        )

    @classmethod
    def restarts(cls, seed: int) -> Faults:
        """Draw how often servers are started again, and connections break besides."""
        random = Random(seed)
        home, partner, restart = (random.uniform(40, 200) for _ in range(3))
        cut = random.choice((0.0, random.uniform(20, 100)))
        sliced = random.choice((0.0, random.uniform(0.05, 0.5)))
        return cls(home=home, partner=partner, restart=restart, cut=cut, sliced=sliced)


class World:
    """An installation of one node.

    :param faults: what befalls it; drawn from the seed if None.
    :param troubled: seconds of traffic and faults.
    :param cast: who takes part; drawn from the seed if None.
    :param quiet: seconds without faults and traffic, at the end of which all must be right again.
    :ivar homes: the home servers, by their domains.
    :ivar partner: the partner that speaks SIP; None without one.
    :ivar foreign: the one that speaks XMPP; None without one.
    """

    def __init__(
        self,
        seed: int,
        faults: Faults | None = None,
        troubled: float = TROUBLED,
        cast: Cast | None = None,
        quiet: float = QUIET,
    ) -> None:
        self.seed = seed
        self.troubled = troubled
        self.quiet = quiet
        self.loop = loop = Loop(seed)
        self.network = network = Network(loop)
        self.history = history = History()
        self.cast = cast = Cast.draw(loop.random) if cast is None else cast
        self.faults = Faults.draw(loop) if faults is None else faults
        self.homes = {
            home.domain: HomeServer(SimReactor(loop, network, home.host), history, home)
            for home in cast.homes
        }
        self.nodes = self.make_nodes()
        hosts = [node.host for node in self.nodes]
        self.partner: Partner | None = None
        if cast.sip:
            referee = Referee(
                history, tuple(self.homes), self.owner, lambda: loop.now, self.remembers
            )
            self.partner = Partner(SimReactor(loop, network, PARTNER), history, hosts, referee)
        self.foreign: ForeignServer | None = None
        if cast.xmpp:
            jumps = _JUMP if self.faults.jump else 0.0
            self.foreign = ForeignServer(loop, network, history, hosts, cast.acks, jumps)
        self.names = NameServer(SimReactor(loop, network, NAMES))
        self._numbers = itertools.count(1)
        self._last: list[str] = []
        self._too_much: dict[str, None] = {}
        self._troubled = True
        self._settle_texts()

    def make_nodes(self) -> list[NodeProcess]:
        """Return the nodes, not yet started."""
        return [NodeProcess(self.loop, self.network, self.cast, "node1", NODE)]

    def owner(self, call_id: str) -> str:
        """Return the address of the node that a dialog belongs to, "" where nobody knows."""
        return self.nodes[0].host

    def remembers(self) -> bool:
        """Whether the store still has all that it has ever confirmed."""
        return True

    @property
    def node(self) -> NodeProcess:
        """One of the nodes, drawn anew each time; the only one where there is one."""
        return self.loop.random.choice(self.nodes) if len(self.nodes) > 1 else self.nodes[0]

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """Who watches whom, both ways: everybody takes part, and nobody has more than he must."""
        locals, foreign = self.cast.locals, self.cast.foreign
        return [
            (locals[number % len(locals)], foreign[number % len(foreign)])
            for number in range(max(len(locals), len(foreign)))
        ]

    def server(self, address: str) -> HomeServer | Partner | ForeignServer:
        """Return the server where somebody is at home."""
        domain = domain_of(address)
        known = {**self.homes, PARTNER_DOMAIN: self.partner, XMPP_DOMAIN: self.foreign}
        server = known[domain]
        assert server is not None
        return server

    def _settle_texts(self) -> None:
        """What has arrived at its recipient is under way at the home server no longer."""
        shown = self.history.shown

        def also(text: str, recipient: str, at: float) -> None:
            shown(text, recipient, at)
            for home in self.homes.values():
                home.settled(text)

        self.history.shown = also  # type: ignore[method-assign]

    # -- the run -----------------------------------------------------------------------------------

    def run(self) -> list[str]:
        """Run it; returns what is wrong afterwards, in words."""
        self.names.start()
        for home in self.homes.values():
            home.start()
        for far in (self.partner, self.foreign):
            if far is not None:
                far.start()
        for node in self.nodes:
            node.start()
        self.loop.after(2.0, self._subscribe)
        self._look()
        self._every(1.5, self._talk)
        self._every(7.0, self._change)
        self._bring_faults()
        self.loop.run(START + self.troubled)
        self._end_faults()
        self.loop.run(START + self.troubled + self.quiet / 2)
        self._change_all()
        self._last_words()
        self.loop.run(START + self.troubled + self.quiet)
        gc.unfreeze()  # what the nodes loaded, which in a process of their own stays for good
        return [
            *self.history.problems,
            *self._too_much,
            *self._accounting(),
            *self._liveness(),
            *self._order(),
            *self._presence(),
            *self._leaks(),
        ]

    def _look(self) -> None:
        """See, again and again, whether anything grows without bound."""
        self.loop.after(_LOOK, self._look)
        for process in self.nodes:
            if process.node is None:
                continue
            for words in excess(process.node, False):
                self._too_much[f"{process.name} {words}"] = None
            if self.network.under_way(process.host) > HIGH_WATER:
                self._too_much[f"{process.name} writes what nobody reads"] = None

    def _every(self, mean: float, call: Callable[[], None]) -> None:
        def again() -> None:
            if not self._troubled:
                return
            call()
            self._every(mean, call)

        self.loop.after(self.loop.random.expovariate(1.0 / mean), again)

    def _subscribe(self) -> None:
        for local, foreign in self.pairs:
            self.server(local).watch(local, foreign)
            self.server(foreign).watch(foreign, local)

    def _talk(self) -> None:
        random = self.loop.random
        local, foreign = random.choice(self.cast.locals), random.choice(self.cast.foreign)
        for _ in range(random.choice((1, 1, 1, 4))):
            number = next(self._numbers)
            if random.random() < 0.5:
                self.server(local).write(local, foreign, f"out {number}")
            else:
                self.server(foreign).write(foreign, local, f"in {number}")

    def _change(self) -> None:
        random = self.loop.random
        people = self.cast.foreign if random.random() < 0.5 else self.cast.locals
        user = random.choice(people)
        server = self.server(user)
        if isinstance(server, Partner):
            server.show(user, random.choice(STATES))
        else:
            server.show(user, random.choice(_PRESENCES))

    def _change_all(self) -> None:
        """Everybody is there again, so that everybody's presence can be asked for."""
        for local in self.cast.locals:
            self.homes[domain_of(local)].show(local, ("", ""))
        for local, foreign in self.pairs:
            self.server(local).watch(local, foreign)
            far = self.server(foreign)
            if isinstance(far, ForeignServer):
                far.watch(foreign, local)

    def _last_words(self) -> None:
        """Long after the last fault every pair writes once more, both ways; now nothing may fail."""
        if self.partner is not None:
            self.partner.referee.strict = True
        self._last = [f"last {number}" for number in range(2 * len(self.pairs))]
        unsaid = iter(self._last)
        for local, foreign in self.pairs:
            self.server(local).write(local, foreign, next(unsaid))
            self.server(foreign).write(foreign, local, next(unsaid))

    # -- faults ------------------------------------------------------------------------------------

    def _bring_faults(self) -> None:
        faults = self.faults
        self.network.weather = Weather(sliced=faults.sliced, reset=faults.reset)
        for mean, call in (
            (faults.kill, partial(self.kill, False)),
            (faults.lose, partial(self.kill, True)),
            (faults.pause, self._pause),
            (faults.cut, self._cut),
            (faults.part, self._part),
            (faults.store, self._store),
            (faults.jump, self._jump),
            (faults.restart, self._restart_foreign),
            (faults.home, self._restart_home),
            (faults.partner, self._restart_partner),
        ):
            if mean:
                self._every(mean, call)

    def kill(self, silent: bool) -> None:
        """Kill a node, or the machine with it; it is started again before long."""
        self.kill_node(self.node, silent)

    def kill_node(self, node: NodeProcess, silent: bool = False) -> None:
        """Kill this node; see :meth:`kill`."""
        if node.node is not None:
            node.kill(silent)
            self.loop.after(self.loop.random.uniform(0.2, 5.0), lambda: self._restart(node))

    @staticmethod
    def _restart(node: NodeProcess) -> None:
        if node.node is None:
            node.start()

    @property
    def _others(self) -> list[str]:
        """Whom a node has connections to, besides the other nodes."""
        homes = [home.host for home in self.cast.homes]
        return homes + [PARTNER] * self.cast.sip + [XMPP_PARTNER] * self.cast.xmpp

    def _restart_foreign(self) -> None:
        if self.foreign is not None:
            self.foreign.restart(self.loop.random.choice(_AWAY))

    def _restart_partner(self) -> None:
        if self.partner is not None:
            self.partner.restart(self.loop.random.choice(_AWAY))

    def _restart_home(self) -> None:
        home = self.loop.random.choice(list(self.homes.values()))
        home.restart(self.loop.random.choice(_AWAY))

    def _pause(self) -> None:
        self.node.reactor.pause(self.loop.random.choice((0.1, 1.0, 10.0, 45.0)))

    def _cut(self) -> None:
        self.network.cut(self.node.host, self.loop.random.choice(self._others))

    def _part(self) -> None:
        host, other = self.node.host, self.loop.random.choice([*self._others, NAMES])
        self.network.part(host, other)
        delay = self.loop.random.choice((1.0, 10.0, 40.0))
        self.loop.after(delay, lambda: self.network.join(host, other))

    def _store(self) -> None:
        disk = self.node.disk
        if self.loop.random.random() < 0.5:
            disk.slow = self.loop.random.uniform(0.1, 2.0)
        else:
            disk.trouble = self.loop.random.choice(
                (StoreFault.FULL, StoreFault.READ_ONLY, StoreFault.LOCKED)
            )
        self.loop.after(self.loop.random.uniform(1.0, 20.0), self._store_well)

    def _store_well(self) -> None:
        for node in self.nodes:
            node.disk.slow = 0.01
            node.disk.trouble = None

    def _jump(self) -> None:
        self.node.reactor.skew += self.loop.random.uniform(-_JUMP, _JUMP)

    def _end_faults(self) -> None:
        self._troubled = False
        self.network.weather = Weather()
        self.network.join_all()
        self._store_well()
        for node in self.nodes:
            self._restart(node)

    # -- what must be true -------------------------------------------------------------------------

    def _accounting(self) -> list[str]:
        """Every text was shown, or its sender was told; and it was shown once, or its path broke."""
        problems = []
        for text, said in self.history.texts.items():
            if not said.shown and not said.returned and not self._excused(said):
                problems.append(f"lost without a word: {text!r} of {said.sender}, {said}")
            if len(said.shown) > 1 and not self._broken:
                problems.append(f"shown {len(said.shown)} times though nothing broke: {text!r}")
        return problems

    @property
    def _broken(self) -> bool:
        """Whether this run has faults after which a copy may be seen."""
        faults = self.faults
        return bool(
            faults.kill or faults.lose or faults.cut or faults.part or faults.reset or faults.pause
            or faults.store or faults.jump or faults.restart or faults.home or faults.partner
        )  # fmt: skip

    def _excused(self, said: Said) -> bool:
        """Whether it was where a text may get lost: see what the documentation promises of each link."""
        far = {domain_of(said.sender), domain_of(said.recipient)}
        unconfirmed = XMPP_DOMAIN in far and not self.cast.acks
        return said.at_risk is not None or (unconfirmed and self._broken)

    def _order(self) -> list[str]:
        """Texts of one person to another are shown first in the order in which they were written.

        But for one of which its sender was told that it may not have arrived, for nothing waits for it any
        more, and one that was where a text may get lost: what comes by another way does not know of it.
        """
        latest: dict[tuple[str, str], tuple[float, str]] = {}
        problems = []
        for text, said in self.history.texts.items():
            if not said.shown or said.returned or self._excused(said):
                continue
            pair = (said.sender, said.recipient)
            before = latest.get(pair)
            if before is not None and said.shown[0] < before[0]:
                problems.append(f"{text!r} was shown before {before[1]!r}")
            else:
                latest[pair] = (said.shown[0], text)
        return problems

    def _liveness(self) -> list[str]:
        """Long after the last fault texts arrive again."""
        texts = self.history.texts
        return [
            f"not shown, though nothing is wrong any more: {texts[text]}"
            for text in self._last
            if not texts[text].shown or texts[text].returned
        ]

    def _leaks(self) -> list[str]:
        """Long after the last event nothing is under way any more, but what nodes ask each other at times."""
        problems = []
        for process in self.nodes:
            assert process.node is not None
            for _ in range(_LOOKS):
                left = [f"{process.name} still {words}" for words in excess(process.node, True)]
                if not left:
                    break
                self.loop.run(self.loop.now + 1.0)
            problems += left
        return problems

    def _presence(self) -> list[str]:
        """In the end everybody sees everybody as he is."""
        problems = []
        for local, foreign in self.pairs:
            home, far = self.homes[domain_of(local)], self.server(foreign)
            presence = home.users[local]
            theirs = far.presence(foreign) if isinstance(far, Partner) else far.users[foreign]
            ours = far.as_state(presence) if isinstance(far, Partner) else presence
            for user, contact, seen, wanted in (
                (local, foreign, home.seen.get((local, foreign)), theirs),
                (foreign, local, far.seen.get((foreign, local)), ours),
            ):
                if seen != wanted:
                    problems.append(f"{user} sees {contact} as {seen} instead of {wanted}")
        return problems
