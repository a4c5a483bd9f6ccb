"""Writes rosters of local users through a home link: approve, cancel, add, remove.

Two ways, the better one first:

* **Our module** on the home server (``etc/prosody/mod_impfed.lua``, ``etc/ejabberd/mod_impfed.erl``)
  acts as the user's own client would::

      <query xmlns='urn:xmpp:impfed:roster:0'>
        <approve user='alice@home.example' contact='bob@lync.example'/></query>

      <query xmlns='urn:xmpp:impfed:roster:0'>
        <approve user='…' contact='…' state='refused'>no such local user</approve></query>

* **XEP-0356** where the server grants ``roster`` as ``both``: the roster is read, the item written
  and the roster read again, for whether a server obeys a ``subscription`` from a privileged entity
  is its own affair (RFC 6121 section 2.1.5 has it ignored, and ejabberd ignores it).  What was
  found out is kept: a link that cannot approve says so from then on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from xml.etree.ElementTree import Element

from impfed.core.ids import IdSource
from impfed.xmpp.jid import JID
from impfed.xmpp.stanza import OutStanza, Stanza, error_of, iq, xml_attr, xml_text

NS_ROSTERS = "urn:xmpp:impfed:roster:0"
NS_ROSTER = "jabber:iq:roster"

#: XEP-0356 before and since its version 0.4; the parts read here are alike.
NS_PRIVILEGE = ("urn:xmpp:privilege:1", "urn:xmpp:privilege:2")

#: Seconds to wait for an answer.
TIMEOUT = 10.0


class RosterOutcome(Enum):
    """What became of a request."""

    DONE = "done"
    REFUSED = "refused"
    UNAVAILABLE = "not available"
    UNSURE = "unsure"


@dataclass(frozen=True, slots=True)
class RosterAnswer:
    """What became of a request, and why, in words ("" where it was done)."""

    outcome: RosterOutcome
    text: str = ""

    @property
    def done(self) -> bool:
        """Whether the roster is now as it was asked for."""
        return self.outcome is RosterOutcome.DONE


DONE = RosterAnswer(RosterOutcome.DONE)

Done = Callable[[RosterAnswer], None]


def unavailable(text: str) -> RosterAnswer:
    """Return the answer of a link that cannot do it at all."""
    return RosterAnswer(RosterOutcome.UNAVAILABLE, text)


class Deed(Enum):
    """What is done to a roster; the values are the module's elements."""

    APPROVE = "approve"
    CANCEL = "cancel"
    ADD = "add"
    REMOVE = "remove"


class _Step(Enum):
    MODULE = "the module was asked"
    READ = "the roster was asked for"
    WRITE = "the item was written"
    VERIFY = "the roster was asked for again"


class _Request:
    __slots__ = ("deed", "done", "foreign", "local", "name", "step", "when")

    def __init__(self, deed: Deed, local: JID, foreign: JID, name: str, done: Done) -> None:
        self.deed = deed
        self.local = local
        self.foreign = foreign
        self.name = name
        self.done = done
        self.step = _Step.MODULE
        self.when = 0.0


