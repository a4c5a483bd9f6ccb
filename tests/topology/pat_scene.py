"""Two nodes behind one public address, by the sample of nftables; outside a partner worked by hand."""

from __future__ import annotations

import atexit
import json
import re
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from demo.certificates import Authority
from demo.home import Prosody, xmpp_user
from demo.parts import ROOT, PartFailed, Talker, wait_until

from .hand_peer import HandPeer, Received, Wire
from .net import Network
from .node import ClusterNode
from .stage import RUN

PUBLIC, FAR, FAR_PORT = "203.0.113.10", "198.51.100.20", 5061
INSIDE = {"node1": "10.0.0.1", "node2": "10.0.0.2"}
HOMES = {"node1": "company.example", "node2": "second.example"}
#: Node -> its public ports: TLS, TCP.
PORTS = {"node1": (5062, 5060), "node2": (45062, 45060)}
SECRET = "a secret of the nodes of this test"
#: What every Contact holds in the second design.
SHARED = "federation.company.example"


@dataclass
class PatNode(ClusterNode):
    """A node with a relay secret."""

    def write(self) -> None:
        """Write the configuration."""
        super().write()
        text = self.configuration.read_text()
        if "relay_secret" not in text:
            text = text.replace("[node]\n", f'[node]\nrelay_secret = "{SECRET}"\n', 1)
        self.configuration.write_text(text)


def table(more: str = "") -> str:
    """Return the sample port table, with the addresses of this network."""
    text = (ROOT / "etc" / "nftables-pat.conf").read_text()
    for name, value in {"PUBLIC": PUBLIC, "OUTSIDE": '"internet"', "NODES": "10.0.0.0/24"}.items():
        text, count = re.subn(rf"(?m)^define {name} = \S+", f"define {name} = {value}", text)
        assert count == 1, name
    return text + more


class PatScene:
    """Everything that runs.

    :param shared: whether all nodes have one Contact: the second design.
    :ivar bob: a user of node 2, logged in.
    """

    def __init__(self, shared: bool = False) -> None:
        RUN.mkdir(parents=True, exist_ok=True)
        self.directory = Path(tempfile.mkdtemp(prefix="pat-", dir=RUN))
        self.stack = ExitStack()
        self.network = Network(("inside", "internet"))
        self.stack.callback(self.network.close)
        self.firewall = self.network.machine(
            "firewall", {"inside": ["10.0.0.254/24"], "internet": [f"{PUBLIC}/32"]}
        )
        self.firewall.run("sh", "-c", "echo 1 >/proc/sys/net/ipv4/ip_forward")
        self.restore()
        partner = self.network.machine("partner", {"internet": [f"{FAR}/32"]})
        for name, address in INSIDE.items():
            machine = self.network.machine(name, {"inside": [f"{address}/24"]}, ["10.0.0.254"])
            machine.knows(SHARED, PUBLIC)
        self.authority = Authority(self.directory / "pki", "PAT CA")
        certificate = self.authority.issue("sip.lync.example", "lync.example")
        self.far = HandPeer(partner.netns, FAR, FAR_PORT, certificate)
        self.stack.callback(self.far.close)
        self.nodes = {name: self._node(name, shared) for name in INSIDE}
        self.bob: Talker

    # -- the firewall ------------------------------------------------------------------------------

    def restore(self) -> None:
        """Load the port table as it has to be."""
        self.firewall.nft(table())

    def map(self, port: int, to: str = "") -> None:
        """Map a public port to something else, or to nothing."""
        rules = f"delete element ip impfed_pat ports {{ {port} }}\n"
        if to:
            host, _, inner = to.partition(":")
            rules += f"add element ip impfed_pat ports {{ {port} : {host} . {inner} }}\n"
        self.firewall.nft(rules)

    # -- the nodes ---------------------------------------------------------------------------------

    def _node(self, name: str, shared: bool) -> PatNode:
        netns = self.network.machines[name].netns
        domain = HOMES[name]
        home = Prosody(
            self.directory / name / "prosody", domain, {"bob": "builder"},
            module=f"federation.{domain}", c2s_port=5222, component_port=5347, netns=netns,
        )  # fmt: skip
        (other,) = [each for each in INSIDE if each != name]
        tls, tcp = PORTS[name]
        return PatNode(
            self.directory / name, home,
            self.authority.issue(f"{name}.company.example", SHARED, *HOMES.values()),
            5062, (FAR, FAR_PORT), upstreams=(f"{other}.company.example",), netns=netns,
            bind=f"{INSIDE[name]}:5062", told=f"{PUBLIC}:{tls}", domains=(domain,),
            listener=f'contact = "{SHARED}:5061"\n' if shared else "",
            federation=_listener(name, tcp) + _neighbour(other) + _PARTNER,
        )  # fmt: skip

    def start(self) -> PatScene:
        """Start everything; stops it again when a part fails."""
        try:
            for node in self.nodes.values():
                assert isinstance(node.home, Prosody)
                node.home.start()
                self.stack.callback(node.home.stop)
                node.start()
                self.stack.callback(node.stop)
            if not wait_until(lambda: all(map(self.knows_the_other, self.nodes))):
                raise PartFailed("the nodes have not found each other")
            node2 = self.nodes["node2"]
            self.bob = xmpp_user(self.directory, node2.home, "bob", netns=node2.netns)
            self.stack.callback(self.bob.stop)
        except BaseException:
            self.stack.close()
            raise
        return self

    def checked(self, node: str, code: int = 0) -> dict[str, dict[str, Any]]:
        """Return what pat-check says at a node, by address; it ends with that code."""
        said = self.nodes[node].operator("pat-check", "--json", code=code)
        return {str(line["address"]): line for line in map(json.loads, said.splitlines())}

    def knows_the_other(self, node: str) -> bool:
        """Whether a node has seen that its neighbour is there."""
        (line,) = self.status(node)["neighbours"]
        return bool(line["state"] == "open")

    def status(self, node: str) -> dict[str, Any]:
        """Return a node's status."""
        found: dict[str, Any] = json.loads(self.nodes[node].operator("status", "--json"))
        return found

    # -- the partner -------------------------------------------------------------------------------

    def invited(self) -> tuple[Wire, Received]:
        """Take a node's connection and the INVITE on it, which is being tried."""
        wire = self.far.accept()
        invite = wire.read()
        assert invite.start.startswith("INVITE"), invite.start
        wire.answer(invite, "100 Trying")
        return wire, invite

    def accept(self, wire: Wire, invite: Received, tag: str) -> None:
        """Accept a session."""
        user = invite.start.split(" ")[1]
        wire.answer(
            invite, "200 OK", f"Contact: <{user};opaque=user:epid:far;gruu>",
            "Content-Type: application/sdp", tag=tag, body=_SDP,
        )  # fmt: skip

    def break_off(self, wire: Wire, node: str = "node2") -> None:
        """Break a connection with a node off, and wait until the node knows."""
        lost = lambda: self.nodes[node].log.count("impfed.sip.lost")  # noqa: E731
        before = lost()
        wire.break_off()
        if not wait_until(lambda: lost() > before):
            raise PartFailed(f"{node} has not noticed that its connection is gone")

    def connect(self, port: int) -> Wire:
        """Connect to a port of the public address."""
        return self.far.connect(PUBLIC, port, "company.example")

    def write(self, wire: Wire, invite: Received, tag: str, text: str, **more: str) -> Received:
        """Write a text in a session that a node began; return the answer.

        :param more: ``uri`` for another Request-URI, ``call_id`` for another Call-ID.
        """
        method, cseq = more.get("method", "MESSAGE"), more.get("cseq", "1")
        wire.send(
            f"{method} {more.get('uri', invite.contact)} SIP/2.0",
            f"Via: SIP/2.0/TLS {FAR}:{FAR_PORT};branch=z9hG4bK{tag}{cseq}{len(text)}",
            f"From: {invite.get('To')};tag={tag}",
            f"To: {invite.get('From')}",
            f"Call-ID: {more.get('call_id') or invite.get('Call-ID')}",
            f"CSeq: {cseq} {method}",
            "Max-Forwards: 70",
            "Content-Type: text/plain; charset=UTF-8",
            body=text,
        )
        return wire.read()

    def notify(self, wire: Wire, subscribe: Received, tag: str) -> Received:
        """Tell a subscriber that the user is there; return the answer."""
        user = subscribe.get("To").strip("<>")
        wire.send(
            f"NOTIFY {subscribe.contact} SIP/2.0",
            f"Via: SIP/2.0/TLS {FAR}:{FAR_PORT};branch=z9hG4bK{tag}",
            f"From: {subscribe.get('To')};tag={tag}",
            f"To: {subscribe.get('From')}",
            f"Call-ID: {subscribe.get('Call-ID')}",
            "CSeq: 1 NOTIFY",
            "Max-Forwards: 70",
            f"Contact: <{user};opaque=user:epid:far;gruu>",
            "Event: presence",
            "Subscription-State: active;expires=3600",
            "Content-Type: application/pidf+xml",
            body=_PIDF.format(user),
        )
        return wire.read()


