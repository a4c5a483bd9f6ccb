"""The section ``[store]``: where records are kept, and what must fit together in it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from impfed.config import values
from impfed.config.keys import Key, Section
from impfed.config.values import show_address

if TYPE_CHECKING:
    from impfed.config.checks import Report
    from impfed.config.model import Config


@dataclass(frozen=True, slots=True)
class StoreConfig:
    """Where records are kept (docs/store.md).

    :ivar kind: "sqlite" (a file in the state directory) or "redis" (shared by a cluster).
    :ivar addresses: (host, port) of Redis, or of the Sentinels when ``sentinel`` is set.
    :ivar socket: Unix socket of Redis, in the place of addresses.
    :ivar tls_name: name that its certificate must carry; the host when empty.
    :ivar client_certificate: name of a ``[[tls.certificate]]``; "" for none.
    :ivar sentinel: name of the master that the Sentinels know; "" without them.
    :ivar prefix: what all keys begin with.
    """

    kind: str = "sqlite"
    addresses: tuple[tuple[str, int], ...] = ()
    socket: Path | None = None
    tls: bool = False
    tls_name: str = ""
    ca: Path | None = None
    client_certificate: str = ""
    user: str = ""
    password: str = field(default="", repr=False)
    sentinel: str = ""
    sentinel_user: str = ""
    sentinel_password: str = field(default="", repr=False)
    prefix: str = "impfed"

    @property
    def place(self) -> str:
        """Where it is, in words."""
        if self.socket is not None:
            return str(self.socket)
        return ", ".join(show_address(*address) for address in self.addresses)


#: What holds without the section.
DEFAULT_STORE = StoreConfig()

STORE = Section(
    "store",
    False,
    StoreConfig,
    "Where sessions, subscriptions, lists and texts on their way are kept (docs/store.md). The"
    " delivery ledger is always a file in the state directory.",
    (
        Key(
            "kind",
            values.choice("sqlite", "redis"),
            "A file in the state directory, or Redis, which the nodes of a cluster share.",
        ),
        Key(
            "addresses",
            values.ADDRESSES,
            "Where Redis is; several are tried in turn until one is the master. With `sentinel`,"
            " where the Sentinels are.",
        ),
        Key("socket", values.PATH, "Unix socket of Redis, in the place of `addresses`."),
        Key("tls", values.BOOLEAN, "Whether to speak TLS, to the Sentinels too."),
        Key("tls_name", values.HOST, "Name that its certificate must carry.", default="the host"),
        Key("ca", values.CA_FILE, "Roots that are trusted for it.", default="the system's"),
        Key("client_certificate", values.TEXT, "Name of the certificate that we show to it."),
        Key("user", values.TEXT, "User of its access control list.", default='"default"'),
        Key("password_file", values.PATH, "File with the password on its first line."),
        Key("password_env", values.NAME, "Environment variable that holds the password."),
        Key("sentinel", values.NAME, "Name of the master that the Sentinels watch."),
        Key("sentinel_user", values.TEXT, "User at the Sentinels.", default="none"),
        Key("sentinel_password_file", values.PATH, "File with the Sentinels' password."),
        Key("prefix", values.NAME, "What all keys begin with; one for each cluster."),
    ),
)

_PLAIN = ("kind",)


def check_store(config: Config, document: dict[str, Any], report: Report) -> None:
    """Report what is missing for Redis, and what means nothing without it."""
    raw = document.get("store")
    if not isinstance(raw, dict):
        return
    store = config.store
    if store.kind != "redis":
        for key in raw:
            if key not in _PLAIN and key in {known.name for known in STORE.keys}:
                report.report(
                    ("store", key), "means nothing with an SQLite file", "", 'add kind = "redis"'
                )
        return
    if not store.addresses and store.socket is None:
        allowed = 'addresses = ["redis1.company.example:6379"]'
        report.report(("store",), "there is no word on where Redis is", allowed)
    if store.socket is not None and (store.addresses or store.sentinel or store.tls):
        words = "a Unix socket goes with neither addresses, sentinel nor tls"
        report.report(("store", "socket"), words, "one of the ways")
    if store.user and not store.password:
        report.report(
            ("store", "user"), "a user needs a password", "password_file or password_env beside it"
        )
    if not store.tls:
        for key in ("tls_name", "ca", "client_certificate"):
            if key in raw:
                report.report(("store", key), "means nothing without TLS", "", "add tls = true")
    names = [certificate.name for certificate in config.tls.certificates]
    if store.client_certificate and store.client_certificate not in names:
        report.report(
            ("store", "client_certificate"),
            f'there is no certificate "{store.client_certificate}"',
            ", ".join(f'"{name}"' for name in names) or "a [[tls.certificate]] of that name",
        )