class RosterRequests:
    """The open roster requests of one link, and what the link can do.

    :param own: the component's address, which the requests come from.
    :param send: takes the stanzas to be written.
    :param seconds: tells the time.
    :param fault: called inside the ``except`` clause when a ``done`` function raises, to log it.
    """

    def __init__(
        self,
        own: JID,
        ids: IdSource,
        send: Callable[[OutStanza], None],
        seconds: Callable[[], float],
        fault: Callable[[], None],
    ) -> None:
        self._own = own
        self._ids = ids
        self._send = send
        self._seconds = seconds
        self._fault = fault
        self._open: dict[str, _Request] = {}
        self._granted: dict[str, str] = {}
        self._module: JID | None = None
        self._module_hosts: frozenset[str] = frozenset()
        self._unable: dict[tuple[str, Deed], str] = {}

    # -- what the link can do ------------------------------------------------------------------

    def module_found(self, address: JID, hosts: frozenset[str]) -> None:
        """Take note that our module answers at an address, and for which local domains."""
        self._module, self._module_hosts = address, hosts

    def advertised(self, stanza: Stanza) -> bool:
        """Take a message from a local domain; returns whether it is a list of privileges."""
        for namespace in NS_PRIVILEGE:
            privilege = stanza.child("privilege", namespace)
            if privilege is None:
                continue
            for permission in privilege.findall(f"{{{namespace}}}perm"):
                if permission.get("access") == "roster":
                    self._granted[stanza.from_.domain] = permission.get("type", "none")
            return True
        return False

    def obstacle(self, domain: str, deed: Deed) -> str:
        """Say why a deed cannot be done for the users of a local domain; "" if it can."""
        if domain in self._module_hosts:
            return ""
        granted = self._granted.get(domain, "")
        if not granted:
            return "the home server lets us write no rosters (neither module impfed nor XEP-0356)"
        if granted != "both":
            return f'the home server grants roster="{granted}" by XEP-0356, but "both" is needed'
        return self._unable.get((domain, deed), "")

    def describe(self, domain: str) -> str:
        """Say for the operator how rosters of a domain are written."""
        if domain in self._module_hosts:
            return "by module impfed"
        obstacle = self.obstacle(domain, Deed.APPROVE)
        return f"no: {obstacle}" if obstacle else "by XEP-0356"

    # -- requests ------------------------------------------------------------------------------

    def ask(self, deed: Deed, local: JID, foreign: JID, name: str, done: Done) -> None:
        """Have something done to a roster; ``done`` is called exactly once, perhaps at once."""
        obstacle = self.obstacle(local.domain, deed)
        request = _Request(deed, local.bare, foreign.bare, name, done)
        if obstacle:
            self._finish(request, unavailable(obstacle))
        elif local.domain in self._module_hosts:
            self._ask_module(request)
        else:
            self._read(request, _Step.READ)

    def _ask_module(self, request: _Request) -> None:
        assert self._module is not None
        name = f" name='{xml_attr(request.name)}'" if request.name else ""
        self._write(
            request,
            _Step.MODULE,
            self._module,
            "set",
            f"<query xmlns='{NS_ROSTERS}'><{request.deed.value} user='{request.local.attribute}'"
            f" contact='{request.foreign.attribute}'{name}/></query>",
        )

    def _read(self, request: _Request, step: _Step) -> None:
        self._write(request, step, request.local, "get", f"<query xmlns='{NS_ROSTER}'/>")

    def _write(self, request: _Request, step: _Step, to: JID, type: str, payload: str) -> None:
        request.step, request.when = step, self._seconds()
        id = "r" + self._ids.token()
        self._open[id] = request
        self._send(iq(to, self._own, id=id, type=type, payload=payload))

    # -- answers -------------------------------------------------------------------------------

    def answered(self, stanza: Stanza) -> bool:
        """Take an IQ of type result or error; returns whether it answers a request of ours."""
        request = self._open.pop(stanza.id, None)
        if request is None:
            return False
        if stanza.type == "result":
            _ANSWERS[request.step](self, request, stanza)
        else:
            error = error_of(stanza)
            words = f"the home server refuses ({error.text or error.condition})"
            if request.step is _Step.WRITE:
                # What a server cannot write once it cannot write at all: ejabberd before 23.10.
                self._unable[request.local.domain, request.deed] = words
                self._finish(request, unavailable(words))
            else:
                self._finish(request, RosterAnswer(RosterOutcome.REFUSED, words))
        return True

    def _module_answered(self, request: _Request, stanza: Stanza) -> None:
        query = stanza.child("query", NS_ROSTERS)
        element = None if query is None else query.find(f"{{{NS_ROSTERS}}}{request.deed.value}")
        if element is None:
            answer = RosterAnswer(RosterOutcome.UNSURE, "the module's answer cannot be read")
        elif element.get("state") == "done":
            answer = DONE
        else:
            answer = RosterAnswer(RosterOutcome.REFUSED, element.text or "without a reason")
        self._finish(request, answer)

    def _was_read(self, request: _Request, stanza: Stanza) -> None:
        item = _item(stanza, request.foreign)
        if _fulfilled(request, item):
            self._finish(request, DONE)
            return
        self._write(
            request,
            _Step.WRITE,
            request.local,
            "set",
            f"<query xmlns='{NS_ROSTER}'>{_changed(request, item)}</query>",
        )

    def _written(self, request: _Request, stanza: Stanza) -> None:
        self._read(request, _Step.VERIFY)

    def _verified(self, request: _Request, stanza: Stanza) -> None:
        if _fulfilled(request, _item(stanza, request.foreign)):
            self._finish(request, DONE)
            return
        words = _IGNORED[request.deed]
        self._unable[request.local.domain, request.deed] = words
        self._finish(request, unavailable(words))

    # -- time and loss -------------------------------------------------------------------------

    @property
    def deadline(self) -> float | None:
        """When :meth:`expire` is due; None while nothing is open."""
        if not self._open:
            return None
        return min(request.when for request in self._open.values()) + TIMEOUT

    def expire(self, now: float) -> None:
        """Give up what has waited too long; a late answer finds nothing."""
        late = [id for id, request in self._open.items() if request.when <= now - TIMEOUT]
        self._give_up(late, f"no answer within {TIMEOUT:g} s")

    def lost(self, reason: str) -> None:
        """Give up everything: the link is gone, and what it could do with it."""
        self._granted.clear()
        self._unable.clear()
        self._module, self._module_hosts = None, frozenset()
        self._give_up(list(self._open), reason)

    def _give_up(self, ids: list[str], reason: str) -> None:
        answer = RosterAnswer(RosterOutcome.UNSURE, reason)
        for request in [self._open.pop(id) for id in ids]:
            self._finish(request, answer)

    def _finish(self, request: _Request, answer: RosterAnswer) -> None:
        try:
            request.done(answer)
        except Exception:  # the others must be told, too
            self._fault()


