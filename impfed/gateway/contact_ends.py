"""What the end of a subscription of ours, or of an attempt at one, means for the local user.

RFC 8048 section 5.2.2 tells what is for good; RFC 6665 sections 4.1.2.2 and 4.1.3 what is tried
again, and when, which is :mod:`impfed.sip.subscription_retry`.  This module only decides what is said.
"""

from __future__ import annotations

from enum import Enum

from impfed.core.log import EventLog
from impfed.interwork.errors import Condition, sip_to_xmpp
from impfed.sip.subscription import EndCause, SubscriptionEnded

log = EventLog("impfed.gateway")

#: Answers to a first SUBSCRIBE that say that the address belongs to nobody.
NOBODY = frozenset({404, 410, 414, 416, 484, 485, 604})
#: Seconds after which a request that nobody ever answered is given up.
GIVE_UP = 7 * 86400.0


class Verdict(Enum):
    """What an end means."""

    ENDED = "the local user wanted it"
    DENIED = "the foreign user does not allow it"
    ABSENT = "there is no such user"
    GIVEN_UP = "no answer for too long"
    FIXED = "the state will not change any more"
    DELAYED = "the first request goes on, the user is told what hinders it"
    AGAIN = "the authorization stays, it is tried again"


def judge(end: SubscriptionEnded, *, over: bool, asking: bool, waited: float) -> Verdict:
    """Say what an end means.

    :param over: the subscriber does not try again by itself.
    :param asking: the foreign user has not allowed anything yet.
    :param waited: seconds since the local user asked.
    """
    if end.cause is EndCause.UNSUBSCRIBED:
        return Verdict.ENDED
    if over:
        return Verdict.FIXED if end.reason == "invariant" and not asking else Verdict.DENIED
    if not asking:
        return Verdict.AGAIN
    if end.status in NOBODY:
        return Verdict.ABSENT
    return Verdict.GIVEN_UP if waited > GIVE_UP else Verdict.DELAYED


def condition_of(end: SubscriptionEnded) -> Condition:
    """Return the stanza error for a first request that has not got through yet."""
    if end.status:
        return sip_to_xmpp(end.status)
    return Condition("remote-server-timeout", "wait")


_WORDS = {
    Verdict.DENIED: "{who} does not allow it. {why}",
    Verdict.ABSENT: "There is no {who}. {why}",
    Verdict.GIVEN_UP: "{who} could not be asked for a week. {why}",
    Verdict.DELAYED: "{who} could not be asked yet; we go on trying. {why}",
}


def words(verdict: Verdict, who: str, why: str) -> str:
    """Return a verdict in words for the local user; "" where nothing needs saying.

    :param who: the foreign user's address.
    :param why: what the far side answered, in words; "" for nothing.
    """
    return _WORDS.get(verdict, "").format(who=who, why=why).strip()


def not_allowed(ours: str, domain: str, why: str, call_id: str) -> None:
    """Say in the log that a partner has not allowed us, a domain of ours, at all."""
    log.warn(
        "not_allowed_by_partner",
        "{domain} refuses our SUBSCRIBE with 403: its administrator has to allow"
        " {ours} (an allow entry or IM provider). Authorizations stay; we try again"
        " hourly. {why}",
        domain=domain,
        ours=ours,
        why=why,
        conversation=call_id,
    )
