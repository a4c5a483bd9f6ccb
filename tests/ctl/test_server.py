"""The node's end: requests and answers, bounds, several clients, and what is never shown."""

from __future__ import annotations

import json
import os
import shutil
import socket
import stat
import tempfile
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import inlineCallbacks
from twisted.internet.testing import StringTransport
from twisted.trial.unittest import SynchronousTestCase, TestCase
from zope.interface.verify import verifyObject

from impfed.config.model import HomeConfig
from impfed.ctl.api import REQUEST_LIMIT, ControlError, INodeView
from impfed.ctl.server import CLIENT_LIMIT, ControlProtocol, ControlServer
from tests.ctl.doubles import ANSWER, INVITE, OTHER, STANZA, FakeNode, entry


class ProtocolCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.node = FakeNode()
        self.server = ControlServer(None, "unused", self.node)
        self.client, self.transport = self.connected()

    def connected(self) -> tuple[ControlProtocol, StringTransport]:
        client = self.server.buildProtocol(None)
        assert client is not None
        transport = StringTransport()
        client.makeConnection(transport)
        return client, transport

    def ask(self, *request: str) -> list[dict[str, Any]]:
        line = json.dumps({"command": request[0], "arguments": list(request[1:])})
        return self.say(line.encode() + b"\n")

    def say(self, data: bytes) -> list[dict[str, Any]]:
        self.transport.clear()
        self.client.dataReceived(data)
        return self.heard()

    def heard(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.transport.value().splitlines()]


class RequestTests(ProtocolCase):
    def test_interface(self) -> None:
        """The double is a node's view like the node's own."""
        verifyObject(INodeView, self.node)

    def test_status_is_one_item(self) -> None:
        """The status is one item, then the answer ends."""
        self.assertEqual(self.ask("status"), [{"item": self.node.answer}, {"end": True}])

    def test_lists(self) -> None:
        """Sessions and subscriptions are an item each."""
        self.assertEqual(self.ask("sessions"), [{"item": self.node.session_list[0]}, {"end": True}])
        self.assertEqual(self.ask("subscriptions"), [{"end": True}])

    def test_requests_in_pieces_and_together(self) -> None:
        """Requests may come octet by octet, or several at once."""
        request = b'{"command": "subscriptions"}\n'
        for octet in request:
            self.client.dataReceived(bytes([octet]))
        self.assertEqual(self.heard(), [{"end": True}])
        self.assertEqual(self.say(request * 3), [{"end": True}] * 3)

    def test_nonsense(self) -> None:
        """What is no request gets an error, and the connection lives on."""
        for line in (b"hello", b"[]", b"17", b"{}", b'{"command": "where", "arguments": "x"}',
                     b"\xff\xfe", b"[" * 5000):  # fmt: skip
            [answer] = self.say(line + b"\n")
            self.assertIn("not a request", answer["error"], line)
        self.assertEqual(self.ask("subscriptions"), [{"end": True}])

    def test_unknown_command(self) -> None:
        """A command that does not exist gets the list of those that do."""
        [answer] = self.ask("stauts")
        self.assertIn("status, sessions, subscriptions, where, route,", answer["error"])
        [answer] = self.say(b'{"command": {"a": 1}}\n')
        self.assertIn("no command", answer["error"])

    def test_usage(self) -> None:
        """A missing, empty or superfluous argument gets the usage."""
        for request in (["where"], ["where", ""], ["trace"], ["where", "a", "b"]):
            [answer] = self.ask(*request)
            self.assertIn("MESSAGE-ID|USER" if request[0] == "where" else "USER", answer["error"])
        self.assertEqual(self.ask("status", "x"), [{"error": "usage: status"}])

    def test_request_too_long(self) -> None:
        """An endless request is refused and the connection closed."""
        [answer] = self.say(b"x" * (REQUEST_LIMIT + 100))
        self.assertIn(str(REQUEST_LIMIT), answer["error"])
        self.assertTrue(self.transport.disconnecting)

    def test_node_that_raises(self) -> None:
        """An exception in the node is an error for the client, and a line in the log."""
        self.node.broken = True
        [answer] = self.ask("where", "m1")
        self.assertEqual(answer["error"], "where failed in the node: the store is gone")
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)
        self.assertEqual(self.ask("subscriptions"), [{"end": True}])

    def test_secrets_are_hidden(self) -> None:
        """Whatever a node puts into its status by mistake, secrets in it are not shown."""
        home = HomeConfig("p", "component", ("company.example",), secret="hush-hush")
        self.node.answer = {
            "homes": [home],
            "secret": "hush-hush",
            "x": {"a_password": "hush-hush"},
        }
        self.node.session_list = [{"home": home}]
        self.ask("status")
        self.client.dataReceived(b'{"command": "sessions"}\n')
        self.assertNotIn(b"hush-hush", self.transport.value())
        self.assertIn(b"(hidden)", self.transport.value())

    def test_clients_are_limited(self) -> None:
        """So many clients are served at a time, no more; who leaves makes room."""
        others = [self.connected()[0] for _ in range(CLIENT_LIMIT - 1)]
        self.assertIsNone(self.server.buildProtocol(None))
        others[0].connectionLost()
        self.assertIsNotNone(self.server.buildProtocol(None))


