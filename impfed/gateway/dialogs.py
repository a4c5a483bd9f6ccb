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

    @property
    def dialog_key(self) -> tuple[str, str]:
        """:attr:`impfed.sip.dialog.Dialog.key` of the dialog that it is entered for."""
        ...

    def in_dialog(self, transaction: ServerTransaction, request: SipRequest, flow: Flow) -> None:
        """Answer a request inside the dialog.

        :raises RemoteError: with what to answer instead.
        """
        ...


class DialogTable:
    """Owners by (Call-ID, our tag), shared by the IM and the presence half.

    Both are opaque and compared exactly (RFC 3261 section 12.2.2).  The table is of Call-IDs, for
    there is nearly always one dialog of each, and its owner knows the tag.
    """

    __slots__ = ("_count", "_owners")

    def __init__(self) -> None:
        self._owners: dict[str, DialogOwner | list[DialogOwner]] = {}
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, owner: DialogOwner) -> None:
        """Enter the dialog of an owner; his key must not change until he is removed."""
        self._count += 1
        call_id = owner.dialog_key[0]
        there = self._owners.setdefault(call_id, owner)
        if there is owner:
            return
        if isinstance(there, list):
            there.append(owner)
        else:
            self._owners[call_id] = [there, owner]

    def remove(self, owner: DialogOwner) -> None:
        """Forget the dialog of an owner; nothing happens when it is not known."""
        call_id = owner.dialog_key[0]
        there = self._owners.get(call_id)
        if there is owner:
            del self._owners[call_id]
        elif isinstance(there, list) and owner in there:
            there.remove(owner)
            if not there:
                del self._owners[call_id]
        else:
            return
        self._count -= 1

    def owner(self, call_id: str, tag: str) -> DialogOwner | None:
        """Return who takes a request with this Call-ID and To tag, None if nobody does."""
        there = self._owners.get(call_id)
        if there is None:
            return None
        owners = there if isinstance(there, list) else (there,)
        return next((owner for owner in reversed(owners) if owner.dialog_key[1] == tag), None)
