"""What the stream machines learn of the node that they run in."""

from __future__ import annotations

from collections.abc import Container

from impfed.core.ids import IdSource
from impfed.transport.s2s_api import S2SLimits, S2SSettings
from impfed.transport.s2s_tls import S2STls
from impfed.xmpp.dialback import DialbackKeys


class NodeWorld:
    """What the stream machines ask (:class:`impfed.xmpp.s2s_parts.S2SWorld`)."""

    def __init__(
        self,
        domains: Container[str],
        settings: S2SSettings,
        keys: DialbackKeys,
        ids: IdSource,
        tls: S2STls,
        limits: S2SLimits,
    ) -> None:
        self.domains = domains
        self.keys = keys
        self.ids = ids
        self.limits = limits.stream
        self.refusal = settings.refusal
        self.security = settings.security
        self._tls = tls

    @property
    def offers_tls(self) -> bool:
        """Whether there is a certificate to greet TLS clients with."""
        return self._tls.usable

    def serves(self, domain: str) -> bool:
        """Say whether a domain is one of ours."""
        return domain in self.domains
