"""impfedctl store: from an SQLite file to Redis and back, with nothing lost on the way."""

from __future__ import annotations

import argparse
import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred, inlineCallbacks
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import TestCase

import impfed
from impfed.config.load import load
from impfed.core.ids import IdSource
from impfed.ctl.api import ControlError
from impfed.ctl.store import perform
from impfed.store.api import Put
from impfed.store.coordination import Coordination
from impfed.store.records import OutboxRecord
from impfed.store.setup import make_store
from tests.config.samples import GOOD, Workshop
from tests.store.contract import samples, subscription
from tests.store.redis_server import common_server

ROOT = Path(impfed.__file__).resolve().parent.parent
_numbers = iter(range(1, 99))


class StoreCommandTests(TestCase):
    timeout = 120

    def setUp(self) -> None:
        self.server = common_server()
        self.prefix = f"ctl{next(_numbers)}"
        self.shop = Workshop(self.mktemp())
        state = '[node]\nstate_directory = "state"\n'
        redis = f'[store]\nkind = "redis"\nsocket = "{self.server.socket}"\n'
        self.shop.put("file.toml", state + GOOD)
        self.shop.put("redis.toml", state + GOOD + redis + f'prefix = "{self.prefix}"\n')
        self.shop.put("none.toml", state + GOOD + '[store]\nkind = "redis"\nsocket = "none"\n')

    def path(self, name: str) -> Path:
        return (self.shop.directory / f"{name}.toml").resolve()

    @inlineCallbacks
    def run_action(self, name: str, action: str, **more: Any) -> Any:
        out = io.StringIO()
        values = {"file": self.path(name), "action": action, "json": False, "kinds": [], **more}
        code = yield perform(reactor, argparse.Namespace(**values), out)
        self.assertEqual(code, 0)
        return out.getvalue()

    @inlineCallbacks
    def fill(self, name: str, node: str = "") -> Any:
        store = make_store(reactor, load(self.path(name)), IdSource())
        yield store.start()
        if node:
            epoch = yield Coordination(store.link).join(node, "i", b"", 0)
            store.act_as(node, epoch)
        confirmed: Deferred[None] = Deferred()
        records = [*samples(), subscription("odd", remote='"\udcfc" <sip:b@x.example>')]
        store.write([Put(record) for record in records], confirmed.callback)
        self.assertIsNone((yield confirmed))
        yield store.stop()
        return records

    @inlineCallbacks
    def test_from_sqlite_to_redis_and_back(self) -> Any:
        """Every record of a file is the same in Redis after export and import, and the other way."""
        records = yield self.fill("file")
        lines = yield self.run_action("file", "export")
        self.assertEqual(len(lines.splitlines()), len(records))
        self.shop.put("lines", lines)
        told = yield self.run_action("redis", "import", lines=str(self.shop.directory / "lines"))
        self.assertEqual(told, f"{len(records)} records written\n")
        there = yield self.run_action("redis", "export")
        strip = [{**json.loads(line), "owner": None} for line in there.splitlines()]
        self.assertEqual(strip, [json.loads(line) for line in lines.splitlines()])
        self.shop.put("back", there)
        yield self.run_action("file", "import", lines=str(self.shop.directory / "back"))
        self.assertEqual((yield self.run_action("file", "export")), lines)

    @inlineCallbacks
    def test_inspect(self) -> Any:
        """The kinds are counted, in a cluster by owner."""
        yield self.fill("redis", node="n1")
        items = yield self.run_action("redis", "inspect", json=True)
        found = {
            (item["kind"], item["owner"]): item["records"]
            for item in map(json.loads, items.splitlines())
        }
        self.assertEqual(found["outbox", "n1"], 1)
        self.assertEqual(found["policy_entry", "(all)"], 1)
        table = yield self.run_action("redis", "inspect")
        self.assertIn("inbound_subscription", table)

    @inlineCallbacks
    def test_import_leaves_what_a_node_owns(self) -> Any:
        """What a live node owns is not written over."""
        yield self.fill("redis", node="n1")
        line = {"kind": "outbox", "owner": None, "record": {}}
        line["record"] = {"id": "m1", "local": "a@x.example", "foreign": "b@y.example", "body": "z"}
        self.shop.put("lines", json.dumps(line) + "\n\n")
        told = yield self.run_action("redis", "import", lines=str(self.shop.directory / "lines"))
        self.assertEqual(told, "0 records written\n1 left as they are: live nodes own them\n")
        [kept] = (yield self.run_action("redis", "export", kinds=["outbox"])).splitlines()
        self.assertNotEqual(json.loads(kept)["record"]["body"], "z")

    @inlineCallbacks
    def test_problems_in_words(self) -> Any:
        """Wrong kinds, wrong lines, a store that is not there: a sentence each."""
        self.shop.put("lines", '{"kind": "outbox", "record": {"id": 5}}\n')
        wrong = str(self.shop.directory / "lines")
        for name, action, more, words in (
            ("file", "export", {"kinds": ["letters"]}, "there is no kind letters"),
            ("file", "import", {"lines": wrong}, "line 1: "),
            ("file", "import", {"lines": "/nonexistent"}, "/nonexistent"),
            ("missing", "inspect", {}, "No such file"),
        ):
            doing = self.run_action(name, action, **more)
            error = yield self.assertFailure(doing, ControlError)
            self.assertIn(words, str(error))

    @inlineCallbacks
    def test_command_line(self) -> Any:
        """The command itself does it, with exit code 0, and 2 when it cannot."""
        yield self.fill("file")

        def command(*words: str) -> subprocess.CompletedProcess[str]:
            line = [sys.executable, "-m", "impfed.ctl.main", "store", *words]
            return subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=120)

        done = yield deferToThread(command, "export", str(self.path("file")), "outbox")
        self.assertEqual((done.returncode, done.stderr), (0, "1 records\n"))
        self.assertEqual(json.loads(done.stdout)["kind"], OutboxRecord.kind)
        done = yield deferToThread(command, "inspect", str(self.path("missing")))
        self.assertEqual(done.returncode, 2)
        self.assertIn("impfedctl: ", done.stderr)
