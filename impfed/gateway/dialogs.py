"""Every SIP dialog of the node, by what a peer's requests find it by."""

from __future__ import annotations

from typing import Protocol

from impfed.sip.message import SipRequest
from impfed.sip.transaction import ServerTransaction
from impfed.transport.flow import Flow
from impfed.xmpp.jid import JID


class DialogOwner(Protocol):
    """Whoever takes the requests of a dialog: an IM session's dialog, or a subscription."""

    @property
    def foreign(self) -> JID:
        """The peer's bare JID; nobody else may speak in the dialog."""
        ...

    def in_dialog(self, transaction: ServerTransaction, request: SipRequest, flow: Flow) -> None:
        """Answer a request inside the dialog.

        :raises RemoteError: with what to answer instead.
        """
        ...


class DialogTable:
    """Owners by (Call-ID, our tag), shared by the IM and the presence half.

    Both are opaque and compared exactly (RFC 3261 section 12.2.2).
    """

    __slots__ = ("_owners",)

    def __init__(self) -> None:
        self._owners: dict[tuple[str, str], DialogOwner] = {}

    def __len__(self) -> int:
        return len(self._owners)

    def add(self, key: tuple[str, str], owner: DialogOwner) -> None:
        """Enter a dialog under :attr:`impfed.sip.dialog.Dialog.key`."""
        self._owners[key] = owner

    def remove(self, key: tuple[str, str]) -> None:
        """Forget a dialog; nothing happens when it is not known."""
        self._owners.pop(key, None)

    def owner(self, call_id: str, tag: str) -> DialogOwner | None:
        """Return who takes a request with this Call-ID and To tag, None if nobody does."""
        return self._owners.get((call_id, tag))
