"""``impfedctl drain``: what the node answers, and what is printed until it is done."""

from __future__ import annotations

import json
from argparse import Namespace
from io import StringIO
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from impfed.ctl import drain
from impfed.ctl.api import ControlError
from impfed.ctl.operations import Operations

_LEFT = {"sessions": 2, "subscriptions": 30, "letters": 1, "home_links": ["prosody"]}
_NOTHING = {"sessions": 0, "subscriptions": 0, "letters": 0, "home_links": []}
WORKING = {"standing": "member", "drained": False, **_LEFT}
DRAINING = {"standing": "draining", "drained": False, **_LEFT}
DONE = {"standing": "draining", "drained": True, **_NOTHING}


class Client:
    """A client whose node answers one thing after the other."""

    def __init__(self, *items: dict[str, Any]) -> None:
        self.items = list(items)
        self.asked: list[tuple[str, ...]] = []

    def ask(self, *words: str) -> list[dict[str, Any]]:
        """Answer."""
        self.asked.append(words)
        return [self.items.pop(0)]


class CommandTests(SynchronousTestCase):
    """The operator's side."""

    def run_command(
        self, client: Client, *arguments: str, as_json: bool = False
    ) -> tuple[int, str]:
        out = StringIO()
        options = Namespace(json=as_json, arguments=list(arguments))
        code = drain.run(client, options, out, lambda seconds: None)  # type: ignore[arg-type]
        return code, out.getvalue()

    def test_until_done(self) -> None:
        """It says how far the node is whenever that changes, and ends when nothing is left."""
        client = Client(DRAINING, DRAINING, DONE)
        code, text = self.run_command(client)
        self.assertEqual(client.asked, [("drain",), ("drain", "state"), ("drain", "state")])
        self.assertEqual(
            text.splitlines(),
            [
                "draining: 2 sessions, 30 subscriptions, 1 letters, home links: prosody",
                "drained: this node has nothing left, and can be stopped",
            ],
        )
        self.assertEqual(code, 0)

    def test_called_off(self) -> None:
        """It ends with the reason when somebody else has called it off."""
        with self.assertRaises(ControlError) as caught:
            self.run_command(Client(DRAINING, WORKING))
        self.assertEqual(str(caught.exception), "the node drains no longer: it is member")

    def test_stop_and_state(self) -> None:
        """Both answer once; as JSON, too."""
        client = Client(WORKING)
        self.assertIn("member: 2 sessions", self.run_command(client, "stop")[1])
        self.assertEqual(client.asked, [("drain", "stop")])
        _, text = self.run_command(Client(DRAINING), "state", as_json=True)
        self.assertEqual(json.loads(text), DRAINING)


class NodeTests(SynchronousTestCase):
    """The node's side."""

    def setUp(self) -> None:
        self.can = True
        self.draining = False

    def begin(self) -> bool:
        self.draining = self.draining or self.can
        return self.can

    def work_again(self) -> bool:
        was, self.draining = self.draining, False
        return was

    def progress(self) -> dict[str, Any]:
        return DRAINING if self.draining else WORKING

    def ask(self, *arguments: str, cluster: bool = True) -> Any:
        nothing: Any = None
        there = self if cluster else None
        operations = Operations(nothing, nothing, nothing, frozenset(), drain=there)
        return operations.perform("drain", arguments)

    def test_begin_and_stop(self) -> None:
        """It drains when it is told to, and takes work again when it is told that."""
        self.assertEqual(self.ask("state"), [WORKING])
        self.assertEqual(self.ask(), [DRAINING])
        self.assertEqual(self.ask("stop"), [WORKING])

    def test_refused(self) -> None:
        """Without a cluster, at a bad moment, or with other words it says what is wrong."""
        with self.assertRaisesRegex(ControlError, "in no cluster"):
            self.ask(cluster=False)
        with self.assertRaisesRegex(ControlError, "does not drain"):
            self.ask("stop")
        self.can = False
        with self.assertRaisesRegex(ControlError, "cannot drain now"):
            self.ask()
        with self.assertRaisesRegex(ControlError, "usage: drain"):
            self.ask("now")