class WhereTests(ProtocolCase):
    def test_entry(self) -> None:
        """A ledger entry is given whole."""
        item, end = self.ask("where", "m1")
        self.assertEqual(end, {"end": True})
        self.assertEqual(item["item"]["call_id"], "call-1")
        self.assertEqual(item["item"]["outcome"], "delivered")

    def test_address_in_another_case(self) -> None:
        """An address is found in whatever case it is asked for; ids are tried as they are first."""
        self.assertEqual(len(self.ask("where", "Carol@Company.Example")), 2)
        self.assertEqual(self.node.asked, ["Carol@Company.Example", "carol@company.example"])

    def test_text_on_its_way_is_told_once(self) -> None:
        """A message that the gateway and the ledger know is one item, with what both know."""
        waiting = entry(stanza_id="s9", outcome="queued", detail="sent 2 times", call_id="")
        queued = entry(stanza_id="", outcome="queued", sip_status=0)
        for each in (waiting, queued):
            each.finished_at = 0.0
        self.node.found = [waiting, queued]
        item, _ = self.ask("where", "m1")
        self.assertEqual(item["item"]["stanza_id"], "s9")
        self.assertEqual(item["item"]["call_id"], "call-1")
        self.assertEqual(item["item"]["detail"], "sent 2 times")

    def test_text_that_has_moved(self) -> None:
        """Of a message that two nodes know the one tells that has brought it to its end."""
        begun = entry(outcome="queued", node="node1", finished_at=0.0, sip_status=0)
        ended = entry(outcome="delivered", node="node2", stanza_id="")
        self.node.found, self.node.silent = [begun, ended], ("node3",)
        item, silent, _ = self.ask("where", "m1")
        self.assertEqual((item["item"]["outcome"], item["item"]["node"]), ("delivered", "node2"))
        self.assertEqual(item["item"]["stanza_id"], "s1")
        self.assertEqual(silent["item"], {"silent": "node3"})


