"""What the store keeps, one Struct for each kind.

Keys always hold JIDs or dialog identifiers, never a mail alias.  Times are seconds since the
epoch, 0.0 for "not yet" or "unknown".  Every record carries the version of its layout (``v``), so
that a later release can tell what it reads.  Records are mutable; the store keeps what a record
says at the moment of :meth:`~impfed.store.api.IStore.write`, later changes need a write of their
own.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal, TypeVar

import msgspec

from impfed.sip.dialog import Dialog

Decision = Literal["none", "pending", "approved", "declined"]
#: What became of a text.  Of one to an XMPP domain no more is known than that its server has taken
#: it ("acknowledged"), or that it was written to a stream which acknowledges nothing ("written").
Outcome = Literal[
    "queued", "held", "delivered", "acknowledged", "written", "bounced", "unsure", "discarded"
]


class Record(msgspec.Struct, kw_only=True, gc=False):
    """Base of the kinds.

    A release reads what it wrote itself, what the one before wrote, and what the one after will
    write: fields that it does not know are left out, missing ones have their defaults, so a new
    field needs a default that means "as before".  A layout that the release before could misread
    takes two releases: the first one learns to read it.

    :cvar kind: name of the kind in the store; never changes.
    :cvar version: the layout that this release writes; it reads one higher, too.
    :cvar owned: whether a record has one owner among the nodes of a cluster; it then has the
        fields ``local`` and ``foreign``, and follows the pair.  The others belong to all nodes.
    :ivar v: version of the record's layout.
    """

    kind: ClassVar[str] = ""
    version: ClassVar[int] = 1
    owned: ClassVar[bool] = False
    v: int = 1

    @property
    def key(self) -> str:
        """The record's key, unique within its kind."""
        raise NotImplementedError

    @property
    def pair(self) -> tuple[str, str]:
        """The (local, foreign) bare addresses that decide whose a record with an owner is."""
        local, foreign = self.local, self.foreign  # type: ignore[attr-defined]  # asked of kinds that have both
        return local.partition("/")[0], foreign.partition("/")[0]


RecordType = TypeVar("RecordType", bound=Record)

#: Values of loaded records by themselves, so that what many have in common is one object.
Memo = dict[Any, Any]


def pair_key(local: str, foreign: str) -> str:
    """Return the key of a (local bare address, foreign bare address) pair."""
    return f"{local}|{foreign}"


class HopRecord(msgspec.Struct, gc=False):
    """A next hop as the store keeps it: the plain values of :class:`impfed.sip.target.Hop`."""

    transport: str
    host: str
    port: int
    tls_name: str = ""
    certificate: str = ""


def _share(dialog: Dialog, memo: Memo) -> None:
    # What is the far side's is rarely met again: to look for it costs more than it saves.
    dialog.local = memo.setdefault(dialog.local, dialog.local)
    dialog.route_set = memo.setdefault(dialog.route_set, dialog.route_set)


def session_key(call_id: str, local_tag: str) -> str:
    """Return the key of an IM session's dialog."""
    return f"{call_id}|{local_tag}"


class SessionRecord(Record, gc=False):
    """An IM session that has gone from one node to another; sessions that stay are not written down.

    :ivar dialog: as it stood when it went; ``local_cseq`` may lag behind memory, who goes on with it
        adds a gap.
    :ivar chat_states: whether the local user's client shows typing (XEP-0085).
    :ivar local_wrote: whether the local user has written something in it.
    :ivar shown: a text of its INVITE that was shown; its repeat is not.
    :ivar conversation: what the log calls it.
    """

    kind: ClassVar[str] = "session"
    owned: ClassVar[bool] = True
    local: str
    foreign: str
    dialog: Dialog
    chat_states: bool = False
    local_wrote: bool = False
    shown: str = ""
    conversation: str = ""

    @property
    def key(self) -> str:
        """Call-ID and local tag of the dialog."""
        return session_key(*self.dialog.key)


class OutboxRecord(Record, gc=False):
    """A text taken over from a home server that has not been delivered or returned yet.

    :ivar id: our own id of the message, also the ledger's.
    :ivar local: sender's bare JID.
    :ivar foreign: recipient's bare JID.
    :ivar body: the text.
    :ivar xhtml: XHTML-IM body, serialised; empty for none.
    :ivar stanza_id: the stanza's id, to be quoted in an error.
    :ivar stanza_from: the sender's full JID, where an error or receipt goes.
    :ivar nick: display name to show, empty for none.
    :ivar receipt: whether an XEP-0184 receipt was asked for.
    :ivar attempts: how often it has been sent so far.
    :ivar unsure: whether an earlier attempt may have been delivered.
    :ivar handed: the mark of the hand-over by the home server, empty for none: what has it again is
        the same text again.
    """

    kind: ClassVar[str] = "outbox"
    owned: ClassVar[bool] = True
    id: str
    local: str
    foreign: str
    body: str
    xhtml: str = ""
    stanza_id: str = ""
    stanza_from: str = ""
    thread: str = ""
    nick: str = ""
    lang: str = ""
    receipt: bool = False
    received_at: float = 0.0
    attempts: int = 0
    unsure: bool = False
    handed: str = ""

    @property
    def key(self) -> str:
        """The message's id."""
        return self.id


