"""Each local user's own list: whom outside may see and reach him (SPEC section 5).

A list has decisions for foreign users and for foreign domains, and a default for everybody else.
:func:`judge` is the rule, a pure function; :class:`UserPolicies` keeps the lists, writes every
change down at once, and tells listeners of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from enum import Enum
from typing import Literal, Protocol

from impfed.core.errors import ImpfedError
from impfed.core.log import EventLog
from impfed.store.api import Change, Delete, Done, Put
from impfed.store.records import Decision, PolicyDefaultRecord, PolicyEntryRecord
from impfed.xmpp.jid import JID, JidError

log = EventLog("impfed.policy")

#: What a list may say of a user or domain, and what it may say of everybody else.
ListDecision = Literal["allow", "block"]
Default = Literal["ask", "block"]

#: Entries that one user's list may have.
ENTRY_LIMIT = 5000


class PolicyError(ImpfedError):
    """A change of a list that is not possible; says why, in words for the user."""


class Verdict(Enum):
    """What becomes of a foreign user who wants to see a local one."""

    ALLOW = "allow"
    BLOCK = "block"
    ASK = "ask"


class Rule(Enum):
    """Which rule decided, strongest first."""

    USER = "decision for the user"
    DOMAIN = "decision for the domain"
    CLIENT = "answer in the client"
    CONTACT = "on the contact list"
    DEFAULT = "default for external people"


@dataclass(frozen=True, slots=True)
class Judgement:
    """A verdict, the rule that it comes from, and both in words."""

    verdict: Verdict
    rule: Rule
    words: str

    @property
    def stops_texts(self) -> bool:
        """Whether messages of the foreign user are stopped too.

        A request that was declined in a client hides the presence and nothing else.
        """
        return self.verdict is Verdict.BLOCK and self.rule is not Rule.CLIENT


@dataclass(slots=True)
class UserPolicy:
    """One user's list.

    :ivar users: decisions by foreign bare address.
    :ivar domains: decisions by foreign domain; exact, a subdomain is another domain.
    """

    users: dict[JID, PolicyEntryRecord] = field(default_factory=dict)
    domains: dict[str, PolicyEntryRecord] = field(default_factory=dict)
    default: Default = "ask"


_NOTHING = UserPolicy()


def judge(
    policy: UserPolicy, foreign: JID, answered: Decision = "none", on_contact_list: bool = False
) -> Judgement:
    """Decide what a foreign user may see of the list's owner.

    The decision for the user goes before the decision for the domain, that before the answer that
    the owner once gave in his client, that before "he is on my contact list, so he may see me", and
    that before the default.  A user who is allowed stays visible to the owner's choice in a domain
    that is blocked.

    :param foreign: bare address.
    :param answered: the stored authorization of the pair.
    :param on_contact_list: whether the owner watches the foreign user.
    """
    entry = policy.users.get(foreign)
    if entry is not None:
        words = f"the user's list says {entry.decision} for {foreign}"
        return Judgement(Verdict(entry.decision), Rule.USER, words)
    entry = policy.domains.get(foreign.domain)
    if entry is not None:
        words = f"the user's list says {entry.decision} for the domain {foreign.domain}"
        return Judgement(Verdict(entry.decision), Rule.DOMAIN, words)
    if answered == "approved":
        words = f"the user has approved {foreign}"
        return Judgement(Verdict.ALLOW, Rule.CLIENT, words)
    if answered == "declined":
        words = f"the user has declined {foreign}"
        return Judgement(Verdict.BLOCK, Rule.CLIENT, words)
    if on_contact_list:
        words = f"{foreign} is on the user's contact list"
        return Judgement(Verdict.ALLOW, Rule.CONTACT, words)
    words = f"the user's default for external people is {policy.default}"
    return Judgement(Verdict(policy.default), Rule.DEFAULT, words)


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of a list, as pages and commands show it.

    :ivar subject: foreign address, or domain without "@".
    :ivar changed_at: in seconds since the epoch.
    """

    subject: str
    decision: ListDecision
    changed_at: float

    @property
    def is_domain(self) -> bool:
        """Whether it is for a whole domain."""
        return "@" not in self.subject


@dataclass(frozen=True, slots=True)
class PolicyChange:
    """What a listener is told.

    :ivar local: whose list.
    :ivar subject: address or domain that the change is about; "" for the default.
    :ivar decision: the decision now; "" for none, "ask" or "block" for a default.
    """

    local: JID
    subject: str
    decision: str

    def concerns(self, foreign: JID) -> bool:
        """Whether a foreign user may be judged differently now."""
        return self.subject in ("", foreign.text, foreign.domain)


