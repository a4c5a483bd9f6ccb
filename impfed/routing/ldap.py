"""An LDAP directory of local users, asked by ldap3 in threads of its own.

A directory may hold people of local and of foreign domains.  A hit makes a user local only if one of
the values of the address attribute is exactly the address asked for; nothing is ever appended to a
value that has a domain of its own (SPEC section 8).
"""

from __future__ import annotations

import ssl
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Any

from ldap3 import NONE, SAFE_SYNC, SUBTREE, Connection, Server, Tls
from ldap3.core.exceptions import LDAPException
from ldap3.utils.conv import escape_filter_chars
from twisted.internet.defer import Deferred, succeed
from twisted.internet.threads import deferToThreadPool
from twisted.python.failure import Failure
from twisted.python.threadpool import ThreadPool
from zope.interface import implementer

from impfed.config.model import LdapConfig
from impfed.core.errors import LocalError
from impfed.core.log import EventLog
from impfed.core.metrics import Metrics
from impfed.routing.api import INTERFACE_VERSION, Existence, IDirectory

log = EventLog("impfed.routing")

#: Seconds for which a directory that failed is not asked again.
PAUSE = 5.0
#: Addresses whose answers are kept.
CAPACITY = 50000
#: Hits that are looked at; a filter that finds more does not say whom it means.
HITS = 20


def judge(address: str, values: Iterable[Iterable[str]]) -> Existence:
    """Say what the address values of the entries that a search has found mean.

    :param address: the address asked for, lower case.
    :param values: of each entry, the values of its address attribute.
    """
    user = address.rpartition("@")[0]
    for entry in values:
        for value in entry:
            value = value.strip().lower()
            if value == address or (value == user and "@" not in value):
                return Existence.EXISTS
    return Existence.ABSENT


@implementer(IDirectory)
class LdapDirectory:
    """Searches for each address once, then keeps the answer for a while.

    :param config: the ``[[ldap]]`` entry.
    :param domains: the local domains that it speaks for, each matched exactly.
    :param reactor: calls back from threads and tells the time.
    :raises LocalError: when the password file cannot be read.
    """

    interface_version = INTERFACE_VERSION

    def __init__(
        self, config: LdapConfig, domains: Iterable[str], reactor: Any, metrics: Metrics
    ) -> None:
        self.name = f"ldap {config.name}"
        self._config = config
        self._domains = frozenset(domains)
        self._reactor = reactor
        self._metrics = metrics
        self._search = LdapSearch(config)
        self._known: OrderedDict[str, tuple[float, Existence]] = OrderedDict()
        self._asking: dict[str, list[Deferred[Existence]]] = {}
        self._resting_until = 0.0
        # One thread, one connection: searches of one node queue, and answers are kept.
        self._pool = ThreadPool(0, 1, f"ldap {config.name}")
        self._running = False

    def lookup(self, address: str) -> Existence | Deferred[Existence]:
        """Say whether a user exists; UNKNOWN for other domains, and while the server cannot be asked."""
        address = address.lower()
        if address.rpartition("@")[2] not in self._domains:
            return Existence.UNKNOWN
        now = self._reactor.seconds()
        known = self._known.get(address)
        if known is not None and known[0] > now:
            return known[1]
        if self._resting_until > now:
            return Existence.UNKNOWN
        answer: Deferred[Existence] = Deferred()
        waiting = self._asking.setdefault(address, [])
        waiting.append(answer)
        if len(waiting) == 1:
            self._ask(address)
        return answer

    def stop(self) -> None:
        """End the thread and the connection."""
        if self._running:
            self._running = False
            self._pool.callInThread(self._search.close)
            self._pool.stop()

    def _ask(self, address: str) -> None:
        if not self._running:
            self._running = True
            self._pool.start()
            self._reactor.addSystemEventTrigger("during", "shutdown", self.stop)
        asked: Deferred[Existence] = deferToThreadPool(
            self._reactor, self._pool, self._search.exists, address
        )
        asked.addCallbacks(self._found, self._failed, callbackArgs=(address,))
        asked.addCallback(self._tell, address)

    def _found(self, existence: Existence, address: str) -> Existence:
        if self._config.cache:
            until = self._reactor.seconds() + self._config.cache
            self._known[address] = (until, existence)
            self._known.move_to_end(address)
            while len(self._known) > CAPACITY:
                self._known.popitem(last=False)
        return existence

    def _failed(self, failure: Failure) -> Existence:
        if not failure.check(LDAPException, OSError):
            log.failure("ldap_bug", "directory {directory}", failure, directory=self.name)
        self._metrics.count("routing.directory_failed")
        self._resting_until = self._reactor.seconds() + PAUSE
        log.warn(
            "ldap_failed",
            "directory {directory} at {url} cannot be asked ({why}); not asked again for {pause} s",
            directory=self.name,
            url=self._config.url,
            why=failure.getErrorMessage(),
            pause=PAUSE,
        )
        return Existence.UNKNOWN

    def _tell(self, existence: Existence, address: str) -> None:
        for answer in self._asking.pop(address, []):
            succeed(existence).chainDeferred(answer)


