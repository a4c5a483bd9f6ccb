"""Plugins: found by name, made with their settings, held to the interface, and never trusted."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase, TestCase
from zope.interface import implementer
from zope.interface.verify import verifyObject

import impfed
from impfed.config.load import load
from impfed.core.ids import IdSource
from impfed.core.metrics import Metrics
from impfed.routing import plugins
from impfed.routing.api import (
    INTERFACE_VERSION,
    IRoute,
    IRoutePlugin,
    OverXmpp,
    Reject,
    RouteQuery,
)
from impfed.routing.plugins import PluginError, make_directory, make_route
from impfed.routing.router import Router
from impfed.routing.setup import Routing
from impfed.sip.target import Hop
from impfed.store.memory import MemoryStore
from impfed.tap import Options, makeService
from tests.config.samples import GOOD, Workshop

ROOT = Path(impfed.__file__).resolve().parent.parent
QUERY = RouteQuery("INVITE", "alice@home.example", "bob@lync.example")


@implementer(IRoute)
class SomeRoute:
    """A route that answers what the test says."""

    interface_version = INTERFACE_VERSION

    def __init__(self, name="some", order=50, answer=None) -> None:
        self.name, self.order, self.answer = name, order, answer

    def resolve(self, query):
        return self.answer() if callable(self.answer) else self.answer


@implementer(IRoutePlugin)
class Maker:
    """A plugin that makes what the test says."""

    def __init__(self, name, make, version=INTERFACE_VERSION) -> None:
        self.name, self._make, self.interface_version = name, make, version

    def make(self, context):
        return self._make()


class LoadTests(SynchronousTestCase):
    """Finding and making plugins."""

    def install(self, *found) -> None:
        self.patch(plugins, "_installed", lambda interface: found)

    def refused(self, name: str = "acme") -> str:
        return str(self.assertRaises(PluginError, make_route, name, None))

    def test_the_built_in_routes_are_plugins(self) -> None:
        """They are found through twisted.plugin, like everybody's."""
        found = {each.name: each for each in plugins._installed(IRoutePlugin)}
        for name in ("local", "static", "srv", "open-federation"):
            verifyObject(IRoutePlugin, found[name])

    def test_by_name(self) -> None:
        """The plugin that the configuration names makes the route; its place may be changed."""
        self.install(Maker("other", SomeRoute), Maker("acme", SomeRoute))
        self.assertEqual(make_route("acme", None).order, 50)
        moved = make_route("acme", None, 7)
        self.assertEqual((moved.order, moved.name), (7, "some"))
        verifyObject(IRoute, moved)

    def test_missing(self) -> None:
        """A name that nobody has is refused with those that are installed."""
        self.install(Maker("other", SomeRoute))
        self.assertIn('no route plugin named "acme"; installed are: other', self.refused())

    def test_twice(self) -> None:
        """Two plugins of one name are refused: which is meant?"""
        self.install(Maker("acme", SomeRoute), Maker("acme", SomeRoute))
        self.assertIn("there are 2 route plugins", self.refused())

    def test_other_version(self) -> None:
        """A plugin, or a route of it, for another version of the interface is refused."""
        self.install(Maker("acme", SomeRoute, 99))
        self.assertIn("written for version 99", self.refused())
        route = SomeRoute()
        route.interface_version = 0
        self.install(Maker("acme", lambda: route))
        self.assertIn("written for version 0", self.refused())

    def test_wrong_settings(self) -> None:
        """What the plugin says of its settings is told."""

        def make():
            raise ValueError("file is missing")

        self.install(Maker("acme", make))
        self.assertIn("cannot be made: file is missing", self.refused())

    def test_no_route(self) -> None:
        """What does not provide the interface is refused at the start, not with the first request."""
        self.install(Maker("acme", object))
        self.assertIn("makes no IRoute", self.refused())

    def test_directories_alike(self) -> None:
        """A directory plugin that nobody has is refused the same way."""
        self.install()
        error = self.assertRaises(PluginError, make_directory, "acme", None, ["home.example"])
        self.assertIn("no directory plugin", str(error))


