"""Everything that users operate, put together for one node."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred, succeed

from impfed.admin.actions import Actions
from impfed.admin.command_list import CommandList
from impfed.admin.commands import Commands
from impfed.admin.login import LoginLinks, Sessions
from impfed.admin.node_address import NodeAddress
from impfed.admin.options import NodeOptions
from impfed.admin.options_api import ForeignDomain
from impfed.admin.site import WebService
from impfed.admin.web import UserOptionsWeb
from impfed.config.model import Config
from impfed.core.ids import IdSource
from impfed.core.metrics import Metrics
from impfed.gateway.presence import PresenceGateway
from impfed.store.api import IStore
from impfed.transport.home import HomeLinks
from impfed.transport.tls import TlsStore
from impfed.xmpp.jid import JID


class UserServices:
    """The node's own address, and the page where it is configured.

    :param through: what brings stanzas to the home servers and changes rosters there in a cluster,
        where another node may hold their links.
    :param sign: makes the same signature at every node of a cluster.
    :ivar web: the web server, None without a page.
    """

    def __init__(
        self,
        reactor: Any,
        config: Config,
        presence: PresenceGateway,
        home: HomeLinks,
        tls: TlsStore,
        ids: IdSource,
        metrics: Metrics,
        store: IStore,
        through: Any = None,
        sign: Callable[[str], str] | None = None,
    ) -> None:
        seconds = reactor.seconds
        domains = [ForeignDomain(each.name, each.description) for each in config.domains]
        addresses = {
            domain: JID.parse(each.address)
            for each in config.homes
            if each.address
            for domain in each.domains
        }
        distinct = {str(address) for address in addresses.values()}
        options = NodeOptions(
            presence,
            home,
            through or home,
            ids,
            lambda: domains,
            config.local_domains,
            addresses.get,
        )
        actions = Actions(options)
        self.web: WebService | None = None
        link_for = None
        if config.web is not None:
            pages = UserOptionsWeb(
                actions,
                LoginLinks(store, ids, seconds),
                Sessions(store, ids, seconds, config.web.idle_timeout, sign),
                metrics,
                config.web.public_url,
                next(iter(distinct)) if len(distinct) == 1 else "",
            )
            link_for = pages.link_for
            self.web = WebService(reactor, config.web, pages, tls, metrics)
        commands = Commands(CommandList(actions, link_for), ids, seconds, metrics)
        home.own = NodeAddress(home, ids, metrics, seconds, commands, link_for, lambda: domains)

    def start(self) -> None:
        """Listen for browsers.

        :raises CannotListenError: the address is not to be had.
        :raises TlsFileError: the certificate is not there.
        """
        if self.web is not None:
            self.web.startService()

    def stop(self) -> Deferred[Any]:
        """Listen no more."""
        return succeed(None) if self.web is None else self.web.stopService()