class RelayedTextRecord(Record, gc=False):
    """A local user's text to an XMPP domain that waits for a stream, or for the end of one that broke.

    :ivar id: the ledger's id.
    :ivar local: sender, the resource included.
    :ivar foreign: recipient, the same.
    :ivar stanza_id: the stanza's id, empty for none.
    :ivar xml: the stanza as S2S gets it.
    :ivar handed: the mark of its hand-over, as of an :class:`OutboxRecord`.
    """

    kind: ClassVar[str] = "relayed_text"
    owned: ClassVar[bool] = True
    id: str
    local: str
    foreign: str
    stanza_id: str
    xml: str
    received_at: float
    handed: str = ""

    @property
    def key(self) -> str:
        """The text's id."""
        return self.id


class HeldTextRecord(Record, gc=False):
    """The first text of a session, embedded in its INVITE, held in case no MESSAGE repeats it.

    :ivar due: when it is delivered if no MESSAGE came.
    """

    kind: ClassVar[str] = "held_text"
    owned: ClassVar[bool] = True
    id: str
    local: str
    foreign: str
    call_id: str
    text: str
    due: float

    @property
    def key(self) -> str:
        """The text's id."""
        return self.id


class InboundSubscriptionRecord(Record, gc=False):
    """Somebody outside watches one of ours (we are the notifier of RFC 6665).

    :ivar dialog: as it stands; ``local_cseq`` may lag behind memory, who restores adds a gap.
    :ivar event_id: ``id`` parameter of the Event header, empty for none.
    :ivar expires_at: when the subscription ends unless refreshed.
    :ivar accept: the watcher's Accept header, empty for the event package's default.
    :ivar last_state: what was last notified, in the owner's own spelling; compared, never read.
    :ivar hop: where in-dialog requests go if the connection is gone; None when not known.
    """

    kind: ClassVar[str] = "inbound_subscription"
    owned: ClassVar[bool] = True
    local: str
    foreign: str
    dialog: Dialog
    state: Literal["pending", "active"]
    event_id: str
    expires_at: float
    accept: str
    last_state: str = ""
    hop: HopRecord | None = None

    @property
    def key(self) -> str:
        """Call-ID and local tag of the dialog; with a second event id in one dialog, that too."""
        key = f"{self.dialog.call_id}|{self.dialog.local_tag}"
        return f"{key}|{self.event_id}" if self.event_id else key

    def share(self, memo: Memo) -> None:
        """Share routes, the Accept header and the state; addresses become JIDs, which are shared."""
        self.accept = memo.setdefault(self.accept, self.accept)
        self.last_state = memo.setdefault(self.last_state, self.last_state)
        _share(self.dialog, memo)


class OutboundSubscriptionRecord(Record, gc=False):
    """One of ours watches somebody outside (we are the subscriber of RFC 6665).

    :ivar dialog: None until the far side answered.
    :ivar state: state of RFC 6665 section 4.1.2, as the owner spells it.
    :ivar last_state: the presence last shown to the local user.
    :ivar wanted: whether the local user still wants it; False keeps it without refreshing it.
    :ivar last_used: when the local user last showed a sign.
    :ivar asked_at: when he last asked to see the foreign user.
    """

    kind: ClassVar[str] = "outbound_subscription"
    owned: ClassVar[bool] = True
    local: str
    foreign: str
    dialog: Dialog | None = None
    state: str = ""
    expires_at: float = 0.0
    last_state: str = ""
    wanted: bool = True
    last_used: float = 0.0
    hop: HopRecord | None = None
    asked_at: float = 0.0

    @property
    def key(self) -> str:
        """The pair."""
        return pair_key(self.local, self.foreign)

    def share(self, memo: Memo) -> None:
        """Share routes and the state; addresses become JIDs, which are shared."""
        self.last_state = memo.setdefault(self.last_state, self.last_state)
        if self.dialog is not None:
            _share(self.dialog, memo)


class AuthorizationRecord(Record, gc=False):
    """What the two people of a pair have allowed each other (SPEC section 5).

    :ivar inbound: may the foreign user see the local one.
    :ivar outbound: may the local user see the foreign one.
    :ivar changed_at: when the later of the two changed.
    :ivar inbound_at: when that one changed, later than any time before; so that of what two nodes have
        written at once neither is lost.
    :ivar outbound_at: the same for that one.
    """

    kind: ClassVar[str] = "authorization"
    local: str
    foreign: str
    inbound: Decision = "none"
    outbound: Decision = "none"
    changed_at: float = 0.0
    inbound_at: float = 0.0
    outbound_at: float = 0.0

    @property
    def key(self) -> str:
        """The pair."""
        return pair_key(self.local, self.foreign)

    def share(self, memo: Memo) -> None:
        """Share times; addresses become JIDs' texts, which are shared."""
        self.changed_at = memo.setdefault(self.changed_at, self.changed_at)
        self.inbound_at = memo.setdefault(self.inbound_at, self.inbound_at)
        self.outbound_at = memo.setdefault(self.outbound_at, self.outbound_at)


