"""The first gate of every SIP request: who sends it, may he, and whom is it for (SPEC section 8)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from impfed.config.model import SipDomainConfig
from impfed.core.errors import RemoteError
from impfed.core.log import EventLog
from impfed.core.metrics import Metrics
from impfed.interwork.address import Aliases, jid_of
from impfed.policy.peers import PeerPolicy
from impfed.sip.headers import parse_name_addr
from impfed.sip.message import SipRequest
from impfed.sip.uri import SipUri
from impfed.transport.flow import Flow
from impfed.xmpp.jid import JID

log = EventLog("impfed.gateway")


@dataclass(frozen=True, slots=True)
class Sender:
    """A foreign user whose domain the connection has proven."""

    jid: JID
    domain: SipDomainConfig


class Admission:
    """Decides from a request and its connection, before anything else looks at it.

    :param local_domains: exact names of the local domains, lower case.
    :param own_hosts: host names and addresses that peers know us by, lower case.
    """

    def __init__(
        self,
        peers: PeerPolicy,
        local_domains: Iterable[str],
        own_hosts: Iterable[str],
        aliases: Aliases,
        metrics: Metrics,
    ) -> None:
        self._peers = peers
        self._local_domains = frozenset(local_domains)
        self._own_hosts = frozenset(own_hosts)
        self._aliases = aliases
        self._metrics = metrics

    def sender(self, request: SipRequest, flow: Flow) -> Sender:
        """Return the sender, proven by the connection.

        :raises RemoteError: 403 when the connection may not speak for the From domain, when an
            asserted identity contradicts it, or when the request wants to be relayed onwards.
        """
        jid = jid_of(self._sip_uri(request.from_.uri))
        domain = self._proven(jid.domain, request, flow)
        for asserted in request.values("p-asserted-identity"):
            uri = parse_name_addr(asserted).uri
            if isinstance(uri, SipUri) and uri.host != jid.domain:
                raise self._refused(
                    flow,
                    f"the request is from {jid.domain} but asserts an identity at {uri.host}",
                )
        for route in request.values("route"):
            uri = parse_name_addr(route).uri
            if not isinstance(uri, SipUri) or not self._ours(uri.host):
                raise self._refused(flow, "the request carries a Route beyond this node")
        return Sender(jid, domain)

    def recipient(self, request: SipRequest) -> JID:
        """Return the local user that a request outside any dialog is for.

        :raises RemoteError: 404 when the Request-URI is not exactly in a local domain, 403 when it
            names another address to go to (``maddr``), 416 for a scheme that we do not serve.
        """
        uri = self._sip_uri(request.uri)
        if uri.param("maddr") is not None:
            raise RemoteError(403, "maddr Not Allowed")
        if uri.host not in self._local_domains:
            raise RemoteError(404, "Not A Domain Of Ours")
        return self._aliases.to_inside(jid_of(uri).bare)

    def _proven(self, name: str, request: SipRequest, flow: Flow) -> SipDomainConfig:
        peer = flow.peer
        refusal = self._peers.may_speak_for(
            name, peer.names, peer.proven, flow.transport, flow.remote[0]
        )
        if refusal is None and name not in self._local_domains:
            domain = self._peers.domain(name)
            if domain is not None:
                return domain
        self._metrics.count("gateway.sender_refused")
        if request.method == "SUBSCRIBE":
            self._metrics.count("gate.node.refused")
        log.warn(
            "sender_refused",
            "{method} from {domain} refused: {reason} (expected one of: {expected}; found: {found};"
            " connection from {peer})",
            method=request.method,
            domain=name,
            reason=refusal.reason if refusal else "it is a local domain",
            expected=", ".join(refusal.expected) if refusal else "",
            found=(", ".join(refusal.found) if refusal else "") or "nothing",
            peer=f"{flow.remote[0]}:{flow.remote[1]}",
            conversation=request.call_id,
        )
        raise RemoteError(403, "Domain Not Allowed")

    def _refused(self, flow: Flow, reason: str) -> RemoteError:
        self._metrics.count("gateway.sender_refused")
        log.warn(
            "sender_refused", "request refused: {reason}", reason=reason, peer=str(flow.remote)
        )
        return RemoteError(403, "Forbidden")

    def _ours(self, host: str) -> bool:
        return host in self._own_hosts or host in self._local_domains

    @staticmethod
    def _sip_uri(uri: object) -> SipUri:
        if not isinstance(uri, SipUri):
            raise RemoteError(416, "Unsupported URI Scheme")
        return uri
