"""Splicing: the fast way and the slow way give the same, and nothing else is touched."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from impfed.core.errors import LocalError
from impfed.proxy import splice
from impfed.proxy.splice import RequestChanges, forwarded_request, forwarded_response, places
from impfed.sip.message import SipRequest, SipResponse, parse_message
from tests.sip.material import DATA

VIA = "SIP/2.0/TLS proxy.example:5061;branch=z9hG4bKnew"


def request(*lines: str, body: bytes = b"") -> SipRequest:
    """Return a request with these header lines."""
    head = "\r\n".join(["MESSAGE sip:b@b.example SIP/2.0", *lines]) + "\r\n\r\n"
    parsed = parse_message(head.encode("utf-8", "surrogateescape") + body)
    assert isinstance(parsed, SipRequest)
    return parsed


USUAL = (
    "Via: SIP/2.0/TLS a.example;branch=z9hG4bK1",
    "Route: <sip:proxy.example;lr>",
    "Route: <sip:next.example;lr;opaque=xyz>;tag=1",
    "Max-Forwards: 70",
    "From: <sip:a@a.example>;tag=1",
    "To: <sip:b@b.example>",
    "Call-ID: c",
    "CSeq: 1 MESSAGE",
    "X-Unknown:   strange ; Things=\t1",
    "Content-Length: 0",
)


class RequestTests(SynchronousTestCase):
    """Requests."""

    def forward(self, *lines: str, **changes) -> list[str]:
        data = forwarded_request(request(*lines), RequestChanges(VIA, **changes))
        return data.decode("utf-8", "surrogateescape").split("\r\n")

    def test_usual(self) -> None:
        """The new Via comes first, our Route goes, one hop is counted; all else stays as it was."""
        self.assertEqual(
            self.forward(*USUAL, popped=1),
            ["MESSAGE sip:b@b.example SIP/2.0", f"Via: {VIA}", USUAL[0], USUAL[2],
             "Max-Forwards: 69", *USUAL[4:], "", ""],
        )  # fmt: skip

    def test_unusual_spellings(self) -> None:
        """Other spellings of what has to change are found; only that is changed."""
        cases = {
            ("Max-Forwards: 70", "max-FORWARDS  :  70 "): ("max-FORWARDS  : 69",),
            ("Max-Forwards: 70", "Max-Forwards:\r\n 70"): ("Max-Forwards: 69",),
            (USUAL[1], "ROUTE:<sip:proxy.example;lr>"): (),
            (USUAL[1], "Route:\r\n <sip:proxy.example;lr>"): (),
            (USUAL[1], "Route: <sip:proxy.example;lr>,<sip:x;lr>"): ("Route: <sip:x;lr>",),
            (USUAL[1], 'Route: "a, b" <sip:proxy.example;lr;p=c,d> ,\r\n <sip:x;lr>'): (
                "Route: <sip:x;lr>",
            ),
            (USUAL[1], "Route: , <sip:proxy.example;lr>, <sip:x;lr>,<sip:y;lr>"): (
                "Route: <sip:x;lr>,<sip:y;lr>",
            ),
            (USUAL[1], "Route: <sip:proxy.example;lr>,"): (),
        }
        for (usual, other), expected in cases.items():
            lines = [other if line == usual else line for line in USUAL]
            wanted = []
            for line in USUAL:
                if line == usual:
                    wanted += expected
                elif line == USUAL[1]:
                    continue
                else:
                    wanted.append("Max-Forwards: 69" if line == USUAL[3] else line)
            found = self.forward(*lines, popped=1)
            self.assertEqual(found[2:-2], wanted, other)

    def test_first_line_in_another_spelling(self) -> None:
        """A line of the usual spelling is not mistaken for the first when another comes before it."""
        lines = ["route: <sip:proxy.example;lr>", "Route: <sip:next.example;lr>"]
        found = self.forward(USUAL[0], *lines, *USUAL[3:], popped=1)
        self.assertNotIn(lines[0], found)
        self.assertIn(lines[1], found)

    def test_added(self) -> None:
        """Without Max-Forwards there are 70; without Content-Length it is added; breadth when asked."""
        lines = [line for line in USUAL if not line.startswith(("Max-F", "Content-L"))]
        found = self.forward(*lines, max_breadth=7, record_route=("<sip:p;lr>", "<sip:q;lr>"))
        self.assertEqual(
            found[1:7],
            [f"Via: {VIA}", "Record-Route: <sip:p;lr>", "Record-Route: <sip:q;lr>",
             "Max-Forwards: 70", "Max-Breadth: 7", "Content-Length: 0"],
        )  # fmt: skip
        self.assertIn("Max-Breadth: 3", self.forward(*USUAL, "Max-Breadth: 9", max_breadth=3))

    def test_new_uri_and_routes(self) -> None:
        """The Request-URI is replaced; a rebuilt route set replaces all Route lines."""
        found = self.forward(*USUAL, uri="sip:x@y", routes=("<sip:1>", "<sip:2>"))
        self.assertEqual(found[0], "MESSAGE sip:x@y SIP/2.0")
        self.assertEqual([line for line in found if line.startswith("Route")],
                         ["Route: <sip:1>", "Route: <sip:2>"])  # fmt: skip

    def test_received(self) -> None:
        """Where a request came from stands behind the first Via value, and nowhere else."""
        mark = ";received=::1"
        for line, rest in (
            ("Via: SIP/2.0/UDP h;branch=z9hG4bK1", ""),
            ("v: SIP/2.0/UDP h;branch=z9hG4bK1", " ,SIP/2.0/UDP i"),
            ('VIA :SIP/2.0/UDP h;x="a,b";branch=z9hG4bK1', ""),
        ):
            found = self.forward(line + rest, *USUAL[3:], received="::1")
            self.assertEqual(found[2], line + mark + rest)

    def test_octets_that_are_no_text(self) -> None:
        """Octets that are not UTF-8 pass, in heads and bodies."""
        raw = b"MESSAGE sip:b@b.example SIP/2.0\r\n" + "\r\n".join(USUAL[:-1]).encode()
        raw += b"\r\nX-Latin: caf\xe9 \xff\r\nContent-Length: 3\r\n\r\n\x00\xff\n"
        parsed = parse_message(raw)
        assert isinstance(parsed, SipRequest)
        data = forwarded_request(parsed, RequestChanges(VIA))
        self.assertIn(b"\r\nX-Latin: caf\xe9 \xff\r\n", data)
        self.assertTrue(data.endswith(b"\r\n\r\n\x00\xff\n"))

    def test_nothing_is_smuggled_in(self) -> None:
        """A line end in a value of ours is refused."""
        for field, value in (("uri", "sip:x\r\nEvil: 1"), ("received", "1\n")):
            with self.assertRaises(LocalError):
                self.forward(*USUAL, **{field: value})
        with self.assertRaises(LocalError):
            forwarded_request(request(*USUAL), RequestChanges("x\r\ny"))


class ResponseTests(SynchronousTestCase):
    """Responses."""

    REST = ("From: <sip:a@a.example>;tag=1", "To: <sip:b@b.example>;tag=2", "Call-ID: c",
            "CSeq: 1 MESSAGE", "Content-Length: 0")  # fmt: skip

    def back(self, *vias: str, more=()) -> list[str]:
        head = "\r\n".join(["SIP/2.0 200 OK", *vias, *self.REST]) + "\r\n\r\n"
        parsed = parse_message(head.encode())
        assert isinstance(parsed, SipResponse)
        return forwarded_response(parsed, more).decode().split("\r\n")[1:-2]

    def test_top_via(self) -> None:
        """The topmost Via value goes, however it is written, and nothing else."""
        one, two = "SIP/2.0/TLS p.example;branch=z9hG4bK1", "SIP/2.0/TLS a.example;branch=z9hG4bK2"
        for vias, left in (
            ((f"Via: {one}", f"Via: {two}"), [f"Via: {two}"]),
            ((f"Via: {one}, {two}",), [f"Via: {two}"]),
            ((f"v:{one},\r\n\t{two}",), [f"v: {two}"]),
            ((f"v: {one}", f"Via: {two}"), [f"Via: {two}"]),
            ((f"Via:\r\n  {one}\r\n  ;x=1", f"VIA: {two}"), [f"VIA: {two}"]),
            ((f'Via: {one};c="a,b"', f"Via: {two}"), [f"Via: {two}"]),
        ):
            self.assertEqual(self.back(*vias), [*left, *self.REST], vias)

    def test_more(self) -> None:
        """Lines may be added at the end."""
        found = self.back(f"Via: {VIA}", f"Via: {VIA}", more=[("WWW-Authenticate", "Digest x")])
        self.assertEqual(found[-1], "WWW-Authenticate: Digest x")


SPELLINGS = {
    "via": ("Via: ", "v: ", "VIA:", "via : ", "Via:\r\n "),
    "route": ("Route: ", "ROUTE:", "route : ", "Route:\r\n\t"),
    "max-forwards": ("Max-Forwards: ", "max-forwards:", "Max-Forwards :\r\n "),
    "other": ("X-Via: ", "Viaduct: ", "v-x: ", "Routes: ", "Max-Forwards-X: "),
}


class PropertyTests(SynchronousTestCase):
    """Whatever the spelling, the fast way finds what the slow way finds."""

    @settings(max_examples=150, deadline=None, database=None)
    @given(st.data())
    def test_fast_is_slow(self, data: st.DataObject) -> None:
        """The first line found by find() is the first line found by looking at all of them."""
        kinds = data.draw(st.lists(st.sampled_from(["via", "route", "other"]), max_size=6))
        lines = [data.draw(st.sampled_from(SPELLINGS["via"])) + "SIP/2.0/TLS a;branch=z9hG4bK1"]
        lines.append(data.draw(st.sampled_from(SPELLINGS["max-forwards"])) + "70")
        for number, kind in enumerate(kinds):
            value = (
                f"SIP/2.0/TLS h{number};branch=z9hG4bK{number}"
                if kind == "via"
                else f"<sip:h{number};lr>"
            )
            lines.append(data.draw(st.sampled_from(SPELLINGS[kind])) + value)
        ordered = data.draw(st.permutations(lines))
        parsed = request(*ordered, *USUAL[4:])
        for name in ("via", "route", "max-forwards"):
            slow = places(parsed.head, name)
            if slow:
                self.assertEqual(splice.first_place(parsed, name), slow[0])

    @settings(max_examples=100, deadline=None, database=None)
    @given(st.binary(max_size=40), st.integers(0, 2))
    def test_round_trip(self, body: bytes, popped: int) -> None:
        """What was forwarded, read again, has the values that it should have."""
        before = request(*USUAL[:-1], f"Content-Length: {len(body)}", body=body)
        after = parse_message(forwarded_request(before, RequestChanges(VIA, popped=popped)))
        self.assertEqual(after.values("via"), [VIA, *before.values("via")])
        self.assertEqual(after.values("route"), before.values("route")[popped:])
        self.assertEqual((after.body, after.get("max-forwards")), (body, "69"))


class WireTests(SynchronousTestCase):
    """The samples of Microsoft edges."""

    def test_samples(self) -> None:
        """Every request and response of the samples passes with only its own lines changed."""
        count = 0
        for path in sorted((DATA / "wire" / "lync").glob("*.sip")):
            data = path.read_bytes().lstrip(b"\r\n")
            parsed = parse_message(data)
            lines = data.partition(b"\r\n\r\n")[0].split(b"\r\n")
            if isinstance(parsed, SipRequest):
                out = forwarded_request(parsed, RequestChanges(VIA)).partition(b"\r\n\r\n")[0]
                kept = [line for line in out.split(b"\r\n") if VIA.encode() not in line]
                same = [line for line in kept if not line.lower().startswith(b"max-forwards")]
                self.assertEqual(
                    same,
                    [line for line in lines if not line.lower().startswith(b"max-forwards")],
                    path,
                )
            else:
                out = forwarded_response(parsed).partition(b"\r\n\r\n")[0]
                self.assertEqual(len(out.split(b"\r\n")) in (len(lines), len(lines) - 1), True)
            count += 1
        self.assertGreater(count, 5)
