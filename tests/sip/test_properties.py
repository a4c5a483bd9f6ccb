"""Properties that hold for any input."""

from __future__ import annotations

import string
from itertools import pairwise

from hypothesis import example, given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from impfed.core.errors import LocalError
from impfed.sip.errors import SipParseError
from impfed.sip.framing import PONG, Pong, StreamFramer, parse_datagram
from impfed.sip.headers import (
    first_value,
    parse_cseq,
    parse_event,
    parse_media_type,
    parse_name_addr,
    parse_params,
    parse_subscription_state,
    parse_via,
    quote,
    split_values,
    unquote,
)
from impfed.sip.message import (
    OutgoingRequest,
    SipRequest,
    check_request,
    parse_message,
    response_bytes,
)
from impfed.sip.sdp import parse_offer
from impfed.sip.uas import screen
from impfed.sip.uri import SipUri, escape_user, parse_uri
from tests.sip.material import DATA, lync, octets, request_lines, table

relaxed = settings(max_examples=100, deadline=None)

TOKEN = string.ascii_letters + string.digits + "-.!%*_+`'~"
tokens = st.text(TOKEN, min_size=1, max_size=12)
labels = st.from_regex(r"[a-z0-9]([a-z0-9\-]{0,6}[a-z0-9])?", fullmatch=True)
names = st.lists(labels, min_size=1, max_size=4).map(".".join)
addresses = st.one_of(
    names,
    st.ip_addresses(v=4).map(str),
    st.ip_addresses(v=6).map(str),
)
users = st.text(max_size=12).map(escape_user)
words = st.text(string.ascii_letters + string.digits + "-_.!~*'()[]/:&+$", min_size=1, max_size=8)
params = st.lists(st.tuples(words, st.none() | words), max_size=3).map(tuple)
headers = st.lists(
    st.tuples(st.text("abc-_.!", min_size=1, max_size=5), st.text("abc%20:?", max_size=0)),
    max_size=2,
).map(tuple)


@st.composite
def uris(draw: st.DrawFn) -> SipUri:
    user = draw(users)
    return SipUri(
        draw(st.sampled_from(("sip", "sips"))),
        user,
        draw(st.none() | st.text("abc&=+$,", max_size=4)) if user else None,
        draw(addresses),
        draw(st.none() | st.integers(0, 65535)),
        draw(params),
        draw(headers),
    )


# A header value as a peer may send it: any text without line ends, now and then folded.
values = st.text(
    st.characters(blacklist_categories=("Cs",), blacklist_characters="\r\n"), max_size=30
)
raw = st.binary(max_size=20).map(lambda octet: octet.replace(b"\r", b"").replace(b"\n", b""))
folds = st.sampled_from((b"", b"\r\n ", b"\r\n\t  "))


@st.composite
def messages(draw: st.DrawFn) -> bytes:
    lines = [
        b"Via: SIP/2.0/TLS a.example;branch=z9hG4bKx",
        b"From: <sip:a@b>;tag=1",
        b"to:<sip:c@d>",
        b"i: x",
        b"CSeq: 1 MESSAGE",
    ]
    for _ in range(draw(st.integers(0, 4))):
        name = draw(st.sampled_from((b"Subject", b"X-A", b"k", b"x-a ", b"Route")))
        lines.append(name + b":" + draw(folds) + draw(raw) + draw(folds) + draw(raw))
    draw(st.randoms()).shuffle(lines)
    body = draw(st.binary(max_size=30))
    lines.append(b"%s: %d" % (draw(st.sampled_from((b"l", b"Content-Length"))), len(body)))
    return b"MESSAGE sip:c@d SIP/2.0\r\n" + b"\r\n".join(lines) + b"\r\n\r\n" + body


def flow(pieces: list[bytes]) -> tuple[list[bytes], int | None]:
    """Return the octets of the messages found, and the failure's status."""
    framer = StreamFramer()
    found: list[bytes] = []
    for piece in pieces:
        if framer.failure is not None:
            break
        found += [m.to_bytes() for m in framer.feed(piece) if not isinstance(m, Pong)]
    return found, framer.failure and framer.failure.status


def pieces_of(data: bytes, cuts: list[int]) -> list[bytes]:
    edges = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    return [data[start:end] for start, end in pairwise(edges)]


MATERIAL = [path.read_bytes() for path in sorted((DATA / "wire" / "lync").glob("*.sip"))]
MATERIAL += [path.read_bytes() for path in sorted((DATA / "rfc4475").glob("*.dat"))]
MATERIAL += [path.read_bytes() for path in sorted((DATA / "rfc5118").glob("*.dat"))]
MATERIAL += [path.read_bytes() for path in sorted((DATA / "fuzz" / "sip-seeds").iterdir())]
MATERIAL += [
    case["data"].encode()
    for case in table("vectors", "sip-stream-cases.json")["cases"]
    if "data" in case
]


