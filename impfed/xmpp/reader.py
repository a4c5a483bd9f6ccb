"""Reads an XMPP stream: octets in, stream header, stanzas and stream errors out (RFC 6120).

The prolog and the stream's opening tag are read with expat's own events, because only there can a
document type declaration stand; the rest by ElementTree's pull parser, which is C throughout.
Neither a DTD, nor an entity of one's own, nor a comment, nor a processing instruction passes
(RFC 6120 section 11.1).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple
from xml.etree.ElementTree import Element, ParseError, XMLPullParser
from xml.parsers import expat

from impfed.core.errors import RemoteError
from impfed.xmpp.jid import JidError
from impfed.xmpp.stanza import Stanza
from impfed.xmpp.tokens import DEFERS, WholeTokens

NS_STREAMS = "http://etherx.jabber.org/streams"
NS_STREAM_ERRORS = "urn:ietf:params:xml:ns:xmpp-streams"
NS_COMPONENT = "jabber:component:accept"

_STREAM = f"{{{NS_STREAMS}}}stream"

# Octets handed to the parser at once: the grain of the size limit.
_PIECE = 8192

_CODES = {
    expat.errors.codes[expat.errors.XML_ERROR_UNDEFINED_ENTITY]: "restricted-xml",
    expat.errors.codes[expat.errors.XML_ERROR_UNBOUND_PREFIX]: "bad-namespace-prefix",
    expat.errors.codes[expat.errors.XML_ERROR_UNKNOWN_ENCODING]: "unsupported-encoding",
}


@dataclass(frozen=True, slots=True)
class ReaderLimits:
    """What a stream may cost.

    :ivar header: octets up to the end of the stream's opening tag.
    :ivar stanza: octets of one stanza; a stanza of this size passes, one 8 KiB longer never does.
    :ivar depth: elements within one another, the stanza itself included.
    :ivar attributes: attributes of one element.
    """

    header: int = 16 * 1024
    stanza: int = 256 * 1024
    depth: int = 64
    attributes: int = 128


class XmppStreamError(RemoteError):
    """The peer broke the rules of the stream: it gets a stream error, and the connection ends.

    :ivar condition: stream error condition to send (RFC 6120 section 4.9.3).
    :ivar text: what was wrong, in words.
    :ivar items: what had arrived complete before the fault.
    """

    def __init__(self, condition: str, text: str) -> None:
        super().__init__(400, text)
        self.condition = condition
        self.text = text
        self.items: list[StreamItem] = []


@dataclass(frozen=True, slots=True)
class StreamHeader:
    """The peer's opening tag; what it does not say is "".

    :ivar version: (major, minor), None if there is no version (before XMPP 1.0, and components).
    """

    namespace: str
    from_: str
    to: str
    id: str
    version: tuple[int, int] | None
    lang: str


@dataclass(frozen=True, slots=True)
class StreamError:
    """The peer's stream error.

    :ivar condition: its condition, "undefined-condition" if it names none.
    :ivar text: its words, or "".
    """

    condition: str
    text: str


@dataclass(frozen=True, slots=True)
class StreamEnd:
    """The peer's closing tag; nothing after it is read."""


class BadStanza(NamedTuple):
    """A stanza whose addresses are missing or malformed.

    :ivar kind: "message", "presence" or "iq".
    :ivar element: the stanza as it came.
    :ivar problem: what is wrong.
    """

    kind: str
    element: Element
    problem: str


StreamItem = Stanza | BadStanza | StreamHeader | StreamError | StreamEnd | Element


class _RootSeen(Exception):
    """Stops the prolog's parser at the opening tag."""