class MisbehavingRouteTests(SynchronousTestCase):
    """What a route may do wrong at run time, and what the chain does about it."""

    def setUp(self) -> None:
        self.clock, self.metrics = Clock(), Metrics()
        self.good = SomeRoute("good", 90, [Hop("tls", "good.example", 5061)])
        self.answers: list = []

    def chain(self, answer, **options) -> Router:
        return Router(
            [SomeRoute("bad", 10, answer), self.good],
            self.metrics,
            clock=self.clock,
            **options,
        )

    def test_silence(self) -> None:
        """A route that does not answer is skipped after its time; what it says later is not heard."""
        late: Deferred = Deferred()
        router = self.chain(late, limits={"bad": 2.0})
        router.resolve(QUERY, self.answers.append)
        self.clock.advance(1.9)
        self.assertEqual(self.answers, [])
        self.clock.advance(0.2)
        self.assertEqual(self.answers[0][0].host, "good.example")
        self.assertEqual(router.status()[0], {"route": "bad", "order": 10, "skipped": 1})
        self.assertEqual(self.metrics.value("routing.route_late"), 1)
        self.assertEqual(len(self.answers), 1)

    def test_silence_that_cannot_be_cancelled(self) -> None:
        """An answer after its time is dropped even from a route that goes on thinking."""
        late: Deferred = Deferred(lambda _: None)
        late.addErrback(lambda _: None)
        stubborn: Deferred = Deferred(lambda deferred: deferred.callback([Hop("tls", "x", 1)]))
        self.chain(stubborn).resolve(QUERY, self.answers.append)
        self.clock.advance(3)
        self.assertEqual([each[0].host for each in self.answers], ["good.example"])

    def test_in_time(self) -> None:
        """A route in time leaves no delayed call behind."""
        answer: Deferred = Deferred()
        self.chain(answer).resolve(QUERY, self.answers.append)
        answer.callback([Hop("tls", "own.example", 5061)])
        self.assertEqual(self.answers[0][0].host, "own.example")
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_rubbish(self) -> None:
        """An answer that is none of what the interface says counts as a failure."""
        for rubbish in (17, "tls:host:5061", ["host"], True):
            self.answers.clear()
            self.chain(rubbish).resolve(QUERY, self.answers.append)
            self.assertEqual(self.answers[0][0].host, "good.example", rubbish)
        self.assertEqual(self.metrics.value("routing.route_failed"), 4)

    def test_no_hops(self) -> None:
        """An empty list is "not mine"."""
        self.chain([]).resolve(QUERY, self.answers.append)
        self.assertEqual(self.answers[0][0].host, "good.example")

    def test_circle(self) -> None:
        """Hops that are this node are dropped; if all are, the request is refused as a circle."""
        own = [Hop("tls", "192.0.2.1", 5061), Hop("tls", "far.example", 5061)]
        router = self.chain(own, own=[("192.0.2.1", 5061)])
        router.resolve(QUERY, self.answers.append)
        self.assertEqual([hop.host for hop in self.answers[0]], ["far.example"])
        self.chain(own[:1], own=[("192.0.2.1", 5061)]).resolve(QUERY, self.answers.append)
        self.assertEqual(self.answers[1].status, 482)
        self.assertIn("back to this node itself", self.answers[1].reason)

    def test_explained(self) -> None:
        """An explanation asks everybody, tells who decides, and why others are skipped."""

        def broken():
            raise KeyError("oops")

        told: list = []
        self.chain(broken).explain(
            QUERY, lambda steps, resolution: told.extend((steps, resolution))
        )
        steps, resolution = told
        self.assertEqual([(each.route, bool(each.failure)) for each in steps],
                         [("bad", True), ("good", False)])  # fmt: skip
        self.assertEqual(resolution[0].host, "good.example")
        self.assertEqual(len(self.flushLoggedErrors(KeyError)), 1)

    def test_explained_with_a_silent_route(self) -> None:
        """An explanation waits no longer for a silent route than a request does."""
        told: list = []
        self.chain(Deferred()).explain(QUERY, lambda steps, resolution: told.append(steps))
        self.clock.advance(2)
        self.assertIn("no answer within 2 s", told[0][0].failure)

    def test_kind(self) -> None:
        """The kind of the recipient's domain is filled in for the routes."""
        seen: list = []
        route = SomeRoute("watcher", 1)
        route.resolve = lambda query: seen.append(query)
        Router([route], self.metrics, kinds={"lync.example": "microsoft"}).resolve(
            QUERY, self.answers.append
        )
        self.assertEqual((seen[0].kind, seen[0].local_domain), ("microsoft", "home.example"))


