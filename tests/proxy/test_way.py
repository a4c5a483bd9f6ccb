"""The way of a request: Route values of ours, strict routers before and behind us, maddr."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from impfed.proxy.way import way_of
from impfed.sip.errors import SipParseError
from impfed.sip.message import parse_message
from tests.proxy.kit import OWN, Bench, invite, ours, target

US = f"<sip:{OWN};lr>"


class WayTests(SynchronousTestCase):
    """What RFC 3261 sections 16.4 and 16.6 say, case by case."""

    def way(self, routes: str = "", uri: str = "sip:bob@b.example"):
        return way_of(invite(routes, uri=uri), ours)

    def test_plain(self) -> None:
        """Without Route the Request-URI says where to go."""
        way = self.way()
        self.assertEqual((way.next, way.routes, way.popped), ("sip:bob@b.example", (), 0))

    def test_ours_goes(self) -> None:
        """Our own values on top go, all of them; what is left says where to go."""
        way = self.way(
            f"Route: {US}, <sip:{OWN}:5061;transport=tls;lr;owner=x>\nRoute: <sip:n;lr>\n"
        )
        self.assertEqual((way.popped, way.routes, way.next), (2, ("<sip:n;lr>",), "sip:n;lr"))
        self.assertEqual([uri.param("owner") for uri in way.ours], [None, "x"])
        self.assertFalse(way.rebuilt)

    def test_ours_behind_another(self) -> None:
        """Our own value behind somebody else's stays: it is for when the request comes back."""
        way = self.way(f"Route: <sip:n;lr>, {US}\n")
        self.assertEqual((way.popped, way.routes), (0, ("<sip:n;lr>", US)))

    def test_strict_router_before_us(self) -> None:
        """A strict router has put us into the Request-URI: the last Route value is the real one."""
        way = self.way("Route: <sip:n;lr>, <sip:bob@10.0.0.2>\n", f"sip:{OWN};lr;owner=x")
        self.assertEqual(
            (way.uri, way.routes, way.next), ("sip:bob@10.0.0.2", ("<sip:n;lr>",), "sip:n;lr")
        )
        self.assertTrue(way.strict and way.rebuilt)
        self.assertEqual(way.ours[0].param("owner"), "x")

    def test_request_for_us_is_not_strict(self) -> None:
        """Our own URI without Route, or without lr, is a request for ourselves."""
        self.assertFalse(self.way(uri=f"sip:{OWN};lr").strict)
        self.assertFalse(self.way("Route: <sip:n;lr>\n", f"sip:{OWN}").strict)

    def test_strict_router_behind_us(self) -> None:
        """A strict router gets itself as Request-URI, and the real one as last Route value."""
        way = self.way(f"Route: {US}, <sip:strict.example>, <sip:n;lr>\n")
        self.assertEqual(
            (way.uri, way.routes, way.next),
            ("sip:strict.example", ("<sip:n;lr>", "<sip:bob@b.example>"), "sip:strict.example"),
        )

    def test_strict_router_on_the_wire(self) -> None:
        """So it is sent."""
        bench = Bench()
        bench.forward(invite(f"Route: {US}\nRoute: <sip:strict.example>\n"), target("hop"))
        sent = bench.sent[0][1]
        self.assertEqual((sent.uri_text, sent.values("route")),
                         ("sip:strict.example", ["<sip:bob@b.example>"]))  # fmt: skip

    def test_maddr(self) -> None:
        """A maddr that is us is taken off; another stays, for the permission to refuse."""
        self.assertEqual(self.way(uri=f"sip:bob@b.example:5070;maddr={OWN};x=1").uri,
                         "sip:bob@b.example;x=1")  # fmt: skip
        self.assertEqual(self.way(uri="sip:bob@b.example;maddr=1.2.3.4").uri,
                         "sip:bob@b.example;maddr=1.2.3.4")  # fmt: skip

    def test_values_are_kept(self) -> None:
        """Route values that are not ours pass with every parameter, quote and blank in them."""
        value = '"X, Y" <sip:h:5061;transport=tls;lr;opaque=a:b;ms-key-info=A%3d;x>;tag=1;y="q, r"'
        bench = Bench()
        bench.forward(invite(f"Route: {US}, {value} , <sip:i;lr>\n"))
        self.assertIn(f"\r\nRoute: {value} , <sip:i;lr>\r\n", bench.sent[0][1].head)

    def test_malformed(self) -> None:
        """A Route value that cannot be read is 400."""
        self.assertRaises(SipParseError, self.way, "Route: <sip:n;lr\n")
        text = invite("Route: <>\n").to_bytes()
        self.assertEqual(type(Bench().request(parse_message(text))[0]).__name__, "Reply")
