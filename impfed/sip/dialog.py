"""Dialogs (RFC 3261 section 12; section 4.4.1 of RFC 6665 for those that a NOTIFY makes).

A dialog holds strings as the peer wrote them: Record-Route values of Microsoft's edges are signed,
and a Contact with ``gruu`` is opaque.  Header parameters after ``>`` are not part of a route (they
belong to the Record-Route header) and are left out; the name-addr goes back byte for byte.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import msgspec

from impfed.core.errors import LocalError, RemoteError
from impfed.sip.errors import SipParseError
from impfed.sip.headers import NameAddr, parse_name_addr
from impfed.sip.message import Headers, OutgoingRequest, SipMessage, SipRequest, SipResponse

TARGET_REFRESH = frozenset({"INVITE", "UPDATE", "SUBSCRIBE", "NOTIFY", "BENOTIFY", "REFER"})
"""Methods whose Contact becomes the new remote target (RFC 3261 12.2, 3311, 6665, Microsoft)."""

_LOOSE = re.compile(r"[^?]*;[Ll][Rr](?:[=;?]|$)")
_TARGET = re.compile(r"[Ss][Ii][Pp][Ss]?:[^\x00-\x20\x7f]+")
_METHOD_PARAM = re.compile(r";method=[^;?]*", re.IGNORECASE)
#: How far numbers skip at least, for the clocks of nodes differ.
_GAP = 200
#: How fast the clock lets numbers skip: faster than any dialog uses them up, and good until 2040 for
#: one that has never skipped before.
_NUMBERS_SINCE = 1_700_000_000.0
_NUMBERS_A_SECOND = 4.0
_MOST_SKIPPED = 2**31 - 2**24


class Dialog(msgspec.Struct, gc=False):
    """One dialog between a local and a remote party.

    A Struct, for a node has hundreds of thousands of them, and the store keeps them as they are.

    :ivar call_id: Call-ID.
    :ivar local_tag: our tag.
    :ivar remote_tag: the far side's tag; "" with a peer of RFC 2543.
    :ivar local: our From value without its tag.
    :ivar remote: the far side's value without its tag, other parameters (epid) kept.
    :ivar remote_target: Request-URI of our requests, as the far side wrote it in Contact.
    :ivar route_set: Route values in the order to send; fixed for the life of the dialog.
    :ivar local_cseq: number of our last request; 0 before the first.
    :ivar remote_cseq: number of the far side's last request; -1 before the first.
    :ivar skipped_at: when numbers were skipped last, in seconds since the epoch.
    """

    call_id: str
    local_tag: str
    remote_tag: str
    local: str
    remote: str
    remote_target: str
    route_set: tuple[str, ...] = ()
    local_cseq: int = 0
    remote_cseq: int = -1
    skipped_at: float = _NUMBERS_SINCE

    @classmethod
    def uas(cls, request: SipRequest, local_tag: str) -> Dialog:
        """Make the dialog that our 2xx to a request sets up (section 12.1.1).

        :param local_tag: the To tag of that 2xx.
        :raises SipParseError: 400 if the request has no Contact or a header cannot be read.
        """
        return cls(
            request.call_id,
            local_tag,
            request.from_tag,
            without_tag(request.to),
            without_tag(request.from_),
            _target(request),
            record_routes(request),
            0,
            request.cseq.number,
        )

    @classmethod
    def uac(cls, request: OutgoingRequest, response: SipResponse, local_tag: str) -> Dialog:
        """Make the dialog that an answer to our request sets up (section 12.1.2).

        Forked 2xx answers have different To tags and make a dialog each.  An answer without Contact
        leaves the Request-URI as target, so that it can be acknowledged and ended.

        :raises SipParseError: if a header of the answer cannot be read.
        """
        contact = response.contact
        return cls(
            request.call_id,
            local_tag,
            response.to_tag,
            without_tag(parse_name_addr(_own(request, "From"))),
            without_tag(response.to),
            request.uri if contact is None else _target_of(contact),
            record_routes(response)[::-1],
            request.cseq,
        )

    @classmethod
    def uac_from_notify(
        cls, request: OutgoingRequest, notify: SipRequest, local_tag: str
    ) -> Dialog:
        """Make the dialog that the first NOTIFY sets up for our SUBSCRIBE (RFC 6665 section 4.4.1).

        The NOTIFY is a request of the far side: its Record-Route is taken in order, as a UAS does.

        :raises SipParseError: 400 if the NOTIFY has no Contact or a header cannot be read.
        """
        return cls(
            request.call_id,
            local_tag,
            notify.from_tag,
            without_tag(parse_name_addr(_own(request, "From"))),
            without_tag(notify.from_),
            _target(notify),
            record_routes(notify),
            request.cseq,
            notify.cseq.number,
        )

    @property
    def key(self) -> tuple[str, str]:
        """What the far side's requests find the dialog by: (Call-ID, our tag)."""
        return (self.call_id, self.local_tag)

    def request(
        self,
        method: str,
        headers: Headers = (),
        body: bytes = b"",
        contact: str | None = None,
    ) -> OutgoingRequest:
        """Make the next request within the dialog (section 12.2.1.1).

        :param headers: further headers, Content-Type among them.
        :param contact: our Contact value; needed for target refresh requests.
        :raises LocalError: for ACK and CANCEL, which reuse the number of their INVITE.
        """
        if method in ("ACK", "CANCEL"):
            raise LocalError(f"{method} has no sequence number of its own")
        self.local_cseq += 1
        return self._make(method, self.local_cseq, headers, body, contact)

    def ack(
        self,
        cseq: int,
        headers: Headers = (),
        body: bytes = b"",
        contact: str | None = None,
    ) -> OutgoingRequest:
        """Make the ACK of a 2xx (section 13.2.2.4).

        :param cseq: sequence number of the INVITE.
        """
        return self._make("ACK", cseq, headers, body, contact)

    def _make(
        self, method: str, cseq: int, headers: Headers, body: bytes, contact: str | None
    ) -> OutgoingRequest:
        uri, routes = self.remote_target, self.route_set
        if routes and not is_loose(routes[0]):
            # A strict router wants its own URI as Request-URI and the target as the last Route.
            first = parse_name_addr(routes[0]).uri_text.partition("?")[0]
            routes = (*routes[1:], f"<{uri}>")
            uri = _METHOD_PARAM.sub("", first)
        lines = [("Max-Forwards", "70")]
        for route in routes:
            lines.append(("Route", route))
        remote = f"{self.remote};tag={self.remote_tag}" if self.remote_tag else self.remote
        lines.append(("From", f"{self.local};tag={self.local_tag}"))
        lines.append(("To", remote))
        lines.append(("Call-ID", self.call_id))
        lines.append(("CSeq", f"{cseq} {method}"))
        if contact is not None:
            lines.append(("Contact", contact))
        lines.extend(headers)
        return OutgoingRequest(method, uri, lines, body, cseq, self.call_id)

    def accept(self, request: SipRequest) -> None:
        """Take a request of the far side within the dialog: check it, follow its Contact.

        Not for ACK and CANCEL.  A number as high as the last is refused too: it can only be a copy
        that took another way, and what it carries must not happen twice.

        :raises RemoteError: 481 for another remote tag, 500 for a CSeq that goes back (12.2.2).
        :raises SipParseError: 400 if a header cannot be read; nothing has changed then.
        """
        if self.remote_tag and request.from_tag != self.remote_tag:
            raise RemoteError(481, "Call/Transaction Does Not Exist")
        number = request.cseq.number
        if number <= self.remote_cseq:
            raise RemoteError(500, "CSeq out of order")
        if request.method in TARGET_REFRESH and (contact := request.contact) is not None:
            self.remote_target = _target_of(contact)
        self.remote_cseq = number

    def refresh_target(self, response: SipResponse) -> None:
        """Follow the Contact of a 2xx to a target refresh request of ours (section 12.2.1.2).

        :raises SipParseError: if the Contact cannot be read.
        """
        contact = response.contact
        if contact is not None:
            self.remote_target = _target_of(contact)

    def skip_numbers(self, now: float) -> None:
        """Go on above every sequence number used before a restart, or by another node.

        The last ones may not have been written down, and the store may refuse them for any time, so
        that the same record is read after one restart and after the next: what is skipped grows
        with the time, so each goes on above what those before it have used.

        :param now: seconds since the epoch.
        """
        self.local_cseq += _GAP + _numbers_between(self.skipped_at, now)
        self.skipped_at = now

    def snapshot(self) -> dict[str, Any]:
        """Return the dialog as plain values, for the store."""
        return msgspec.structs.asdict(self)

    @classmethod
    def restore(cls, values: Mapping[str, Any]) -> Dialog:
        """Make a dialog from what :meth:`snapshot` returned; lists do for tuples.

        :raises LocalError: if a value is missing.
        """
        try:
            dialog = cls(**{name: values[name] for name in cls.__struct_fields__})
        except KeyError as error:
            raise LocalError(f"A stored dialog lacks {error}") from error
        dialog.route_set = tuple(dialog.route_set)
        return dialog

    def __repr__(self) -> str:
        return f"<Dialog {self.call_id} {self.local_tag} {self.remote_tag}>"


