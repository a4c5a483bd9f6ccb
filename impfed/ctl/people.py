"""What ``explain``, ``policy``, ``user``, ``budget``, ``limits`` and ``pat-check`` tell, in words."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from typing import Any, TextIO

from impfed.ctl import budget, pat
from impfed.ctl.client import ControlClient
from impfed.ctl.words import listing, printable

_TITLES = {"both": "", "message": "a message", "subscription": "a subscription to presence"}


def explanation(items: Sequence[dict[str, Any]]) -> str:
    """Return the steps of ``explain``: what both need first, then each with its outcome."""
    lines = []
    width = max((len(item["step"]) for item in items), default=0)
    for about, title in _TITLES.items():
        steps = [item for item in items if item["about"] == about]
        if steps and title:
            lines += ["", title]
        for item in steps:
            mark = "=>" if item["step"] == "outcome" else "  "
            text = f"{mark} {printable(item['step']):<{width}}  {printable(item['result'])}"
            lines.append(text + (f": {printable(item['why'])}" if item["why"] else ""))
    lines += ["", "nothing was sent"]
    return "\n".join(lines) + "\n"


def gone(item: dict[str, Any]) -> str:
    """Return what ``user remove`` or ``user rename`` did, as a sentence."""
    numbers = ", ".join(
        f"{item[name]} {words}"
        for name, words in (
            ("watchers", "subscriptions of watchers ended"),
            ("contacts", "contacts subscribed to anew" if item["now"] else "contacts left"),
            ("sessions", "sessions ended"),
            ("authorizations", "authorizations"),
            ("policies", "list entries"),
            ("ledger", "ledger entries"),
        )
    )
    fate = f"is {item['now']} now" if item["now"] else "is removed"
    verb = "moved" if item["now"] else "forgotten"
    told = printable(f"{item['user']} {fate}: {numbers} {verb}") + "\n"
    for name in item.get("silent", ()):
        told += f"node {printable(name)} did not answer: repeat this when it is back\n"
    return told


def command(name: str, width: Callable[[], int]) -> Callable[..., int]:
    """Return the client's side of one of the commands."""

    def run(client: ControlClient, options: argparse.Namespace, out: TextIO) -> int:
        items = client.ask(name, *getattr(options, "arguments", ()))
        if options.json:
            out.writelines(json.dumps(item) + "\n" for item in items)
        elif name == "explain":
            out.write(explanation(items))
        elif name == "user":
            out.write("".join(map(gone, items)))
        elif name == "budget":
            out.write(budget.words(items))
        elif name == "pat-check":
            out.write(pat.words(items))
        else:
            out.write(listing(items, "nobody is at a limit", width()))
        return 0 if all(item.get("passes", True) for item in items) else 1

    return run
