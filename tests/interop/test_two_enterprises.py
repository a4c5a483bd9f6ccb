"""Two independent enterprises, each with a node and a Prosody: by SIP, and by XMPP.

Their domains lie under one another or beside each other, and the same user name is at home in every
one of them, so that whatever takes a domain for another one shows up at the wrong person.
"""

from __future__ import annotations

import functools
import json
import shutil
import socket
import ssl
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from demo.certificates import Authority, Certificate
from demo.home import xmpp_user
from demo.node import Node
from demo.parts import PartFailed, Talker, free_ports
from tests.interop.control import operator
from tests.interop.homes import HomeProsody, together
from tests.interop.once import started_once
from tests.interop.scene import RUN
from tests.interop.test_proxy_node import read_status

#: Shape -> the domain at home in the first enterprise, and the one in the second.
SHAPES = {
    "under": ("corp.example", "partner.corp.example"),
    "over": ("branch.group.example", "group.example"),
    "beside": ("a.firm.example", "b.firm.example"),
}
#: Dialects that the two speak by SIP.
KINDS = {"under": "simple", "over": "microsoft", "beside": "simple"}
NAME = "kim"


@dataclass
class EnterpriseNode(Node):
    """A node with several local domains, and another enterprise for each of them.

    :ivar domains: the local domains.
    :ivar federation: what the configuration says of the other enterprise.
    """

    domains: tuple[str, ...] = ()
    federation: str = ""

    def write(self) -> None:
        """Write the configuration."""
        self.directory.mkdir(parents=True, exist_ok=True)
        self.configuration.write_text(f"""\
[node]
state_directory = "{self.directory}/state"
control_socket = "{self.socket}"

[tls]
ca = "{self.certificate.ca}"

[[tls.certificate]]
name = "federation"
certificate = "{self.certificate.certificate}"
key = "{self.certificate.key}"

[[listener]]
name = "edge"
transport = "tls"
bind = "127.0.0.1:{self.port}"
advertised = "{self.name}:{self.port}"

[[home]]
name = "home"
kind = "prosody"
domains = {list(self.domains)}
connect = "127.0.0.1:{self.home.component_port}"
secret = "{self.home.secret}"
address = "{self.home.module}"

{self.federation}
""")


def by_sip(domain: str, kind: str, port: int) -> str:
    """Return what a configuration says of a domain that is federated by SIP."""
    return f"""
[[domain]]
name = "{domain}"
kind = "{kind}"
next_hop = {{ address = "127.0.0.1:{port}", tls_name = "{domain}" }}
"""


def by_xmpp(domain: str, port: int) -> str:
    """Return what a configuration says of a domain that is federated by XMPP."""
    return f"""
[[s2s.exception]]
domain = "{domain}"

[[s2s.domain]]
name = "{domain}"
connect = "127.0.0.1:{port}"
"""


class Enterprise:
    """One of the two.

    :param side: 0 or 1, which of the two domains of a shape are its own.
    :ivar port: where the other one connects to.
    """

    def __init__(
        self, directory: Path, certificate: Certificate, side: int, sip: int, s2s: int
    ) -> None:
        self.directory = directory
        self.domains = tuple(pair[side] for pair in SHAPES.values())
        first, *others = self.domains
        self.home = HomeProsody(
            directory / "prosody", first, {NAME: "same here"}, others=tuple(others),
            module=f"federation.{first}",
        )  # fmt: skip
        self.node = EnterpriseNode(
            directory / "node", self.home, certificate, sip, ("", 0), name=first,
            domains=self.domains,
        )  # fmt: skip
        self.s2s = s2s

    def federate(self, other: Enterprise, xmpp: bool) -> None:
        """Configure all domains of the other enterprise."""
        pairs = zip(KINDS.values(), other.domains, strict=True)
        if not xmpp:
            parts = [by_sip(domain, kind, other.node.port) for kind, domain in pairs]
        else:
            own = f'bind = "127.0.0.1:{self.s2s}"\nsecret = "{self.directory.name}"\n'
            parts = [
                f'[s2s]\n{own}policy = "deny"\n',
                *(by_xmpp(domain, other.s2s) for _, domain in pairs),
            ]
        self.node.federation = "".join(parts)

    def log_in(self, domain: str) -> Talker:
        """Log in the user of that domain."""
        return xmpp_user(self.directory / domain, replace(self.home, domain=domain), NAME)

    def operator(self, *words: str) -> str:
        """Run impfedctl; return what it says."""
        return operator(self.node.socket, *words)


