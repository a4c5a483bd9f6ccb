"""Makes XMPP federation from a node's configuration: the S2S service and the relay behind it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from twisted.internet.defer import Deferred, gatherResults, succeed

from impfed.config.model import Config
from impfed.config.s2s import S2SConfig, S2SDomainConfig
from impfed.core.dns import Lookup
from impfed.core.ids import IdSource
from impfed.core.log import EventLog
from impfed.core.metrics import Metrics
from impfed.core.trace import Tracer
from impfed.interwork.rewrite import XMPP_KINDS, XmppKind
from impfed.policy.federation import DomainException, XmppPolicy
from impfed.relay.crossing import Crossing, elsewhere, vouchers
from impfed.relay.ledger import TextLedger, Writes
from impfed.relay.names import wanted_names
from impfed.relay.opened import OpenRelay
from impfed.relay.pairs import Totals
from impfed.relay.presence import PresenceRewriter
from impfed.relay.probe import XmppProbe
from impfed.relay.relay import Lists, Relay
from impfed.routing.neighbours import Neighbours
from impfed.routing.opened import OpenDomains
from impfed.store.api import Change
from impfed.store.records import LedgerEntry, RelayedTextRecord
from impfed.transport.home import HomeLinks
from impfed.transport.s2s import S2S
from impfed.transport.s2s_api import Fate
from impfed.transport.s2s_settings import (
    ConfiguredSettings,
    ConfiguredTargets,
    limits_of,
    listeners_of,
)
from impfed.transport.s2s_targets import DnsTargets, resolver
from impfed.transport.timers import ReactorTimers
from impfed.transport.tls import TlsStore
from impfed.xmpp.jid import JID
from impfed.xmpp.stanza import OutStanza

log = EventLog("impfed.relay")

#: One step of an explanation: about, step, result, why, passes.
ExplainedStep = tuple[str, str, str, str, bool]


class _Onward:
    """Stands where the relay of a node that speaks with other servers has its streams."""

    def __init__(self, send: Callable[[OutStanza], None]) -> None:
        self.send = send


class XmppFederation:
    """XMPP federation of a node, if its configuration has ``[s2s]``.

    :ivar enabled: whether it has.
    :ivar speaks: whether this node speaks with other servers; else others of its cluster do.
    :ivar probe: finds out for open federation who can be reached.
    """

    def __init__(
        self, reactor: Any, config: Config, ids: IdSource, metrics: Metrics, tracer: Tracer
    ) -> None:
        self.enabled = config.s2s is not None
        self.speaks = config.s2s is not None and config.s2s.speaks(config.node.name)
        self.probe = XmppProbe(ids)
        self._reactor = reactor
        self._config = config
        self._ids = ids
        self._metrics = metrics
        self._tracer = tracer
        self._section = config.s2s or S2SConfig()
        self._policy = XmppPolicy(
            self._section.policy == "allow",
            [DomainException(one.domain, one.direction) for one in self._section.exceptions],
            config.own_domains,
            [domain.name for domain in config.domains],
        )
        self._settings = ConfiguredSettings(
            self._section,
            reactor.seconds,
            lambda local, remote, incoming: self._policy.refusal(remote, incoming),
            vouchers(config),
        )
        self._crossing: Crossing | None = None
        self._timers = ReactorTimers(reactor)
        self._relay: Relay
        self._s2s: S2S
        self._home_writes: Callable[[str], bool]

    def build(
        self,
        home: HomeLinks,
        lists: Lists,
        store: Writes,
        tls: TlsStore,
        lookup: Lookup,
        opened: OpenDomains | None = None,
        through: Any = None,
        neighbours: Neighbours | None = None,
    ) -> None:
        """Put it together; nothing without ``[s2s]``.

        :param lookup: asks the DNS.
        :param opened: what is known of domains that nobody configured, if open federation is on.
        :param through: what brings stanzas to the home servers in a cluster, where another node may
            hold their links.
        :param neighbours: know who is at home in other clusters.
        """
        through = through or home
        if not self.enabled:
            return
        own = _domains(self._config.local_domains)
        self._home_writes = through.can_write_rosters
        relay = self._relay = self._make_relay(home, through, lists, store, own)
        s2s = self._s2s = relay.streams = self._make_streams(tls, lookup, own)
        s2s.user, s2s.fate, s2s.settle = relay, relay.fate, relay.settle
        home.relay = relay
        if opened is not None and opened.enabled:
            relay.by_sip = lambda domain: opened.protocol(domain) == "sip"
            relay.ledger.diverts = True
            home.relay = s2s.user = OpenRelay(
                relay,
                opened,
                lambda stanza: home.user.stanza_arrived(stanza, None),
                through.send,
                s2s.send,
                self._metrics,
            )
        if elsewhere(self._config):
            self._crossing = s2s.user = Crossing(
                self._reactor,
                self._config,
                tls,
                self._ids,
                self._metrics,
                self._tracer,
                s2s.user,
                s2s,
                relay.settle,
                neighbours or Neighbours(self._config.neighbours),
            )
            s2s.settle = self._crossing.settle
        if own:
            self.probe.bind(min(own), s2s.send, self._policy.refusal)

    def _make_relay(
        self, home: HomeLinks, through: Any, lists: Lists, store: Writes, own: frozenset[str]
    ) -> Relay:
        config = self._config
        others = _domains(domain.name for domain in config.domains) | home.own_domains
        others |= _domains(config.own_domains) - own
        name, seconds = config.node.name, self._reactor.seconds
        return Relay(
            through,
            self._policy,
            own,
            others,
            lists,
            config.presence,
            self._rewriter(),
            self.probe,
            self._metrics,
            self._timers,
            config.im,
            TextLedger(store, name, self._ids, seconds, self._metrics),
            self._ids,
        )

    def _make_streams(self, tls: TlsStore, lookup: Lookup, own: frozenset[str]) -> S2S:
        dns = DnsTargets(lookup, self._ids)
        s2s = S2S(
            self._reactor,
            listeners_of(self._section),
            sorted(own | elsewhere(self._config).keys()),
            tls,
            self._section.secret or self._ids.token(32),
            ConfiguredTargets(self._settings, dns, resolver(self._reactor)),
            self._ids,
            self._metrics,
            self._tracer,
            self._settings,
            limits_of(self._section),
        )
        s2s.names = wanted_names(self._config)
        return s2s

    def _rewriter(self) -> PresenceRewriter:
        rows = {each.kind: each.rows for each in self._config.mappings if each.kind in XMPP_KINDS}
        kinds = {name: XmppKind.load(name, rows.get(name)) for name in XMPP_KINDS}
        used = {"xmpp", *(one.kind for one in self._section.domains)}

        def kind_of(domain: str) -> XmppKind:
            entry = self._settings.entry(domain)
            return kinds[entry.kind if entry is not None else "xmpp"]

        return PresenceRewriter([kinds[name] for name in sorted(used)], kind_of)

    def hand_on(self, send: Callable[[OutStanza], None]) -> None:
        """Have what this node has for foreign servers sent by others, if it speaks with none itself.

        :param send: brings a stanza to the node of its pair.
        """
        if self.enabled and not self.speaks:
            self._relay.streams = _Onward(send)

    # -- life --------------------------------------------------------------------------------------

    def start(self) -> None:
        """Listen for other servers.

        :raises twisted.internet.error.CannotListenError: an address is not to be had.
        """
        if self.speaks:
            self._s2s.startService()
            if self._crossing is not None:
                self._crossing.start()

    def restore(self, records: list[RelayedTextRecord]) -> None:
        """Go on with texts that the last process, or another node, has left behind."""
        if self.enabled:
            known = self._relay.ledger.waiting
            new = [record for record in records if record.id not in known]
            self._relay.restore(new, self._reactor.seconds())

    def surrender(self, leaves: Callable[[tuple[str, str]], str]) -> dict[str, list[str]]:
        """Give up the texts that wait for pairs of other nodes; returns their keys by node.

        :param leaves: says which node a pair of bare addresses goes to, "" for none.
        """
        given: dict[str, list[str]] = {}
        waiting = list(self._relay.ledger.waiting.items()) if self.enabled else []
        for key, stanza in waiting:
            owner = leaves((stanza.from_.bare.text, stanza.to.bare.text))
            if owner and self._withdraw(stanza):
                given.setdefault(owner, []).append(key)
        return given

    def kept(self) -> Iterator[Change]:
        """Yield the texts that wait, as they have to be in the store."""
        return self._relay.ledger.kept_texts() if self.enabled else iter(())

    def abandon(self) -> None:
        """Forget every text that waits, telling nobody: others have taken over."""
        for stanza in list(self._relay.ledger.waiting.values()) if self.enabled else ():
            self._withdraw(stanza)

    def _withdraw(self, stanza: OutStanza) -> bool:
        """Take a text out of its queue; False when it is on a stream."""
        found: list[OutStanza] = []

        def unwanted(other: OutStanza) -> bool:
            if other is stanza:
                found.append(other)
            return other is stanza

        self._s2s.withdraw(stanza.from_.domain, stanza.to.domain, unwanted)
        if found:
            self._relay.ledger.forget(stanza)
            self._relay.departures.fate(stanza, Fate.RETURNED)
        return bool(found)

    def stop(self) -> Deferred[Any]:
        """Close all streams in good order; what waits is returned to its senders."""
        self._timers.stop()
        if not self.speaks:
            return succeed(None)
        ends = [self._s2s.stopService()]
        if self._crossing is not None:
            ends.append(self._crossing.stop())
        return gatherResults(ends)

    # -- for operators -----------------------------------------------------------------------------

    def status(self) -> dict[str, Any]:
        """Return what ``impfedctl status`` shows: the policy, and every way out and stream in."""
        if not self.enabled:
            return {"xmpp_federation": "off: there is no [s2s]"}
        exceptions = [f"{one.name} ({one.direction})" for one in self._policy.exceptions]
        words = "allowed" if self._policy.allow else "denied"
        words += f", except {', '.join(exceptions)}" if exceptions else ", without exception"
        crossing = self._crossing
        if not self.speaks:
            words += f"; by {', '.join(self._section.nodes)}"
        return {
            "xmpp_federation": f"every domain is {words}",
            "missing_names": list(self._s2s.missing_names().values()),
            "xmpp_peers": [self._peer(one) for one in self._section.domains],
            "xmpp_streams": self._s2s.status() + (crossing.status() if crossing else []),
        }

    def _peer(self, entry: S2SDomainConfig) -> dict[str, Any]:
        """Return what is required of a peer that has an entry, and what cannot be done with it."""
        security = self._settings.security("", entry.name.removeprefix("*."))
        return {
            "peer": entry.name,
            "kind": entry.kind,
            "tls": security.tls.value,
            "certificates": "required" if security.certificates else "not required",
            "sasl": _directions(security.sasl_in, security.sasl_out),
            "dialback": security.dialback,
            "cannot": "; ".join(XmppKind.load(entry.kind).cannot),
        }

    def watchers(self, local: JID) -> int:
        """Return how many people in foreign XMPP domains see a local user."""
        return self._relay.pairs.watchers(local) if self.enabled else 0

    def contacts(self, local: JID) -> int:
        """Return how many people in foreign XMPP domains a local user watches."""
        return self._relay.pairs.contacts(local) if self.enabled else 0

    def count_with(self, totals: Totals) -> None:
        """Say who counts all pairs of a local user, SIP's among them."""
        if self.enabled:
            self._relay.pairs.count_with(totals)

    def subscriptions(self) -> list[dict[str, object]]:
        """Return the pairs for ``impfedctl subscriptions``."""
        return self._relay.pairs.view(self._relay.people.blocks) if self.enabled else []

    def on_their_way(self, text: str) -> list[LedgerEntry]:
        """Return texts whose end is open, by an id or an address."""
        return self._relay.ledger.find(text) if self.enabled else []

    def departed(self, domain: str, call: Callable[[], None]) -> None:
        """Call when local users' messages to a foreign domain so far are not ours any more."""
        if self.enabled:
            self._relay.departures.settle(domain, call)
        else:
            call()

    def takes(self, domain: str) -> bool:
        """Say whether a foreign domain is reached over XMPP, if policy lets it."""
        return self.enabled and self._relay.takes(domain)

    def explain(self, local: JID, foreign: JID, incoming: bool) -> list[ExplainedStep]:
        """Say what becomes of stanzas between two people in one direction."""
        why = self._policy.refusal(foreign.domain, incoming)
        if why:
            result = "refused with policy-violation" if incoming else "returned with not-allowed"
            told = "the local user hears nothing" if incoming else "the local user gets an error"
            return [
                ("both", "node policy", "refused", why, False),
                ("both", "outcome", result, told, False),
            ]
        entry = self._settings.entry(foreign.domain)
        kind = entry.kind if entry is not None else "xmpp"
        steps: list[ExplainedStep] = [
            (
                "both",
                "node policy",
                "passed",
                f"{foreign.domain} is reached over XMPP, kind {kind}",
                True,
            )
        ]
        cannot = "; ".join(XmppKind.load(kind).cannot)
        if cannot:
            steps.append(("both", "peer", "cannot", cannot, True))
        if incoming:
            steps += self._explain_in(local, foreign)
            return steps
        ways = [
            one
            for one in self._s2s.status()
            if one.get("direction") != "in"
            and (one["local"], one["remote"]) == (local.domain, foreign.domain)
        ]
        for way in ways:
            steps.append(("both", "stream", str(way["state"]), str(way.get("reason") or ""), True))
        if not ways:
            steps.append(("both", "stream", "none yet", "one is made when something is sent", True))
        problem = self._relay.pairs.outbound_problem((local, foreign))
        limits = "refused" if problem else "passed"
        steps.append(("subscription", "limits", limits, problem, not problem))
        words = "the far side decides; what cannot be delivered comes back with the reason"
        steps.append(("both", "outcome", "sent over S2S", words, True))
        return steps

    def _explain_in(self, local: JID, foreign: JID) -> list[ExplainedStep]:
        security = self._settings.security(local.domain, foreign.domain)
        words = f"TLS {security.tls.value}, certificates {'' if security.certificates else 'not '}required"
        relay, pair = self._relay, (local, foreign)
        judgement = relay.people.judge(pair)
        steps: list[ExplainedStep] = [("both", "stream", "checked on the stream", words, True)]
        problem = relay.pairs.inbound_problem(pair)
        limits = ("subscription", "limits", "refused" if problem else "passed", problem)
        steps.append((*limits, not problem))
        if judgement.stops_texts:
            return [
                *steps,
                ("both", "user policy", "blocked", judgement.words, False),
                ("message", "outcome", "service-unavailable", "its sender is not told why", False),
                ("subscription", "outcome", "accepted politely", "shown offline", False),
            ]
        steps.append(("both", "user policy", "passed", judgement.words, True))
        outcome, why = "delivered", "once the home server has confirmed it"
        steps.append(("message", "outcome", outcome, why, True))
        steps.append(self._explain_request(pair, problem))
        return steps

    def _explain_request(self, pair: tuple[JID, JID], problem: str) -> ExplainedStep:
        people = self._relay.people
        if problem:
            outcome, why = "resource-constraint", "the local user hears nothing"
        elif people.declined(pair):
            outcome, why = "unsubscribed", "as before; the local user is not asked again"
        elif people.approves(pair) and self._home_writes(pair[0].domain):
            outcome, why = "approved", "without a question, as the list allows"
        elif people.undecided(pair):
            outcome, why = "passed on", "the local user has been asked, and has not answered"
        else:
            outcome, why = "passed on", "the local user decides in his client, or has decided"
        passes = outcome in ("approved", "passed on")
        return ("subscription", "outcome", outcome, why, passes)


def _directions(inward: bool, outward: bool) -> str:
    return {(True, True): "both ways", (True, False): "in", (False, True): "out"}.get(
        (inward, outward), "no"
    )


def _domains(names: Any) -> frozenset[str]:
    return frozenset(JID.parse(name).domain for name in names)
