"""The two error families: our own faults, and the far side's with the answer to send.

A fault of ours (:class:`LocalError`) is a bug or an impossible request and is never answered with the
peer's blame.  A fault of the far side (:class:`RemoteError`) carries the SIP status that answers it.
"""

from __future__ import annotations


class ImpfedError(Exception):
    """Base of every error that impfed raises on purpose."""


class LocalError(ImpfedError):
    """Our own fault: a caller broke an interface, a state machine was driven wrongly."""


class RemoteError(ImpfedError):
    """The far side's fault, with what to answer.

    :ivar status: SIP status code that answers it (400-699).
    :ivar reason: reason phrase, fit to be shown to the peer's administrator.
    :ivar headers: further headers of the answer, as (name, value) pairs.
    """

    def __init__(self, status: int, reason: str, headers: tuple[tuple[str, str], ...] = ()) -> None:
        super().__init__(f"{status} {reason}")
        self.status = status
        self.reason = reason
        self.headers = headers
