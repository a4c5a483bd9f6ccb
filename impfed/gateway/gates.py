"""The gates that an inbound subscription passes, one after the other (SPEC section 5).

Node policy, limits, user policy, ask: each gate looks at the pair and either settles what becomes
of it or lets it go on to the next.  Each has a counter and a log line of its own, and each can be
asked without consequences, for ``impfedctl explain``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum

from impfed.core.errors import RemoteError
from impfed.core.log import EventLog
from impfed.gateway.authorization import Authorizations, Pair
from impfed.gateway.surroundings import Surroundings
from impfed.policy.limits import PENDING_COUNTS_FOR, NewSubscriptions
from impfed.policy.users import Judgement, Rule, UserPolicies, Verdict
from impfed.xmpp.jid import JID

log = EventLog("impfed.gateway")

TOO_MANY_WATCHERS = "Too Many Watchers"


class Ruling(Enum):
    """What a gate wants done with a subscription; the value names its counter."""

    PASS = "passed"  # the next gate decides
    REFUSE = "refused"  # 403
    SHOW = "shown"  # active, with the real state
    HIDE = "hidden"  # active, shown offline
    APPROVE = "allowed"  # to be shown without a question, once the roster has it
    ASK = "asked"  # pending, and the user is to be asked
    WAIT = "waiting"  # pending, the user has been asked


@dataclass(frozen=True, slots=True)
class Finding:
    """What a gate says of a pair, and why in words."""

    gate: str
    ruling: Ruling
    words: str
    reason: str = ""  # reason phrase of a refusal

    def refuse(self) -> None:
        """Raise the answer of a refusal.

        :raises RemoteError: 403, unless the ruling is another.
        """
        if self.ruling is Ruling.REFUSE:
            raise RemoteError(403, self.reason or "Forbidden")


@dataclass(frozen=True, slots=True)
class Holdings:
    """What the gates know of the subscriptions that stand.

    :ivar on_contact_list: whether the local user of a pair watches the foreign one.
    :ivar watched: whether the foreign user of a pair watches the local one already.
    :ivar watchers: how many foreign users watch a local one.
    """

    on_contact_list: Callable[[Pair], bool]
    watched: Callable[[Pair], bool]
    watchers: Callable[[JID], int]


class Gate:
    """One gate.

    :ivar name: in the log, in counters and in explanations.
    """

    name = ""

    def __init__(self, gates: Gates) -> None:
        self._gates = gates

    def look(self, pair: Pair) -> Finding:
        """Say what becomes of a pair here; nothing is changed."""
        raise NotImplementedError

    def examine(self, pair: Pair) -> Finding:
        """Say the same of a subscription that has really come: counted, and logged."""
        finding = self.look(pair)
        self._gates.around.metrics.count(f"gate.{self.name}.{finding.ruling.value}")
        write = log.debug if finding.ruling is Ruling.PASS else log.info
        write(
            f"gate_{self.name}",
            "{foreign} wants to watch {local}: gate {gate}: {ruling}: {why}",
            foreign=pair[1].text,
            local=pair[0].text,
            gate=self.name,
            ruling=finding.ruling.value,
            why=finding.words,
        )
        return finding

    def _found(self, ruling: Ruling, words: str, reason: str = "") -> Finding:
        return Finding(self.name, ruling, words, reason)


class NodeGate(Gate):
    """Whether the node federates with the domain at all; the user is never asked if not."""

    name = "node"

    def look(self, pair: Pair) -> Finding:
        """Refuse domains that are not configured."""
        around, domain = self._gates.around, pair[1].domain
        if domain in around.config.own_domains:
            return self._found(Ruling.REFUSE, f"{domain} is a local domain", "Domain Not Allowed")
        found = around.domain(domain)
        if found is None:
            words = f"{domain} is not a SIP federated domain"
            return self._found(Ruling.REFUSE, words, "Domain Not Allowed")
        return self._found(Ruling.PASS, f"{domain} is a federated domain of kind {found.kind}")


class LimitGate(Gate):
    """How many may watch one user, and how fast a domain may begin with people nobody knows."""

    name = "limits"

    def look(self, pair: Pair) -> Finding:
        """Refuse what is over a limit; whoever watches already has been counted."""
        gates, (local, foreign) = self._gates, pair
        limit = gates.around.config.presence.watchers_per_user
        if gates.holdings.watched(pair):
            return self._found(Ruling.PASS, f"{foreign} watches {local} already")
        watchers = gates.holdings.watchers(local)
        if limit is not None and watchers >= limit:
            words = f"{local} has {watchers} watchers, the limit is {limit}"
            return self._found(Ruling.REFUSE, words, TOO_MANY_WATCHERS)
        if self._stranger(pair) and not gates.pace.allows(foreign.domain, gates.now):
            per_minute = gates.around.config.presence.new_per_minute
            words = f"{foreign.domain} began more than {per_minute} new subscriptions in a minute"
            return self._found(Ruling.REFUSE, words, "Too Many Subscriptions")
        bound = "no limit" if limit is None else f"the limit is {limit}"
        return self._found(Ruling.PASS, f"{watchers} watchers, {bound}")

    def examine(self, pair: Pair) -> Finding:
        """Count a stranger against his domain's pace, too."""
        finding = super().examine(pair)
        if finding.ruling is Ruling.PASS and self._stranger(pair):
            self._gates.pace.begin(pair[1].domain, self._gates.now)
        self._gates.note_flood(pair, finding)
        return finding

    def _stranger(self, pair: Pair) -> bool:
        gates = self._gates
        return (
            gates.authorizations.inbound(pair) == "none"
            and not gates.holdings.watched(pair)
            and not gates.holdings.on_contact_list(pair)
        )


