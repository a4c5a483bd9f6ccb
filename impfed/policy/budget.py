"""How much we send to one SIP domain: rate, addresses, failures, users who do not exist there.

A Microsoft edge that has merely discovered us takes 20 messages a second and 1,000 addresses; more of
either, or many failures, and it slows us down to one a second or blocks us (SPEC section 8).  A budget
stays under that, and slows down before the partner does.

Nothing here reads a clock: times are arguments, seconds since the epoch.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from math import inf

from impfed.config.model import BudgetConfig, SipDomainConfig
from impfed.sip.errors import SipParseError
from impfed.sip.headers import parse_name_addr
from impfed.sip.uri import SipUri, parse_uri


class Urgency(IntEnum):
    """What goes first when not everything can go at once (SPEC section 8)."""

    IM = 0
    DIALOG = 1
    NOTIFY = 2
    SUBSCRIBE = 3


_BY_METHOD = {
    "INVITE": Urgency.IM,
    "MESSAGE": Urgency.IM,
    "INFO": Urgency.IM,
    "BYE": Urgency.IM,
    "NOTIFY": Urgency.NOTIFY,
    "BENOTIFY": Urgency.NOTIFY,
    "SUBSCRIBE": Urgency.SUBSCRIBE,
}


def urgency_of(method: str) -> Urgency:
    """Return how urgent a request is; every method without a rank of its own is ``DIALOG``."""
    return _BY_METHOD.get(method, Urgency.DIALOG)


@dataclass(frozen=True, slots=True)
class Limits:
    """What a partner bears.

    :ivar rate: requests a second; None for no limit, which puts the guard on failures out of force.
    :ivar burst: requests that may go at once after a pause.
    :ivar addresses: distinct addresses in :data:`ADDRESS_WINDOW`; None for no limit.
    :ivar unknown: seconds for which a user who does not exist is not asked for again; 0 for never.
    """

    rate: float | None = None
    burst: float = 1.0
    addresses: int | None = None
    unknown: float = 600.0


#: A Microsoft partner that has not listed us: rate and burst together are 20 in any second.
DISCOVERED = Limits(rate=18.0, burst=2.0, addresses=1000)
_MICROSOFT = ("microsoft", "office365")

#: Seconds for which an address counts.
ADDRESS_WINDOW = 86400.0
#: Share of the addresses that subscriptions may use up, so that texts still reach new people.
_FOR_SUBSCRIPTIONS = 0.9
#: Half of the time over which rate and failures are looked at, in seconds.
_HALF = 30.0
#: Answers needed before their failures say anything; share at which we slow down, and go on again.
_ENOUGH, _TOO_MANY, _FEW = 20, 0.4, 0.2
#: Users of a domain that are remembered not to exist.
_UNKNOWN_CAPACITY = 10_000
#: People of a domain that are kept in memory for nothing but speed.
_PEOPLE_CAPACITY = 20_000
#: Answers after which we do not ask for a user again for a while.
NO_SUCH_USER = frozenset({404, 604})
#: Answers that look like guessing addresses; with them every 5xx counts as a failure.
_SUSPICIOUS = frozenset({403, 404, 410, 484, 485, 604})


def limits_of(domain: SipDomainConfig | None) -> Limits:
    """Return a domain's limits: what is configured, else what its kind bears.

    :param domain: None for a domain that nobody configured, which may well be a Microsoft one.
    """
    config = BudgetConfig() if domain is None else domain.budget
    discovered = domain is None or (domain.kind in _MICROSOFT and not domain.listed)
    base = DISCOVERED if discovered else Limits()
    rate: float | None = base.rate if config.rate == 0 else config.rate
    burst: float = config.burst
    if rate is not None and not burst:
        burst = base.burst if config.rate == 0 else max(1.0, rate / 10)
    addresses = base.addresses if config.addresses == 0 else config.addresses
    return Limits(rate, max(1.0, burst), addresses, config.unknown_users)


class Person:
    """One address of the domain.

    :ivar unknown_until: until when it is not asked for, because nobody is there; 0.0 if not so.
    :ivar counted_until: until when it counts as one of the addresses; 0.0 if it does not.
    """

    __slots__ = ("address", "budget", "counted_until", "unknown_until")

    def __init__(self, budget: PartnerBudget, address: str) -> None:
        self.budget = budget
        self.address = address
        self.unknown_until = 0.0
        self.counted_until = 0.0


class PartnerBudget:
    """What we may send to one domain.

    A share of it (:meth:`share`) is what one node of a cluster may use; alone it has all.

    :ivar rate: requests a second that hold now; None for no limit.
    :ivar sent: requests in the present half of the window; the owner of the queue never touches it.
    :ivar answers: final answers in the present half.  Whoever takes in an answer below 300 counts
        it here; any other goes to :meth:`refused`, which counts it itself.
    :ivar slowed_since: when too many failures slowed us down; None while they do not.
    :ivar held_since: since when requests have had to wait without a break; None while none waits.
    """

    __slots__ = (
        "_addresses",
        "_at",
        "_before",
        "_counted",
        "_failures",
        "_half_ends",
        "_half_since",
        "_nodes",
        "_people",
        "_share",
        "_tokens",
        "_unknown",
        "answers",
        "burst",
        "domain",
        "held_since",
        "limits",
        "rate",
        "sent",
        "slowed_since",
    )

    def __init__(self, domain: str, limits: Limits, now: float) -> None:
        self.domain = domain
        self.limits = limits
        self.rate = limits.rate
        self.burst = limits.burst
        self.sent = self.answers = self._failures = 0
        self.slowed_since: float | None = None
        self.held_since: float | None = None
        self._share = 1.0
        self._nodes = 1
        self._addresses = limits.addresses
        self._tokens = limits.burst
        self._at = now
        self._half_since = now
        self._half_ends = now + _HALF
        self._before = (0, 0, 0, 0.0)  # sent, answers, failures, seconds of the half before
        self._counted: dict[str, float] = {}  # in the order in which they cease to count
        self._unknown: dict[str, float] = {}
        self._people: dict[str, Person] = {}

    # -- rate --------------------------------------------------------------------------------------

    def take(self, now: float) -> bool:
        """Take the right to send one request; False when there is none now."""
        if now >= self._half_ends:
            self._turn(now)
        rate = self.rate
        if rate is not None:
            tokens = self._tokens
            if now > self._at:
                tokens += (now - self._at) * rate
                if tokens > self.burst:
                    tokens = self.burst
                self._at = now
            if tokens < 1.0:
                self._tokens = tokens
                return False
            self._tokens = tokens - 1.0
        self.sent += 1
        return True

    def ready_at(self, now: float) -> float:
        """Return when the next request may go, if none goes before."""
        if self.rate is None:
            return now
        missing = 1.0 - self._tokens - max(0.0, now - self._at) * self.rate
        # The time of day has a grain of 0.2 µs: a little more, so that it is enough then.
        return now if missing <= 0 else now + missing / self.rate + 1e-6

    def share(self, share: float, now: float, nodes: int = 0) -> None:
        """Use only a part of the domain's budget: rate, burst and addresses.

        This is where a cluster hands out portions; 1/n each is right while nothing can be agreed.

        :param share: above 0, at most 1.
        :param nodes: how many share it; then each may have its even part of the addresses, which
            count for a day, whatever its part of the rate is at this moment.
        """
        self._share = share
        self._nodes = max(1, nodes)
        addresses, part = self.limits.addresses, 1 / nodes if nodes else share
        self._addresses = None if addresses is None else max(1, int(addresses * part))
        self._set_rate(now)

    @property
    def part(self) -> float:
        """The part of the domain's budget that this node may use."""
        return self._share

    @property
    def whole_rate(self) -> float | None:
        """Requests a second that all nodes together may send now; None for no limit."""
        full = self.limits.rate
        if full is None:
            return None
        # Each node may send one at once, however many there are: what that is too much goes off the rate.
        full = max(full / 2, full - max(0.0, self._nodes - self.limits.burst))
        return min(full, max(1.0, full / 10)) if self.slowed_since is not None else full

    @property
    def hoped_rate(self) -> float | None:
        """Requests a second that this node can count on if it has much to send."""
        whole = self.whole_rate
        return None if whole is None else whole * max(self._share, 1 / self._nodes)

    def _set_rate(self, now: float) -> None:
        full = self.whole_rate
        if full is None:
            return
        if self.rate is not None and now > self._at:
            self._tokens = min(self.burst, self._tokens + (now - self._at) * self.rate)
        self._at = max(now, self._at)
        slowed = self.slowed_since is not None
        self.rate = full * self._share
        self.burst = 1.0 if slowed else max(1.0, self.limits.burst * self._share)
        self._tokens = min(self._tokens, self.burst)

    # -- failures ----------------------------------------------------------------------------------

    def refused(self, status: int, now: float) -> bool:
        """Count a final answer that is no success; returns whether we slow down from now on."""
        self.answers += 1
        if status < 500 and status not in _SUSPICIOUS:
            return False
        if status in (600, 603, 606):
            return False
        self._failures += 1
        if now >= self._half_ends:
            self._turn(now)
        slow = self.limits.rate is not None and self.slowed_since is None
        if not slow or self.failure_ratio < _TOO_MANY or self._answered < _ENOUGH:
            return False
        self.slowed_since = now
        self._set_rate(now)
        return True

    @property
    def _answered(self) -> int:
        return self.answers + self._before[1]

    @property
    def failure_ratio(self) -> float:
        """Share of failures among the answers of the last minute, 0.0 to 1.0."""
        answered = self._answered
        return min(1.0, (self._failures + self._before[2]) / answered) if answered else 0.0

    def rate_used(self, now: float) -> float:
        """Return the requests a second that went out in the last minute."""
        if now >= self._half_ends:
            self._turn(now)
        sent, _, _, seconds = self._before
        span = seconds + now - self._half_since
        return (self.sent + sent) / span if span > 0 else 0.0

    def _turn(self, now: float) -> None:
        """Begin another half of the window; the one before the last is forgotten."""
        length = now - self._half_since
        if length < 2 * _HALF:
            self._before = (self.sent, self.answers, self._failures, length)
        else:
            self._before = (0, 0, 0, _HALF)
        self.sent = self.answers = self._failures = 0
        self._half_since = now
        self._half_ends = now + _HALF
        quiet = self._answered < _ENOUGH / 4
        if self.slowed_since is not None and (quiet or self.failure_ratio < _FEW):
            self.slowed_since = None
            self._set_rate(now)

    # -- addresses ---------------------------------------------------------------------------------

    def person(self, address: str) -> Person:
        """Return what is known of an address."""
        found = self._people.get(address)
        if found is None:
            if len(self._people) >= _PEOPLE_CAPACITY:
                self._people.clear()
            found = self._people[address] = Person(self, address)
            found.unknown_until = self._unknown.get(address, 0.0)
            found.counted_until = self._counted.get(address, 0.0)
        return found

    def admit(self, person: Person, urgency: Urgency, now: float) -> bool:
        """Whether a request may begin something with this address; it counts from then on."""
        if person.counted_until > now:
            return True
        if self._addresses is None:
            person.counted_until = inf
            return True
        if not self.could_admit(person.address, urgency, now):
            return False
        self._counted.pop(person.address, None)
        self._counted[person.address] = person.counted_until = now + ADDRESS_WINDOW
        return True

    def could_admit(self, address: str, urgency: Urgency, now: float) -> bool:
        """Whether :meth:`admit` would say yes; changes nothing that counts."""
        limit, count = self._addresses, self.addresses(now)
        if limit is None or address in self._counted:
            return True
        if urgency is Urgency.SUBSCRIBE:
            limit = int(limit * _FOR_SUBSCRIPTIONS) or 1
        return count < limit

    def addresses(self, now: float) -> int:
        """Return how many addresses count."""
        counted = self._counted
        while counted:
            oldest = next(iter(counted))
            if counted[oldest] > now:
                break
            del counted[oldest]
        return len(counted)

    @property
    def address_limit(self) -> int | None:
        """Addresses that may count; None for no limit."""
        return self._addresses

    # -- users who do not exist --------------------------------------------------------------------

    def no_such_user(self, person: Person, now: float) -> None:
        """The partner says that nobody is there."""
        if not self.limits.unknown:
            return
        unknown = self._unknown
        unknown.pop(person.address, None)
        if len(unknown) >= _UNKNOWN_CAPACITY:
            oldest = next(iter(unknown))
            self._forget(oldest)
        unknown[person.address] = person.unknown_until = now + self.limits.unknown

    def exists(self, person: Person) -> None:
        """The partner has accepted something for this address."""
        self._forget(person.address)
        person.unknown_until = 0.0

    def _forget(self, address: str) -> bool:
        person = self._people.get(address)
        if person is not None:
            person.unknown_until = 0.0
        return self._unknown.pop(address, None) is not None

    def forget_unknown(self, address: str = "") -> int:
        """Ask again for an address, or for all of them if empty; returns how many that were."""
        addresses = [address] if address else list(self._unknown)
        return sum(map(self._forget, addresses))

    def unknown_users(self, now: float) -> dict[str, float]:
        """Return the users who are not asked for, with the time until when."""
        for address in [each for each, until in self._unknown.items() if until <= now]:
            self._forget(address)
        return dict(self._unknown)

    # -- words -------------------------------------------------------------------------------------

    def advice(self, now: float) -> str:
        """Return what the operator should do about it; "" when nothing bites."""
        limit = self._addresses
        full = limit is not None and self.addresses(now) >= limit * _FOR_SUBSCRIPTIONS
        if self.slowed_since is None and self.held_since is None and not full:
            return ""
        words = (
            f"ask the administrator of {self.domain} to allow our domain by name together with our"
            " edge (Microsoft: New-CsAllowedDomain -Identity OUR-DOMAIN -ProxyFqdn OUR-EDGE), then"
            f" set listed = true under the [[domain]] {self.domain}"
        )
        if self.slowed_since is not None:
            words = (
                f"{round(100 * self.failure_ratio)} % of our requests failed: see which users do"
                f" not exist there, and {words}"
            )
        return words


def address_of(value: str) -> tuple[str, str]:
    """Return address and domain of a To or From value, lower case; the domain is "" if it has none."""
    try:
        uri = parse_uri(parse_name_addr(value).uri_text)
    except SipParseError:
        return value, ""
    return (uri.aor.lower(), uri.host) if isinstance(uri, SipUri) else (value, "")