_current: dict[bool, PatScene | Exception] = {}


def stop() -> None:
    """Stop the scene that runs."""
    for found in _current.values():
        if isinstance(found, PatScene):
            found.stack.close()
    _current.clear()


atexit.register(stop)


def pat_scene(shared: bool) -> PatScene:
    """Return a scene, started once; one of the other design is stopped for it.

    :raises Exception: what kept it from starting, each time.
    """
    if shared not in _current:
        stop()
        try:
            _current[shared] = PatScene(shared).start()
        except Exception as error:
            _current[shared] = error
    found = _current[shared]
    if isinstance(found, Exception):
        raise found
    return found


_SDP = (
    f"v=0\r\no=- 0 0 IN IP4 {FAR}\r\ns=session\r\nc=IN IP4 {FAR}\r\nt=0 0\r\n"
    "m=message 5060 sip null\r\na=accept-types:text/plain\r\n"
)

_PIDF = (
    '<presence xmlns="urn:ietf:params:xml:ns:pidf" entity="{}"><tuple id="0"><status>'
    "<basic>open</basic></status></tuple></presence>"
)

_PARTNER = f"""
[[domain]]
name = "lync.example"
kind = "microsoft"
listed = true
next_hop = {{ address = "{FAR}:{FAR_PORT}", tls_name = "sip.lync.example" }}
"""


def _listener(node: str, public: int) -> str:
    return f"""
[[listener]]
name = "clear"
transport = "tcp"
bind = "{INSIDE[node]}:5060"
advertised = "{PUBLIC}:{public}"
"""


def _neighbour(name: str) -> str:
    told = ", ".join(f'"{PUBLIC}:{port}"' for port in PORTS[name])
    return f"""
[[neighbour]]
name = "{name}"
domains = ["{HOMES[name]}"]
address = "{INSIDE[name]}:5062"
tls_name = "{name}.company.example"
advertised = [{told}]
"""
