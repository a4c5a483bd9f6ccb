"""The partner budgets as an operator sees them, and what he can do about them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from impfed.config.model import SipDomainConfig
from impfed.gateway.paced import Lane, PacedStack
from impfed.policy.budget import PartnerBudget, Urgency, limits_of

NO_LIMIT = "no limit"


class Budgets:
    """Shows what :class:`~impfed.gateway.paced.PacedStack` does.

    :param seconds: tells the time.
    """

    def __init__(
        self,
        paced: PacedStack,
        domain: Callable[[str], SipDomainConfig | None],
        seconds: Callable[[], float],
    ) -> None:
        self._paced = paced
        self._domain = domain
        self._seconds = seconds

    def known(self, domain: str) -> bool:
        """Whether a domain is configured, or something was sent there."""
        return domain in self._paced.lanes or self._domain(domain) is not None

    def status(self, domain: str = "") -> list[dict[str, Any]]:
        """Return how the budgets stand: of one domain, or of all that something was sent to."""
        if not domain:
            return [self._view(name, lane) for name, lane in sorted(self._paced.lanes.items())]
        return [self._view(domain, self._paced.lane(domain))] if self.known(domain) else []

    def _view(self, name: str, lane: Lane) -> dict[str, Any]:
        now = self._seconds()
        budget, lengths = lane.budget, lane.room.lengths
        used = round(budget.rate_used(now), 2)  # first: it makes the counters up to date
        rate, limit = budget.limits.rate, budget.address_limit
        return {
            "domain": name,
            "rate_used": used,
            "rate_now": NO_LIMIT if budget.rate is None else round(budget.rate, 2),
            "rate_limit": NO_LIMIT if rate is None else rate,
            "share": round(budget.part, 3),
            "waiting": {each.name.lower(): lengths[each] for each in Urgency},
            "waiting_since": budget.held_since or 0.0,
            "addresses": budget.addresses(now),
            "address_limit": NO_LIMIT if limit is None else limit,
            "failure_ratio": round(budget.failure_ratio, 3),
            "slowed_since": budget.slowed_since or 0.0,
            "not_sent": lane.failed,
            "unknown_users": len(budget.unknown_users(now)),
            "pauses": [
                {"hop": each.hop, "until": each.until}
                for each in self._paced.pauses.view(name, now)
            ],
            "advice": budget.advice(now),
        }

    def unknown_users(self, domain: str) -> list[dict[str, Any]]:
        """Return the users of a domain who are not asked for, with the time until when."""
        lane = self._paced.lanes.get(domain)
        found = {} if lane is None else lane.budget.unknown_users(self._seconds())
        return [{"user": user, "not_asked_until": until} for user, until in found.items()]

    def forget_unknown(self, domain: str, address: str = "") -> int:
        """Ask again for a user of a domain, or for all if empty; returns how many that were."""
        lane = self._paced.lanes.get(domain)
        return 0 if lane is None else lane.budget.forget_unknown(address.lower())

    def end_pauses(self, domain: str) -> int:
        """Send to a domain's hops again at once; returns how many had asked for a pause."""
        return self._paced.forget_pauses(domain)

    def outlook(self, address: str, domain: str, urgency: Urgency) -> tuple[str, str, bool]:
        """Say what would become of a first request to somebody now; changes nothing.

        :return: a word or two, why, and whether it is sent.
        """
        now = self._seconds()
        lane = self._paced.lanes.get(domain)
        if lane is None:
            budget = PartnerBudget(domain, limits_of(self._domain(domain)), now)
        else:
            budget = lane.budget
        until = budget.unknown_users(now).get(address.lower(), 0.0)
        if until > now:
            why = f"{domain} said that it does not know him; asked again in {until - now:.0f} s"
            return "answered with 404", why, False
        why = _words(budget, now)
        if not budget.could_admit(address.lower(), urgency, now):
            return "refused", why, False
        if pauses := self._paced.pauses.view(domain, now):
            why += f"; {pauses[0].hop} asked for {pauses[0].until - now:.0f} s more of pause"
        if lane is None or not lane.tickets or budget.rate is None:
            return "passed", why, True
        return "waits", f"about {lane.room.wait(urgency, budget.rate):.0f} s; {why}", True


def _words(budget: PartnerBudget, now: float) -> str:
    used = budget.rate_used(now)
    rate, limit = budget.rate, budget.address_limit
    words = f"{used:.1f} of {rate:g} requests a second" if rate is not None else "no limit of rate"
    if budget.slowed_since is not None:
        words += f" (slowed down: {budget.failure_ratio:.0%} failed)"
    return words if limit is None else f"{words}, {budget.addresses(now)} of {limit} addresses"
