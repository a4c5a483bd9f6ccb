"""Who types in a conversation, told to the other one; it never opens a dialog."""

from __future__ import annotations

from typing import TYPE_CHECKING

from impfed.core.timers import Timer
from impfed.interwork.availability import Kind
from impfed.interwork.typing import (
    ISCOMPOSING_TYPE,
    KEYBOARD_TYPE,
    iscomposing,
    keyboard_activity,
)

if TYPE_CHECKING:
    from impfed.gateway.im_session import ImSession

_REPEAT = 5.0  # seconds; a Microsoft client forgets a typing notice after about 6
_TIMES = 12
_FORGOTTEN = 10.0  # seconds without a notice from the far side


class Typing:
    """Typing notices of both directions."""

    __slots__ = ("_foreign", "_local", "_repeats", "_session")

    def __init__(self, session: ImSession) -> None:
        self._session = session
        self._foreign: Timer | None = None
        self._local: Timer | None = None
        self._repeats = 0

    def stop(self) -> None:
        """Tell nothing more."""
        self.stop_local()
        self.stop_foreign()

    # -- the foreign user --------------------------------------------------------------------------

    def foreign(self, state: str) -> None:
        """The foreign user types ("composing") or stopped ("active")."""
        session = self._session
        gateway = session.gateway
        if gateway.inbox.stopped(session.local, session.foreign):
            return
        if state == "composing":
            if self._foreign is None:
                gateway.chat_state(session, "composing")
            else:
                self._foreign.cancel()
            self._foreign = session.around.timers.after(_FORGOTTEN, self.foreign, "paused")
        elif self._foreign is not None:
            self.stop_foreign()
            gateway.chat_state(session, "active" if state == "active" else "paused")

    def stop_foreign(self) -> None:
        """The foreign user types no more: his text has come, or he has gone."""
        if self._foreign is not None:
            self._foreign.cancel()
            self._foreign = None

    # -- the local user ----------------------------------------------------------------------------

    def local(self, state: str) -> None:
        """The local user's client reports a chat state (XEP-0085)."""
        session = self._session
        session.chat_states = True
        if state == "gone":
            self.stop_local()
            if not session.queue:
                session.close()
                session.gateway.closed(session)
        elif state == "composing":
            self._repeats = _TIMES
            if self._local is None:
                self._repeat()
        elif self._local is not None:
            self.stop_local()
            self._notice(False)

    def stop_local(self) -> None:
        """The local user types no more: he has written, or he has gone."""
        if self._local is not None:
            self._local.cancel()
            self._local = None

    def _repeat(self) -> None:
        self._local = None
        if self._repeats <= 0 or self._session.current is None:
            return
        self._repeats -= 1
        self._notice(True)
        self._local = self._session.around.timers.after(_REPEAT, self._repeat)

    def _notice(self, composing: bool) -> None:
        session = self._session
        dialog = session.current
        way = session.destination(dialog) if dialog is not None else None
        if dialog is None or way is None or session.on_its_way is not None:
            return
        if Kind.load(session.domain.kind).typing == "keyboard":
            method, media, body = "INFO", KEYBOARD_TYPE, keyboard_activity(composing)
        else:
            method, media, body = "MESSAGE", ISCOMPOSING_TYPE, iscomposing(composing)
        request = dialog.dialog.request(method, (("Content-Type", media),), body)
        session.around.stack.request(request, way, dialog)
