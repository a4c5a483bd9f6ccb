"""The configuration's ``[s2s]`` as what the service asks for."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from zope.interface import implementer

from impfed.config.s2s import S2SConfig, S2SDomainConfig
from impfed.interwork.rewrite import XmppKind
from impfed.transport.s2s_api import S2SLimits, S2SListener
from impfed.transport.s2s_targets import Found, HostTarget, ITargetFinder, Resolve
from impfed.xmpp.s2s_names import ascii_domain
from impfed.xmpp.s2s_security import Security, Tls


def listeners_of(config: S2SConfig) -> list[S2SListener]:
    """Return where to listen."""
    listeners = [S2SListener(config.host, config.port)]
    if config.direct_host:
        listeners.append(S2SListener(config.direct_host, config.direct_port, True))
    return listeners


def limits_of(config: S2SConfig) -> S2SLimits:
    """Return the limits."""
    return S2SLimits(patience=config.patience, idle=config.stream_idle)


class ConfiguredSettings:
    """Security by domain, with entries that end.

    :param now: returns the time in seconds since the epoch; days are UTC's.
    :param policy: says why a pair of domains is refused, "" when it is not.
    :param nodes: names in certificates of nodes that may speak for every foreign domain.
    """

    def __init__(
        self,
        config: S2SConfig,
        now: Callable[[], float],
        policy: Callable[[str, str, bool], str] = lambda local, remote, incoming: "",
        nodes: tuple[str, ...] = (),
    ) -> None:
        self._default = Security(
            Tls(config.tls),
            config.require_certificates,
            config.sasl_in,
            config.sasl_out,
            config.dialback,
        )
        self._exact = {one.name: one for one in config.domains if not one.name.startswith("*.")}
        patterns = [one for one in config.domains if one.name.startswith("*.")]
        self._patterns = sorted(patterns, key=lambda one: -len(one.name))
        self._now = now
        self._policy = policy
        self._nodes = nodes

    def entry(self, remote: str) -> S2SDomainConfig | None:
        """Return the entry that holds for a peer today; None for ``[s2s]`` alone."""
        name = ascii_domain(remote)
        exact = self._exact.get(name)
        if exact is not None and self._holds(exact):
            return exact
        for one in self._patterns:
            parent = one.name[2:]
            if (name == parent or name.endswith("." + parent)) and self._holds(one):
                return one
        return None

    def _holds(self, entry: S2SDomainConfig) -> bool:
        if entry.until is None:
            return True
        return datetime.fromtimestamp(self._now(), UTC).date() <= entry.until

    def security(self, local: str, remote: str) -> Security:
        """Return the settings for a peer."""
        entry = self.entry(remote) if remote else None
        if entry is None:
            return self._default
        by_kind, default = XmppKind.load(entry.kind).security, self._default

        def chosen(key: str, otherwise: Any) -> Any:
            """Return what the entry says, else what the kind needs, else what ``[s2s]`` says."""
            own = getattr(entry, key)
            return by_kind.get(key, otherwise) if own is None else own

        return Security(
            Tls(chosen("tls", default.tls)),
            chosen("require_certificates", default.certificates),
            chosen("sasl_in", default.sasl_in),
            chosen("sasl_out", default.sasl_out),
            chosen("dialback", default.dialback),
        )

    def anchors(self, remote: str) -> Path | None:
        """Return a peer's own trusted roots."""
        entry = self.entry(remote)
        return entry.ca if entry else None

    def vouchers(self, remote: str) -> tuple[str, ...]:
        """Return the nodes of other clusters, which pass on what has come to them."""
        return self._nodes

    def certificate(self, remote: str) -> str:
        """Return the name of the certificate to show a peer."""
        entry = self.entry(remote)
        return entry.certificate if entry else ""

    def refusal(self, local: str, remote: str, incoming: bool) -> str:
        """Say what policy says."""
        return self._policy(local, remote, incoming)


@implementer(ITargetFinder)
class ConfiguredTargets:
    """Servers that the configuration names, else those that DNS knows.

    :param dns: provider of ITargetFinder.
    :param resolve: looks up the addresses of a host: ``resolve(host, done)`` with a list.
    """

    def __init__(
        self,
        settings: ConfiguredSettings,
        dns: Any,
        resolve: Resolve,
    ) -> None:
        self._settings = settings
        self._dns = ITargetFinder(dns)
        self._resolve = resolve

    def find(self, domain: str, done: Callable[[Found], None]) -> None:
        """Look into the configuration, then ask."""
        entry = self._settings.entry(domain)
        if entry is None or not entry.host:
            self._dns.find(domain, done)
            return
        HostTarget(entry.host, entry.port, self._resolve, entry.direct_tls).find(domain, done)