class TwoEnterprises:
    """Both, with one authority that they trust; everything beyond that is their own.

    :ivar users: domain -> its user, logged in.
    """

    def __init__(self, transport: str) -> None:
        directory = RUN / f"two-enterprises-{transport}"
        shutil.rmtree(directory, ignore_errors=True)
        authority = Authority(directory / "pki", "interop CA")
        ports = free_ports(4)
        self.both = tuple(
            Enterprise(
                directory / name, authority.issue(*(pair[side] for pair in SHAPES.values())),
                side, *ports[2 * side : 2 * side + 2],
            )
            for side, name in enumerate(("first", "second"))
        )  # fmt: skip
        for one, other in (self.both, self.both[::-1]):
            one.federate(other, transport == "xmpp")
        self.users: dict[str, Talker] = {}
        self.stack = ExitStack()

    def start(self) -> TwoEnterprises:
        """Start everything, side by side; stops it again when a part fails."""
        for one in self.both:
            for part in (one.home, one.node):
                self.stack.callback(part.stop)
        try:
            together(one.home.start for one in self.both)
            together(one.node.start for one in self.both)
            together(
                functools.partial(self._log_in, one, domain)
                for one in self.both
                for domain in one.domains
            )
        except PartFailed:
            self.stack.close()
            raise
        return self

    def _log_in(self, one: Enterprise, domain: str) -> None:
        user = one.log_in(domain)
        self.stack.callback(user.stop)
        self.users[domain] = user


@started_once(lambda both: both.stack.close())
def _both(transport: str) -> TwoEnterprises:
    return TwoEnterprises(transport).start()


