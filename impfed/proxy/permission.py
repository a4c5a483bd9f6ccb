"""Only permitted pairs pass (SPEC section 8): what may be proxied, from which side to which.

From outside in: From and asserted identities foreign and proven by the connection, Request-URI exactly
local or one of our own Contacts, no Route beyond our own nodes, no ``maddr``.  From inside out: From local,
the recipient in a configured domain, and a Route beyond us only to a host that such a domain uses.
Anything else would make us a relay for strangers.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Any

from impfed.core.errors import RemoteError
from impfed.core.hosts import is_address
from impfed.policy.peers import PeerPolicy
from impfed.proxy.values import Question
from impfed.sip.errors import SipParseError
from impfed.sip.headers import parse_name_addr
from impfed.sip.message import SipRequest
from impfed.sip.uri import SipUri, parse_uri
from impfed.transport.flow import Flow

#: Tells an operator of a refusal: what was tried, in words.
Told = Callable[[SipRequest, Any, str], None]


class Side(Enum):
    """Where a connection comes from."""

    OUTSIDE = "outside"
    INSIDE = "inside"  # another node of ours, proven by its certificate


class PairPolicy:
    """Decides for each request; provides :data:`impfed.proxy.values.Permit`.

    :param side: tells which side a connection belongs to.
    :param local: says whether a domain is exactly one of ours.
    :param foreign: says whether a domain is a configured SIP domain.
    :param proven: says why a connection may not speak for a foreign domain; "" when it may.
    :param own: says whether a URI is a Contact or Route of one of our nodes.
    :param next_hop: says whether a host is one that configured domains are reached by.
    :param told: is told of every refusal.
    """

    def __init__(
        self,
        side: Callable[[Any], Side],
        local: Callable[[str], bool],
        foreign: Callable[[str], bool],
        proven: Callable[[Any, str], str],
        own: Callable[[SipUri], bool],
        next_hop: Callable[[str], bool],
        told: Told | None = None,
    ) -> None:
        self._side = side
        self._local = local
        self._foreign = foreign
        self._proven = proven
        self._own = own
        self._next_hop = next_hop
        self._told = told

    def __call__(self, request: SipRequest, source: Any, question: Question) -> RemoteError | None:
        """Return None for a request that may pass, else the answer to it."""
        try:
            status, reason = self._verdict(request, source, question)
        except SipParseError as error:
            return error
        if not status:
            return None
        if self._told is not None:
            self._told(request, source, reason)
        return self._refusal(status, reason)

    def _refusal(self, status: int, reason: str) -> RemoteError:
        # The answer says little: who was refused has no need to know how to do better.
        return RemoteError(status, "Not Found" if status == 404 else "Forbidden")

    def _verdict(self, request: SipRequest, source: Any, question: Question) -> tuple[int, str]:
        if question.uri.param("maddr") is not None or _maddr(question):
            return 403, "maddr names another address to go to"
        speaker = _domain(request.from_.uri)
        if not speaker:
            return 403, "From is no SIP address"
        asserted = [
            _domain(parse_name_addr(value).uri) for value in request.values("p-asserted-identity")
        ]
        if self._side(source) is Side.INSIDE:
            return self._outward(request, question, speaker, asserted)
        return self._inward(request, source, question, speaker, asserted)

    def _inward(
        self,
        request: SipRequest,
        source: Any,
        question: Question,
        speaker: str,
        asserted: list[str],
    ) -> tuple[int, str]:
        if self._local(speaker):
            return (
                403,
                f"From is in {speaker}, a domain of ours, but the request comes from outside",
            )
        why = self._proven(source, speaker)
        if why:
            return 403, why
        for domain in asserted:
            if domain and domain != speaker:
                return 403, f"From is in {speaker}, but the asserted identity in {domain}"
        if question.by_route:
            # The next node of ours asks the same of whatever comes after it.
            beyond = f"a Route beyond us, to {question.uri.host}"
            return (0, "") if self._own(question.uri) else (403, beyond)
        return self._recipient_inside(question.uri)

    def _recipient_inside(self, uri: SipUri) -> tuple[int, str]:
        if self._own(uri) and uri.user:
            return 0, ""
        if not self._local(uri.host):
            what = "an IP address" if is_address(uri.host) else f"the domain {uri.host}"
            return (403 if self._foreign(uri.host) else 404), f"the Request-URI is {what}, not ours"
        if uri.port is not None:
            return 403, f"the Request-URI names port {uri.port} of {uri.host}"
        return 0, ""

    def _outward(
        self, request: SipRequest, question: Question, speaker: str, asserted: list[str]
    ) -> tuple[int, str]:
        # In a dialog a foreign user's request may be on its way from one node of ours to another.
        inward = not self._local(speaker)
        if inward and not self._foreign(speaker):
            return 403, f"From is in {speaker}, which is neither ours nor a configured domain"
        for domain in asserted:
            if domain and domain != speaker:
                return 403, f"From is in {speaker}, but the asserted identity in {domain}"
        uri = question.uri
        if question.by_route:
            if self._own(uri) or (not inward and self._next_hop(uri.host)):
                return 0, ""
            return 403, f"a Route to {uri.host}, which no configured domain is reached by"
        if self._own(uri) or self._local(uri.host):
            return 0, ""
        if inward:
            return 403, f"from {speaker} to {uri.host}: both are foreign"
        if request.to_tag and self._foreign(_domain(request.to.uri)):
            return 0, ""  # the Request-URI is the peer's Contact; the To domain decides on the way
        if not self._foreign(uri.host):
            return 403, f"{uri.host} is no configured domain"
        return 0, ""


def unproven(peers: PeerPolicy, flow: Flow, domain: str) -> str:
    """Say why a connection may not speak for a foreign domain, for our operator; "" when it may."""
    peer = flow.peer
    refusal = peers.may_speak_for(domain, peer.names, peer.proven, flow.transport, flow.remote[0])
    if refusal is None:
        return ""
    if not refusal.expected:
        return refusal.reason
    found = ", ".join(refusal.found) or "nothing"
    return f"{refusal.reason} (expected one of: {', '.join(refusal.expected)}; found: {found})"


def _domain(uri: object) -> str:
    return uri.host if isinstance(uri, SipUri) else ""


def _maddr(question: Question) -> bool:
    uri = parse_uri(question.way.uri)
    return isinstance(uri, SipUri) and uri.param("maddr") is not None
