"""The edge between the world and two machines inside: who may pass, where it goes, what it looks like."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from zope.interface.verify import verifyObject

from impfed.config.edge import EdgeLimitsConfig
from impfed.config.model import ListenerConfig, NextHopConfig, SipDomainConfig
from impfed.sip.message import SipRequest, parse_message
from impfed.sip.target import Hop
from impfed.transport.pool import Target
from impfed.transport.sip import ISipUser
from tests.proxy.border_kit import (
    EDGE,
    FAR,
    FROM1,
    FROM2,
    INNER,
    LISTENERS,
    NODE1,
    NODE2,
    OUTER,
    PORTS,
    SPARE,
    Answered,
    BorderCase,
    Site,
    flow_of,
    outward,
)
from tests.proxy.test_permission import ASTRAY, ATTEMPTS, request

#: Attempts that name a machine here, and are refused by that one or below.
ELSEWHERE = ("our own node without a user", "a Route behind ours")


class AdmissionTests(BorderCase):
    """Who may pass."""

    def test_interface(self) -> None:
        """It is a user of a stack."""
        verifyObject(ISipUser, self.site.border)

    def test_open_relay_attempts(self) -> None:
        """Nothing of the table of attempts goes anywhere; the answer says what was wrong."""
        for name, (attempt, source, status, _) in ATTEMPTS.items():
            if name in ELSEWHERE:
                continue
            flow = flow_of([]) if source == "nobody" else flow_of([source])
            got = self.site.receive(attempt, flow)
            self.assertIn(got, {status, 403, 404}, name)
            self.assertEqual(self.site.stack.forwarded, [], name)
            self.assertIn('399 edge "', self.site.stack.headers[-1]["Warning"])
        self.assertEqual(self.site.metrics.value("edge.refused"), len(ATTEMPTS) - len(ELSEWHERE))

    def test_routes_behind_a_machine(self) -> None:
        """A Route to a machine inside leads there only; what follows it is that machine's to judge."""
        attempt, _, _, _ = ATTEMPTS["a Route behind ours"]
        sent, hop = self.passed(attempt, FAR)
        self.assertEqual(hop.source, "node1")
        self.assertIn("<sip:victim.example;lr>", sent.values("route"))

    def test_attempts_at_an_edge(self) -> None:
        """What a stranger may try at an edge above all."""
        attempts = {
            "a machine that no line names": request("sip:x@10.0.0.9:5062"),
            "another port of a machine inside": request("sip:x@10.0.0.2:22"),
            "the address of a machine, nobody there": request("sip:10.0.0.2:5062"),
            "the edge, nobody there": request("sip:sip.company.example:5061;transport=tls"),
            "the edge's inside address, nobody there": request("sip:edge.inside.example:5061"),
            "a public port of nobody": request("sip:x@203.0.113.10:55062;transport=tls"),
            "through the edge to anybody": request(
                "sip:x@victim.example", more=f"Route: {OUTER}, {INNER}\n"),
            "by Route to a port inside": request(more="Route: <sip:10.0.0.2:22;lr>\n"),
            "by Route past the edge": request(more=f"Route: {OUTER}, <sip:victim.example;lr>\n"),
            "by maddr to the inside": request("sip:bob@company.example;maddr=10.0.0.2"),
        }  # fmt: skip
        for name, attempt in attempts.items():
            self.assertIn(self.site.receive(attempt, FAR), (403, 404), name)
            self.assertEqual(self.site.stack.forwarded, [], name)

    def test_a_via_that_aims_inside(self) -> None:
        """An answer goes back over the connection that asked, whatever a stranger's Via says."""
        via = "Via: SIP/2.0/TLS 10.0.0.2:22;branch=z9hG4bKevil\n"
        sent, _ = self.passed(request(more=via), FAR)
        self.assertTrue(sent.values("via")[0].startswith("SIP/2.0/TLS edge.inside.example:5061;"))
        self.assertIn(";received=192.0.2.10", sent.values("via")[1])
        back = self.site.answer(200)
        self.assertEqual(back.via.host, "x.example")

    def test_certificate_and_from(self) -> None:
        """Both have to fit: a partner's certificate speaks for its domain only."""
        self.refused(request(sender="sip:x@simple.example"), FAR, 403, "no name that may speak for")
        self.refused(request(), flow_of([]), 403, "showed no certificate")
        self.refused(request(sender="sip:x@company.example"), FAR, 403, "comes from outside")
        warning = self.site.stack.headers[0]["Warning"]
        self.assertNotIn("expected", warning)  # what would do is for our operator
        self.passed(request(), FAR)

    def test_inside_is_who_proves_it(self) -> None:
        """A machine's name counts on the inside listener and on our own connections to it only."""
        self.passed(outward(), FROM2)
        self.refused(outward(), flow_of(["node2.inside.example"]), 403, "comes from outside")
        stranger = flow_of(["printer.inside.example"], "nodes")
        self.refused(outward(), stranger, 403, "none of ours")
        self.refused(request(), flow_of(["sip.lync.example"], "nodes"), 403, "none of ours")
        ours = flow_of(["node2.inside.example"], "")
        self.refused(outward(), ours, 403)  # a connection that we made to a partner's next hop
        ours.target = Target.of_hop(self.site.inner.named("node2", "c")[0])  # type: ignore[attr-defined]
        self.passed(outward(), ours)

    def test_inside_without_tls(self) -> None:
        """A machine without TLS is known by its address, on a listener without TLS."""
        plain = replace(NODE2, transport="tcp", tls_name="", port=5060)
        edge = replace(EDGE, targets=(NODE1, plain), ports=())
        inside = ListenerConfig("old", "tcp", "10.0.0.254", 5060, "10.0.0.254", 5060, side="inside")
        site = Site(edge, (*LISTENERS, inside))
        self.passed(outward(), flow_of([], "old", "tcp", "10.0.0.2"), site)
        self.assertEqual(site.receive(outward(), flow_of([], "old", "tcp", "10.0.0.7")), 403)
        self.assertEqual(site.receive(outward(), flow_of([], "plain", "tcp", "10.0.0.2")), 403)

    def test_astray_from_inside(self) -> None:
        """Machines inside are held to pairs, too, and nothing comes back in."""
        for name, (attempt, _) in ASTRAY.items():
            self.assertEqual(self.site.receive(attempt, FROM1), 403, name)
        for to in (
            "sip:eve@second.example",
            "sip:eve@10.0.0.1:5062",
            "sip:eve@sip.company.example:5061",
        ):
            self.refused(outward(to=to), FROM2, 403, "inside too")
        self.assertEqual(self.site.stack.forwarded, [])

    def test_an_ack_is_dropped_silently(self) -> None:
        """An ACK that may not pass gets no answer."""
        self.site.border.ack_arrived(request("sip:x@other.example", method="ACK"), None, FAR)
        self.assertEqual((self.site.stack.forwarded, self.site.stack.answers), ([], []))

    def test_options_to_the_edge(self) -> None:
        """Whoever watches the edge gets an answer from it, also at a domain of ours."""
        for uri in ("sip:sip.company.example:5061;transport=tls", "sip:company.example"):
            self.assertEqual(
                self.site.receive(request(uri, method="OPTIONS"), flow_of([])), 200, uri
            )
        self.assertEqual(self.site.stack.forwarded, [])

    def test_a_node_calls_its_own_address(self) -> None:
        """A machine inside may ask, from outside, where a public address leads; nobody else may."""
        call = request(
            "sip:203.0.113.10:45062;transport=tls", "sip:203.0.113.10:45062", method="OPTIONS"
        )
        machine = flow_of(["node2.inside.example"], "node2 203.0.113.10:45062")
        _, hop = self.passed(call, machine)
        self.assertEqual(hop.source, "node2")
        shared = request(
            "sip:sip.company.example:5061", "sip:sip.company.example", method="OPTIONS"
        )
        self.assertEqual(self.passed(shared, flow_of(["node1.inside.example"]))[1].source, "node1")
        self.refused(call, FAR, 403)
        self.refused(request("sip:203.0.113.10:45062", "sip:203.0.113.10"), machine, 403)