class _Prolog:
    """Everything up to and with the stream's opening tag."""

    def __init__(self, namespace: str) -> None:
        self._expected = namespace
        self._default = ""
        self._data = bytearray()
        self.header: StreamHeader | None = None
        self.start = 0
        self._tokens = WholeTokens() if DEFERS else None
        parser = self._parser = expat.ParserCreate("UTF-8", " ")
        parser.XmlDeclHandler = self._declaration
        parser.StartDoctypeDeclHandler = self._restricted
        parser.CommentHandler = self._restricted
        parser.ProcessingInstructionHandler = self._restricted
        parser.StartNamespaceDeclHandler = self._namespace
        parser.StartElementHandler = self._root

    def feed(self, data: bytes) -> bytes | None:
        """Take octets; once the opening tag is complete return it with all that follows."""
        self._data += data
        if self._data.startswith((b"\xff\xfe", b"\xfe\xff", b"<\0", b"\0<")):
            raise XmppStreamError("unsupported-encoding", "UTF-16 or UTF-32 is not UTF-8")
        if self._tokens is not None:
            data = self._tokens.feed(data)
        try:
            self._parser.Parse(data, False)
        except _RootSeen:
            return bytes(self._data[self.start :])
        except expat.ExpatError as error:
            raise XmppStreamError(_CODES.get(error.code, "not-well-formed"), str(error)) from error
        return None

    def __len__(self) -> int:
        return len(self._data)

    def _declaration(self, version: str, encoding: str | None, standalone: int) -> None:
        if encoding is not None and encoding.upper() not in ("UTF-8", "UTF8"):
            raise XmppStreamError("unsupported-encoding", f"encoding {encoding} is not UTF-8")
        if version != "1.0":
            raise XmppStreamError("not-well-formed", f"XML version {version} is not 1.0")

    def _restricted(self, *_: object) -> None:
        raise XmppStreamError(
            "restricted-xml", "document type, comment or processing instruction before the stream"
        )

    def _namespace(self, prefix: str | None, uri: str) -> None:
        if prefix is None:
            self._default = uri

    def _root(self, name: str, attributes: dict[str, str]) -> None:
        space, _, local = name.rpartition(" ")
        if local != "stream":
            raise XmppStreamError("bad-format", f"root element {local} is not stream")
        if space != NS_STREAMS:
            raise XmppStreamError("invalid-namespace", f"stream element in namespace {space!r}")
        if self._default != self._expected:
            raise XmppStreamError("invalid-namespace", f"content namespace {self._default!r}")
        get = attributes.get
        self.header = StreamHeader(
            self._default,
            get("from", ""),
            get("to", ""),
            get("id", ""),
            _version(get("version")),
            get("http://www.w3.org/XML/1998/namespace lang", ""),
        )
        self.start = self._parser.CurrentByteIndex
        raise _RootSeen


