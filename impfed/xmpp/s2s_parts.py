"""What the two S2S stream machines share: limits, the world they ask, events, and their XML."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol

from impfed.core.ids import IdSource
from impfed.xmpp.dialback import NS_DIALBACK, DialbackKeys
from impfed.xmpp.reader import NS_STREAM_ERRORS, NS_STREAMS, BadStanza, ReaderLimits
from impfed.xmpp.s2s_security import Security
from impfed.xmpp.stanza import OutStanza, Stanza
from impfed.xmpp.xmltext import xml_attr, xml_text

NS_SERVER = "jabber:server"
NS_TLS = "urn:ietf:params:xml:ns:xmpp-tls"
NS_SASL = "urn:ietf:params:xml:ns:xmpp-sasl"
NS_BIDI = "urn:xmpp:bidi"
NS_BIDI_FEATURE = "urn:xmpp:features:bidi"
NS_SM = "urn:xmpp:sm:3"

CLOSE = "</stream:stream>"


@dataclass(frozen=True, slots=True)
class StreamLimits:
    """What a stream may cost; times in seconds.

    :ivar negotiation: from the connection to the first proven domain pair; longer only while an
        authoritative server is being asked.
    :ivar verification: how long the authoritative server may take.
    :ivar acknowledgement: how long the peer may take to answer a request for acknowledgement.
    :ivar silence: how long a peer that acknowledges may be silent before it is asked for one.
    :ivar unproven: what the reader takes before a domain is proven.
    :ivar proven: what it takes after.
    :ivar attempts: SASL attempts on one stream.
    :ivar pending: dialback requests of a stream that may be open at once.
    :ivar pairs: domain pairs on one stream.
    :ivar unacknowledged: stanzas that may wait for their acknowledgement.
    """

    negotiation: float = 30.0
    verification: float = 20.0
    acknowledgement: float = 20.0
    silence: float = 40.0
    unproven: ReaderLimits = field(default_factory=lambda: ReaderLimits(stanza=16 * 1024))
    proven: ReaderLimits = field(default_factory=ReaderLimits)
    attempts: int = 3
    pending: int = 10
    pairs: int = 100
    unacknowledged: int = 1000


class PeerCertificate(Protocol):
    """What a connection knows of the peer's certificate."""

    def problem(self, domain: str) -> str:
        """Say why it does not prove a domain, in words; "" when it does."""

    def is_one_of(self, names: Iterable[str]) -> bool:
        """Say whether it carries one of these names."""


class NoCertificate:
    """The certificate of a peer that has shown none."""

    def problem(self, domain: str) -> str:
        """Say so."""
        return f"the peer showed no certificate; one for {domain} was expected"

    def is_one_of(self, names: Iterable[str]) -> bool:
        """Say no."""
        return False


class S2SWorld(Protocol):
    """What the streams ask the node.

    :ivar offers_tls: whether there is a certificate to greet TLS clients with.
    """

    offers_tls: bool
    ids: IdSource
    keys: DialbackKeys
    limits: StreamLimits

    def serves(self, domain: str) -> bool:
        """Say whether a domain is one of ours."""

    def security(self, local: str, remote: str) -> Security:
        """Return the settings for a pair; either may be "" while it is not known."""

    def refusal(self, local: str, remote: str, incoming: bool) -> str:
        """Say why policy refuses a pair; "" when it does not."""


class Retry(Enum):
    """What to do after a stream that did not come up."""

    LATER = "the same later"
    WITHOUT_TLS = "at once, in clear"
    WITHOUT_SASL = "at once, by dialback"
    NEVER = "nothing: it would end the same way"


# ------------------------------------------------------------------------------------------ events


@dataclass(frozen=True, slots=True)
class BeginTls:
    """The output is to be written, then TLS to begin, then ``secured`` to be called.

    :ivar name: our domain concerned, "" if not known.
    """

    name: str


@dataclass(frozen=True, slots=True)
class PairProven:
    """Stanzas of a pair may pass.

    :ivar receiving: whether stanzas from ``remote`` may come.
    :ivar sending: whether stanzas to ``remote`` may be sent.
    :ivar method: "SASL EXTERNAL", "certificate" (XEP-0344), "dialback", or what it is implied by.
    """

    local: str
    remote: str
    receiving: bool
    sending: bool
    method: str


@dataclass(frozen=True, slots=True)
class PairRefused:
    """The receiving side does not accept a pair by dialback; the stream goes on."""

    local: str
    remote: str
    condition: str
    words: str


@dataclass(frozen=True, slots=True)
class VerifyWanted:
    """The authoritative server of ``remote`` is to be asked, over another stream.

    :ivar stream_id: id of the stream that the key came on.
    """

    local: str
    remote: str
    stream_id: str
    key: str


@dataclass(frozen=True, slots=True)
class VerifyAnswered:
    """The authoritative server has answered.

    :ivar condition: "" for valid and invalid, else what is wrong.
    """

    local: str
    remote: str
    stream_id: str
    valid: bool
    condition: str


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """The peer has acknowledged stanzas, oldest first."""

    stanzas: list[OutStanza]


@dataclass(frozen=True, slots=True)
class CountWanted:
    """The peer asks what we have taken; the answer waits until that would survive us.

    :ivar count: what is to be answered then, by ``tell_count``.
    """

    count: int


@dataclass(frozen=True, slots=True)
class StreamClosed:
    """The stream is over; the connection is to be closed once the output is written.

    :ivar condition: stream error condition, "" if there was none.
    :ivar words: why, in words.
    :ivar by_us: whether we ended it.
    """

    condition: str
    words: str
    by_us: bool
    retry: Retry = Retry.LATER

    @property
    def reason(self) -> str:
        """Why, in words, with the condition that we have named."""
        return f"{self.words} ({self.condition})" if self.condition and self.by_us else self.words


S2SEvent = (
    Stanza
    | BadStanza
    | BeginTls
    | PairProven
    | PairRefused
    | VerifyWanted
    | VerifyAnswered
    | Acknowledged
    | CountWanted
    | StreamClosed
)


# --------------------------------------------------------------------------------------------- XML


def opening(from_: str, to: str, id: str = "") -> str:
    """Return our opening tag (RFC 6120 section 4.7)."""
    head = f"<?xml version='1.0'?><stream:stream xmlns='{NS_SERVER}' xmlns:stream='{NS_STREAMS}'"
    head += f" xmlns:db='{NS_DIALBACK}'"
    for name, value in (("id", id), ("from", from_), ("to", to)):
        if value:
            head += f" {name}='{xml_attr(value)}'"
    return f"{head} version='1.0' xml:lang='en'>"


def stream_error(condition: str, text: str) -> str:
    """Return a stream error and the closing tag."""
    words = f"<text xmlns='{NS_STREAM_ERRORS}' xml:lang='en'>{xml_text(text)}</text>"
    error = f"<stream:error><{condition} xmlns='{NS_STREAM_ERRORS}'/>{words if text else ''}"
    return f"{error}</stream:error>{CLOSE}"


def sasl_failure(condition: str, text: str = "") -> str:
    """Return a SASL failure (RFC 6120 section 6.4.5)."""
    words = f"<text xml:lang='en'>{xml_text(text)}</text>" if text else ""
    return f"<failure xmlns='{NS_SASL}'><{condition}/>{words}</failure>"