@lru_cache(1024)
def _numbers_between(then: float, now: float) -> int:
    """Return more numbers than a dialog uses in a time; none where the clock has been put back."""
    return max(0, min(int((now - then) * _NUMBERS_A_SECOND), _MOST_SKIPPED))


def without_tag(value: NameAddr) -> str:
    """Return a From or To value without its tag; everything else as written.

    :raises SipParseError: if the parameters cannot be read.
    """
    name = value.without_params
    text = value.text[len(name) :]
    if not text:
        return name
    kept = "".join(
        part for part in _split_params(text) if part[1:].partition("=")[0].strip().lower() != "tag"
    )
    return name + kept


def _split_params(text: str) -> list[str]:
    """Split ``;a=b;c="d;e"`` into its parts, each with its leading semicolon."""
    return [
        part for part in re.findall(r'\s*;(?:[^;"]|"(?:[^"\\]|\\.)*")*', text) if part.strip("; ")
    ]


def is_loose(route: str) -> bool:
    """Return whether a Route value names a loose router: its URI has ``lr`` (section 19.1.1)."""
    uri_text = parse_name_addr(route).uri_text
    return _LOOSE.match(uri_text.rpartition("@")[2]) is not None


def _target(request: SipRequest) -> str:
    contact = request.contact
    if contact is None:
        raise SipParseError("Missing Contact", head=request)
    return _target_of(contact)


def _target_of(contact: NameAddr) -> str:
    """Return a Contact's URI as written, if it can stand in a request line (section 12.1)."""
    text = contact.uri_text
    if not _TARGET.fullmatch(text):
        raise SipParseError("Contact is not a SIP URI")
    return text


def record_routes(message: SipMessage) -> tuple[str, ...]:
    """Return the Record-Route values in the order of the message, in brackets, without params."""
    values = message.values("record-route")
    if not values:
        return ()
    return tuple(_route(parse_name_addr(value)) for value in values)


def _route(value: NameAddr) -> str:
    name = value.without_params
    # Brackets are a must; who leaves them out means all of it as URI, "lr" above all.
    return name if name.endswith(">") else f"<{value.text}>"


def _own(request: OutgoingRequest, name: str) -> str:
    value = request.get(name)
    if value is None:
        raise LocalError(f"A request of ours has no {name}")
    return value
