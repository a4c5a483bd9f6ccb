"""Route and directory plugins: found by name through :mod:`twisted.plugin`, made with their settings."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from twisted.plugin import IPlugin, getPlugins
from twisted.python.reflect import namedAny
from zope.interface import implementer
from zope.interface.exceptions import Invalid
from zope.interface.verify import verifyObject

from impfed.core.errors import LocalError
from impfed.routing.api import (
    INTERFACE_VERSION,
    IDirectory,
    IDirectoryPlugin,
    IRoute,
    IRoutePlugin,
    PluginContext,
)


class PluginError(LocalError):
    """A plugin that the configuration names cannot be used; in words."""


@implementer(IPlugin, IRoutePlugin)
class BuiltInRoute:
    """A route of our own as a plugin; its code is loaded when it is first needed.

    :param maker: dotted name of a function from a context to a route.
    """

    interface_version = INTERFACE_VERSION

    def __init__(self, name: str, maker: str) -> None:
        self.name = name
        self._maker = maker

    def make(self, context: PluginContext) -> Any:
        """Make the route."""
        return namedAny(self._maker)(context)


def make_route(name: str, context: PluginContext, order: int | None = None) -> Any:
    """Return the route that a plugin makes.

    :param order: when it is asked; None for what it says itself.
    :raises PluginError: when there is none of that name, it was written for another version of the
        interface, or it cannot be made.
    """
    plugin = _find("route", IRoutePlugin, name)
    route = _made("route", name, lambda: plugin.make(context), IRoute)
    return route if order is None else _Reordered(route, order)


def make_directory(name: str, context: PluginContext, domains: Sequence[str]) -> Any:
    """Return the directory that a plugin makes for some local domains.

    :raises PluginError: as :func:`make_route` does.
    """
    plugin = _find("directory", IDirectoryPlugin, name)
    return _made("directory", name, lambda: plugin.make(context, domains), IDirectory)


def _find(what: str, interface: Any, name: str) -> Any:
    found = list(_installed(interface))
    named = [plugin for plugin in found if plugin.name == name]
    if not named:
        known = ", ".join(sorted({str(plugin.name) for plugin in found})) or "none"
        raise PluginError(f'there is no {what} plugin named "{name}"; installed are: {known}')
    if len(named) > 1:
        kinds = ", ".join(sorted(type(plugin).__module__ for plugin in named))
        raise PluginError(f'there are {len(named)} {what} plugins named "{name}": {kinds}')
    plugin = named[0]
    _check_version(what, name, getattr(plugin, "interface_version", None))
    return plugin


def _installed(interface: Any) -> Iterable[Any]:
    # Twisted passes over a file that cannot be imported, and logs why.
    return getPlugins(interface)


def _made(what: str, name: str, make: Any, interface: Any) -> Any:
    try:
        made = make()
    except Exception as error:
        raise PluginError(f'the {what} plugin "{name}" cannot be made: {error}') from error
    try:
        verifyObject(interface, made)
    except Invalid as error:
        raise PluginError(
            f'the {what} plugin "{name}" makes no {interface.__name__}: {error}'
        ) from error
    _check_version(what, name, made.interface_version)
    return made


def _check_version(what: str, name: str, version: object) -> None:
    if version != INTERFACE_VERSION:
        raise PluginError(
            f'the {what} plugin "{name}" was written for version {version} of the interface; this is'
            f" version {INTERFACE_VERSION}"
        )


@implementer(IRoute)
class _Reordered:
    """A route that is asked at another place than it says."""

    def __init__(self, route: Any, order: int) -> None:
        self.name = route.name
        self.order = order
        self.interface_version = route.interface_version
        self.resolve = route.resolve