class _Federation:
    """What passes between two enterprises, whatever lies between them."""

    transport = ""
    #: What the operator is told of a text's way.
    way = ""
    #: What is said of somebody who does not exist.
    nobody = ""
    #: What is said of a domain that is neither of the two, but lies under one.
    unknown = ""

    def setUp(self) -> None:
        self.scene = _both(self.transport)

    def carried(self, shape: str) -> None:
        """Fail unless the texts went the way that they should."""
        raise NotImplementedError

    def both_ways(self, shape: str) -> list[tuple[str, str]]:
        """Return a shape's domains in both orders."""
        first, second = SHAPES[shape]
        return [(first, second), (second, first)]

    def story(self, shape: str) -> None:
        """Texts, then presence, both ways; nobody else hears of any of it."""
        for here, there in self.both_ways(shape):
            self.write(here, there)
        self.carried(shape)
        # Each enterprise is the one whose user is asked in one shape at least.
        here, there = SHAPES[shape] if shape != "over" else SHAPES[shape][::-1]
        self.watch(here, there, asked=True)
        self.watch(there, here, asked=False)
        for here, there in self.both_ways(shape):
            self.shown(here, there, kind="available", show="away", status=f"Out of {here}")
            self.shown(here, there, kind="unavailable")
            self.shown(here, there, kind="available", show="")
        for one, other in (both for each in SHAPES for both in self.both_ways(each)):
            for event in ("message", "presence", "asked"):
                for seen in self.scene.users[one].seen(event=event):
                    self.assertEqual(seen["sender"].partition("/")[0], f"{NAME}@{other}", seen)

    def shown(self, here: str, there: str, **state: str) -> None:
        """The user of the first domain sets his state, the other one sees it."""
        users = self.scene.users
        since = users[there].position
        set_to = dict(state)
        if set_to.pop("kind") == "unavailable":
            set_to["type"] = "unavailable"
        users[here].send("presence", **set_to)
        users[there].expect(since, event="presence", sender=f"{NAME}@{here}", **state)

    def write(self, here: str, there: str) -> None:
        """Two texts, of which the second finds what the first has opened."""
        users = self.scene.users
        for text in (f"Good day from {here}", "How are things? <&> 😀"):
            mine, theirs = users[here].position, users[there].position
            users[here].send("message", to=f"{NAME}@{there}", body=text)
            got = users[there].expect(theirs, event="message", body=text)
            self.assertEqual(got["sender"].partition("/")[0], f"{NAME}@{here}")
            for event in ("message", "refused"):
                self.assertEqual(users[here].seen(mine, event=event), [])

    def watch(self, here: str, there: str, asked: bool) -> None:
        """The user of the first domain wants to see the other: who is asked, unless he watches him."""
        asker, other = self.scene.users[here], self.scene.users[there]
        since, theirs = asker.position, other.position
        asker.send("subscribe", to=f"{NAME}@{there}")
        if asked:
            other.expect(theirs, event="asked", sender=f"{NAME}@{here}")
            other.send("approve", to=f"{NAME}@{here}")
        for kind in ("subscribed", "available"):
            asker.expect(since, event="presence", sender=f"{NAME}@{there}", kind=kind)
        self.assertEqual(len(other.seen(theirs, event="asked")), int(asked))

    def test_they_under_us(self) -> None:
        """corp.example, and partner.corp.example, which is somebody else's."""
        self.story("under")

    def test_we_under_them(self) -> None:
        """branch.group.example, and group.example, which is somebody else's."""
        self.story("over")

    def test_siblings(self) -> None:
        """a.firm.example, and b.firm.example, which is somebody else's."""
        self.story("beside")

    def test_nobody(self) -> None:
        """Who does not exist there is refused, though his namesake exists under or over that domain."""
        users = self.scene.users
        for shape in SHAPES:
            for here, there in self.both_ways(shape):
                since = users[here].position
                users[here].send("message", to=f"nobody@{there}", body="Anybody?")
                refused = users[here].expect(since, event="refused", sender=f"nobody@{there}")
                self.assertEqual(refused["condition"], self.nobody)

    def test_other_domains(self) -> None:
        """A domain under one of ours or theirs is neither, and its users are not ours or theirs."""
        for shape in SHAPES:
            for here, there in self.both_ways(shape):
                user = self.scene.users[here]
                for domain in (f"other.{here}", f"other.{there}"):
                    since, to = user.position, f"{NAME}@{domain}"
                    user.send("message", to=to, body="Which of you?")
                    refused = user.expect(since, event="refused", sender=to)
                    self.assertEqual(refused["condition"], self.unknown, refused)
                    for other in self.scene.users.values():
                        self.assertEqual(other.seen(event="message", body="Which of you?"), [])

    def test_explained(self) -> None:
        """The operator is told that each domain is the other enterprise's."""
        first, second = self.scene.both
        for shape in SHAPES:
            here, there = (f"{NAME}@{domain}" for domain in SHAPES[shape])
            self.assertIn(self.way, first.operator("explain", here, there))
            self.assertIn(self.way, second.operator("explain", there, here))


