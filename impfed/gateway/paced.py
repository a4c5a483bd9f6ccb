"""The partner budget in the way of every request that the gateway sends (SPEC section 8).

:class:`PacedStack` stands where the gateway expects the SIP stack.  A request whose partner has
budget left goes straight on; any other waits its turn.  Responses, ACK and CANCEL never wait.

What is not sent fails exactly once, never before :meth:`PacedStack.request` has returned:

* with ``OVERLOAD`` if it would wait, or has waited, too long, or if its partner gets no more
  addresses today;
* with ``PAUSED`` if the next hop has asked for a pause (503 with Retry-After);
* with ``ASIDE`` if this node may act on nothing, since it does not see its cluster;
* by a 404 that says so in a Warning, if the partner does not know the user, as it said lately.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred

from impfed.config.model import SipDomainConfig
from impfed.core.errors import LocalError
from impfed.core.log import EventLog
from impfed.core.metrics import Metrics
from impfed.gateway.paced_parts import (
    FORWARDED_PATIENCE,
    Forwarded,
    Lane,
    Outgoing,
    Records,
    hop_of,
    in_dialog,
    is_typing,
    record_of,
    value_of,
)
from impfed.policy.budget import (
    NO_SUCH_USER,
    PartnerBudget,
    Person,
    address_of,
    limits_of,
    urgency_of,
)
from impfed.policy.pauses import Pause, Pauses, retry_after
from impfed.routing.opened import OpenDomains
from impfed.sip.message import OutgoingRequest, SipRequest, SipResponse, parse_message
from impfed.sip.target import Hop
from impfed.sip.transaction import ClientTransaction, FailureCause, ServerTransaction
from impfed.sip.uri import SipUri
from impfed.store.api import Delete, Put
from impfed.store.records import PauseRecord
from impfed.transport.flow import Flow
from impfed.transport.sip import SipStack
from impfed.transport.timers import ReactorTimers

__all__ = ["NOT_SENT", "Lane", "Outgoing", "PacedStack", "Records"]

log = EventLog("impfed.gateway")

#: To values that are kept with the person they name, for speed.
_KNOWN = 50_000
#: Why a request was kept from being sent; another one may go later.
NOT_SENT = frozenset({FailureCause.OVERLOAD, FailureCause.PAUSED, FailureCause.ASIDE})
#: Why nothing is sent by a node that may not act.
_ASIDE = "this node does not see its cluster"
#: Seconds between two lines in the log about requests of one domain that were not sent.
_SAY_AGAIN = 60.0


class PacedStack:
    """The SIP stack as the gateway sees it: within the budgets of all partners.

    ``respond``, ``acknowledge``, ``advertised`` and ``contact`` are the stack's own.

    :param domain: finds a foreign SIP domain's configuration by name.
    :param opened: hears which domain that nobody configured was reached.
    :ivar looped: told which domain answers that a request goes in a circle, and how.
    :ivar may_act: says whether this node may act on what it owns.
    :ivar part_of: returns the part of a domain's budget that this node may use, and how many nodes
        share it; 0 for one that is alone.
    :ivar pauses: next hops that asked for a pause.
    """

    def __init__(
        self,
        stack: SipStack,
        domain: Callable[[str], SipDomainConfig | None],
        store: Records,
        timers: ReactorTimers,
        metrics: Metrics,
        opened: OpenDomains | None = None,
    ) -> None:
        self.looped: Callable[[str, int], None] | None = None
        self.may_act: Callable[[], bool] = lambda: True
        self.part_of: Callable[[str], tuple[float, int]] = lambda domain: (1.0, 0)
        self._opened = opened if opened is not None and opened.enabled else None
        self.respond = stack.respond if self._opened is None else self._respond
        self.acknowledge = stack.acknowledge
        self.advertised = stack.advertised
        self.contact = stack.contact
        self.pauses = Pauses()
        self._stack = stack
        self._domain = domain
        self._store = store
        self._timers = timers
        self.seconds = self._seconds = timers.seconds
        self._metrics = metrics
        self._lanes: dict[str, Lane] = {}
        self._people: dict[str, tuple[Lane, Person]] = {}
        self._waiting = 0
        self._over = False

    # -- life --------------------------------------------------------------------------------------

    def load(self) -> Deferred[None]:
        """Read the pauses that an earlier life was asked for."""

        def loaded(records: list[PauseRecord]) -> None:
            self.pauses = Pauses(
                Pause(each.hop, each.domain, each.until, each.refusals) for each in records
            )

        return self._store.load(PauseRecord).addCallback(loaded)

    def stop(self) -> None:
        """Send nothing that waits; what matters of it is in the store."""
        self._over = True
        for lane in self._lanes.values():
            if lane.timer is not None:
                lane.timer.cancel()

    # -- what the gateway calls --------------------------------------------------------------------

    def request(self, request: OutgoingRequest, destination: Hop | Flow, user: Any) -> Outgoing:
        """Send a request as soon as its partner's budget allows, and tell its user what comes of it.

        :param user: hears ``response_arrived`` and ``request_failed`` as from the SIP stack; the
            transaction is the value returned here if the request was never sent.
        :raises LocalError: when the request cannot be written, or no listener is named in its Via.
        """
        to = ""
        for name, value in request.headers:
            if name == "To":
                to = value
                break
        end = to.rfind(">") + 1
        found = self._people.get(to[:end] or to)
        lane, person = found if found is not None else self._meet(to, end)
        now = self._seconds()
        outgoing = Outgoing(self, lane, person, request, destination, user)
        self._go(outgoing, to, end, now)
        return outgoing

    def bounded(self, domain: str) -> bool:
        """Say whether what is passed on to a domain has to go by :meth:`forward`."""
        return self._lane(domain).budget.rate is not None or bool(self.pauses.known)

    def forward(
        self,
        request: SipRequest,
        sent: tuple[OutgoingRequest, bytes, str],
        destination: Hop | Flow,
        user: Any,
    ) -> Outgoing:
        """Pass a request of another node on to a partner, as soon as the partner's budget allows.

        One that would wait longer than its sender does is not sent; ``NOBODY`` is said of a user whom
        the partner does not know.

        :param sent: what its ACK and CANCEL repeat, its octets, and the branch of our Via in them.
        :param user: hears of it as from the SIP stack; it has the proxy's ``branch``.
        """
        to = request.get("to") or ""
        end = to.rfind(">") + 1
        found = self._people.get(to[:end] or to)
        lane, person = found if found is not None else self._meet(to, end)
        now = self._seconds()
        outgoing = Forwarded(self, lane, person, request, destination, user, sent, now)
        self._metrics.count("budget.forwarded")
        self._go(outgoing, to, end, now)
        return outgoing

    def _go(self, outgoing: Outgoing, to: str, end: int, now: float) -> None:
        """Send a request, or see to it otherwise."""
        lane, person, destination = outgoing.lane, outgoing.person, outgoing.destination
        if not self.may_act():
            self._fail_later(outgoing, FailureCause.ASIDE, _ASIDE)
        elif self.pauses.known and (pause := self.pauses.of(hop_of(destination), now)) is not None:
            self._paused(outgoing, pause, now)
        elif (
            not person.counted_until > now > person.unknown_until
            and to.find(";tag=", end) < 0
            and not self._admitted(outgoing, now)
        ):
            pass  # it has been seen to
        elif not lane.tickets and lane.budget.take(now):
            outgoing.begin(self._stack)
        else:
            self._wait(outgoing, now)

    def cancel(self, transaction: Outgoing | ClientTransaction) -> None:
        """Cancel an INVITE of ours: one that was sent by a CANCEL, one that waits by not sending it."""
        if not isinstance(transaction, Outgoing):
            self._stack.cancel(transaction)
        elif transaction.transaction is not None:
            self._stack.cancel(transaction.transaction)
        elif self._take_out(transaction):
            self._fail_later(transaction, FailureCause.TRANSPORT, "called off before it was sent")

    def withdraw(self, domain: str, call_id: str) -> int:
        """Take what waits of a dialog out of the queue: it goes on at another node.

        Whoever wanted it sent hears nothing of it any more.

        :return: how many requests waited.
        """
        lane = self._lanes.get(domain)
        waiting = [] if lane is None else lane.room.of(call_id)
        return sum(self._take_out(ticket.item) for ticket in waiting)

    def maybe_delivered(self, transaction: Outgoing | ClientTransaction) -> bool:
        """Whether a failed request may have reached the peer all the same."""
        if isinstance(transaction, Outgoing):
            if transaction.transaction is None:
                return False
            transaction = transaction.transaction
        return self._stack.maybe_delivered(transaction)

    # -- before it is sent -------------------------------------------------------------------------

    def _meet(self, to: str, end: int) -> tuple[Lane, Person]:
        """Return the lane and the person of a To value that was not seen lately."""
        address, domain = address_of(to)
        lane = self._lane(domain)
        if len(self._people) >= _KNOWN:
            self._people.clear()
        found = self._people[to[:end] or to] = (lane, lane.budget.person(address))
        return found

    def _lane(self, domain: str) -> Lane:
        lane = self._lanes.get(domain)
        if lane is None:
            now = self._seconds()
            budget = PartnerBudget(domain, limits_of(self._domain(domain)), now)
            part, nodes = self.part_of(domain)
            if nodes:
                budget.share(part, now, nodes)
            lane = self._lanes[domain] = Lane(budget)
            lane.opened = self._opened is not None and self._opened.unknown(domain)
        return lane

    def _admitted(self, outgoing: Outgoing, now: float) -> bool:
        """Whether a request may begin something with its address; it has been answered if not."""
        person, budget = outgoing.person, outgoing.lane.budget
        if person.unknown_until:
            if person.unknown_until > now:
                self._metrics.count("budget.unknown_user")
                self._timers.after(0.0, self._nobody_there, outgoing, now)
                return False
            budget.exists(person)
        if budget.admit(person, urgency_of(outgoing.request.method), now):
            return True
        words = (
            f"{budget.address_limit} different people of {budget.domain} have been written to or"
            f" asked for in a day, and it does not take more from us"
        )
        self._refuse(outgoing, "budget.addresses", words, now)
        return False

    def _wait(self, outgoing: Outgoing, now: float) -> None:
        lane, request = outgoing.lane, outgoing.request
        budget, urgency = lane.budget, urgency_of(request.method)
        rate = budget.hoped_rate or 1e6
        user, _ = address_of(value_of(request, "From"))
        if is_typing(request):
            self._metrics.count("budget.typing")  # worth nothing later, and nobody misses it
            words = "a typing notice does not wait"
            self._fail_later(outgoing, FailureCause.OVERLOAD, words)
        elif outgoing.forwarded and lane.room.wait(urgency, rate) > FORWARDED_PATIENCE:
            words = (
                f"too many requests wait for {budget.domain}, and its sender does not wait so long"
            )
            self._refuse(outgoing, "budget.overflow", words, now)
        elif lane.room.has_room(urgency, user, rate):
            if not lane.tickets:
                budget.held_since = now
            lane.tickets[outgoing] = lane.room.push(outgoing, urgency, user, request.call_id, now)
            self._metrics.count("budget.waited")
            self._count(1)
            self._arm(lane, now)
        else:
            wait = lane.room.wait(urgency, rate)
            words = f"too many requests wait for {budget.domain}: about {wait:.0f} s"
            self._refuse(outgoing, "budget.overflow", words, now)

    def _refuse(self, outgoing: Outgoing, counter: str, words: str, now: float) -> None:
        lane = outgoing.lane
        lane.failed += 1
        self._metrics.count(counter)
        if now - lane.said_at >= _SAY_AGAIN:
            lane.said_at = now
            log.warn(
                "over_budget",
                "{method} to {domain} is not sent: {why}; {advice}",
                method=outgoing.request.method,
                domain=lane.budget.domain,
                why=words,
                advice=lane.budget.advice(now) or "see impfedctl budget",
            )
        self._fail_later(outgoing, FailureCause.OVERLOAD, words)

    def _paused(self, outgoing: Outgoing, pause: Pause, now: float) -> None:
        self._metrics.count("budget.paused")
        words = f"{pause.hop} asked us to send nothing for {pause.until - now:.0f} s more"
        self._fail_later(outgoing, FailureCause.PAUSED, words)

    def _fail_later(self, outgoing: Outgoing, cause: FailureCause, words: str) -> None:
        self._timers.after(0.0, outgoing.user.request_failed, outgoing, cause, words)

    def _nobody_there(self, outgoing: Outgoing, now: float) -> None:
        """Answer in the partner's place that it does not know the user."""
        if outgoing.forwarded:
            words = f"{outgoing.lane.budget.domain} does not know the user, as it said lately"
            outgoing.user.request_failed(outgoing, FailureCause.NOBODY, words)
            return
        request, budget = outgoing.request, outgoing.lane.budget
        ago = round((now + budget.limits.unknown - outgoing.person.unknown_until) / 60)
        warning = (
            f'399 impfed "{budget.domain} said so {ago} minutes ago, and was not asked again'
            ' (impfedctl budget)"'
        )
        lines = ["SIP/2.0 404 Not Found\r\n", "Via: SIP/2.0/TLS budget.invalid\r\n"]
        for name, value in request.headers:
            if name in ("From", "Call-ID", "CSeq"):
                lines.append(f"{name}: {value}\r\n")
            elif name == "To":
                lines.append(f"To: {value};tag=budget\r\n")
        lines.append(f"Warning: {warning}\r\nContent-Length: 0\r\n\r\n")
        response = parse_message("".join(lines).encode("utf-8", "surrogateescape"))
        assert isinstance(response, SipResponse)
        outgoing.user.response_arrived(outgoing, response)

    # -- what waits --------------------------------------------------------------------------------

    def _count(self, more: int) -> None:
        self._waiting += more
        self._metrics.gauge("budget.waiting", self._waiting)

    def _take_out(self, outgoing: Outgoing) -> bool:
        ticket = outgoing.lane.tickets.pop(outgoing, None)
        if ticket is None:
            return False
        outgoing.lane.room.remove(ticket)
        self._count(-1)
        return True

    def _arm(self, lane: Lane, now: float) -> None:
        if self._over or (lane.timer is not None and lane.timer.active):
            return
        due = lane.budget.ready_at(now)
        if (expiry := lane.room.next_expiry) is not None:
            due = min(due, expiry)
        lane.timer = self._timers.after(max(0.0, due - now), self._pump, lane)

    def _pump(self, lane: Lane) -> None:
        """Send what the budget allows, and give up what has waited too long."""
        now = self._seconds()
        for outgoing in lane.room.expired(now):
            self._left(lane, outgoing)
            words = f"it has waited too long for its turn: {lane.budget.domain} takes no more"
            self._refuse(outgoing, "budget.expired", words, now)
        while lane.tickets and lane.budget.take(now):
            outgoing = lane.room.pop()
            self._left(lane, outgoing)
            self._send(outgoing, now)
        if lane.tickets:
            self._arm(lane, now)
        else:
            lane.budget.held_since = None

    def _left(self, lane: Lane, outgoing: Outgoing) -> None:
        del lane.tickets[outgoing]
        self._count(-1)

    def _send(self, outgoing: Outgoing, now: float) -> None:
        destination = outgoing.destination
        if not self.may_act():
            self._fail_later(outgoing, FailureCause.ASIDE, _ASIDE)
            return
        pause = self.pauses.of(hop_of(destination), now) if self.pauses.known else None
        if pause is not None:
            self._paused(outgoing, pause, now)
            return
        if outgoing.late(now):
            words = (
                f"it has waited so long for {outgoing.lane.budget.domain} that its sender is gone"
            )
            self._refuse(outgoing, "budget.expired", words, now)
            return
        try:
            outgoing.begin(self._stack)
        except LocalError as error:
            log.error("unsendable", "a request cannot be sent: {why}", why=str(error))
            self._fail_later(outgoing, FailureCause.TRANSPORT, str(error))

    # -- answers -----------------------------------------------------------------------------------

    def answered(self, outgoing: Outgoing, response: SipResponse) -> None:
        """Learn from a final answer; plain successes never come here."""
        status, now = response.status, self._seconds()
        budget, person = outgoing.lane.budget, outgoing.person
        if status < 300:
            budget.answers += 1
            budget.exists(person)
        else:
            if budget.refused(status, now):
                self._slowed(budget)
            if status in NO_SUCH_USER and not in_dialog(outgoing.request):
                budget.no_such_user(person, now)
        if status in (482, 483) and self.looped is not None:
            self.looped(budget.domain, status)
        if status == 503:
            self._asked_for_pause(outgoing, response, now)
        elif self.pauses.known and self.pauses.served(hop_of(outgoing.destination)) is not None:
            self._store.write([Delete(PauseRecord, hop_of(outgoing.destination))])

    def reached(self, domain: str) -> None:
        """A domain that nobody configured has accepted something of ours, or we of it."""
        if self._opened is not None:
            self._opened.worked(domain)

    def _respond(
        self, transaction: ServerTransaction, status: int, *rest: Any, **more: Any
    ) -> None:
        self._stack.respond(transaction, status, *rest, **more)
        sender = transaction.request.from_.uri if 200 <= status < 300 else None
        if isinstance(sender, SipUri) and transaction.request.method != "OPTIONS":
            self.reached(sender.host)

    def _slowed(self, budget: PartnerBudget) -> None:
        self._metrics.count("budget.slowed")
        log.warn(
            "slowed_down",
            "{percent} % of our requests to {domain} fail: from now on {rate} a second, before the"
            " partner slows us down; see impfedctl budget {domain}",
            percent=round(100 * budget.failure_ratio),
            domain=budget.domain,
            rate=budget.rate,
        )

    def _asked_for_pause(self, outgoing: Outgoing, response: SipResponse, now: float) -> None:
        seconds = retry_after(response.get("retry-after"))
        domain = outgoing.lane.budget.domain
        pause = self.pauses.refused(hop_of(outgoing.destination), domain, seconds, now)
        if pause.until <= now:
            return
        self._metrics.count("budget.pauses")
        log.warn(
            "partner_paused",
            "{hop} ({domain}) answered 503: nothing is sent there for {seconds} s",
            hop=pause.hop,
            domain=domain,
            seconds=round(pause.until - now),
        )
        self._store.write([Put(record_of(pause))])

    # -- for whoever shows it, or shares it out -----------------------------------------------------

    def lane(self, domain: str) -> Lane:
        """Return the way to a domain, made anew if nothing was sent there yet."""
        return self._lane(domain)

    @property
    def lanes(self) -> dict[str, Lane]:
        """The domains that something was sent to."""
        return self._lanes

    def forget_pauses(self, domain: str) -> int:
        """Send to a domain's hops again at once; returns how many had asked for a pause."""
        ended = self.pauses.end(domain)
        if ended:
            self._store.write([Delete(PauseRecord, pause.hop) for pause in ended])
        return len(ended)

    def share(self, domain: str, part: float, nodes: int) -> None:
        """Use only a part of a domain's budget; see :meth:`PartnerBudget.share`."""
        lane, now = self._lanes.get(domain), self._seconds()
        if lane is None:
            return
        lane.budget.share(part, now, nodes)
        if lane.timer is not None and lane.tickets:
            lane.timer.cancel()
            lane.timer = None
            self._arm(lane, now)
