"""A route and a directory for impfed that read a small TOML file."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from twisted.plugin import IPlugin
from zope.interface import implementer

from impfed.routing.api import (
    Existence,
    IDirectory,
    IDirectoryPlugin,
    IRoute,
    IRoutePlugin,
    PluginContext,
    RouteQuery,
)
from impfed.sip.target import Hop

# The version that this code was written for: a number of our own, not impfed's present one.
WRITTEN_FOR = 1


@implementer(IRoute)
class PhonebookRoute:
    """Knows the next hops of the domains in the file."""

    name = "phonebook"
    order = 150  # after the static routes, before the DNS
    interface_version = WRITTEN_FOR

    def __init__(self, domains: dict[str, str]) -> None:
        self._hops = {domain.lower(): _hop(address) for domain, address in domains.items()}

    def resolve(self, query: RouteQuery) -> Sequence[Hop] | None:
        """Return the hop of a domain in the file; None says that it is not our business."""
        hop = self._hops.get(query.to_domain)
        return None if hop is None else [hop]


@implementer(IDirectory)
class PhonebookDirectory:
    """Knows the users in the file."""

    name = "phonebook"
    interface_version = WRITTEN_FOR

    def __init__(self, names: Sequence[str], domains: Sequence[str]) -> None:
        self._names = {name.lower() for name in names}
        self._domains = set(domains)

    def lookup(self, address: str) -> Existence:
        """Say whether a user stands in the file; we know nothing of other domains."""
        if address.rpartition("@")[2].lower() not in self._domains:
            return Existence.UNKNOWN
        return Existence.EXISTS if address.lower() in self._names else Existence.ABSENT


@implementer(IPlugin, IRoutePlugin)
class RouteMaker:
    """What twisted/plugins/phonebook_plugin.py offers to impfed."""

    name = "phonebook"
    interface_version = WRITTEN_FOR

    def make(self, context: PluginContext) -> PhonebookRoute:
        """Make the route from ``settings = { file = "..." }``."""
        return PhonebookRoute(_read(context)["domains"])


@implementer(IPlugin, IDirectoryPlugin)
class DirectoryMaker:
    """The same for ``[[home]] directory = "phonebook"``; it reads phonebook.toml beside the configuration."""

    name = "phonebook"
    interface_version = WRITTEN_FOR

    def make(self, context: PluginContext, domains: Sequence[str]) -> PhonebookDirectory:
        """Make the directory of some local domains, from the file beside the configuration."""
        path = context.config.path.parent / "phonebook.toml"
        return PhonebookDirectory(tomllib.loads(path.read_text("utf-8"))["users"]["names"], domains)


def _read(context: PluginContext) -> dict[str, Any]:
    if "file" not in context.settings:
        raise ValueError('settings = { file = "PATH" } is missing')
    return tomllib.loads(Path(context.settings["file"]).read_text("utf-8"))


def _hop(address: str) -> Hop:
    host, _, port = address.rpartition(":")
    return Hop("tls", host, int(port), tls_name=host, source="phonebook")