class WayTests(BorderCase):
    """Where what may pass goes, and what it says of us."""

    def test_new_requests(self) -> None:
        """What a partner begins goes to the routing node; each side is told our address on its side."""
        sent, hop = self.passed(request(method="SUBSCRIBE"), FAR)
        self.assertEqual(
            (hop.source, hop.certificate, hop.tls_name), ("node1", "in", "node1.inside.example")
        )
        self.assertEqual(sent.values("record-route"), [INNER, OUTER])
        self.assertTrue(sent.values("via")[0].startswith("SIP/2.0/TLS edge.inside.example:5061;"))

    def test_outward(self) -> None:
        """What a node begins goes to the partner's next hop, and shows public addresses only."""
        sent, hop = self.passed(outward(), FROM2)
        self.assertEqual((hop.host, hop.certificate), ("sip.lync.example", ""))
        self.assertEqual(sent.values("record-route"), [OUTER, INNER])
        first, second = sent.values("via")
        self.assertTrue(first.startswith("SIP/2.0/TLS sip.company.example:5061;branch="))
        self.assertEqual(second, "SIP/2.0/TLS 203.0.113.10:45062;branch=z9hG4bKn2")
        self.assertEqual(sent.get("contact"), "<sip:bob@203.0.113.10:45062;transport=tls>")
        self.assertNotIn("10.0.0.", sent.head)
        back = self.site.answer(200, ("Record-Route", "<sip:far.example;lr>"))
        self.assertEqual(back.values("via"), ["SIP/2.0/TLS 10.0.0.2:5062;branch=z9hG4bKn2"])

    def test_the_route_of_a_node(self) -> None:
        """A routing node's Record-Route goes out public, and is back in the answer as it was."""
        route = "Record-Route: <sip:10.0.0.1:5062;transport=tls;lr>\n"
        sent, _ = self.passed(outward(route), FROM1)
        public = "<sip:203.0.113.10:5062;transport=tls;lr>"
        self.assertEqual(sent.values("record-route"), [OUTER, INNER, public])
        back = self.site.answer(200)
        self.assertEqual(
            back.values("record-route"), [OUTER, INNER, "<sip:10.0.0.1:5062;transport=tls;lr>"]
        )

    def test_answers_outward(self) -> None:
        """In the answer to a partner a machine's Contact is public."""
        self.passed(request(method="INVITE"), FAR)
        back = self.site.answer(200, ("Contact", "<sip:bob@10.0.0.2:5062;transport=tls>"))
        self.assertEqual(back.get("contact"), "<sip:bob@203.0.113.10:45062;transport=tls>")

    def test_in_dialog(self) -> None:
        """A partner's request follows Route and Contact to the machine, under its own address."""
        route = f"Route: {OUTER}, {INNER}\n"
        contact = "sip:bob@203.0.113.10:45062;transport=tls"
        sent, hop = self.passed(request(contact, more=route, to_tag=";tag=2"), FAR)
        self.assertEqual(
            (hop.source, sent.uri_text), ("node2", "sip:bob@10.0.0.2:5062;transport=tls")
        )
        self.assertEqual((sent.values("route"), sent.values("record-route")), ([], []))
        through = f"Route: {OUTER}, {INNER}, <sip:203.0.113.10:5062;transport=tls;lr>\n"
        sent, hop = self.passed(request(contact, more=through, to_tag=";tag=2"), FAR)
        self.assertEqual(hop.source, "node1")
        self.assertEqual(sent.values("route"), ["<sip:10.0.0.1:5062;transport=tls;lr>"])

    def test_straight_to_the_return_port(self) -> None:
        """Without our Route a public Contact is found as well, over whichever connection."""
        contact = "sip:bob@203.0.113.10:45062;transport=tls"
        for listener in ("internet", "node2 203.0.113.10:45062", ""):
            flow = flow_of(["sip.lync.example"], listener)
            self.assertEqual(
                self.passed(request(contact, to_tag=";tag=2"), flow)[1].source, "node2"
            )

    def test_new_request_to_a_return_port(self) -> None:
        """The port alone decides where a request goes that names a domain only."""
        flow = flow_of(["sip.lync.example"], "node2 203.0.113.10:45062")
        sent, hop = self.passed(request(method="INVITE"), flow)
        self.assertEqual(hop.source, "node2")
        self.assertEqual(sent.values("record-route"), [INNER, OUTER])  # ours is the edge's own port

    def test_back_to_the_partner(self) -> None:
        """A node's request in a dialog follows the route set, over the connection the partner made."""
        edge = "<sip:sip.lync.example:5061;transport=tls;lr;ms-x=1>"
        text = outward(
            f"Route: {INNER}, {OUTER}, {edge}\n", "BYE", "sip:x@lync.example;gruu"
        ).to_bytes()
        bye = parse_message(text.replace(b"lync.example>\r\nCall", b"lync.example>;tag=1\r\nCall"))
        assert isinstance(bye, SipRequest)
        sent, hop = self.passed(bye, FROM2)
        self.assertEqual((sent.values("route"), hop.host), ([edge], "sip.lync.example"))
        self.passed(request(), FAR)
        self.assertIs(self.passed(bye, FROM2)[1], FAR)
        self.site.border.flow_closed(FAR)
        self.assertIsInstance(self.passed(bye, FROM2)[1], Hop)

    def test_order_after_an_ack(self) -> None:
        """An ACK takes the connection that a MESSAGE after it will, though the DNS has yet to answer."""
        edge = "<sip:sip.lync.example:5061;transport=tls;lr>"

        def within(method: str) -> SipRequest:
            text = outward(f"Route: {INNER}, {OUTER}, {edge}\n", method).to_bytes()
            found = parse_message(text.replace(b"lync.example>\r\nC", b"lync.example>;tag=1\r\nC"))
            assert isinstance(found, SipRequest)
            return found

        self.passed(request(), FAR)
        asked: list[Any] = []
        resolve = self.site.border.destinations._resolve
        self.site.border.destinations._resolve = lambda *question: asked.append(question)
        for method in ("ACK", "MESSAGE"):
            before = len(self.site.stack.forwarded)
            if method == "ACK":
                self.site.border.ack_arrived(within(method), None, FROM2)
            else:
                self.site.receive(within(method), FROM2)
                resolve(*asked[-1])
            ((sent, way),) = self.site.stack.forwarded[before:]
            self.assertEqual(sent.method, method)
            self.assertIs(way, FAR)

    def test_order_of_a_dialog_from_inside(self) -> None:
        """A partner's NOTIFY follows the answer to the SUBSCRIBE over the node's own connection."""
        flow = flow_of(["node2.inside.example"], "nodes", remote="10.0.0.2")
        self.passed(outward(method="SUBSCRIBE"), flow)
        contact = "sip:bob@203.0.113.10:45062;transport=tls"
        notify = request(contact, method="NOTIFY", to_tag=";tag=2")
        sent, way = self.passed(notify, FAR)
        self.assertIs(way, flow)
        # Ours alone would hide what the partner's proxies record in the answer to the SUBSCRIBE.
        self.assertEqual(sent.values("record-route"), [])
        self.site.down.add("node2")
        self.assertIs(self.passed(notify, FAR)[1], flow)
        other = request("sip:bob@203.0.113.10:5062;transport=tls", method="NOTIFY", to_tag=";tag=2")
        self.assertEqual(self.passed(other, FAR)[1].source, "node1")
        self.site.down.clear()
        flow.alive = False
        self.assertEqual(self.passed(notify, FAR)[1].source, "node2")

    def test_heard(self) -> None:
        """A machine that counts as down and sends something is told of."""
        heard: list[str] = []
        self.site.border.heard = heard.append
        self.passed(outward(), FROM2)
        self.site.down.add("node2")
        self.passed(outward(), FROM2)
        self.assertEqual(heard, ["node2"])

    def test_a_partners_private_contact(self) -> None:
        """A partner's private Contact, which is an address of ours too, does not lead back inside."""
        text = outward(method="BYE", to="sip:x@10.0.0.1:5062;transport=tls").to_bytes()
        text = text.replace(b"To: <sip:x@lync.example>", b"To: <sip:x@lync.example>;tag=1")
        bye = parse_message(text)
        assert isinstance(bye, SipRequest)
        sent, hop = self.passed(bye, FROM2)
        self.assertEqual((sent.uri_text, hop.host), (bye.uri_text, "sip.lync.example"))

    def test_transports_differ(self) -> None:
        """A partner without TLS is told the address of our listener without TLS."""
        plain = NextHopConfig("192.0.2.7", 5060, "tcp")
        site = Site(domains=(SipDomainConfig("lync.example", next_hop=plain),))
        sent, _ = self.passed(
            request(method="INVITE"), flow_of([], "plain", "tcp", "192.0.2.7"), site
        )
        self.assertEqual(
            sent.values("record-route"), [INNER, "<sip:203.0.113.10:5060;transport=tcp;lr>"]
        )

    def test_public_addresses_inside(self) -> None:
        """Nothing is replaced for machines that advertise their public addresses."""
        ports = tuple(
            replace(port, inner_host=port.public_host, inner_port=port.public_port)
            for port in PORTS
        )
        site = Site(replace(EDGE, ports=ports))
        contact = "sip:bob@203.0.113.10:45062;transport=tls"
        sent, hop = self.passed(request(contact, to_tag=";tag=2"), FAR, site)
        self.assertEqual((hop.source, sent.uri_text), ("node2", contact))
        sent, _ = self.passed(outward(), FROM2, site)
        self.assertEqual(sent.get("contact"), "<sip:bob@10.0.0.2:5062;transport=tls>")

    def test_shared_name(self) -> None:
        """A Contact at the edge's own address goes to who gets new requests: it knows the owner."""
        contact = "sip:bob@sip.company.example:5061;transport=tls;impfed=token"
        sent, hop = self.passed(
            request(contact, more=f"Route: {OUTER}, {INNER}\n", to_tag=";tag=2"), FAR
        )
        self.assertEqual((hop.source, sent.uri_text), ("node1", contact))