class PolicyEntryRecord(Record, gc=False):
    """A line of a local user's policy list (SPEC section 5).

    :ivar subject: a foreign bare address, or a foreign domain (without "@").
    :ivar decision: what the user decided about it.
    """

    kind: ClassVar[str] = "policy_entry"
    local: str
    subject: str
    decision: Literal["allow", "block"]
    changed_at: float = 0.0

    @property
    def key(self) -> str:
        """The local address and the subject."""
        return pair_key(self.local, self.subject)


class PolicyDefaultRecord(Record, gc=False):
    """What a local user wants for people whom his list says nothing about."""

    kind: ClassVar[str] = "policy_default"
    local: str
    default: Literal["ask", "block"] = "ask"
    changed_at: float = 0.0

    @property
    def key(self) -> str:
        """The local address."""
        return self.local


class LearnedDomainRecord(Record, gc=False):
    """What open federation found out of a domain that nobody configured.

    :ivar domain: lower case.
    :ivar protocol: what worked first.
    :ivar learned_at: when it did.
    """

    kind: ClassVar[str] = "learned_domain"
    domain: str
    protocol: Literal["xmpp", "sip"]
    learned_at: float = 0.0

    @property
    def key(self) -> str:
        """The domain."""
        return self.domain


class PauseRecord(Record, gc=False):
    """A next hop that asked for a pause.

    :ivar hop: "transport:host:port".
    :ivar domain: for whose sake it was asked.
    :ivar until: when it may be asked again.
    :ivar refusals: how often it has refused in a row.
    """

    kind: ClassVar[str] = "pause"
    hop: str
    domain: str
    until: float
    refusals: int = 1

    @property
    def key(self) -> str:
        """The hop."""
        return self.hop


class LoginLinkRecord(Record, gc=False):
    """A one-time link to a user's page; a new one takes the place of his older one.

    :ivar id: stands for the user, in the link too.
    :ivar digest: of the link's secret.
    :ivar until: when it ends.
    """

    kind: ClassVar[str] = "login_link"
    id: str
    user: str
    digest: str
    until: float

    @property
    def key(self) -> str:
        """What stands for the user."""
        return self.id


class WebSessionRecord(Record, gc=False):
    """Somebody who is logged in to his page.

    :ivar digest: of the secret in his cookie.
    :ivar csrf: stands in each form, and proves that our page made it.
    :ivar used: when he last did something, to within a minute.
    :ivar notices: sentences to be shown on the next page.
    """

    kind: ClassVar[str] = "web_session"
    digest: str
    user: str
    csrf: str
    begun: float
    used: float
    notices: list[str] = []

    @property
    def key(self) -> str:
        """The digest."""
        return self.digest


class LedgerEntry(msgspec.Struct, gc=False):
    """What became of one message; never its body.

    :ivar id: our own id of the message.
    :ivar direction: "in" (from a foreign domain to a local user) or "out".
    :ivar local: local user's bare JID.
    :ivar foreign: foreign user's bare JID.
    :ivar stanza_id: id of the stanza, empty for none.
    :ivar call_id: Call-ID of the SIP leg, empty before there is one.
    :ivar cseq: CSeq number of the MESSAGE, 0 before there is one.
    :ivar node: name of the node that handled it.
    :ivar received_at: when it reached us.
    :ivar finished_at: when its outcome was settled, 0.0 while it is not.
    :ivar sip_status: status of the SIP leg, got or given; 0 for none.
    :ivar xmpp_condition: stanza error of the XMPP leg, got or given; empty for none.
    :ivar detail: why, in words for an operator.
    :ivar far: what is spoken with the foreign domain; with "xmpp" there is no SIP leg.
    """

    id: str
    direction: Literal["in", "out"]
    local: str
    foreign: str
    stanza_id: str = ""
    call_id: str = ""
    cseq: int = 0
    node: str = ""
    received_at: float = 0.0
    finished_at: float = 0.0
    outcome: Outcome = "queued"
    sip_status: int = 0
    xmpp_condition: str = ""
    detail: str = ""
    far: Literal["sip", "xmpp"] = "sip"


#: Every kind by name.
KINDS: dict[str, type[Record]] = {
    kind.kind: kind
    for kind in (  # those with owners come to a new owner in this order: a session before its texts
        SessionRecord,
        OutboxRecord,
        RelayedTextRecord,
        HeldTextRecord,
        InboundSubscriptionRecord,
        OutboundSubscriptionRecord,
        AuthorizationRecord,
        PolicyEntryRecord,
        PolicyDefaultRecord,
        LearnedDomainRecord,
        PauseRecord,
        LoginLinkRecord,
        WebSessionRecord,
    )
}
