"""The protocol cores know no reactor, no clock and no dice (ARCHITECTURE.md)."""

from __future__ import annotations

import ast
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

import impfed

PURE = ("core", "sip", "xmpp", "interwork", "proxy", "cluster")
#: What drives such a core, in the same room.
DRIVERS = (
    "cluster/api.py",
    "cluster/balance.py",
    "cluster/feed.py",
    "cluster/flush.py",
    "cluster/portions.py",
    "cluster/post.py",
    "cluster/rewriting.py",
    "cluster/service.py",
)
FORBIDDEN = (
    "twisted.internet",
    "twisted.words",
    "wokkel",
    "txredisapi",
    "OpenSSL",
    "socket",
    "ssl",
)
CLOCKS_AND_DICE = ("time", "random", "secrets", "uuid", "asyncio", "threading")


def imported(path: Path) -> set[str]:
    """Return the modules that a file imports, wherever in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module)
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
    return found


class PureRoomTests(SynchronousTestCase):
    """What the layers contract cannot say: the pure rooms import nothing that does IO or tells time."""

    def test_pure_rooms(self) -> None:
        """No module of a pure room imports a reactor, a socket, a clock or a source of chance."""
        root = Path(impfed.__file__).parent
        drivers = [root / name for name in DRIVERS]
        files = [path for room in PURE for path in (root / room).rglob("*.py")]
        files = [path for path in files if path not in drivers]
        self.assertGreater(len(files), 30)
        for path in files:
            for name in imported(path):
                for forbidden in FORBIDDEN + CLOCKS_AND_DICE:
                    self.assertFalse(
                        name == forbidden or name.startswith(f"{forbidden}."),
                        f"{path.relative_to(root)} imports {name}",
                    )