class DownTests(BorderCase):
    """When a machine does not answer."""

    def test_spare(self) -> None:
        """New requests go to the next in order, those on their way at once."""
        self.site = site = Site(replace(EDGE, targets=(NODE1, NODE2, SPARE)))
        _, hop = self.passed(request(), FAR)
        self.assertEqual((hop.source, hop.others), ("node1", True))
        user = site.stack.users[-1]
        user.request_failed(Answered(user), None, "connection refused")
        self.assertEqual(site.stack.forwarded[-1][1].source, "spare")
        site.down.add("node1")
        self.assertEqual(self.passed(request(), FAR)[1].source, "spare")
        site.down.add("spare")
        self.refused(request(), FAR, 480)
        self.assertEqual(site.metrics.value("edge.no_target"), 1)
        site.down.clear()
        self.assertEqual(self.passed(request(), FAR)[1].source, "node1")

    def test_in_dialog(self) -> None:
        """What belongs to a dialog of a dead machine is 480 with Retry-After; never 503."""
        contact = request("sip:bob@203.0.113.10:45062;transport=tls", to_tag=";tag=2")
        self.site.down.add("node2")
        self.refused(contact, FAR, 480)
        self.assertEqual(self.site.stack.headers[-1], {"Retry-After": "5"})
        self.passed(request(), FAR)  # others are not affected
        self.site.down.clear()
        self.passed(contact, FAR)
        user = self.site.stack.users[-1]
        user.request_failed(Answered(user), None, "connection refused")
        self.assertEqual(self.site.stack.answers[-1], 480)

    def test_partner_out_of_reach(self) -> None:
        """A node is told 504 when the partner cannot be reached."""
        self.passed(outward(), FROM2)
        user = self.site.stack.users[-1]
        user.request_failed(Answered(user), None, "connection refused")
        self.assertEqual(self.site.stack.answers, [504])


