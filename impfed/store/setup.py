"""From the configuration to the store."""

from __future__ import annotations

from typing import Any

from impfed.config.model import Config
from impfed.core.ids import IdSource
from impfed.store.redislink import RedisLink
from impfed.store.shared import SharedStore
from impfed.store.sqlite import DATABASE_NAME, SqliteStore


def make_ledger(reactor: Any, config: Config) -> SqliteStore:
    """Return the file in the state directory: the ledger, and without Redis everything else."""
    return SqliteStore(config.node.state_directory / DATABASE_NAME, reactor)


def make_shared(reactor: Any, config: Config, ids: IdSource, ledger: Any) -> SharedStore:
    """Return the store that ``[store] kind = "redis"`` describes.

    :param ledger: the node's own store, which keeps the ledger.
    """
    certificates = {each.name: each for each in config.tls.certificates}
    certificate = certificates.get(config.store.client_certificate)
    link = RedisLink(reactor, config.store, certificate)
    return SharedStore(link, ledger, reactor, ids)


def make_store(reactor: Any, config: Config, ids: IdSource) -> SqliteStore | SharedStore:
    """Return the store of a node."""
    ledger = make_ledger(reactor, config)
    if config.store.kind == "sqlite":
        return ledger
    return make_shared(reactor, config, ids, ledger)