class UserGate(Gate):
    """The local user's own list: decisions, contact list, default."""

    name = "user"

    def look(self, pair: Pair) -> Finding:
        """Settle what the list decides; leave to the next gate what it does not."""
        judgement = self._gates.judge(pair)
        if judgement.verdict is Verdict.ASK or judgement.rule is Rule.CLIENT:
            return self._found(Ruling.PASS, f"the list decides nothing: {judgement.words}")
        if judgement.verdict is Verdict.BLOCK:
            return self._found(Ruling.HIDE, judgement.words)
        answered = self._gates.authorizations.inbound(pair)
        if answered == "approved":
            return self._found(Ruling.SHOW, judgement.words)
        if answered == "declined":
            words = f"{judgement.words}, but he was declined in a client since"
            return self._found(Ruling.HIDE, words)
        return self._found(Ruling.APPROVE, judgement.words)


class AskGate(Gate):
    """What the local user once answered in his client, or the question."""

    name = "ask"

    def look(self, pair: Pair) -> Finding:
        """Settle it by the stored answer; without one the user is asked."""
        gates, (local, foreign) = self._gates, pair
        answered = gates.authorizations.inbound(pair)
        if answered == "approved":
            return self._found(Ruling.SHOW, f"{local} has approved {foreign}")
        if answered == "declined":
            return self._found(Ruling.HIDE, f"{local} has declined {foreign}")
        if answered == "pending":
            return self._found(Ruling.WAIT, f"{local} has been asked about {foreign}")
        limit = gates.around.config.presence.pending_per_domain
        since = gates.now - PENDING_COUNTS_FOR
        pending = gates.authorizations.pending(foreign.domain, since) if limit is not None else 0
        if limit is not None and pending >= limit:
            words = f"{foreign.domain} has {pending} unanswered requests, the limit is {limit}"
            return self._found(Ruling.REFUSE, words, "Too Many Pending Requests")
        return self._found(Ruling.ASK, f"{local} has to decide about {foreign}")

    def examine(self, pair: Pair) -> Finding:
        """Remember the domain that asks too much."""
        finding = super().examine(pair)
        self._gates.note_flood(pair, finding)
        return finding


class Gates:
    """All gates in their order.

    :ivar pace: of new subscriptions, by foreign domain.
    """

    def __init__(
        self,
        around: Surroundings,
        policies: UserPolicies,
        authorizations: Authorizations,
        holdings: Holdings,
    ) -> None:
        self.around = around
        self.policies = policies
        self.authorizations = authorizations
        self.holdings = holdings
        self.pace = NewSubscriptions(around.config.presence.new_per_minute)
        self.node = NodeGate(self)
        self.limits = LimitGate(self)
        self.user = UserGate(self)
        self.ask = AskGate(self)
        self.order: tuple[Gate, ...] = (self.node, self.limits, self.user, self.ask)

    @property
    def now(self) -> float:
        """The time, in seconds since the epoch."""
        return self.around.timers.seconds()

    def judge(self, pair: Pair) -> Judgement:
        """Apply the local user's list."""
        local, foreign = pair
        answered = self.authorizations.inbound(pair)
        return self.policies.judge(local, foreign, answered, self.holdings.on_contact_list(pair))

    def admit(self, pair: Pair) -> Finding:
        """Send a new subscription through the gates behind the first, which it has passed.

        :raises RemoteError: 403 when one refuses it.
        """
        for gate in self.order[1:]:
            finding = gate.examine(pair)
            finding.refuse()
            if finding.ruling is not Ruling.PASS:
                break
        return finding

    def standing(self, pair: Pair) -> Finding:
        """Say how a subscription that was let in stands now; nothing is counted."""
        finding = self.user.look(pair)
        return finding if finding.ruling is not Ruling.PASS else self.ask.look(pair)

    def shows(self, pair: Pair) -> bool:
        """Whether the foreign user of a pair may see the real state."""
        approved = self.authorizations.inbound(pair) == "approved"
        return approved and not self.policies.blocks(*pair)

    def explain(self, pair: Pair) -> Iterator[Finding]:
        """Yield what each gate would say, up to the one that settles it; nothing is changed."""
        for gate in self.order:
            finding = gate.look(pair)
            yield finding
            if finding.ruling is not Ruling.PASS:
                return

    def note_flood(self, pair: Pair, finding: Finding) -> None:
        """Remember a refusal by a limit of the foreign domain; say it, at most once a minute."""
        if finding.ruling is not Ruling.REFUSE:
            return
        domain = pair[1].domain
        if finding.reason == TOO_MANY_WATCHERS:  # no fault of the domain's
            log.warn("watchers_limit", "a subscription is refused: {why}", why=finding.words)
        elif self.pace.refused(domain, self.now, finding.words):
            log.warn(
                "limit_reached",
                "subscriptions from {domain} are refused: {why}",
                domain=domain,
                why=finding.words,
            )

    # -- texts -------------------------------------------------------------------------------------

    def texts(self, local: JID, foreign: JID) -> Judgement | None:
        """Return the judgement that stops a foreign user's messages to a local one, or None."""
        judgement = self.judge((local, foreign))
        return judgement if judgement.stops_texts else None
