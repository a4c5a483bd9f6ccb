"""What an operator asks of nodes: by impfedctl, or by the socket that it talks to."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from demo.parts import PartFailed
from impfed.cluster.ownership import Rendezvous
from impfed.ctl.api import ControlError
from impfed.ctl.client import ControlClient
from impfed.gateway.cluster_home import link_pair


def operator(socket: Path | str, *words: str, code: int = 0) -> str:
    """Run impfedctl at a node; return what it says.

    :raises PartFailed: it ends with another exit code.
    """
    command = [Path(sys.executable).with_name("impfedctl"), "--socket", socket, *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    if done.returncode != code:
        raise PartFailed(f"impfedctl {' '.join(words)}: {done.stdout}{done.stderr}")
    return done.stdout + done.stderr


def status_of(socket: Path | str) -> dict[str, Any]:
    """Return what a node says of itself; empty when it does not answer."""
    try:
        client = ControlClient(socket, timeout=10.0)
    except ControlError:
        return {}
    try:
        (found,) = client.ask("status")
    except ControlError:
        return {}
    finally:
        client.close()
    status: dict[str, Any] = found
    return status


def is_whole(found: Mapping[str, dict[str, Any]]) -> bool:
    """Whether a cluster is whole: these nodes and no others live, and each has taken what is its own.

    The node that the links of a home server belong to has them, and they are up.

    :param found: what each node says of itself.
    """
    views = [status.get("cluster", {}) for status in found.values()]
    if not all(view.get("standing") == "member" for view in views):
        return False
    for view in views:
        live = {row["name"] for row in view["nodes"] if row["state"] == "live" and row["ready"]}
        if live != set(found) or view["settled"] != view["generation"]:
            return False
    if len({view["generation"] for view in views}) != 1:
        return False
    homes = {link["home"] for status in found.values() for link in status["home_links"]}
    return bool(homes) and all(_linked(found, home) for home in homes)


def _linked(found: Mapping[str, dict[str, Any]], home: str) -> bool:
    holder = found[Rendezvous(found).owner(link_pair(home))]
    links = [link["state"] for link in holder["home_links"] if link["home"] == home]
    return home in holder["cluster"]["home_links_held"] and set(links) == {"up"}