class TraceTests(ProtocolCase):
    def test_only_the_user_asked_for(self) -> None:
        """Messages from and to the user are shown, in both protocols, others are not."""
        self.assertEqual(
            self.ask("trace", "carol@company.example"), [{"watching": "carol@company.example"}]
        )
        self.transport.clear()
        self.node.pass_by("sip", True, INVITE)
        self.node.pass_by("sip", False, ANSWER)
        self.node.pass_by("xmpp", False, STANZA)
        self.node.pass_by("xmpp", False, OTHER)
        labels = [message["item"]["label"] for message in self.heard()]
        self.assertEqual(labels, ["INVITE", "200 OK (INVITE)", "message chat"])

    def test_credentials_are_hidden_bodies_shown(self) -> None:
        """Of a traced message the credentials are hidden, the text is shown."""
        self.ask("trace", "carol@company.example")
        self.node.pass_by("sip", True, INVITE)
        self.node.pass_by("xmpp", False, STANZA)
        self.assertNotIn(b"tops3cret", self.transport.value())
        self.assertIn(b"hello Carol", self.transport.value())
        self.assertIn(b"Proxy-Authorization: (hidden)", self.transport.value())

    def test_ends_with_the_connection(self) -> None:
        """A client that hangs up costs the node nothing any more."""
        self.ask("trace", "carol@company.example")
        self.assertTrue(self.node.tracer.watching)
        self.client.connectionLost()
        self.assertFalse(self.node.tracer.watching)

    def test_second_trace_replaces_the_first(self) -> None:
        """One connection follows one user at a time."""
        self.ask("trace", "carol@company.example")
        self.ask("trace", "eve@company.example")
        self.transport.clear()
        self.node.pass_by("xmpp", False, STANZA)
        self.node.pass_by("xmpp", False, OTHER)
        self.assertEqual(len(self.heard()), 1)

    def test_two_clients(self) -> None:
        """Two clients follow two users, each its own."""
        second, transport = self.connected()
        self.ask("trace", "carol@company.example")
        second.dataReceived(b'{"command": "trace", "arguments": ["lync.example"]}\n')
        self.node.pass_by("xmpp", False, OTHER)
        self.assertEqual(len(self.heard()), 1)
        self.assertIn(b"dave@lync.example", transport.value())

    def test_slow_client_misses_messages_and_is_told(self) -> None:
        """While a client does not read nothing piles up for it; it learns how many it missed."""
        self.ask("trace", "carol@company.example")
        self.client.pauseProducing()
        self.transport.clear()
        self.node.pass_by("xmpp", False, STANZA)
        self.node.pass_by("xmpp", False, STANZA)
        self.assertEqual(self.heard(), [])
        self.client.resumeProducing()
        self.assertEqual(self.heard(), [{"item": {"dropped": 2}}])


class SocketTests(TestCase):
    """The socket in the file system."""

    def setUp(self) -> None:
        # Short, for the system's limit on socket paths.
        self.directory = Path(tempfile.mkdtemp(prefix="impfed"))
        self.addCleanup(shutil.rmtree, self.directory)
        self.path = self.directory / "run" / "control.sock"
        self.server = ControlServer(reactor, self.path, FakeNode())

    def start(self) -> None:
        self.server.start()
        self.addCleanup(self.server.stop)

    def test_only_the_owner_may_connect(self) -> None:
        """The socket has mode 0600, and its directory is made."""
        before = os.umask(0o022)
        os.umask(before)
        self.start()
        self.assertEqual(stat.S_IMODE(self.path.stat().st_mode), 0o600)
        self.assertEqual(os.umask(before), before)

    def test_socket_left_behind(self) -> None:
        """The socket of a node that was killed is taken over."""
        self.path.parent.mkdir()
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(str(self.path))
        self.start()

    def test_another_node(self) -> None:
        """A socket on which somebody listens is left alone, with words."""
        self.start()
        error = self.assertRaises(ControlError, ControlServer(reactor, self.path, FakeNode()).start)
        self.assertIn("another node listens", str(error))

    def test_file_in_its_place(self) -> None:
        """A file that is no socket is never removed."""
        self.path.parent.mkdir()
        self.path.write_text("precious", "utf-8")
        error = self.assertRaises(ControlError, self.server.start)
        self.assertIn("a file is in its place", str(error))
        self.assertEqual(self.path.read_text("utf-8"), "precious")

    def test_path_too_long(self) -> None:
        """A path longer than the system takes is refused in words."""
        server = ControlServer(reactor, self.directory / ("x" * 120), FakeNode())
        self.assertIn("107", str(self.assertRaises(ControlError, server.start)))

    @inlineCallbacks
    def test_stop_takes_the_socket_away(self) -> Any:
        """After the stop nothing is left in the file system."""
        self.server.start()
        yield self.server.stop()
        self.assertFalse(self.path.exists())
        yield self.server.stop()
