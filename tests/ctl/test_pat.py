"""``impfedctl pat-check``: what it prints, and how it ends."""

from __future__ import annotations

import json
from argparse import Namespace
from io import StringIO
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from impfed.ctl import people


def line(verdict: str, port: int, words: str) -> dict[str, Any]:
    """Return what a node says of one address."""
    return {
        "verdict": verdict,
        "address": f"203.0.113.10:{port}",
        "transport": "tls",
        "of": "node2",
        "leads_to": "node2",
        "words": words,
        "passes": verdict in ("right", "not checked"),
    }


class OneAnswer:
    """A client whose node always answers the same."""

    def __init__(self, *items: dict[str, Any]) -> None:
        self.items = list(items)

    def ask(self, command: str, *arguments: str) -> list[dict[str, Any]]:
        """Answer."""
        return self.items


class PatWordsTests(SynchronousTestCase):
    """The words, and the exit code."""

    def run_command(self, *items: dict[str, Any], as_json: bool = False) -> tuple[int, str]:
        """Return the exit code, and what was printed."""
        out = StringIO()
        options = Namespace(json=as_json)
        code = people.command("pat-check", lambda: 100)(OneAnswer(*items), options, out)
        return code, out.getvalue()

    def test_problem(self) -> None:
        """The worst stands first, the number of corrections last, and the exit code is 1."""
        good, bad = line("right", 5062, "fine"), line("missing", 45062, "no\x1b[31mbody")
        code, text = self.run_command(good, bad)
        self.assertEqual(code, 1)
        first, second, last = text.splitlines()
        self.assertTrue(first.startswith("missing  203.0.113.10:45062 tls  of node2"))
        self.assertNotIn("\x1b", first)
        self.assertTrue(second.startswith("right    203.0.113.10:5062 tls   of node2"))
        self.assertEqual(last, "1 of 2 addresses to correct at the firewall")

    def test_right(self) -> None:
        """Without a problem the exit code is 0."""
        code, text = self.run_command(line("right", 5062, "fine"), line("not checked", 5060, "UDP"))
        self.assertEqual(code, 0)
        self.assertTrue(text.endswith("every address leads where it should\n"))

    def test_json(self) -> None:
        """As JSON each address is an object a line, and the exit code is the same."""
        bad = line("crossed", 45062, "it leads to node1")
        code, text = self.run_command(bad, as_json=True)
        self.assertEqual((code, json.loads(text)), (1, bad))

    def test_no_addresses(self) -> None:
        """A node that advertises nothing has nothing to correct."""
        self.assertEqual(self.run_command()[0], 0)