class SipTests(_Federation, SynchronousTestCase):
    """Two enterprises by SIP over mutual TLS, texts in sessions."""

    transport, way = "sip", "127.0.0.1"
    nobody, unknown = "item-not-found", "remote-server-not-found"

    def carried(self, shape: str) -> None:
        """One session of both nodes, over a connection whose certificates both have checked."""
        found = []
        for one, (here, there) in zip(self.scene.both, self.both_ways(shape), strict=True):
            lines = one.operator("sessions", "--json").splitlines()
            (session,) = (
                each for each in map(json.loads, lines) if each["local"] == f"{NAME}@{here}"
            )
            self.assertEqual(session["foreign"], f"{NAME}@{there}")
            found.append(session["dialogs"])
        self.assertEqual(found[0], found[1])
        self.assertEqual(len(found[0]), 1)
        for one in self.scene.both:
            status = one.operator("status")
            self.assertIn("peer tls:", status)
            self.assertIn("proven: yes", status)
            self.assertNotIn("proven: no", status)

    def asked_by_hand(self, here: str, there: str, attempts: list[tuple[str, str]]) -> list[int]:
        """Write to the node of a domain over a connection with the certificate of the other one.

        :param attempts: domain in From, domain in the Request-URI.
        :returns: statuses.
        """
        one, other = (
            self.scene.both if here in self.scene.both[0].domains else self.scene.both[::-1]
        )
        certificate, statuses = one.node.certificate, []
        tls = ssl.create_default_context(cafile=str(certificate.ca))
        tls.load_cert_chain(certificate.certificate, certificate.key)
        with (
            socket.create_connection(("127.0.0.1", other.node.port), 20) as plain,
            tls.wrap_socket(plain, server_hostname=there) as wire,
            wire.makefile("rb") as answers,
        ):
            for number, (sender, recipient) in enumerate(attempts):
                call = f"{number}-{there}"
                wire.sendall(
                    f"MESSAGE sip:{NAME}@{recipient} SIP/2.0\r\n"
                    f"Via: SIP/2.0/TLS {here}:{one.node.port};branch=z9hG4bK{call}\r\n"
                    f"Max-Forwards: 70\r\nFrom: <sip:{NAME}@{sender}>;tag=1\r\n"
                    f"To: <sip:{NAME}@{recipient}>\r\nCall-ID: {call}\r\nCSeq: 1 MESSAGE\r\n"
                    "Content-Type: text/plain\r\nContent-Length: 8\r\n\r\nby hand!".encode()
                )
                statuses.append(read_status(answers))
        return statuses

    def test_exact_domains(self) -> None:
        """A certificate for a domain lets nobody speak for ours or for one under either, nor back out."""
        for shape in SHAPES:
            for here, there in self.both_ways(shape):
                attempts = [
                    (there, there),  # a local user from outside
                    (f"other.{here}", there),
                    (f"other.{there}", there),
                    (here, here),  # back out again
                    (here, f"other.{there}"),
                    (here, f"other.{here}"),
                ]
                for attempt, status in zip(
                    attempts, self.asked_by_hand(here, there, attempts), strict=True
                ):
                    self.assertIn(status, (403, 404), attempt)
        for user in self.scene.users.values():
            self.assertEqual(user.seen(event="message", body="by hand!"), [])
        here, there = SHAPES["beside"]
        self.assertEqual(self.asked_by_hand(here, there, [(here, there)]), [200])
        self.scene.users[there].expect(event="message", body="by hand!")


class XmppTests(_Federation, SynchronousTestCase):
    """Two enterprises by XMPP between servers, over TLS."""

    transport, way = "xmpp", "sent over S2S"
    nobody, unknown = "service-unavailable", "not-allowed"

    def carried(self, shape: str) -> None:
        """A stream over TLS, on which certificates have proven exactly these two domains."""
        for one, (here, there) in zip(self.scene.both, self.both_ways(shape), strict=True):
            (line,) = (
                line for line in one.operator("status").splitlines()
                if line.split()[:3] == [here, there, "out"]
            )  # fmt: skip
            self.assertIn("TLSv1.3", line)
        for one in self.scene.both:
            proven = " by SASL EXTERNAL, TLSv1.3"
            log = (one.node.directory / "node.log").read_text()
            pairs = self.both_ways(shape)
            self.assertTrue(any(f"{a} and {b}{proven}" in log for a, b in pairs), log)
