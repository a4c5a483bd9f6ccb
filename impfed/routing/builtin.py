"""Makes the built-in routes, which are plugins like any other (twisted/plugins/impfed_plugin.py)."""

from __future__ import annotations

from impfed.routing.api import PluginContext
from impfed.routing.neighbours import NeighbourRoute
from impfed.routing.openfederation import OpenFederationRoute
from impfed.routing.srv import SrvRoute
from impfed.routing.static import LocalRoute, StaticRoute


def make_local(context: PluginContext) -> LocalRoute:
    """Make ``local``."""
    return LocalRoute(context.config.local_domains, context.shared["neighbours"].home_of)


def make_neighbour(context: PluginContext) -> NeighbourRoute:
    """Make ``neighbour``."""
    return NeighbourRoute(context.shared["neighbours"])


def make_static(context: PluginContext) -> StaticRoute:
    """Make ``static``."""
    return StaticRoute(
        context.config.domains,
        table=context.shared["table"],
    )


def make_srv(context: PluginContext) -> SrvRoute:
    """Make ``srv``."""
    return SrvRoute(
        {domain.name: domain for domain in context.config.domains}.get,
        context.shared["may_prove"],
        context.lookup,
        [listener.transport for listener in context.config.listeners],
        context.uniform,
    )


def make_open_federation(context: PluginContext) -> OpenFederationRoute:
    """Make ``open-federation``."""
    opened = context.shared["opened"]
    return OpenFederationRoute(
        context.shared["table"],
        lambda domain: not opened.unknown(domain),
        context.shared["learned"],
        context.shared["probe"],
    )
