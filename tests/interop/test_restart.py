"""Hundreds of subscriptions through ``kill -9``, a restart of the far side and of the home server.

``make bench`` does the same with thousands and says how long it takes; here only what happens
counts.
"""

from __future__ import annotations

import os

from twisted.trial.unittest import SynchronousTestCase

from bench.bench_presence import LOCAL, PresenceStage
from demo.parts import ROOT

COUNT = 250


class Restarts(SynchronousTestCase):
    """A real node with SQLite, a real Prosody, and a far side that shares no code with us."""

    def stage(self, pace: str, count: int) -> PresenceStage:
        """Start everything and make the subscriptions."""
        name = f"{self.id().rpartition('.')[2]}-{os.getpid()}"
        stage = PresenceStage(ROOT / "run" / "interop" / name, count, pace)
        self.addCleanup(stage.close)
        stage.start()
        stage.fill(rate=250)
        return stage

    def test_everything_comes_back(self) -> None:
        """Each watcher is told what changed, each of our subscriptions stands, whoever restarts."""
        stage = self.stage('"none"', COUNT)
        killed = stage.kill_and_restart()
        self.assertTrue(killed["up"])
        self.assertEqual(killed["fresh"], 0, "a dialog was not refreshed but made anew")
        report = stage.ask(stage.far)
        self.assertEqual(report["notified"], COUNT)
        self.assertEqual(report["counts"].get("strange", 0), 0, report)
        self.assertEqual(report["counts"].get("unknown", 0), 0, report)
        answered = report["counts"]["subscribe answered 200"]
        self.assertGreaterEqual(answered, 100, report)
        stage.restart_far_side(away=1.0)
        report = stage.ask(stage.far)
        self.assertEqual((report["watched"], report["fresh"]), (COUNT, COUNT))
        probes = stage.restart_home_server()["probes"]
        self.assertGreaterEqual(probes, COUNT)
        self.assertEqual(stage.ask(stage.users)["errors"], 0)

    def test_in_order_of_use(self) -> None:
        """At a configured pace those who were there last are refreshed first."""
        stage = self.stage("40", 120)
        stage.kill_and_restart()
        users = stage.ask(stage.far, "order")["users"]
        self.assertEqual(users, [f"sip:u{number}@{LOCAL}" for number in range(119, -1, -1)])
        report = stage.ask(stage.far)
        self.assertGreater(report["last_refreshed"], 2.0)
