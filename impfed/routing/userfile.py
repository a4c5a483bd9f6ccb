"""A text file with one user a line, read again whenever it has changed."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from impfed.core.log import EventLog

log = EventLog("impfed.routing")


class UserFile:
    """``user@domain``, or ``user`` alone for every one of some domains.

    Empty lines and lines that begin with ``#`` are passed over.

    :param domains: the local domains that a user without one may be in.
    :raises OSError: when the file cannot be read at the start; later the last good content serves on.
    """

    def __init__(self, path: Path, domains: Iterable[str]) -> None:
        self.path = path
        self._domains = frozenset(domains)
        self._stamp = (0, 0)
        self._users: frozenset[str] = frozenset()
        self._read()

    def __contains__(self, address: str) -> bool:
        """Whether a user stands in it, as it is now."""
        try:
            self._read()
        except OSError as error:
            log.warn(
                "directory_unreadable",
                "the user file {path} cannot be read ({error}); its last content serves on",
                path=str(self.path),
                error=str(error),
            )
        return address.lower() in self._users

    def _read(self) -> None:
        status = self.path.stat()
        stamp = (status.st_mtime_ns, status.st_ino)
        if stamp == self._stamp:
            return
        users: set[str] = set()
        for line in self.path.read_text("utf-8").splitlines():
            entry = line.strip().lower()
            if not entry or entry.startswith("#"):
                continue
            if "@" in entry:
                users.add(entry)
            else:
                users.update(f"{entry}@{domain}" for domain in self._domains)
        self._users = frozenset(users)
        self._stamp = stamp
