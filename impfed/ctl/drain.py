"""``impfedctl drain``: has a node give everything away, and tells how far it is."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from typing import Any, TextIO

from impfed.ctl.api import ControlError
from impfed.ctl.client import ControlClient

#: Seconds between two questions how far it is.
_EVERY = 0.5


def run(
    client: ControlClient,
    options: argparse.Namespace,
    out: TextIO,
    sleep: Callable[[float], None] = time.sleep,
) -> int:
    """Run the command; without arguments it ends when the node has given everything away."""
    arguments = options.arguments
    [item] = client.ask("drain", *arguments)
    told = _tell(item, "", options.json, out)
    while not arguments and not item["drained"]:
        if item["standing"] != "draining":
            raise ControlError(f"the node drains no longer: it is {item['standing']}")
        sleep(_EVERY)
        [item] = client.ask("drain", "state")
        told = _tell(item, told, options.json, out)
    return 0


def words(item: dict[str, Any]) -> str:
    """Return how far it is, in a line."""
    if item["drained"]:
        return "drained: this node has nothing left, and can be stopped"
    links = ", ".join(item["home_links"]) or "none"
    left = (
        f"{item['sessions']} sessions, {item['subscriptions']} subscriptions,"
        f" {item['letters']} letters, home links: {links}"
    )
    return f"{item['standing']}: {left}"


def _tell(item: dict[str, Any], told: str, as_json: bool, out: TextIO) -> str:
    line = json.dumps(item) if as_json else words(item)
    if line != told:
        out.write(line + "\n")
        out.flush()
    return line
