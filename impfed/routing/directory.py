"""Directories of local users: a file, and a chain that asks several."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure
from zope.interface import implementer

from impfed.core.log import EventLog
from impfed.core.metrics import Metrics
from impfed.routing.api import INTERFACE_VERSION, Existence, IDirectory
from impfed.routing.userfile import UserFile

log = EventLog("impfed.routing")


@implementer(IDirectory)
class FileDirectory:
    """A :class:`~impfed.routing.userfile.UserFile`: the whole truth for its domains.

    Who is not listed does not exist.

    :param domains: the local domains that the file speaks for.
    :raises OSError: when the file cannot be read at the start; later the last good content serves on.
    """

    interface_version = INTERFACE_VERSION

    def __init__(self, path: Path, domains: Iterable[str]) -> None:
        self.name = f"file {path}"
        self._domains = frozenset(domains)
        self._users = UserFile(path, self._domains)

    def lookup(self, address: str) -> Existence:
        """Say whether a user exists; UNKNOWN for a domain that the file does not speak for."""
        if address.rpartition("@")[2].lower() not in self._domains:
            return Existence.UNKNOWN
        return Existence.EXISTS if address in self._users else Existence.ABSENT


class Directory:
    """Asks the directory of the user's domain.

    :param by_domain: a provider of :class:`impfed.routing.api.IDirectory` for each local domain; a
        domain without one is answered UNKNOWN.
    """

    def __init__(self, by_domain: Mapping[str, Any], metrics: Metrics) -> None:
        self._by_domain = dict(by_domain)
        self._metrics = metrics

    def lookup(self, address: str, done: Callable[[Existence], None]) -> None:
        """Look a user up; ``done`` is called once.  A directory that fails counts as UNKNOWN."""
        directory = self._by_domain.get(address.rpartition("@")[2].lower())
        if directory is None:
            done(Existence.UNKNOWN)
            return
        try:
            answer = directory.lookup(address)
        except Exception:  # an operator's plugin
            self._broken(directory, Failure())
            done(Existence.UNKNOWN)
            return
        if not isinstance(answer, Deferred):
            done(answer)
            return

        def failed(failure: Failure) -> None:
            self._broken(directory, failure)
            done(Existence.UNKNOWN)

        answer.addCallbacks(done, failed)

    def _broken(self, directory: Any, failure: Failure) -> None:
        self._metrics.count("routing.directory_failed")
        log.failure(
            "directory_failed", "directory {directory} failed", failure, directory=directory.name
        )
