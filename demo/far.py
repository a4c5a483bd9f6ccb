"""Starts the far side, whose own code is :mod:`demo.farside`, as a process."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from pathlib import Path

from .certificates import Certificate
from .parts import Event, Talker


def far_side(
    directory: Path,
    certificate: Certificate,
    listen: str,
    node: tuple[str, str],
    users: Iterable[str],
    *options: str,
    domain: str = "lync.example",
    delay: float = 0.3,
    name: str = "farside",
    listener: Callable[[str, Event], None] | None = None,
    netns: str = "",
) -> Talker:
    """Start a foreign edge with its users; returns when it listens.

    :param listen: its own address and port.
    :param node: address and port that it connects to, and the name in the certificate there.
    :param users: names or addresses, perhaps followed by "=" and a display name.
    :param options: further ones of :mod:`demo.farside`.
    :param delay: seconds until an invitation is accepted.
    :param name: what the process is called.
    :raises PartFailed: it does not start.
    """
    far = Talker(
        name,
        [
            sys.executable, "-m", "demo.farside", "--domain", domain, "--listen", listen,
            "--node", node[0], "--node-name", node[1], "--certificate", certificate.certificate,
            "--key", certificate.key, "--ca", certificate.ca, "--accept-delay", str(delay),
            *options, *(word for user in users for word in ("--user", user)),
        ],
        directory,
        listener,
        netns,
    )  # fmt: skip
    return far.begun("ready")