_ANSWERS = {
    _Step.MODULE: RosterRequests._module_answered,
    _Step.READ: RosterRequests._was_read,
    _Step.WRITE: RosterRequests._written,
    _Step.VERIFY: RosterRequests._verified,
}

_NOT_APPROVED = (
    "the home server takes the roster item, but leaves its subscription as it was"
    " (RFC 6121 section 2.1.5); only module impfed can approve there"
)

_IGNORED = {
    Deed.APPROVE: _NOT_APPROVED,
    Deed.CANCEL: _NOT_APPROVED,
    Deed.ADD: "the home server answers that it has written the roster item, but has not",
    Deed.REMOVE: "the home server answers that it has removed the roster item, but has not",
}

#: Subscription state after the deed, by what it was before (RFC 6121 section 2.1.2.5).
_AFTER = {
    Deed.APPROVE: {"none": "from", "to": "both"},
    Deed.CANCEL: {"from": "none", "both": "to"},
}


def _item(stanza: Stanza, contact: JID) -> Element | None:
    """Return a contact's item of the roster in an answer."""
    query = stanza.child("query", NS_ROSTER)
    if query is not None:
        for item in query.findall(f"{{{NS_ROSTER}}}item"):
            if item.get("jid", "").lower() == contact.text.lower():
                return item
    return None


def _subscription(item: Element | None) -> str:
    return "none" if item is None else item.get("subscription", "none")


def _fulfilled(request: _Request, item: Element | None) -> bool:
    """Say whether the roster is as the request wants it."""
    state = _subscription(item)
    if request.deed is Deed.APPROVE:
        return state in ("from", "both")
    if request.deed is Deed.CANCEL:
        return state in ("none", "to")
    if request.deed is Deed.ADD:
        # To subscribe is for the user's client; a privileged entity cannot ask on his behalf.
        return item is not None and request.name in ("", item.get("name"))
    return item is None


def _changed(request: _Request, item: Element | None) -> str:
    """Return the item to be written; what is not asked to change stays."""
    jid = request.foreign.attribute
    if request.deed is Deed.REMOVE:
        return f"<item jid='{jid}' subscription='remove'/>"
    before = _subscription(item)
    state = _AFTER.get(request.deed, {}).get(before, before)
    name = request.name or ("" if item is None else item.get("name", ""))
    named = f" name='{xml_attr(name)}'" if name else ""
    groups = [] if item is None else item.findall(f"{{{NS_ROSTER}}}group")
    content = "".join(f"<group>{xml_text(group.text or '')}</group>" for group in groups)
    return f"<item jid='{jid}'{named} subscription='{state}'>{content}</item>"
