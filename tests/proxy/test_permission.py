"""Attempts to use us as a relay, and what passes: each pair of sides, as tables."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from impfed.proxy.core import Proxy
from impfed.proxy.permission import PairPolicy, Side
from impfed.sip.message import SipRequest, parse_message
from impfed.sip.uri import SipUri
from impfed.testing.fakes import counting_ids

LOCAL = {"company.example", "second.example"}
FOREIGN = {"lync.example", "simple.example", "foreign.company.example"}
NEXT_HOPS = {"sip.lync.example", "edge.company.example"}
OWN = {("203.0.113.10", 5062), ("203.0.113.10", 45062), ("10.0.0.2", 5062)}


def proven(source: str, domain: str) -> str:
    """Say why a connection may not speak for a domain; connections are called after theirs."""
    return "" if source == domain else f"the certificate is not for {domain}"


def request(
    to: str = "sip:bob@company.example",
    sender: str = "sip:alice@lync.example",
    more: str = "",
    method: str = "MESSAGE",
    to_tag: str = "",
    call_id: str = "c",
    cseq: int = 1,
) -> SipRequest:
    """Return a request."""
    text = (
        f"{method} {to} SIP/2.0\nVia: SIP/2.0/TLS x.example;branch=z9hG4bK1\n{more}"
        f"From: <{sender}>;tag=1\nTo: <{to.split(';')[0]}>{to_tag}\nCall-ID: {call_id}\n"
        f"CSeq: {cseq} {method}\nMax-Forwards: 9\nContent-Length: 0\n\n"
    )
    parsed = parse_message(text.replace("\n", "\r\n").encode())
    assert isinstance(parsed, SipRequest)
    return parsed


# What a stranger may try from outside: the request, the connection's domain, and a word of the reason.
ATTEMPTS = {
    "another domain": (request("sip:x@other.example"), "lync.example", 404, "not ours"),
    "another configured domain": (
        request("sip:x@simple.example"), "lync.example", 403, "not ours"),
    "back to his own domain": (request("sip:x@lync.example"), "lync.example", 403, "not ours"),
    "a domain under ours": (request("sip:x@sub.company.example"), "lync.example", 404, "not ours"),
    "a foreign domain under ours": (
        request("sip:x@foreign.company.example"), "lync.example", 403, "not ours"),
    "an IP address": (request("sip:x@198.51.100.9"), "lync.example", 404, "an IP address"),
    "an inner IP address": (request("sip:x@10.0.0.3"), "lync.example", 404, "an IP address"),
    "another port of an inner node": (
        request("sip:x@10.0.0.2:22"), "lync.example", 404, "an IP address"),
    "a port of a domain of ours": (
        request("sip:bob@company.example:22"), "lync.example", 403, "port 22"),
    "maddr": (request("sip:bob@company.example;maddr=198.51.100.9"), "lync.example", 403, "maddr"),
    "maddr in capitals": (
        request("sip:bob@company.example;MADDR=198.51.100.9"), "lync.example", 403, "maddr"),
    "maddr, escaped": (
        request("sip:bob@company.example;m%61ddr=198.51.100.9"), "lync.example", 403, "maddr"),
    "a Route": (
        request(more="Route: <sip:victim.example;lr>\n"), "lync.example", 403, "victim.example"),
    "a Route behind ours": (
        request(more="Route: <sip:203.0.113.10:5062;lr>, <sip:victim.example;lr>\n"),
        "lync.example", 403, "victim.example"),
    "a Route to a next hop": (
        request(more="Route: <sip:sip.lync.example;lr>\n"), "lync.example", 403, "Route beyond us"),
    "a strict Route": (
        request(more="Route: <sip:victim.example>\n"), "lync.example", 403, "victim.example"),
    "as a strict router would": (
        request("sip:203.0.113.10:5062;lr", more="Route: <sip:x@victim.example>\n"),
        "lync.example", 404, "victim.example"),
    "a Route with maddr": (
        request(more="Route: <sip:203.0.113.10:9;lr;maddr=198.51.100.9>\n"),
        "lync.example", 403, "maddr"),
    "a local From": (
        request(sender="sip:boss@company.example"), "lync.example", 403, "comes from outside"),
    "a local From and his own identity": (
        request(sender="sip:boss@company.example",
                more="P-Asserted-Identity: <sip:x@lync.example>\n"),
        "lync.example", 403, "comes from outside"),
    "somebody else's From": (
        request(sender="sip:x@simple.example"), "lync.example", 403, "certificate is not for"),
    "an asserted local identity": (
        request(more="P-Asserted-Identity: <sip:boss@company.example>\n"),
        "lync.example", 403, "asserted"),
    "a second asserted identity": (
        request(more="P-Asserted-Identity: <sip:alice@lync.example>, <sip:boss@company.example>\n"),
        "lync.example", 403, "asserted"),
    "no certificate": (request(), "nobody", 403, "certificate is not for"),
    "a From that is no SIP address": (
        request(sender="tel:+15550100"), "lync.example", 403, "no SIP address"),
    "our own node without a user": (
        request("sip:203.0.113.10:5062"), "lync.example", 404, "an IP address"),
}  # fmt: skip

# What a node of ours may not send on, should one be taken over or go astray.
ASTRAY = {
    "a stranger's From": (request(sender="sip:x@other.example"), "neither ours"),
    "foreign to foreign": (request("sip:x@simple.example"), "both are foreign"),
    "to an unknown domain": (
        request("sip:x@other.example", "sip:bob@company.example"), "no configured domain"),
    "a Route to anywhere": (
        request("sip:x@lync.example", "sip:bob@company.example",
                more="Route: <sip:victim.example;lr>\n"), "no configured domain is reached by"),
    "a foreigner's Route to a next hop": (
        request(more="Route: <sip:sip.lync.example;lr>\n"), "no configured domain is reached by"),
    "another asserted identity": (
        request("sip:x@lync.example", "sip:bob@company.example",
                more="P-Asserted-Identity: <sip:boss@second.example>\n"), "asserted"),
    "maddr": (
        request("sip:x@lync.example;maddr=198.51.100.9", "sip:bob@company.example"), "maddr"),
}  # fmt: skip

PASSES = {
    "in, to a user": (request(), "lync.example"),
    "in, through our Route": (
        request(more="Route: <sip:203.0.113.10:5062;transport=tls;lr>\n"), "lync.example"),
    "in, to a Contact of a node": (
        request("sip:bob@203.0.113.10:45062;transport=tls", to_tag=";tag=2"), "lync.example"),
    "in, by the route set through two nodes": (
        request("sip:bob@10.0.0.2:5062", to_tag=";tag=2",
                more="Route: <sip:10.0.0.2:5062;transport=tls;lr>\n"), "lync.example"),
    "in, to the second domain": (request("sip:eve@second.example"), "lync.example"),
    "in, with his own identity": (
        request(more="P-Asserted-Identity: <sip:alice@lync.example>\n"), "lync.example"),
    "between nodes, to a user": (request(), "inside"),
    "between nodes, to a Contact": (request("sip:bob@10.0.0.2:5062"), "inside"),
    "out": (request("sip:x@lync.example", "sip:bob@company.example"), "inside"),
    "out, by the route set": (
        request("sip:x@lync.example", "sip:bob@company.example",
                more="Route: <sip:sip.lync.example;lr>\n"), "inside"),
    "local to local": (request("sip:eve@second.example", "sip:bob@company.example"), "inside"),
}  # fmt: skip


class PermissionTests(SynchronousTestCase):
    """The proxy with the policy in it, as a whole."""

    def setUp(self) -> None:
        self.reasons: list[str] = []

        def own(uri: SipUri) -> bool:
            return (uri.host, uri.port) in OWN

        policy = PairPolicy(
            lambda source: Side.INSIDE if source == "inside" else Side.OUTSIDE,
            LOCAL.__contains__,
            FOREIGN.__contains__,
            proven,
            own,
            NEXT_HOPS.__contains__,
            lambda request, source, reason: self.reasons.append(reason),
        )
        self.proxy = Proxy(own, lambda host, port: (host, port) in OWN, policy, counting_ids())

    def ask(self, attempt: SipRequest, source: str):
        (effect,) = self.proxy.request(attempt, None, source, 0.0)
        return effect

    def test_open_relay_attempts(self) -> None:
        """Every attempt from outside is refused before anything is looked up, and told in words."""
        for name, (attempt, source, status, word) in ATTEMPTS.items():
            effect = self.ask(attempt, source)
            self.assertEqual(type(effect).__name__, "Reply", name)
            self.assertEqual(effect.error.status, status, (name, self.reasons))
            self.assertIn(word, self.reasons.pop(), name)
            self.assertIn(effect.error.reason, ("Forbidden", "Not Found"), name)
        self.assertEqual(len(self.proxy), 0)

    def test_nodes_astray(self) -> None:
        """Nodes of ours are held to the pairs, too."""
        for name, (attempt, word) in ASTRAY.items():
            effect = self.ask(attempt, "inside")
            self.assertEqual(effect.error.status, 403, name)
            self.assertIn(word, self.reasons.pop(), name)

    def test_permitted_pairs(self) -> None:
        """What federation needs passes."""
        for name, (attempt, source) in PASSES.items():
            self.assertEqual(type(self.ask(attempt, source)).__name__, "Locate",
                             (name, self.reasons))  # fmt: skip

    def test_an_ack_is_dropped_silently(self) -> None:
        """An ACK that may not pass gets no answer, for an ACK never gets one."""
        attempt = request("sip:x@other.example", method="ACK")
        (effect,) = self.proxy.ack(attempt, "lync.example", lambda question: None)
        self.assertEqual(type(effect).__name__, "Drop")
