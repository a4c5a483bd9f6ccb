"""How many pairs of a local user and somebody in a foreign XMPP domain there may be (SPEC section 5).

The limits are those of SIP pairs, and both kinds count together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple, Protocol

from impfed.config.model import PresenceConfig
from impfed.core.log import EventLog
from impfed.core.metrics import Metrics
from impfed.policy.limits import PENDING_COUNTS_FOR, NewSubscriptions
from impfed.store.records import AuthorizationRecord, Decision
from impfed.xmpp.jid import JID

log = EventLog("impfed.relay")

Pair = tuple[JID, JID]
"""Local and foreign bare address."""


class Answers(Protocol):
    """What the people of a pair have allowed each other; durable."""

    def inbound(self, pair: Pair) -> Decision:
        """May the foreign user see the local one?"""
        ...

    def outbound(self, pair: Pair) -> Decision:
        """May the local user see the foreign one?"""
        ...

    def of(self, local: JID) -> list[AuthorizationRecord]:
        """Return a local user's records."""
        ...

    def locals(self) -> Iterable[JID]:
        """Return the local users of whom there are records."""
        ...

    def pending(self, domain: str, since: float = 0.0) -> int:
        """Return how many have not answered a request of a domain that came since then."""
        ...

    def decide_inbound(self, pair: Pair, decision: Decision) -> None:
        """Note what the local user decided."""
        ...

    def decide_outbound(self, pair: Pair, decision: Decision) -> None:
        """Note what the foreign user decided."""
        ...


class Totals(NamedTuple):
    """Counts of all pairs of a local user, SIP's among them."""

    watchers: Callable[[JID], int]
    contacts: Callable[[JID], int]


class XmppPairs:
    """Counts pairs, and says which new one is over a limit.

    :param takes: says whether a domain is a foreign one that is reached over XMPP.
    :param pace: of new subscriptions by foreign domain, the same for SIP.
    :param seconds: the time, in seconds since the epoch.
    """

    def __init__(
        self,
        answers: Answers,
        takes: Callable[[str], bool],
        config: PresenceConfig,
        pace: NewSubscriptions,
        seconds: Callable[[], float],
        metrics: Metrics,
    ) -> None:
        self._answers = answers
        self._takes = takes
        self._config = config
        self._pace = pace
        self._seconds = seconds
        self._metrics = metrics
        self._totals = Totals(self.watchers, self.contacts)

    def count_with(self, totals: Totals) -> None:
        """Say who counts all pairs, those of other ways included."""
        self._totals = totals

    def watchers(self, local: JID) -> int:
        """Return how many people in foreign XMPP domains see a local user."""
        return sum(record.inbound == "approved" for record in self._of(local))

    def contacts(self, local: JID) -> int:
        """Return how many people in foreign XMPP domains a local user watches, or asks to."""
        return sum(record.outbound in ("pending", "approved") for record in self._of(local))

    def _of(self, local: JID) -> list[AuthorizationRecord]:
        return [one for one in self._answers.of(local) if self._takes(_domain(one.foreign))]

    # -- limits ------------------------------------------------------------------------------------

    def inbound_problem(self, pair: Pair) -> str:
        """Say why a foreign user may not ask to see a local one; "" if he may.  Changes nothing."""
        (local, foreign), config = pair, self._config
        answered = self._answers.inbound(pair)
        if answered == "approved":
            return ""
        watchers, limit = self._totals.watchers(local), config.watchers_per_user
        if limit is not None and watchers >= limit:
            return f"{local} has {watchers} watchers, the limit is {limit}"
        if answered != "none" or self._answers.outbound(pair) in ("pending", "approved"):
            return ""
        now, domain = self._seconds(), foreign.domain
        if not self._pace.allows(domain, now):
            return f"{domain} began more than {config.new_per_minute} new subscriptions in a minute"
        limit = config.pending_per_domain
        pending = (
            self._answers.pending(domain, now - PENDING_COUNTS_FOR) if limit is not None else 0
        )
        if limit is not None and pending >= limit:
            return f"{domain} has {pending} unanswered requests, the limit is {limit}"
        return ""

    def admits(self, pair: Pair) -> bool:
        """Whether a foreign user may ask to see a local one; counted, and logged if not."""
        local, foreign = pair
        problem, now = self.inbound_problem(pair), self._seconds()
        if not problem:
            if self._answers.inbound(pair) == "none":
                self._pace.begin(foreign.domain, now)
            return True
        self._metrics.count("relay.watchers_limit")
        if problem.startswith(local.text):  # no fault of the domain's
            log.warn("watchers_limit", "a request is refused: {why}", why=problem)
        elif self._pace.refused(foreign.domain, now, problem):
            log.warn(
                "limit_reached",
                "requests from {domain} are refused: {why}",
                domain=foreign.domain,
                why=problem,
            )
        return False

    def outbound_problem(self, pair: Pair) -> str:
        """Say why a local user may not ask to see a foreign one, in words for him; "" if he may."""
        if self._answers.outbound(pair) in ("pending", "approved"):
            return ""
        contacts, limit = self._totals.contacts(pair[0]), self._config.contacts_per_user
        if limit is None or contacts < limit:
            return ""
        return f"you have {contacts} contacts at other organisations already"

    # -- for operators -----------------------------------------------------------------------------

    def view(self, hidden: Callable[[Pair], bool]) -> list[dict[str, object]]:
        """Return every pair in each direction, for ``impfedctl subscriptions``.

        :param hidden: says whether a local user's list hides him from a foreign one.
        """
        lines: list[dict[str, object]] = []
        for local in list(self._answers.locals()):
            for record in self._of(local):
                if record.inbound != "none":
                    stopped = hidden((local, JID.parse(record.foreign)))
                    shown = "offline, whatever the state" if stopped else ""
                    lines.append(_line("in", record, record.inbound, shown))
                if record.outbound != "none":
                    lines.append(_line("out", record, record.outbound, ""))
        return lines


def _line(
    direction: str, record: AuthorizationRecord, decision: Decision, shown: str
) -> dict[str, object]:
    return {
        "direction": direction,
        "local": record.local,
        "foreign": record.foreign,
        "state": f"{'active' if decision == 'approved' else decision}, over XMPP",
        "decision": decision,
        "shown": shown,
        "expires_in": 0,
        "call_id": "",
        "trouble": "",
    }


def _domain(address: str) -> str:
    return address.rpartition("@")[2]