def _version(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    major, dot, minor = text.partition(".")
    if not (dot and major.isascii() and major.isdigit() and minor.isascii() and minor.isdigit()):
        raise XmppStreamError("unsupported-version", f"version {text!r} is no version")
    return int(major[:6]), int(minor[:6])


def read_stream_error(element: Element) -> StreamError:
    """Read a stream error element (RFC 6120 section 4.9.2)."""
    condition, text = "undefined-condition", ""
    for child in element:
        space, _, name = child.tag.removeprefix("{").rpartition("}")
        if space != NS_STREAM_ERRORS:
            continue
        if name == "text":
            text = child.text or ""
        else:
            condition = name
    return StreamError(condition, text)


class StanzaReader:
    """Reads one stream in one direction.

    :param namespace: content namespace that the stream must have.
    :param limits: what the stream may cost.
    """

    def __init__(self, namespace: str = NS_COMPONENT, limits: ReaderLimits | None = None) -> None:
        self._limits = limits or ReaderLimits()
        self._namespace = namespace
        self._kinds = {f"{{{namespace}}}{kind}": kind for kind in ("message", "presence", "iq")}
        self._prolog: _Prolog | None = _Prolog(namespace)
        self._parser: Any = XMLPullParser(("start", "end", "comment", "pi"))
        # Newer Pythons let expat wait for more octets before it reads a cut token again; flush()
        # makes it read at once, for the rest may never come.  Without it, nothing cut is handed over.
        self._flush = getattr(self._parser, "flush", None)
        self._tokens = WholeTokens() if DEFERS else None
        self._root: Element | None = None
        self._depth = 0
        self._size = 0  # octets since the last complete stanza
        self._equals = 0  # equals signs among them: no fewer than attributes
        self._held: list[bytes] = []  # octets that cannot complete anything yet
        self._between = False  # the last octet read ended an element at stream level
        self._last: Element | None = None  # complete, but what follows it has not been looked at
        self._ended = False

    def relax(self, limits: ReaderLimits) -> None:
        """Read on by other limits: the peer has proven who it is."""
        self._limits = limits

    def feed(self, data: bytes) -> list[StreamItem]:
        """Take octets, cut anywhere; return what is complete by now.

        :raises XmppStreamError: the stream is broken; its ``items`` are what was complete before.
        """
        items: list[StreamItem] = []
        try:
            if self._prolog is not None:
                rest = self._feed_prolog(self._prolog, data, items)
                if rest is None:
                    return items
                data = rest
            if len(data) <= _PIECE:
                self._feed_piece(data, items)
            else:
                for start in range(0, len(data), _PIECE):
                    self._feed_piece(data[start : start + _PIECE], items)
        except XmppStreamError as error:
            error.items = items
            self._ended = True
            raise
        return items

    def _feed_prolog(self, prolog: _Prolog, data: bytes, items: list[StreamItem]) -> bytes | None:
        rest = prolog.feed(data)
        if rest is None:
            if len(prolog) > self._limits.header:
                raise XmppStreamError("policy-violation", "stream header too long")
            return None
        if prolog.header is not None:
            items.append(prolog.header)
        self._prolog = None
        self._parser.feed(b"<?xml version='1.0' encoding='UTF-8'?>")
        return rest

    def _feed_piece(self, piece: bytes, items: list[StreamItem]) -> None:
        if self._ended:
            return
        if self._tokens is not None:
            piece = self._tokens.feed(piece)
            if self._size + len(self._tokens) > self._limits.stanza:
                raise XmppStreamError("policy-violation", "stanza too long")
            if not piece:
                return
        if b">" not in piece:
            # No element ends here, so nothing can be complete: parsing can wait.  This also keeps a
            # token that comes octet by octet from being read from its start each time.
            if self._between and not self._held and piece.isspace():
                return
            self._held.append(piece)
            self._grow(len(piece))
            return
        if self._held:
            held = b"".join(self._held)
            self._held.clear()
            self._size -= len(held)
            piece = held + piece
        before = len(items)
        self._equals += piece.count(b"=")
        self._parser.feed(piece)
        if self._flush is not None:
            self._flush()
        self._read_events(items)
        if len(items) > before:
            self._size = self._equals = 0
        else:
            self._grow(len(piece))
        self._between = self._depth == 1 and piece.endswith(b">")

    def _grow(self, octets: int) -> None:
        self._size += octets
        if self._size > self._limits.stanza:
            raise XmppStreamError("policy-violation", "stanza too long")

    def _read_events(self, items: list[StreamItem]) -> None:
        depth = self._depth
        deepest = self._limits.depth + 1
        many = self._limits.attributes
        if self._equals <= many:
            many = 0  # no element can have too many
        try:
            for event, element in self._parser.read_events():
                if event == "end":
                    depth -= 1
                    if depth == 1:
                        items.append(self._complete(element))
                    elif depth == 0:
                        self._check_between()
                        self._ended = True
                        items.append(StreamEnd())
                        return
                elif event == "start":
                    depth += 1
                    if many and len(element.keys()) > many:
                        raise XmppStreamError("policy-violation", "too many attributes")
                    if depth == 2:
                        if element.tag == _STREAM:
                            raise XmppStreamError("bad-format", "a second stream header")
                    elif depth == 1:
                        self._root = element
                    elif depth > deepest:
                        raise XmppStreamError("policy-violation", "elements too deep")
                else:
                    raise XmppStreamError("restricted-xml", "comment or processing instruction")
        except ParseError as error:
            condition = _CODES.get(error.code, "not-well-formed")
            raise XmppStreamError(condition, str(error)) from error
        finally:
            self._depth = depth
        root = self._root
        if root is not None and len(root):
            del root[:]

    def _check_between(self) -> None:
        """See that only white space stood before and between elements at stream level."""
        text = None
        if self._last is not None:
            text = self._last.tail
        elif self._root is not None:
            text = self._root.text
        if text and not text.isspace():
            raise XmppStreamError("bad-format", "text between stanzas")

    def _complete(self, element: Element) -> StreamItem:
        last = self._last
        if last is None or last.tail:
            self._check_between()
        self._last = element
        kind = self._kinds.get(element.tag)
        if kind is not None:
            try:
                return Stanza(kind, self._namespace, element)
            except JidError as error:
                return BadStanza(kind, element, str(error))
        if element.tag == f"{{{NS_STREAMS}}}error":
            return read_stream_error(element)
        return element