def dictionary() -> list[bytes]:
    found = []
    for name in ("sip.dict", "sip-extra.dict"):
        for line in octets("fuzz", name).decode("latin-1").splitlines():
            if not line.startswith("#") and '"' in line:
                text = line[line.index('"') + 1 : line.rindex('"')]
                found.append(text.encode("latin-1").decode("unicode_escape").encode("latin-1"))
    return found


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A message from the material with a few spans replaced, doubled or dropped."""
    data = draw(st.sampled_from(MATERIAL))
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(data)))
        end = min(len(data), start + draw(st.integers(0, 8)))
        new = draw(
            st.one_of(st.sampled_from(WORDS), st.binary(max_size=4), st.just(data[start:end] * 3))
        )
        data = data[:start] + new + data[end:]
    return data


WORDS = [
    *dictionary(),
    b"\r\n",
    b"\r\n ",
    b"\0",
    b'"',
    b"<",
    b">",
    b",",
    b";",
    b"\\",
    b":",
    b"\xff",
]


def read_everything(data: bytes) -> None:
    """Parse, check, look at every value and answer; only RemoteErrors of ours may come out."""
    try:
        message = parse_datagram(data)
    except SipParseError as error:
        if error.head is None:
            return
        message = error.head  # type: ignore[assignment]
    for name in ("from_", "to", "cseq", "via", "contact", "content_type", "from_tag", "to_tag"):
        try:
            value = getattr(message, name)
            for part in ("params", "uri", "tag", "branch"):
                getattr(value, part, None)
        except SipParseError:
            pass
    for name in message.names():
        message.values(name)
    if isinstance(message, SipRequest):
        answer = response_bytes(message, 400, to_tag="ours")
        assert answer.count(b"\n") == answer.count(b"\r\n") == answer.count(b"\r")
        try:
            check_request(message)
            screen(message, ("INVITE", "MESSAGE", "OPTIONS"))
        except SipParseError:
            return
        again = parse_message(response_bytes(message, 200, to_tag="ours"))
        assert again.get_all("via") == message.get_all("via")
        assert again.call_id == message.call_id


class RoundTripTests(SynchronousTestCase):
    """What is read and written again is the same."""

    @relaxed
    @given(messages())
    def test_message(self, data: bytes) -> None:
        """Serialising a parsed message gives its octets."""
        self.assertEqual(parse_message(data).to_bytes(), data)

    @relaxed
    @given(uris())
    def test_uri(self, uri: SipUri) -> None:
        """Reading a written URI gives the URI, and it is the same as itself."""
        again = SipUri.parse(str(uri))
        self.assertEqual(again, uri)
        self.assertTrue(again.same_as(uri))

    @relaxed
    @given(
        st.text(st.characters(min_codepoint=32, blacklist_categories=("Cs", "Cc"))), uris(), tokens
    )
    def test_name_addr(self, display: str, uri: SipUri, tag: str) -> None:
        """A written name-addr is read as its parts."""
        value = parse_name_addr(f"{quote(display)} <{uri}>;tag={tag}")
        value.check()
        self.assertEqual((value.display, value.uri, value.tag), (display, uri, tag))

    @relaxed
    @given(st.text(st.characters(min_codepoint=32, blacklist_categories=("Cc",))))
    def test_quote(self, text: str) -> None:
        """Unquoting undoes quoting."""
        self.assertEqual(unquote(quote(text)), text)

    @relaxed
    @given(st.lists(st.one_of(tokens, st.text('a,;<>"\\ ').map(quote)), min_size=1))
    def test_split(self, parts: list[str]) -> None:
        """Splitting undoes joining, whatever is in quotes."""
        self.assertEqual(split_values(", ".join(parts)), parts)
        self.assertEqual(first_value(",".join(parts)), parts[0])

    @relaxed
    @given(st.text('a,;<>"\\ \t'))
    @example('a,"b,c')
    @example("<a,b")
    def test_first_value(self, text: str) -> None:
        """The first value is the first of all, whatever the text."""
        self.assertEqual([first_value(text)], (split_values(text) or [""])[:1])


class FramingTests(SynchronousTestCase):
    """Framing does not depend on how the octets are cut."""

    @relaxed
    @given(
        st.lists(st.one_of(messages(), st.sampled_from((b"\r\n", b"\r\n\r\n")))),
        st.lists(st.integers(0)),
    )
    def test_good_streams(self, parts: list[bytes], cuts: list[int]) -> None:
        """Every message comes out, octet for octet, and nothing else."""
        found, failure = flow(pieces_of(b"".join(parts), cuts))
        self.assertEqual(found, [part for part in parts if part.strip()])
        self.assertIsNone(failure)

    @relaxed
    @given(damaged(), damaged(), st.lists(st.integers(0), max_size=8))
    def test_bad_streams(self, one: bytes, two: bytes, cuts: list[int]) -> None:
        """A damaged stream gives the same messages and the same end however it is cut."""
        data = one + two
        whole = flow([data])
        self.assertEqual(flow(pieces_of(data, cuts)), whole)

    def test_material_octet_by_octet(self) -> None:
        """All the material behaves the same whole and octet by octet."""
        for data in MATERIAL:
            if len(data) < 4000:
                self.assertEqual(flow([data[i : i + 1] for i in range(len(data))]), flow([data]))

    @relaxed
    @given(st.integers(0, 40))
    def test_pings(self, count: int) -> None:
        """Blank lines in one piece ask for one answer at most."""
        items = StreamFramer().feed(b"\r\n" * count)
        self.assertEqual(items, [PONG] if count >= 2 else [])


class RobustnessTests(SynchronousTestCase):
    """No input does more than raise our own error."""

    def test_seeds(self) -> None:
        """The seeds that once crashed other parsers, and all other material, are survived."""
        for data in MATERIAL:
            read_everything(data)
            flow([data])

    @settings(max_examples=300, deadline=None)
    @given(damaged())
    def test_damaged(self, data: bytes) -> None:
        """Damaged messages are read, refused or answered, and nothing else happens."""
        read_everything(data)

    @relaxed
    @given(st.text('a1 \t;,:=<>"\\@[]%/.&?*sip\0\u00e9\udcff', max_size=40))
    def test_values(self, text: str) -> None:
        """Each reader of values gives a value or our own error."""
        for reader in (
            parse_name_addr,
            parse_via,
            parse_cseq,
            parse_media_type,
            parse_event,
            parse_subscription_state,
            parse_params,
            parse_uri,
            lambda value: parse_name_addr(value).check(),
            lambda value: parse_via("SIP/2.0/TLS " + value).check(),
            lambda value: parse_offer(b"v=0\n" + value.encode("utf-8", "surrogateescape")),
        ):
            try:
                reader(text)
            except SipParseError:
                continue

    @relaxed
    @given(values, values, st.text(max_size=20), st.text(max_size=10))
    def test_no_injection(self, name: str, value: str, uri: str, via: str) -> None:
        """What is written reads back as exactly what was given, or is refused."""
        request = OutgoingRequest("MESSAGE", uri, [("Via-X", "1"), (name, value)], b"body", 1, "x")
        try:
            data = request.render(via)
        except LocalError:
            return
        self.assertEqual(data.count(b"\r\n"), 6)
        self.assertEqual(data.count(b"\n"), data.count(b"\r"))
        self.assertTrue(data.endswith(b"\r\nContent-Length: 4\r\n\r\nbody"))
        self.assertTrue(data.startswith(f"MESSAGE {uri} SIP/2.0\r\nVia: {via}\r\n".encode()))


class LinearWorkTests(SynchronousTestCase):
    """Work is linear in the size: texts made to be slow are read in the limits of a head."""

    SLOW = (
        " " * 60000,
        "\t" * 60000 + "x",
        '"' * 60000,
        "\\" * 60000,
        '"' + "\\" * 60000,
        "<" * 60000,
        ";" * 60000,
        ";a" * 30000,
        "," * 60000,
        ' ,"' * 20000,
        "a " * 30000,
        "a," * 30000 + '"',
        "sip:" + "a." * 30000,
        "sip:" + "a-" * 30000 + "@",
        "sip:a@" + "a-" * 30000 + "!",
        "<sip:" + ";a=b" * 15000,
        "9" * 60000 + " INVITE",
        "SIP / 2.0 / " + "UDP " * 15000,
        "a/" * 30000,
    )

    def test_values(self) -> None:
        """Sixty thousand characters of anything are read or refused at once."""
        for text in self.SLOW:
            for reader in (
                parse_name_addr,
                parse_via,
                parse_cseq,
                parse_media_type,
                parse_event,
                parse_params,
                parse_uri,
                lambda value: parse_name_addr("<sip:a@b>" + value).check(),
            ):
                try:
                    reader(text)
                except SipParseError:
                    continue
            split_values(text)
            first_value(text)

    def test_start_lines(self) -> None:
        """So are start lines and folds."""
        for text in self.SLOW:
            for line in (text, "A" + text, "OPTIONS sip:a@b" + text, "SIP/2.0 200" + text):
                try:
                    parse_message(f"{line}\r\n\r\n".encode())
                except SipParseError:
                    continue
        folded = request_lines("X-Z: a" + "\r\n " * 20000 + "b")
        self.assertTrue((parse_message(folded).get("x-z") or "").endswith("b"))

    def test_many_lines(self) -> None:
        """Thousands of equal names cost no more than thousands of different ones."""
        message = parse_message(request_lines(*["Route: <sip:p;lr>"] * 3000))
        self.assertEqual(len(message.values("route")), 3000)


class SampleTests(SynchronousTestCase):
    """The property helpers themselves."""

    def test_material(self) -> None:
        """The material and the dictionary are there."""
        self.assertGreater(len(MATERIAL), 180)
        self.assertGreater(len(WORDS), 50)
        self.assertIn(lync("invite-in-plain"), MATERIAL)
