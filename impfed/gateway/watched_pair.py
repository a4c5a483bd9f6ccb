"""What one foreign user may know of one local user, and those who are told."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec

from impfed.core.timers import Timer
from impfed.gateway.authorization import Pair
from impfed.gateway.presence_common import encode_state, nick, shared
from impfed.gateway.watcher import Watcher
from impfed.interwork.address import uri_of
from impfed.interwork.availability import OFFLINE, Availability, Kind, combine
from impfed.interwork.pidf import PIDF_TYPE, closed_pidf, write_pidf
from impfed.sip.subscription import StateDocument
from impfed.xmpp.jid import JID
from impfed.xmpp.stanza import presence

if TYPE_CHECKING:
    from impfed.gateway.presence_in import WatchedSide

#: How long an answer to a probe is waited for before the user counts as offline, in seconds.  An
#: answer that he is, or that he may not be shown, waits as long.
PROBE_PATIENCE = 2.0
#: How long the presences of several resources, sent in answer to one probe, are gathered.
SETTLE = 0.05

#: Presence by resource.
Resources = tuple[tuple[str, Availability], ...]


class WatchedPair(msgspec.Struct, eq=False):
    """One local user as one foreign user sees him.

    :ivar resources: presence by resource, as the home server sent it to this foreign user.
    :ivar known: whether the home server has told the state since it was last asked.
    :ivar last: the state last shown; stands in while the present one is not known.
    :ivar approving: whether the home server has been asked to put an approval into the roster.
    :ivar asked: whether the local user has been asked, as far as his server took the question.
    """

    side: WatchedSide
    local: JID
    foreign: JID
    kind: Kind
    resources: Resources = ()
    watchers: tuple[Watcher, ...] = ()
    known: bool = False
    fresh: bool = True
    last: Availability | None = None
    asked: bool = False
    approving: bool = False
    probed: bool = False
    name: str = ""
    waiting: tuple[Callable[[], None], ...] = ()
    patience: Timer | None = None
    settling: Timer | None = None

    @property
    def key(self) -> Pair:
        """Both bare addresses."""
        return (self.local, self.foreign)

    @property
    def entity(self) -> str:
        """The local user's address of record, as the foreign user knows it."""
        return uri_of(self.side.around.aliases.to_outside(self.local))

    def visible(self) -> Availability | None:
        """What the foreign user may see now; None while that is not known."""
        if not self.known:
            return self.last
        if not self.side.gates.shows(self.key):
            return OFFLINE
        return combine(one for _, one in self.resources)

    def document(self) -> StateDocument | None:
        """The body of a NOTIFY that says so; a neutral one, or none, while it is not known."""
        visible = self.visible()
        if visible is not None:
            return StateDocument(PIDF_TYPE, write_pidf(self.kind, visible, self.entity))
        return self.neutral() if self.kind.pending_document else None

    def neutral(self) -> StateDocument:
        """A closed document that says nothing."""
        return StateDocument(PIDF_TYPE, closed_pidf(self.kind, self.entity))

    def update(self, resource: str, availability: Availability) -> None:
        """Take the presence of one resource; of all of them if it is "" and unavailable."""
        if not self.fresh:
            self.fresh = True
            self.resources = ()
        resources = dict(self.resources)
        if availability.available:
            resources[resource] = availability
        elif resource:
            resources.pop(resource, None)
        else:
            resources.clear()
        self.resources = shared(tuple(resources.items()))
        self.learned()

    def refused(self) -> None:
        """The home server does not tell a stranger: the same as nobody being there."""
        self.resources = ()
        self.fresh = True
        self.learned()

    def learned(self) -> None:
        """The home server has spoken: show it, together with what it is still saying."""
        if self.known:
            self.show()
        elif self.settling is None:
            self.settling = self.side.around.timers.after(SETTLE, self._settled)

    def _settled(self) -> None:
        if self.settling is not None:
            self.settling.cancel()
            self.settling = None
        if self.patience is not None:
            if not self._is_there():
                return  # said when the time is up, so that nobody can tell why it is said
            self.patience.cancel()
            self.patience = None
        self.known = True
        self._release()
        self.show()

    def _is_there(self) -> bool:
        """Whether the foreign user is to see somebody who is available."""
        return (
            self.side.gates.shows(self.key) and combine(one for _, one in self.resources).available
        )

    def _release(self) -> None:
        waiting, self.waiting = self.waiting, ()
        for call in waiting:
            call()

    def show(self) -> None:
        """Tell every watcher whose last NOTIFY said something else."""
        visible = self.visible()
        self.last = visible
        if visible is None:
            return
        state = encode_state(visible)
        for watcher in self.watchers:
            watcher.show(state)

    def ask_state(self) -> None:
        """Ask the home server for the state; without an answer the user counts as offline."""
        self.known = self.fresh = False
        probe = presence(self.local, self.foreign, type="probe")
        self.probed = self.side.around.home.send(probe)
        if self.patience is not None:
            self.patience.cancel()
        self.patience = self.side.around.timers.after(PROBE_PATIENCE, self._no_answer)

    def _no_answer(self) -> None:
        self.patience = None
        if not self.probed and self.last is not None:
            self._release()  # the home server is out of reach: what was true last has to do
            return
        if not self.fresh:
            self.fresh = True
            self.resources = ()
        self._settled()

    def hide(self) -> None:
        """From now on the local user is offline for the foreign one, whatever is known of him."""
        if self.last is not None:
            self.last = OFFLINE
        self.show()

    def when_known(self, call: Callable[[], None]) -> None:
        """Call when the state is known: now, or after asking for it."""
        if self.known:
            call()
            return
        self.waiting = (*self.waiting, call)
        if self.patience is None:
            self.ask_state()

    def ask_user(self) -> None:
        """Ask the local user whether the foreign one may see him; once, if the question goes out."""
        question = presence(self.local, self.foreign, type="subscribe", payload=nick(self.name))
        self.asked = self.side.around.home.send(question)
        if self.asked:
            self.side.authorizations.decide_inbound(self.key, "pending")