class LdapSearch:
    """One connection to the server; used by one thread at a time, made anew when it broke."""

    def __init__(self, config: LdapConfig) -> None:
        self._config = config
        self._password = _password(config)
        self._connection: Any = None

    def exists(self, address: str) -> Existence:
        """Search for an address.  Blocks, at most for the timeouts.

        :raises LDAPException: when the server cannot be asked or refuses.
        """
        try:
            return self._exists(address)
        except LDAPException:
            # A connection that the server has closed while idle shows only now: once more, anew.
            if self._connection is None:
                raise
            self.close()
            return self._exists(address)

    def close(self) -> None:
        """Forget the connection."""
        connection, self._connection = self._connection, None
        if connection is not None:
            _quietly(connection.unbind)

    def _exists(self, address: str) -> Existence:
        if self._connection is None:
            self._connection = self._connect()
        config = self._config
        user, _, domain = address.rpartition("@")
        text = config.filter
        for name, value in (("address", address), ("user", user), ("domain", domain)):
            text = text.replace("{" + name + "}", escape_filter_chars(value))
        done, result, response, _ = self._connection.search(
            config.base,
            text,
            SUBTREE,
            attributes=[config.attribute],
            size_limit=HITS,
            time_limit=max(1, round(config.timeout)),
        )
        if not done and result["result"] not in (0, 4):  # 4: more hits than we look at
            if result["result"] == 32:
                raise LDAPException(f"the base {config.base} does not exist")
            raise LDAPException(f"{result['description']} {result['message']}".strip())
        return judge(
            address,
            (
                _texts(entry.get("attributes", {}).get(config.attribute))
                for entry in response or ()
                if entry.get("type") == "searchResEntry"
            ),
        )

    def _connect(self) -> Any:
        config = self._config
        tls = None
        if config.url.startswith("ldaps:") or config.start_tls:
            tls = Tls(
                validate=ssl.CERT_REQUIRED,
                ca_certs_file=str(config.ca) if config.ca is not None else None,
            )
        server = Server(config.url, get_info=NONE, tls=tls, connect_timeout=config.timeout)
        connection = Connection(
            server,
            user=config.bind_dn or None,
            password=self._password or None,
            client_strategy=SAFE_SYNC,
            receive_timeout=max(1, round(config.timeout)),  # the library takes whole seconds
            read_only=True,
            check_names=False,
        )
        connection.open()
        if config.start_tls:
            connection.start_tls()
        done, result, _, _ = connection.bind()
        if not done:
            _quietly(connection.unbind)
            raise LDAPException(f"login refused: {result['description']}")
        return connection


def _password(config: LdapConfig) -> str:
    if config.password_file is None:
        return ""
    try:
        return config.password_file.read_text("utf-8").split("\n")[0].strip()
    except (OSError, UnicodeDecodeError) as error:
        raise LocalError(f"ldap {config.name}: {config.password_file}: {error}") from error


def _texts(value: Any) -> list[str]:
    if value is None:
        return []
    values = value if isinstance(value, (list, tuple)) else [value]
    return [
        each.decode("utf-8", "replace") if isinstance(each, bytes) else str(each) for each in values
    ]


def _quietly(call: Callable[[], object]) -> None:
    try:
        call()
    except (LDAPException, OSError) as error:
        log.debug("ldap_close", "closing: {why}", why=str(error))