class Writes(Protocol):
    """The part of the store that is used here."""

    def write(self, changes: list[Change], done: Done | None = None) -> None:
        """Make changes, all or none; see :class:`impfed.store.api.IStore`."""
        ...


class UserPolicies:
    """The lists of all local users.

    :param seconds: the time, in seconds since the epoch.
    """

    def __init__(self, store: Writes, seconds: Callable[[], float]) -> None:
        self._store = store
        self._seconds = seconds
        self._policies: dict[JID, UserPolicy] = {}
        self._listeners: list[Callable[[PolicyChange], None]] = []

    def load(
        self, entries: Iterable[PolicyEntryRecord], defaults: Iterable[PolicyDefaultRecord]
    ) -> None:
        """Take in what the store kept."""
        for record in entries:
            local = JID.parse(record.local)
            record.local = local.text  # one copy of each
            policy = self._policies.setdefault(local, UserPolicy())
            if "@" in record.subject:
                user = JID.parse(record.subject)
                record.subject = user.text
                policy.users[user] = record
            else:
                policy.domains[record.subject] = record
        for each in defaults:
            policy = self._policies.setdefault(JID.parse(each.local), UserPolicy())
            policy.default = each.default

    def changed(self, key: str, record: PolicyEntryRecord | PolicyDefaultRecord | None) -> None:
        """Another node has changed somebody's list.

        :param key: the record's: the local address, and after "|" the subject of an entry.
        :param record: as it is now; None when it is gone.
        """
        local, _, subject = key.partition("|")
        policy = self._policy(JID.parse(local))
        if isinstance(record, PolicyEntryRecord):
            self.load([record], ())
        elif isinstance(record, PolicyDefaultRecord):
            self.load((), [record])
        elif "@" in subject:
            policy.users.pop(JID.parse(subject), None)
        elif subject:
            policy.domains.pop(subject, None)
        else:
            policy.default = "ask"
        decision = getattr(record, "decision", "") or getattr(record, "default", "")
        self._tell(PolicyChange(JID.parse(local), subject, decision or ("" if subject else "ask")))

    def listen(self, listener: Callable[[PolicyChange], None]) -> None:
        """Have every change told, after it is made."""
        self._listeners.append(listener)

    # -- reading -----------------------------------------------------------------------------------

    def judge(
        self, local: JID, foreign: JID, answered: Decision = "none", on_contact_list: bool = False
    ) -> Judgement:
        """Decide by a user's list; see :func:`judge`."""
        return judge(self._policies.get(local, _NOTHING), foreign, answered, on_contact_list)

    def blocks(self, local: JID, foreign: JID) -> bool:
        """Whether a user's list hides him from somebody whom he has once approved."""
        policy = self._policies.get(local)
        return policy is not None and judge(policy, foreign, "approved").verdict is Verdict.BLOCK

    def entries(self, local: JID) -> list[Entry]:
        """Return a user's list: domains first, each part in order."""
        policy = self._policies.get(local, _NOTHING)
        records = [*policy.domains.values(), *policy.users.values()]
        entries = [Entry(each.subject, each.decision, each.changed_at) for each in records]
        return sorted(entries, key=lambda entry: (not entry.is_domain, entry.subject))

    def default(self, local: JID) -> Default:
        """Return what a user wants for everybody else."""
        return self._policies.get(local, _NOTHING).default

    def records(self) -> Iterator[PolicyEntryRecord | PolicyDefaultRecord]:
        """Return every entry of every list, and the defaults that are not the usual one."""
        for local, policy in self._policies.items():
            yield from (*policy.domains.values(), *policy.users.values())
            if policy.default != "ask":
                yield PolicyDefaultRecord(local=local.text, default=policy.default)

    # -- changing ----------------------------------------------------------------------------------

    def set(self, local: JID, subject: str, decision: ListDecision) -> None:
        """Note a decision for ``user@domain``, or for a domain.

        :raises PolicyError: when the subject is neither, or the list is full.
        """
        self._put(local, subject_of(subject), decision)

    def set_user(self, local: JID, foreign: JID, decision: ListDecision) -> None:
        """Note a decision for a foreign user.

        :raises PolicyError: when the list is full.
        """
        self._put(local, foreign.bare, decision)

    def set_domain(self, local: JID, domain: str, decision: ListDecision) -> None:
        """Note a decision for a foreign domain, exactly this one.

        :raises PolicyError: when the list is full, or the name is no domain.
        """
        self._put(local, _domain(domain), decision)

    def delete(self, local: JID, subject: str) -> bool:
        """Take an address or a domain off the list; returns whether it was there.

        :raises PolicyError: when it is neither.
        """
        found = subject_of(subject)
        policy = self._policies.get(local, _NOTHING)
        if isinstance(found, JID):
            record = policy.users.pop(found, None)
        else:
            record = policy.domains.pop(found, None)
        if record is None:
            return False
        self._store.write([Delete(PolicyEntryRecord, record.key)])
        self._tell(PolicyChange(local.bare, record.subject, ""))
        return True

    def set_default(self, local: JID, default: Default) -> None:
        """Set what a user wants for everybody who is not on his list; never "allow"."""
        if default not in ("ask", "block"):
            raise PolicyError(f'the default is "ask" or "block", not "{default}"')
        policy = self._policy(local)
        if policy.default == default:
            return
        policy.default = default
        record = PolicyDefaultRecord(
            local=local.bare.text, default=default, changed_at=self._seconds()
        )
        if default == "ask":
            self._store.write([Delete(PolicyDefaultRecord, record.key)])
        else:
            self._store.write([Put(record)])
        self._tell(PolicyChange(local.bare, "", default))

    def remove_user(self, local: JID) -> int:
        """Forget a local user's list and default, without telling anybody; returns the entries."""
        policy = self._policies.pop(local, _NOTHING)
        records = [*policy.users.values(), *policy.domains.values()]
        changes: list[Change] = [Delete(PolicyEntryRecord, each.key) for each in records]
        self._store.write([*changes, Delete(PolicyDefaultRecord, local.text)])
        return len(records)

    def rename_user(self, old: JID, new: JID) -> int:
        """Give a local user's list to another address; returns the entries.

        What the other address has decided itself stays.
        """
        policy = self._policies.get(old, _NOTHING)
        entries, default = self.entries(old), policy.default
        self.remove_user(old)
        known = {entry.subject for entry in self.entries(new)}
        for entry in entries:
            if entry.subject not in known:
                self.set(new, entry.subject, entry.decision)
        if default != "ask":
            self.set_default(new, default)
        return len(entries)

    def _policy(self, local: JID) -> UserPolicy:
        return self._policies.setdefault(local.bare, UserPolicy())

    def _put(self, local: JID, subject: JID | str, decision: ListDecision) -> None:
        if decision not in ("allow", "block"):
            raise PolicyError(f'a decision is "allow" or "block", not "{decision}"')
        policy = self._policy(local)
        known = subject in policy.users or subject in policy.domains
        if not known and len(policy.users) + len(policy.domains) >= ENTRY_LIMIT:
            raise PolicyError(f"the list has {ENTRY_LIMIT} entries already")
        text = str(subject)
        record = PolicyEntryRecord(
            local=local.bare.text, subject=text, decision=decision, changed_at=self._seconds()
        )
        if isinstance(subject, JID):
            policy.users[subject] = record
        else:
            policy.domains[subject] = record
        self._store.write([Put(record)])
        log.info(
            "decided",
            "{local} has decided: {decision} {subject}",
            local=record.local,
            decision=decision,
            subject=text,
        )
        self._tell(PolicyChange(local.bare, text, decision))

    def _tell(self, change: PolicyChange) -> None:
        for listener in list(self._listeners):
            try:
                listener(change)
            except Exception:  # one must not keep the news from the next
                log.failure("listener_failed", "a listener of policy changes failed")


def subject_of(text: str) -> JID | str:
    """Return the foreign user (bare) or domain that a user wrote: ``user@domain`` or ``domain``.

    :raises PolicyError: when it is neither.
    """
    text = text.strip().removeprefix("sip:").removeprefix("xmpp:").removeprefix("@")
    if "@" not in text:
        return _domain(text)
    try:
        return JID.parse(text).bare
    except JidError as error:
        raise PolicyError(f"{text} is no address: {error.problem}") from None


def _domain(text: str) -> str:
    try:
        jid = JID.parse(text.strip().removeprefix("@").removesuffix("."))
    except JidError as error:
        raise PolicyError(f"{text} is no domain: {error.problem}") from None
    if jid.local or jid.resource:
        raise PolicyError(f"{text} is no domain")
    return jid.domain
