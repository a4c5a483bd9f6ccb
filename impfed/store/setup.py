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


def instance_of(config: Config, ids: IdSource) -> str:
    """Return what tells this node from another of the same name: a file of the state directory.

    It is made when it is not there.  To be called when the ledger is open, whose lock sees to it that
    no second process has the directory.

    :raises OSError: when it can be neither read nor made.
    """
    path = config.node.state_directory / "instance"
    if path.exists() and (found := path.read_text("ascii").strip()):
        return found
    made = ids.token()
    path.write_text(f"{made}\n", "ascii")
    return made


def make_store(reactor: Any, config: Config, ids: IdSource) -> SqliteStore | SharedStore:
    """Return the store of a node."""
    ledger = make_ledger(reactor, config)
    if config.store.kind == "sqlite":
        return ledger
    return make_shared(reactor, config, ids, ledger)
