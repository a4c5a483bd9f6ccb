"""The relay: stanzas of local users to foreign XMPP domains, and back.

A stanza passes as it came.  What is changed or answered here: presence by the kind of peer
(:mod:`impfed.relay.presence`), people whom a user's list blocks (:mod:`impfed.relay.people`), domains
that policy refuses, and what cannot be delivered.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, NamedTuple, Protocol

from zope.interface import implementer

from impfed.config.model import ImConfig, PresenceConfig
from impfed.core.ids import IdSource
from impfed.core.log import EventLog
from impfed.core.metrics import Metrics
from impfed.policy.federation import XmppPolicy
from impfed.policy.limits import NewSubscriptions
from impfed.policy.users import UserPolicies
from impfed.relay.delivery import Deliveries, Leaving
from impfed.relay.departures import Departures
from impfed.relay.ledger import TextLedger
from impfed.relay.pairs import Answers, Pair, XmppPairs
from impfed.relay.people import PeoplePolicy
from impfed.relay.presence import PresenceRewriter
from impfed.relay.probe import XmppProbe
from impfed.store.records import LedgerEntry, RelayedTextRecord
from impfed.transport.handover import HandedOver
from impfed.transport.home import HomeLinks
from impfed.transport.link_api import IForeignRelay
from impfed.transport.rosters import RosterAnswer
from impfed.transport.s2s_api import Fate, IS2SUser
from impfed.transport.s2s_bounce import bounced
from impfed.xmpp.stanza import OutStanza, Stanza, answerable, error_reply

log = EventLog("impfed.relay")

#: Presences that wait for a home server to come back, altogether.
MISSED_LIMIT = 10_000
#: Seconds after which a text that an earlier process has left behind is old news.
STALE = 300.0
#: Domains of which is remembered whose they are.
_DOMAINS = 10_000


class Streams(Protocol):
    """The part of S2S that is used here."""

    def send(self, stanza: OutStanza) -> None:
        """Send a stanza to a foreign domain; what cannot be delivered comes back as an error."""
        ...


class Lists(NamedTuple):
    """What is known of people.

    :ivar policies: the users' lists.
    :ivar answers: what they have answered in their clients.
    :ivar pace: of new subscriptions by foreign domain.
    """

    policies: UserPolicies
    answers: Answers
    pace: NewSubscriptions


@implementer(IS2SUser, IForeignRelay)
class Relay:
    """User of the S2S service, and of the home links for foreign XMPP domains.

    :param own: local domains, exact names as in JIDs.
    :param others: domains that are neither local nor the relay's: SIP domains, own addresses.
    :param timers: tells the time and calls later.
    :param im: how long a conversation lasts, and whether what a blocked user writes is thrown away.
    :ivar streams: the S2S service; to be set before the start.
    :ivar by_sip: says whether open federation has found a domain to be reached over SIP.
    :ivar ledger: notes what became of texts.
    :ivar deliveries: hands messages to home servers.
    :ivar departures: messages that foreign servers do not have yet.
    :ivar people: applies the local users' lists.
    :ivar pairs: counts who watches whom.
    """

    streams: Streams
    by_sip: Callable[[str], bool] = staticmethod(lambda domain: False)

    def __init__(
        self,
        home: HomeLinks,
        policy: XmppPolicy,
        own: frozenset[str],
        others: frozenset[str],
        lists: Lists,
        presence: PresenceConfig,
        rewriter: PresenceRewriter,
        probe: XmppProbe,
        metrics: Metrics,
        timers: Any,
        im: ImConfig,
        ledger: TextLedger,
        ids: IdSource,
    ) -> None:
        self._home = home
        self._policy = policy
        self._own = own
        self._others = others
        self._rewriter = rewriter
        self._probe = probe
        self._metrics = metrics
        self._discards = im.blocked_texts == "discard"
        self._taken: dict[str, bool] = {}
        self._handed = HandedOver()
        self._missed: dict[tuple[str, str, bool], OutStanza] = {}
        self.ledger = ledger
        self.deliveries = Deliveries(home, ledger, self._return, ids, metrics, timers)
        self.departures = Departures(timers)
        ledger.kept = partial(self.departures.fate, fate=Fate.WAITING)
        policies, answers, pace = lists
        self.pairs = XmppPairs(answers, self.takes, presence, pace, timers.seconds, metrics)
        self.people = PeoplePolicy(
            policies,
            answers,
            self.takes,
            self._send_out,
            home.send,
            timers.seconds,
            im.idle_timeout,
        )

    # -- from home servers -------------------------------------------------------------------------

    def takes(self, domain: str) -> bool:
        """Say whether a domain is a foreign one that is reached over XMPP, if policy lets it."""
        taken = self._taken.get(domain)
        if taken is None:
            if len(self._taken) >= _DOMAINS:
                self._taken.clear()
            ours = domain in self._own or domain in self._others
            taken = self._taken[domain] = bool(domain) and not ours
        return taken and not self.by_sip(domain)

    def reaches(self, domain: str) -> bool:
        """Say whether policy lets stanzas out to such a domain, too."""
        return self.takes(domain) and not self._policy.refusal(domain, False)

    def from_home(self, stanza: Stanza) -> None:
        """Take a stanza of a local user, or of a local service, for a foreign domain."""
        if stanza.handed in self._handed:
            self._metrics.count("relay.came_again")
            return
        why = self._policy.refusal(stanza.to.domain, False)
        if why:
            self._metrics.count("relay.refused_out")
            if stanza.kind == "message":
                self.ledger.refused(stanza, "not-allowed", why)
            self._answer_home(stanza, "not-allowed", why)
            return
        if stanza.kind == "presence":
            problem = self._too_many_contacts(stanza)
            if problem:
                self._metrics.count("relay.contacts_limit")
                self._home.send(error_reply(stanza, "resource-constraint", "wait", problem))
                return
            if not self.people.presence_to(stanza):
                self._metrics.count("relay.hidden")
                return
            xml = self._rewriter.outward(stanza)
        else:
            xml = stanza.to_xml()
        self._metrics.count("relay.out")
        if stanza.kind != "presence":
            self._handed.add(stanza.handed)
        if stanza.kind != "message":
            self.streams.send(OutStanza(stanza.kind, stanza.to, stanza.from_, stanza.id, xml))
            return
        self.people.text_to(stanza)
        if stanza.type == "error":
            self.ledger.error_passed(stanza, inward=False)
        self.streams.send(self.departures.leaves(self.ledger.leaving(stanza, xml)))

    def restore(self, records: Iterable[RelayedTextRecord], now: float) -> None:
        """Send what an earlier process has left behind; what is old goes back to its sender."""
        for record in sorted(records, key=lambda each: each.id):
            stanza = self.ledger.restored(record)
            self._handed.add(record.handed)
            if now - record.received_at <= STALE and not self._policy.refusal(
                stanza.to.domain, False
            ):
                self._metrics.count("relay.restored")
                self.streams.send(stanza)
                continue
            words = "this node was away while the message waited here"
            self.ledger.fate(stanza, Fate.RETURNED, "remote-server-timeout", words)
            error = bounced(stanza, "remote-server-timeout", words)
            if error is not None:
                self.stanza_arrived(error, None)

    def settle(self, call: Callable[[], None], local: str) -> None:
        """Call when all messages of foreign users so far have come to their end, or time is up."""
        self.deliveries.settle(call)

    def fate(self, stanza: OutStanza, fate: Fate, condition: str, words: str) -> None:
        """Take what S2S tells of a stanza; see :data:`impfed.transport.s2s_api.FateTeller`."""
        if fate is not Fate.WAITING:
            self.departures.fate(stanza, fate)
            self.deliveries.fate(stanza)
        self.ledger.fate(stanza, fate, condition, words)

    def _too_many_contacts(self, stanza: Stanza) -> str:
        if stanza.type != "subscribe":
            return ""
        return self.pairs.outbound_problem((stanza.from_.bare, stanza.to.bare))

    def link_up(self, domains: frozenset[str]) -> None:
        """A home server is back: hand over what it may have missed, messages first."""
        self.deliveries.link_up(domains)
        missed = [key for key, each in self._missed.items() if each.to.domain in domains]
        for key in missed:
            self._deliver(self._missed.pop(key))

    def not_written(self, stanza: OutStanza) -> None:
        """A home link broke before a stanza was written to it."""
        if not self._keep(stanza):
            self._return(stanza, "recipient-unavailable", "the home server is out of reach")

    def _answer_home(self, stanza: Stanza, condition: str, words: str) -> None:
        if answerable(stanza):
            self._home.send(error_reply(stanza, condition, text=words))

    # -- from foreign domains ----------------------------------------------------------------------

    def stanza_arrived(self, stanza: Stanza, stream: object) -> None:
        """Take a stanza of a foreign domain; without a stream it is an error that S2S made."""
        if self._probe.answered(stanza, stream is not None):
            return
        if stanza.to.domain not in self._own:
            self._metrics.count("relay.foreign_to_foreign")  # never relayed
            return
        if stream is not None:
            why = self._policy.refusal(stanza.from_.domain, True)
            if why:
                self._metrics.count("relay.refused_in")
                if answerable(stanza):
                    self._send_out(error_reply(stanza, "not-allowed", text=why))
                return
            if stanza.to.local and self._stopped(stanza):
                return
            if stanza.kind == "message" and stanza.type == "error":
                self.ledger.error_passed(stanza, inward=True)
        xml = self._rewriter.inward(stanza) if stanza.kind == "presence" else stanza.to_xml()
        self._metrics.count("relay.in")
        out = OutStanza(stanza.kind, stanza.to, stanza.from_, stanza.id, xml)
        if stanza.kind == "message":
            told = self.ledger.returning(stanza) if stream is None else None
            self._deliver_message(out, self.ledger.arriving(stanza), told)
        else:
            self._deliver(out)

    def _stopped(self, stanza: Stanza) -> bool:
        """Apply the local user's list; returns whether the stanza goes no further."""
        if stanza.type in ("error", "result"):
            return False
        pair = (stanza.to.bare, stanza.from_.bare)
        if stanza.kind == "presence":
            return self._presence_stopped(stanza, pair)
        if not self.people.stops(pair):
            return False
        self._metrics.count("relay.blocked")
        answered = stanza.kind == "iq" or not self._discards
        entry = self.ledger.arriving(stanza) if stanza.kind == "message" else None
        if entry is not None:
            words = f"its sender is blocked: {self.people.judge(pair).words}"
            condition = "service-unavailable" if answered else ""
            self.ledger.end(entry, "bounced" if answered else "discarded", condition, words)
        if answered:
            self._send_out(error_reply(stanza, "service-unavailable"))
        return True

    def _presence_stopped(self, stanza: Stanza, pair: Pair) -> bool:
        people = self.people
        if stanza.type not in ("subscribe", "probe"):
            people.presence_from(stanza, pair)
            return False
        if stanza.type == "subscribe" and not self.pairs.admits(pair):
            self._send_out(error_reply(stanza, "resource-constraint", "wait"))
            return True
        if people.blocks(pair):
            self._metrics.count("relay.blocked")
            if stanza.type == "subscribe":
                people.subscribe_politely(stanza, pair)
            else:
                people.show_offline(pair)
            return True
        if stanza.type == "probe":
            return self._probe_stopped(pair)
        if people.declined(pair):
            self._metrics.count("relay.declined")
            people.decline_again(stanza, pair)
            return True
        people.asked(pair)
        local, foreign = pair
        if not people.approves(pair) or not self._home.can_write_rosters(local.domain):
            return False  # where rosters cannot be written allow becomes ask

        def answered(answer: RosterAnswer) -> None:
            if not answer.done:
                log.warn(
                    "not_approved",
                    "{foreign} is allowed by the list of {local}, who is asked all the same: {why}",
                    foreign=foreign.text,
                    local=local.text,
                    why=answer.text or answer.outcome.value,
                )
                self._deliver(OutStanza("presence", local, foreign, stanza.id, stanza.to_xml()))

        self._home.approve(local, foreign, answered)
        return True

    def _probe_stopped(self, pair: Pair) -> bool:
        """Answer for somebody who has not said yet what he wants: his server would say that he declines."""
        if not self.people.undecided(pair):
            return False
        self.people.show_offline(pair)
        return True

    # -- delivery ----------------------------------------------------------------------------------

    def _send_out(self, stanza: OutStanza) -> None:
        self.streams.send(stanza)

    def _deliver_message(
        self,
        stanza: OutStanza,
        entry: LedgerEntry | None,
        told: Callable[[], None] | None,
    ) -> None:
        """Give a message to the home server, which has to confirm it.

        :param told: called when it has come to its end.
        """
        if self._home.link(stanza.to.domain, stanza.from_.domain) is not None:
            self.deliveries.deliver(stanza, entry, told)
            return
        if told is not None:
            told()
        words = f"{stanza.from_.domain} is not connected with {stanza.to.domain}"
        if entry is not None:
            self.ledger.end(entry, "bounced", "service-unavailable", words)
        self._return(stanza, "service-unavailable", words)

    def _deliver(self, stanza: OutStanza) -> None:
        """Give a stanza to the home server; if that cannot be, its sender is told."""
        link = self._home.link(stanza.to.domain, stanza.from_.domain)
        if link is None:
            words = f"{stanza.from_.domain} is not connected with {stanza.to.domain}"
            self._return(stanza, "service-unavailable", words)
        elif link.pass_on(stanza):
            return
        elif link.up:
            self._return(stanza, "resource-constraint", "the server does not keep up")
        elif not self._keep(stanza):
            self._return(stanza, "recipient-unavailable", "the home server is out of reach")

    def _keep(self, stanza: OutStanza) -> bool:
        """Keep presence for a home server that is away; what asks or answers nothing is no error."""
        if stanza.kind != "presence" or len(self._missed) >= MISSED_LIMIT:
            return False
        type = _presence_type(stanza)
        if type in ("subscribe", "probe", "error"):
            return False
        state = type in ("", "unavailable")
        key = (stanza.from_.text, stanza.to.text, state)
        self._missed.pop(key, None)
        self._missed[key] = stanza
        self._metrics.count("relay.presence_kept")
        return True

    def _return(
        self,
        stanza: OutStanza,
        condition: str,
        words: str,
        leaving: Leaving = lambda error: error,
        /,
    ) -> bool:
        """Return a stanza to its foreign sender; errors and results are never answered."""
        self._metrics.count("relay.returned")
        type = _presence_type(stanza) if stanza.kind == "presence" else ""
        if type == "subscribe":
            self.people.not_asked((stanza.to.bare, stanza.from_.bare))
        error = bounced(stanza, condition, words)
        if error is None or (stanza.kind == "presence" and type != "subscribe"):
            return False
        xml = error.to_xml()
        self._send_out(leaving(OutStanza(stanza.kind, error.to, error.from_, error.id, xml)))
        return True


def _presence_type(stanza: OutStanza) -> str:
    head = stanza.xml[: stanza.xml.find(">")]
    for type in ("unavailable", "subscribed", "unsubscribed", "subscribe", "unsubscribe", "probe"):
        if f" type='{type}'" in head:
            return type
    return "error" if " type='error'" in head else ""