class RoutingTests(SynchronousTestCase):
    """The whole chain as a node makes it, and what ``impfedctl route`` says of it."""

    def routing(self, more: str = "") -> Routing:
        shop = Workshop(self.mktemp())
        config = shop.load(GOOD + more)
        store = MemoryStore()
        self.successResultOf(store.start())
        routing = Routing(config, Clock(), store, Metrics(), IdSource())
        routing.build(lambda domain, host: True)
        self.successResultOf(routing.start())
        return routing

    def explain(self, routing: Routing, address: str, states=()):
        table = dict(states)
        return self.successResultOf(
            routing.explain(address, lambda hop: table.get(hop.host, ("idle", "")))
        )

    def test_chain(self) -> None:
        """The hop of the domain is told with what it must prove, and where it comes from."""
        routing = self.routing("\n[dns]\ndiscovery = false\n")
        story = self.explain(routing, "bob@lync.example")
        self.assertEqual([step["route"] for step in story["chain"]], ["local", "static"])
        self.assertEqual(story["used"], "tls:sip.lync.example:5061")
        self.assertEqual(story["hops"][0]["tls_name"], "sip.lync.example")
        self.assertEqual(story["hops"][0]["from"], "static route of lync.example")
        json.dumps(story)

    def test_used_now(self) -> None:
        """A hop out of reach is passed over, and the reason says so."""
        routing = self.routing(
            '\n[[route]]\npattern = "lync.example"\naddress = "two.lync.example:5061"\npriority = 2\n'
            "\n[dns]\ndiscovery = false\n"
        )
        story = self.explain(
            routing, "bob@lync.example", [("sip.lync.example", ("resting", "refused"))]
        )
        self.assertEqual(story["used"], "tls:two.lync.example:5061")
        self.assertIn("cannot be reached now", story["why"])
        story = self.explain(
            routing,
            "bob@lync.example",
            [("sip.lync.example", ("resting", "")), ("two.lync.example", ("resting", ""))],
        )
        self.assertEqual(story["used"], "")

    def test_nowhere(self) -> None:
        """A stranger and a local user have no next hop, for different reasons."""
        routing = self.routing("\n[dns]\ndiscovery = false\n")
        self.assertIn("no route leads", self.explain(routing, "x@stranger.example")["why"])
        story = self.explain(routing, "x@company.example")
        self.assertIn("is a local domain", story["why"])
        self.assertTrue(story["chain"][0]["decides"])

    def test_over_xmpp(self) -> None:
        """A domain that open federation reaches over XMPP is told as such, without a status."""
        routing = self.routing("\n[open_federation]\nenabled = true\n[dns]\ndiscovery = false\n")
        routing.learned.found("new.example", "xmpp")
        story = self.explain(routing, "x@new.example")
        self.assertEqual((story["status"], story["used"]), (0, ""))
        self.assertIn("over XMPP", story["why"])
        self.assertTrue(issubclass(OverXmpp, Reject))


