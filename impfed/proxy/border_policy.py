"""Who may pass an edge: the pairs of :mod:`impfed.proxy.permission`, and nothing back to where it came
from."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from impfed.core.errors import RemoteError
from impfed.policy.peers import PeerPolicy
from impfed.proxy.border_ways import Fronts
from impfed.proxy.permission import PairPolicy, Side, Told, unproven
from impfed.proxy.values import Question
from impfed.routing.inner import InnerTargets
from impfed.sip.message import SipRequest
from impfed.sip.uri import SipUri

#: Counts a request of a domain that has proven itself; returns the refusal of one too many.
Allowance = Callable[[str, Any], RemoteError | None]


class BorderPolicy(PairPolicy):
    """Decides for each request that comes to an edge; says in a Warning why it refuses.

    :param domains: the local domains.
    :param allowance: is asked last, for what comes from outside and may pass.
    """

    def __init__(
        self,
        side: Callable[[Any], Side],
        domains: frozenset[str],
        peers: PeerPolicy,
        targets: InnerTargets,
        fronts: Fronts,
        allowance: Allowance,
        told: Told,
    ) -> None:
        super().__init__(
            side,
            domains.__contains__,
            lambda domain: peers.domain(domain) is not None,
            lambda flow, domain: unproven(peers, flow, domain),
            lambda uri: fronts.ours(uri) or targets.knows(uri),
            peers.reaches,
            told,
        )
        self._domains = domains
        self._targets = targets
        self._fronts = fronts
        self._allowance = allowance

    def __call__(self, request: SipRequest, source: Any, question: Question) -> RemoteError | None:
        """Return None for a request that may pass, else the answer to it."""
        refusal = super().__call__(request, source, question)
        if refusal is not None or self._side(source) is Side.INSIDE:
            return refusal
        if self.calls_itself(request, source):
            return None
        sender = request.from_.uri
        return self._allowance(sender.host, source) if isinstance(sender, SipUri) else None

    def _verdict(self, request: SipRequest, source: Any, question: Question) -> tuple[int, str]:
        if self.calls_itself(request, source):
            return 0, ""
        side = self._side(source)
        if side is Side.OUTSIDE and self._fronts.inside(source.listener):
            return 403, "it came to an inside listener from a machine that is none of ours"
        status, reason = super()._verdict(request, source, question)
        if status or side is Side.OUTSIDE:
            return status, reason
        uri, to = question.uri, request.to.uri
        if request.to_tag and not question.by_route and isinstance(to, SipUri):
            uri = to  # the partner's Contact may be a private address that is one of ours as well
        if self._targets.knows(uri) or uri.host in self._domains or self._fronts.ours(uri):
            return 403, f"from inside to {uri.host}, which is inside too"
        return 0, ""

    def calls_itself(self, request: SipRequest, source: Any) -> bool:
        """Say whether a machine inside asks, from outside, what a public address leads to.

        So ``impfedctl pat-check`` of a node finds out whether its own address leads back to it.
        """
        if request.method != "OPTIONS" or request.to_tag or request.get("route") is not None:
            return False
        uri = request.uri
        if not isinstance(uri, SipUri) or uri.user or uri.param("maddr") is not None:
            return False
        peer = source.peer
        known = peer.proven and self._targets.who(peer.names) != ""
        outside = source.listener != "" and not self._fronts.inside(source.listener)
        return known and outside and (self._targets.knows(uri) or self._fronts.ours(uri))

    def _refusal(self, status: int, reason: str) -> RemoteError:
        error = super()._refusal(status, reason)
        # What his certificate would have to say is our operator's business, not the sender's.
        words = reason.partition(" (expected")[0].replace("\\", "\\\\").replace('"', '\\"')
        return RemoteError(error.status, error.reason, (("Warning", f'399 edge "{words}"'),))
