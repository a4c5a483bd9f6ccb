"""impfedctl from the command line, against a real socket: answers in words and as JSON, exit codes."""

from __future__ import annotations

import io
import json
import os
import shutil
import socket
import sys
import tempfile
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred, inlineCallbacks
from twisted.internet.protocol import ProcessProtocol
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import SynchronousTestCase, TestCase

import impfed
from impfed.ctl.main import main
from impfed.ctl.server import ControlServer
from tests.config.samples import GOOD, Workshop
from tests.ctl.doubles import ANSWER, INVITE, STANZA, FakeNode, entry

ROOT = Path(impfed.__file__).resolve().parent.parent


def run(*arguments: str) -> tuple[int, str, str]:
    """Run a command; return exit code, answer and complaints."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stderr(err):
        code = main(arguments, out)
    return code, out.getvalue(), err.getvalue()


class CheckConfigTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.shop = Workshop(self.mktemp())

    def check(self, text: str, *options: str) -> tuple[int, str, str]:
        self.shop.put("impfed.toml", text)
        return run("check-config", *options, str(self.shop.path))

    def test_good(self) -> None:
        """A right file gives exit code 0 and what is in it."""
        code, out, _ = self.check(GOOD)
        self.assertEqual(code, 0)
        self.assertIn("1 listener, 1 foreign domain, 1 local domain, 1 home server", out)
        self.assertEqual(self.check(GOOD, "--json"), (0, "", ""))

    def test_every_problem(self) -> None:
        """A wrong file gives exit code 1 and every problem, a line each."""
        wrong = GOOD.replace('"tls"', '"quic"').replace('"ca.pem"', '"no.pem"')
        code, out, _ = self.check(wrong)
        self.assertEqual(code, 1)
        self.assertEqual(len(out.splitlines()), 3)
        self.assertIn("impfed.toml:2: tls.ca", out)
        self.assertIn("2 problems", out)

    def test_json(self) -> None:
        """As JSON each problem is an object."""
        code, out, _ = self.check(GOOD.replace('"component"', '"jabber"'), "--json")
        self.assertEqual(code, 1)
        [problem] = [json.loads(line) for line in out.splitlines()]
        self.assertEqual((problem["key"], problem["line"]), ("home[1].kind", 20))

    def test_missing_file(self) -> None:
        """A file that is not there gives exit code 1."""
        code, out, _ = run("check-config", str(self.shop.directory / "nowhere.toml"))
        self.assertEqual(code, 1)
        self.assertIn("No such file", out)


class UnreachableTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="impfed"))
        self.addCleanup(shutil.rmtree, self.directory)
        self.path = self.directory / "control.sock"

    def test_no_socket(self) -> None:
        """Without a socket: which one was looked for, and what to do."""
        code, out, err = run("--socket", str(self.path), "status")
        self.assertEqual((code, out), (2, ""))
        for words in (str(self.path), "twistd -n impfed", "--socket"):
            self.assertIn(words, err)

    def test_socket_left_behind(self) -> None:
        """A socket that nobody listens on: that the node is gone."""
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(str(self.path))
        code, _, err = run("--socket", str(self.path), "sessions")
        self.assertEqual(code, 2)
        self.assertIn("left behind", err)

    def test_silent_node(self) -> None:
        """A node that does not answer: that it does not, after the time allowed."""
        with socket.socket(socket.AF_UNIX) as silent:
            silent.bind(str(self.path))
            silent.listen()
            code, _, err = run("--socket", str(self.path), "--timeout", "0.05", "status")
        self.assertEqual(code, 2)
        self.assertIn("does not answer", err)

    def test_socket_from_the_configuration(self) -> None:
        """--config takes the socket from a file, relative to it, without reading its secrets."""
        config = self.directory / "impfed.toml"
        config.write_text('[node]\ncontrol_socket = "there.sock"\n', "utf-8")
        _, _, err = run("--config", str(config), "status")
        self.assertIn(str(self.directory / "there.sock"), err)

    def test_wrong_usage(self) -> None:
        """Wrong usage gives exit code 2 and the usage."""
        with redirect_stderr(io.StringIO()) as err, self.assertRaises(SystemExit) as caught:
            main(["where"])
        self.assertEqual(caught.exception.code, 2)
        self.assertIn("MESSAGE-ID|USER", err.getvalue())


class RunningNodeCase(TestCase):
    def setUp(self) -> None:
        self.patch(os, "environ", {**os.environ, "COLUMNS": "120"})
        self.directory = Path(tempfile.mkdtemp(prefix="impfed"))
        self.addCleanup(shutil.rmtree, self.directory)
        self.path = self.directory / "control.sock"
        self.node = FakeNode()
        self.server = ControlServer(reactor, self.path, self.node)
        self.server.start()
        self.addCleanup(self.server.stop)

    def ask(self, *arguments: str) -> Deferred[tuple[int, str, str]]:
        return deferToThread(run, "--socket", str(self.path), *arguments)


class AnswerTests(RunningNodeCase):
    @inlineCallbacks
    def test_status(self) -> Any:
        """The status is shown in words: values, tables, counters that have counted."""
        code, out, _ = yield self.ask("status")
        self.assertEqual(code, 0)
        self.assertIn("node: node1\nsince: 2023-11-14 22:13:20Z\n", out)
        self.assertIn("LINK     STATE  REASON\nprosody  up     -\n", out)
        self.assertIn("sip.malformed  3", out)
        self.assertNotIn("sip.never", out)

    @inlineCallbacks
    def test_json(self) -> Any:
        """As JSON every item is an object on a line."""
        for command, expected in (
            ("status", [self.node.answer]),
            ("sessions", self.node.session_list),
            ("subscriptions", []),
        ):
            code, out, _ = yield self.ask(command, "--json")
            self.assertEqual(code, 0)
            self.assertEqual([json.loads(line) for line in out.splitlines()], expected)

    @inlineCallbacks
    def test_tables(self) -> Any:
        """Sessions are a table; without any, words."""
        _, out, _ = yield self.ask("sessions")
        self.assertEqual(out.splitlines()[0].split(), ["LOCAL", "FOREIGN", "DIALOGS"])
        _, out, _ = yield self.ask("subscriptions")
        self.assertEqual(out, "no subscriptions\n")

    @inlineCallbacks
    def test_wide_tables(self) -> Any:
        """What is too wide for a table is shown one below the other."""
        self.patch(os, "environ", {**os.environ, "COLUMNS": "40"})
        _, out, _ = yield self.ask("sessions")
        self.assertEqual(
            out, "local carol@company.example\n  foreign: bob@lync.example\n  dialogs: call-1\n"
        )

    @inlineCallbacks
    def test_many_sessions(self) -> Any:
        """A long answer arrives whole."""
        self.node.session_list = [{"local": f"user{n}@company.example"} for n in range(20_000)]
        _, out, _ = yield self.ask("sessions", "--json")
        self.assertEqual(len(out.splitlines()), 20_000)

    @inlineCallbacks
    def test_terminal_is_not_steered(self) -> Any:
        """Escape sequences from outside are shown as escapes."""
        self.node.session_list = [{"foreign": "\x1b[2Jbob@lync.example\r\n"}]
        _, out, _ = yield self.ask("sessions")
        self.assertIn("\\x1b[2Jbob@lync.example\\r\\n", out)

    @inlineCallbacks
    def test_route(self) -> Any:
        """A route is told with its chain, its hops in order, and the one that is used now."""
        code, out, _ = yield self.ask("route", "bob@Lync.example.")
        self.assertEqual((code, self.node.asked), (0, ["bob@lync.example"]))
        for words in (
            " *  100  static  two hops",
            "      1  tls:sip1.lync.example:5061  out of reach: connection refused",
            " *    2  tls:sip2.lync.example:5061  connected",
            "must prove sip2.lync.example, we show certificate company",
            "used now: tls:sip2.lync.example:5061",
        ):
            self.assertIn(words, out)

    @inlineCallbacks
    def test_route_of_somebody(self) -> Any:
        """It may be asked for a certain local user, whose domain may have ways of its own."""
        code, _, _ = yield self.ask("route", "bob@lync.example", "--from", "Carol@second.example")
        self.assertEqual((code, self.node.asked), (0, ["bob@lync.example", "carol@second.example"]))

    @inlineCallbacks
    def test_route_nowhere(self) -> Any:
        """An address that no route leads to gives exit code 1 and the reason; JSON carries it all."""
        code, out, _ = yield self.ask("route", "x@nowhere.example")
        self.assertEqual(code, 1)
        self.assertIn("goes nowhere: 404, no route leads there", out)
        code, out, _ = yield self.ask("route", "--json", "x@nowhere.example")
        self.assertEqual((code, json.loads(out)["status"]), (1, 404))

    @inlineCallbacks
    def test_route_needs_an_address(self) -> Any:
        """A domain alone is no address: exit code 2 and what to say."""
        code, _, err = yield self.ask("route", "lync.example")
        self.assertEqual(code, 2)
        self.assertIn("USER@DOMAIN", err)

    @inlineCallbacks
    def test_learned_domains(self) -> Any:
        """Learned domains are listed, and can be forgotten once."""
        code, out, _ = yield self.ask("learned")
        self.assertEqual(code, 0)
        self.assertIn("new.example  sip", out)
        code, out, _ = yield self.ask("forget", "new.example")
        self.assertEqual((code, out), (0, "new.example is forgotten, and will be tried anew\n"))
        code, out, _ = yield self.ask("forget", "old.example")
        self.assertEqual(code, 1)

    @inlineCallbacks
    def test_where_inward(self) -> Any:
        """A delivered message from outside is told with both legs, codes, node and times."""
        code, out, _ = yield self.ask("where", "m1")
        self.assertEqual(code, 0)
        self.assertEqual(
            out,
            "m1: bob@lync.example → carol@company.example: delivered\n"
            "  received  2023-11-14 22:13:20.000Z from the far side, node node1\n"
            "  SIP leg   we answered 200 (Call-ID call-1, CSeq 2)\n"
            "  XMPP leg  the home server accepted it (stanza id s1)\n"
            "  finished  2023-11-14 22:13:20.250Z, after 0.250 s\n",
        )

    @inlineCallbacks
    def test_where_outward(self) -> Any:
        """A message that came back says so, with the code, the condition and the reason."""
        self.node.found = [
            entry(
                direction="out", outcome="bounced", sip_status=480,
                xmpp_condition="recipient-unavailable", detail="the far side says: away",
            )
        ]  # fmt: skip
        _, out, _ = yield self.ask("where", "carol@company.example")
        for words in (
            "carol@company.example → bob@lync.example: not delivered; its sender was told",
            "from the home server",
            "we returned it with recipient-unavailable",
            "the far side answered 480",
            "the far side says: away",
        ):
            self.assertIn(words, out)

    @inlineCallbacks
    def test_where_over_xmpp(self) -> Any:
        """A relayed message has an S2S leg, and no more is claimed of it than is known."""
        relayed = {"far": "xmpp", "call_id": "", "cseq": 0, "sip_status": 0}
        for outcome, direction, condition, words in (
            ("acknowledged", "out", "", "S2S leg   its server has taken it (XEP-0198)"),
            ("acknowledged", "out", "", "taken by the foreign server; no error has come back"),
            ("written", "out", "", "S2S leg   written to the stream of its server, which ack"),
            ("queued", "out", "", "S2S leg   on no stream yet"),
            ("bounced", "out", "not-allowed", "XMPP leg  we returned it with not-allowed"),
            ("delivered", "in", "", "XMPP leg  the home server accepted it"),
            ("bounced", "in", "x-y", "S2S leg   returned to its server with x-y"),
            ("unsure", "in", "x-y", "XMPP leg  no word from the home server"),
        ):
            one = entry(direction=direction, outcome=outcome, xmpp_condition=condition, **relayed)
            self.node.found = [one]
            _, out, _ = yield self.ask("where", "m1")
            self.assertIn(words, out)
            self.assertNotIn("SIP leg", out)

    @inlineCallbacks
    def test_where_with_a_silent_node(self) -> Any:
        """A node that does not answer is named, whether something was found or not."""
        self.node.silent = ("node3",)
        code, out, _ = yield self.ask("where", "m1")
        self.assertEqual(code, 0)
        self.assertIn("node node3 did not answer", out)
        code, out, _ = yield self.ask("where", "nothing")
        self.assertEqual(code, 1)
        self.assertIn("node node3 did not answer", out)

    @inlineCallbacks
    def test_where_nothing(self) -> Any:
        """A message that nobody knows gives exit code 1 and words."""
        code, out, _ = yield self.ask("where", "nothing")
        self.assertEqual(code, 1)
        self.assertIn("no message with id or address nothing", out)

    @inlineCallbacks
    def test_error_of_the_node(self) -> Any:
        """What the node refuses is said on standard error, with exit code 2."""
        self.node.broken = True
        code, out, err = yield self.ask("where", "m1")
        self.assertEqual((code, out), (2, ""))
        self.assertIn("the store is gone", err)
        self.flushLoggedErrors(RuntimeError)


class Child(ProcessProtocol):
    """impfedctl trace in a process of its own."""

    def __init__(self) -> None:
        self.output = ""
        self.errors = ""
        self.waiting: list[tuple[str, Deferred[None]]] = []
        self.ended: Deferred[int] = Deferred()

    def until(self, words: str) -> Deferred[None]:
        """Fire when the output holds some words."""
        seen: Deferred[None] = Deferred()
        self.waiting.append((words, seen))
        self._look()
        return seen

    def outReceived(self, data: bytes) -> None:
        self.output += data.decode("utf-8")
        self._look()

    def errReceived(self, data: bytes) -> None:
        self.errors += data.decode("utf-8")

    def processEnded(self, reason: Any) -> None:
        self.ended.callback(reason.value.exitCode)

    def _look(self) -> None:
        for words, seen in list(self.waiting):
            if words in self.output:
                self.waiting.remove((words, seen))
                seen.callback(None)


class TraceTests(RunningNodeCase):
    def traced(self, *options: str) -> Child:
        child = Child()
        arguments = [sys.executable, "-m", "impfed.ctl.main", "--socket", str(self.path), "trace"]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "90"}
        environment["PYTHONIOENCODING"] = "utf-8"
        process = reactor.spawnProcess(  # type: ignore[attr-defined]
            child, sys.executable, [*arguments, *options, "carol@company.example"], environment
        )

        def kill() -> Deferred[int] | None:
            if process.pid is None:
                return None
            process.signalProcess("KILL")
            return child.ended

        self.addCleanup(kill)
        return child

    @inlineCallbacks
    def test_ladder(self) -> Any:
        """The lines of both protocols are drawn as arrows; Ctrl-C ends it with exit code 0."""
        child = self.traced()
        yield self.node.tracer.watched
        self.node.pass_by("sip", True, INVITE)
        self.node.pass_by("sip", False, ANSWER)
        self.node.pass_by("xmpp", False, STANZA)
        self.node.pass_by("xmpp", True, STANZA.replace("hello Carol", "back"))
        yield child.until("back")
        child.transport.signalProcess("INT")
        self.assertEqual((yield child.ended), 0, child.errors)
        lines = child.output.splitlines()
        self.assertRegex(lines[1], r"^ {14}far side +node +home server$")
        arrows = [line for line in lines if line.startswith("22:13:20.500")]
        self.assertRegex(arrows[0], r"\|-+ INVITE -+>\| +\|$")
        self.assertRegex(arrows[1], r"\|<-+ 200 OK \(INVITE\) -+\| +\|$")
        self.assertRegex(arrows[2], r"\| +\|-+ message chat -+>\|$")
        self.assertRegex(arrows[3], r"\| +\|<-+ message chat -+\|$")
        self.assertEqual({len(arrow) for arrow in arrows}, {len(arrows[0])})
        self.assertIn("<body>hello Carol</body>", child.output)
        self.assertIn("m=message 5060 sip null", child.output)
        self.assertNotIn("tops3cret", child.output)
        self.assertNotIn("Via:", child.output)

    @inlineCallbacks
    def test_full(self) -> Any:
        """With --full whole messages are shown, credentials still hidden."""
        child = self.traced("--full")
        yield self.node.tracer.watched
        self.node.pass_by("sip", True, INVITE)
        yield child.until("m=message")
        self.assertIn("Via: SIP/2.0/TLS", child.output)
        self.assertIn("Proxy-Authorization: (hidden)", child.output)
        self.assertNotIn("tops3cret", child.output)

    @inlineCallbacks
    def test_json(self) -> Any:
        """As JSON every message is an object with everything about it."""
        child = self.traced("--json")
        yield self.node.tracer.watched
        self.node.pass_by("sip", True, INVITE)
        yield child.until("\n")
        item = json.loads(child.output)
        self.assertEqual((item["label"], item["call_id"]), ("INVITE", "call-1"))
        self.assertTrue(item["inbound"])
        self.assertNotIn("tops3cret", child.output)

    @inlineCallbacks
    def test_node_stops(self) -> Any:
        """When the node stops the trace says so and ends with exit code 2."""
        child = self.traced()
        yield self.node.tracer.watched
        yield self.server.stop()
        self.assertEqual((yield child.ended), 2)
        self.assertIn("the node has stopped", child.errors)