class StartTests(SynchronousTestCase):
    """What twistd says of a plugin that is not there."""

    def test_missing_plugin(self) -> None:
        """The start ends with the file, the plugin's name, and what is installed."""
        shop = Workshop(self.mktemp())
        plain = GOOD[GOOD.index("[[listener]]") :].replace('"tls"', '"tcp"')
        plain = plain.replace('next_hop = { address = "sip.lync.example:5061" }', "")
        shop.put("impfed.toml", plain + '\n[plugins]\nroutes = ["acme"]\n')
        options = Options()
        options.parseOptions(["--config", str(shop.path)])
        error = self.assertRaises(SystemExit, makeService, options)
        self.assertIn("impfed.toml cannot be used", str(error))
        self.assertIn('no route plugin named "acme"; installed are: local', str(error))


class ExamplePackageTests(TestCase):
    """The example package, installed and used from outside the source tree."""

    def test_installed(self) -> None:
        """Installed elsewhere and run elsewhere, it is found by name and routes; removed, it is gone."""
        place = Path(self.mktemp()).resolve()
        source = place / "source"
        shutil.copytree(ROOT / "examples" / "phonebook", source)
        target = place / "installed"
        subprocess.run(
            [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps",
             "--no-build-isolation", "--disable-pip-version-check", "--target", str(target), str(source)],
            check=True, capture_output=True, timeout=120, cwd=place,
        )  # fmt: skip
        self.assertTrue((target / "twisted" / "plugins" / "phonebook_plugin.py").exists())
        shop = Workshop(str(place / "etc"))
        book = shop.put(
            "phonebook.toml",
            '[domains]\n"partner.example" = "sip.partner.example:5061"\n'
            '[users]\nnames = ["alice@company.example"]\n',
        )
        shop.put(
            "impfed.toml",
            GOOD.replace('secret = "', 'directory = "phonebook"\nsecret = "')
            + f'\n[[route]]\nplugin = "phonebook"\nsettings = {{ file = "{book}" }}\n'
            + "\n[dns]\ndiscovery = false\n",
        )
        self.assertEqual(load(shop.path).routes[0].plugin, "phonebook")
        told = self.outside(place, f"{target}{os.pathsep}{ROOT}", shop.path)
        self.assertEqual(
            told,
            {"used": "tls:sip.partner.example:5061", "chain": ["local", "static", "phonebook"],
             "alice": "exists", "bob": "absent", "stranger": "unknown"},
        )  # fmt: skip
        missing = self.outside(place, str(ROOT), shop.path)
        self.assertIn('no route plugin named "phonebook"; installed are: local', missing["error"])

    def outside(self, place: Path, path: str, config: Path) -> dict:
        script = place / "ask.py"
        script.write_text(_ASK, "utf-8")
        done = subprocess.run(
            [sys.executable, str(script), str(config)],
            cwd=place, env={**os.environ, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"},
            capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        self.assertEqual(done.returncode, 0, done.stderr)
        return dict(json.loads(done.stdout))


_ASK = """
import json, sys
from twisted.internet.task import Clock
from impfed.config.load import load
from impfed.core.ids import IdSource
from impfed.core.metrics import Metrics
from impfed.routing.plugins import PluginError
from impfed.routing.setup import Routing
from impfed.store.memory import MemoryStore
from impfed.tap import Options, makeService

config = load(sys.argv[1])
store = MemoryStore()
store.start()
routing = Routing(config, Clock(), store, Metrics(), IdSource())
try:
    routing.build(lambda domain, host: True)
except PluginError as error:
    print(json.dumps({"error": str(error)}))
    sys.exit()
told = []
routing.explain("bob@partner.example", lambda hop: ("idle", "")).addCallback(told.append)
(story,) = told
directory = routing.directory(config.homes[0])
print(json.dumps({
    "used": story["used"],
    "chain": [step["route"] for step in story["chain"]],
    "alice": directory.lookup("alice@company.example").value,
    "bob": directory.lookup("bob@company.example").value,
    "stranger": directory.lookup("alice@sub.company.example").value,
}))
"""
