"""Event subscriptions (RFC 6665): :class:`Subscriber` for ours, :class:`Notifier` for theirs.

Both are pure: methods take messages and the time and return effects to be carried out in order.

A subscriber in use::

    watching = Watching(ids, expires=7200)
    subscriber = Subscriber(watching, local="<sip:juliet@impfed.example>",
                            remote="<sip:romeo@lync.example>", target="sip:romeo@lync.example",
                            contact="<sip:juliet@fed.impfed.example:5061;transport=tls>")
    effects = subscriber.subscribe(now)        # [SendSubscribe(request)]
    table[subscriber.key] = subscriber         # NOTIFYs find it by (Call-ID, To tag)
    effects = subscriber.notify(request, now)  # [AnswerNotify(200), StateChanged(ACTIVE), ...]

After each call the key may have changed (a new attempt is a new dialog) and so may ``due``.

A notifier in use::

    notifier, effects = Notifier.begin(request, local_tag=tag, contact=contact, now=now,
                                       approved=True, document=StateDocument(type, body))
    # [AnswerSubscribe(200, ...), SendNotify(request)]
    effects = notifier.publish(StateDocument(type, body), now)
"""

from __future__ import annotations

from impfed.sip.notifier import DEFAULT_LIMITS, Notifier
from impfed.sip.subscriber import Subscriber
from impfed.sip.subscription_parts import (
    GONE_STATUSES,
    AnswerNotify,
    AnswerSubscribe,
    Document,
    ExpiresLimits,
    NotifierEffect,
    NotifyFailed,
    SendNotify,
    SendSubscribe,
    Setback,
    StateChanged,
    StateDocument,
    SubscriberEffect,
    SubscriptionEnded,
    WatchEnded,
    Watching,
)
from impfed.sip.subscription_retry import EndCause, RetryPolicy
from impfed.sip.subscription_tables import Phase, Watch

__all__ = [
    "DEFAULT_LIMITS",
    "GONE_STATUSES",
    "AnswerNotify",
    "AnswerSubscribe",
    "Document",
    "EndCause",
    "ExpiresLimits",
    "Notifier",
    "NotifierEffect",
    "NotifyFailed",
    "Phase",
    "RetryPolicy",
    "SendNotify",
    "SendSubscribe",
    "Setback",
    "StateChanged",
    "StateDocument",
    "Subscriber",
    "SubscriberEffect",
    "SubscriptionEnded",
    "Watch",
    "WatchEnded",
    "Watching",
]
