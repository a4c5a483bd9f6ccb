"""What can be wrong with a SIP message, and whether it can still be answered."""

from __future__ import annotations

from typing import TYPE_CHECKING

from impfed.core.errors import RemoteError

if TYPE_CHECKING:
    from impfed.sip.message import SipMessage


class SipParseError(RemoteError):
    """Octets or a header field that are not SIP as RFC 3261 section 25 writes it.

    :ivar status: status code of the answer, 400 unless stated.
    :ivar close: the position in the stream is lost or the peer is hostile: close after the answer.
    :ivar head: the request as far as it could be read, if it can be answered (it has a Via line,
        which may itself be malformed); None means "say nothing".
    """

    def __init__(
        self,
        reason: str,
        status: int = 400,
        headers: tuple[tuple[str, str], ...] = (),
        *,
        close: bool = False,
        head: SipMessage | None = None,
    ) -> None:
        super().__init__(status, reason, headers)
        self.close = close
        self.head = head