class LimitTests(BorderCase):
    """What one source may ask."""

    def setUp(self) -> None:
        limits = EdgeLimitsConfig(requests=5, domain_requests=8, hold=3.0)
        self.site = Site(replace(EDGE, limits=limits))

    def test_address(self) -> None:
        """Over the limit: 480 with Retry-After, for this source only, and the inside has none."""
        statuses = [self.site.receive(request(), FAR) for _ in range(7)]
        self.assertEqual(statuses, [0] * 5 + [480] * 2)
        self.assertEqual(self.site.stack.headers[-1], {"Retry-After": "5"})
        self.passed(request(), flow_of(["sip.lync.example"], remote="192.0.2.11"))
        for _ in range(50):
            self.passed(outward(), FROM2)
        self.assertEqual(self.site.metrics.value("edge.over_limit"), 2)
        (told,) = self.site.sources.over()
        self.assertEqual((told["source"], told["refused"]), ("192.0.2.10", 2))

    def test_domain(self) -> None:
        """Many addresses of one partner share its limit; what proves nothing does not count there."""
        flows = [
            flow_of(["sip.lync.example"], remote=f"192.0.2.{number}") for number in range(1, 6)
        ]
        self.refused(request(sender="sip:x@simple.example"), flows[0], 403)
        statuses = [self.site.receive(request(), flow) for flow in flows for _ in range(2)]
        self.assertEqual(statuses, [0] * 8 + [480] * 2)

    def test_hold(self) -> None:
        """Who goes on over the limit loses his connection."""
        closed: list[str] = []
        far = flow_of(["sip.lync.example"])
        far.abort = closed.append  # type: ignore[assignment]
        for _ in range(6):
            for _ in range(9):
                self.site.receive(request(), far)
            self.assertEqual(closed, [])
            self.site.clock.advance(0.5)
        for _ in range(9):
            self.site.receive(request(), far)
        self.assertIn("192.0.2.10 sends more than it may", closed)
        self.assertGreater(self.site.metrics.value("edge.closed_over_limit"), 0)
