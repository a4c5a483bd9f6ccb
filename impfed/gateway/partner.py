"""One foreign domain as our subscriptions there see it: reachable or not, and refreshed in order.

Refreshes of a whole domain go out as a *wave*: those of users who were there last first, at the
domain's pace, and only so many unanswered at a time.  There is a wave when the node starts, when a
domain that could not be reached can be again, and when it has forgotten our subscriptions.

Whether it has is found out with one refresh, the *canary*, after a connection is gone over which its
NOTIFYs came, or its answers to our SUBSCRIBEs: a peer that merely closed an idle connection answers 200
and nothing follows; one that was restarted answers 481.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from enum import Enum
from typing import TYPE_CHECKING

from impfed.core.log import EventLog
from impfed.core.timers import Timer
from impfed.gateway.surroundings import Surroundings
from impfed.transport.flow import Flow

if TYPE_CHECKING:
    from impfed.gateway.contact import Contact

log = EventLog("impfed.gateway")

#: Refreshes of a wave that may be unanswered at one time.
WINDOW = 200
#: Seconds between a lost connection and the canary, and between two canaries of that reason.
GRACE, CHECK_EVERY = 1.0, 30.0
#: Seconds between two canaries while the domain cannot be reached: at first, and at most.
RETRY, LAST_RETRY = 3.0, 15.0
#: Seconds after which a wave goes on that the partner's budget, or our cluster, did not allow.
HELD_BACK = 5.0
#: Seconds of a wave that a busy node may catch up at once.
BURST = 1.0


class Reach(Enum):
    """What is known of a domain."""

    UP = "reachable"
    CHECKING = "being checked"
    DOWN = "out of reach"


class Partner:
    """The state of one domain.

    :param interval: seconds between two refreshes of a wave; 0 for no limit.
    """

    __slots__ = (
        "_around",
        "_contacts",
        "_domain",
        "_failures",
        "_flows",
        "_flying",
        "_interval",
        "_last_check",
        "_next_at",
        "_pump_timer",
        "_queue",
        "_timer",
        "_witness",
        "reach",
    )

    def __init__(self, around: Surroundings, domain: str, interval: float) -> None:
        self._around = around
        self._domain = domain
        self._interval = interval
        self.reach = Reach.UP
        self._contacts: dict[Contact, None] = {}
        self._flows: set[Flow] = set()
        self._queue: deque[Contact] = deque()
        self._flying: set[Contact] = set()
        self._failures = 0
        self._last_check = 0.0
        self._next_at = 0.0
        self._timer: Timer | None = None
        self._witness: Contact | None = None  # stood when the connection was lost
        self._pump_timer: Timer | None = None

    # -- who belongs to it -------------------------------------------------------------------------

    def add(self, contact: Contact) -> None:
        """A contact of this domain."""
        self._contacts[contact] = None

    def forget(self, contact: Contact) -> bool:
        """A contact is done with; returns whether there is another one."""
        self._contacts.pop(contact, None)
        if contact is self._witness:
            self._witness = None
            if self.reach is not Reach.UP and not self._canary_planned:
                # It was asked for, and what is answered is not ours any more.
                self._timer = self._around.timers.after(GRACE, self._canary)
        if contact in self._flying:
            self._flying.discard(contact)
            self._pump()
        if not self._contacts:
            for timer in (self._timer, self._pump_timer):
                if timer is not None:
                    timer.cancel()
        return bool(self._contacts)

    # -- waves -------------------------------------------------------------------------------------

    def refresh(self, contacts: Iterable[Contact]) -> None:
        """Refresh contacts, in this order: those of users who were there last come first."""
        self._queue = deque(contacts)
        self._next_at = max(self._next_at, self._around.timers.seconds())
        self._pump()

    @staticmethod
    def _lately(contacts: Iterable[Contact]) -> list[Contact]:
        return sorted(contacts, key=lambda contact: -contact.last_used)

    def refresh_also(self, contact: Contact) -> None:
        """Refresh one more: its user has come back, and nobody had asked for him meanwhile."""
        self._queue.append(contact)
        self._next_at = max(self._next_at, self._around.timers.seconds())
        self._pump()

    def _pump(self) -> None:
        now = self._around.timers.seconds()
        while self._queue and len(self._flying) < WINDOW:
            if self._interval and now < self._next_at:
                if self._pump_timer is None or not self._pump_timer.active:
                    self._pump_timer = self._around.timers.after(self._next_at - now, self._pump)
                return
            contact = self._queue.popleft()
            if contact not in self._contacts:
                continue
            if not contact.wanted:
                contact.missed = True  # seen to when he comes back
                continue
            self._next_at = max(now - BURST, self._next_at) + self._interval
            self._flying.add(contact)
            if not contact.subscribe():  # it is being set up at this very moment
                self._flying.discard(contact)

    # -- what happens to it ------------------------------------------------------------------------

    def came_by(self, flow: Flow) -> None:
        """A NOTIFY, or the answer to a SUBSCRIBE, came over a flow."""
        if flow.alive and flow.transport != "udp":  # else nobody tells of its end
            self._flows.add(flow)

    def flow_closed(self, flow: Flow) -> None:
        """A connection is gone: if we have heard from there over it, see whether we are still known."""
        if flow not in self._flows:
            return
        self._flows.discard(flow)
        if self.reach is not Reach.UP:
            return
        self.reach = Reach.CHECKING
        self._witness = self._latest()
        earliest = self._last_check + CHECK_EVERY - self._around.timers.seconds()
        pause = max(GRACE * self._around.ids.uniform(1.0, 1.5), earliest)
        self._timer = self._around.timers.after(pause, self._canary)

    def answered(self, contact: Contact, status: int, in_dialog: bool) -> None:
        """A SUBSCRIBE of a contact was answered, whatever the answer.

        :param in_dialog: whether it was one of a subscription that stood.
        """
        self._flying.discard(contact)
        known = in_dialog and (contact is self._witness or status == 481)
        if self.reach is Reach.CHECKING and not known:
            self._pump()  # a newer subscription says nothing of what the partner has forgotten
            return
        was, self.reach = self.reach, Reach.UP
        self._failures = 0
        if self._timer is not None:
            self._timer.cancel()
        if was is Reach.DOWN:
            log.info("partner_back", "{domain} can be reached again", domain=self._domain)
            self.refresh(self._lately(each for each in self._contacts if each.live or each.cut))
        elif was is Reach.CHECKING and status == 481:
            log.info("forgotten", "{domain} has forgotten our subscriptions", domain=self._domain)
            self.refresh(self._lately(each for each in self._contacts if each.live))
        else:
            self._pump()

    def held_back(self, contact: Contact) -> None:
        """A SUBSCRIBE of a contact was not sent, for a reason of our own: budget or cluster."""
        self._flying.discard(contact)
        if self._pump_timer is None or not self._pump_timer.active:
            self._pump_timer = self._around.timers.after(HELD_BACK, self._pump)
        if self.reach is not Reach.UP and not self._canary_planned:
            self._timer = self._around.timers.after(LAST_RETRY, self._canary)

    def unanswered(self, contact: Contact, why: str) -> None:
        """A SUBSCRIBE of a contact could not be sent, or met silence."""
        self._flying.discard(contact)
        if self.reach is not Reach.DOWN:
            log.warn(
                "partner_lost",
                "{domain} cannot be reached: {why}",
                domain=self._domain,
                why=why,
            )
            self.reach = Reach.DOWN
            self._queue.clear()
            for each in list(self._contacts):
                each.out_of_reach()
        if not self._canary_planned:
            pause = min(LAST_RETRY, RETRY * 2.0 ** min(self._failures // 10, 8))
            self._failures += 1
            self._timer = self._around.timers.after(pause, self._canary)

    @property
    def _canary_planned(self) -> bool:
        return self._timer is not None and self._timer.active

    def _canary(self) -> None:
        """Refresh one subscription and see what comes of it."""
        self._last_check = self._around.timers.seconds()
        contact = self._witness
        if self.reach is not Reach.CHECKING or contact not in self._contacts or not contact.stands:
            contact = self._witness = self._latest()
        if contact is None:  # first requests have a back-off of their own
            if self.reach is Reach.CHECKING:
                self.reach = Reach.UP
            for each in self._contacts:
                each.missed = True  # seen to when he comes back
            return
        if not contact.subscribe():
            # Its answer is under way, and will tell as much.
            self._timer = self._around.timers.after(LAST_RETRY, self._canary)

    def _latest(self) -> Contact | None:
        """Return the subscription that stands whose user was there last."""
        there = (each for each in self._contacts if each.stands)
        return max(there, key=lambda each: each.last_used, default=None)
