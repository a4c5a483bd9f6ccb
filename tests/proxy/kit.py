"""A proxy to drive by hand: requests in, and what it wants done by kind."""

from __future__ import annotations

from typing import Any

from impfed.core.errors import RemoteError
from impfed.proxy.core import Proxy
from impfed.proxy.values import Branch, Context, Effect, Leg, Locate, Question, Start, Target
from impfed.sip.message import SipRequest, SipResponse, parse_message, response_bytes
from impfed.sip.uri import SipUri
from impfed.testing.fakes import counting_ids

OWN = "proxy.example"


def ours(uri: SipUri) -> bool:
    """Say whether a URI is the proxy's."""
    return uri.host == OWN or (uri.host, uri.port) == ("127.0.0.1", 5080)


def message(text: str, body: bytes = b"") -> SipRequest:
    """Return a request from lines that end as Python ends them."""
    lines = text.strip("\n").replace("\n", "\r\n") + "\r\n\r\n"
    parsed = parse_message(lines.encode("utf-8", "surrogateescape") + body)
    assert isinstance(parsed, SipRequest)
    return parsed


def invite(more: str = "", method: str = "INVITE", uri: str = "sip:bob@b.example") -> SipRequest:
    """Return a request from alice to bob."""
    return message(
        f"{method} {uri} SIP/2.0\n"
        "Via: SIP/2.0/TLS a.example:5061;branch=z9hG4bKa1\n"
        f"{more}"
        "Max-Forwards: 70\n"
        "From: <sip:alice@a.example>;tag=1\n"
        "To: <sip:bob@b.example>\n"
        "Call-ID: c1\n"
        f"CSeq: 1 {method}\n"
        "Contact: <sip:alice@a.example>\n"
        "Content-Length: 0"
    )


def target(*hops: str, uri: str = "", group: int = 0, record_route: str = "") -> Target:
    """Return a target with a leg for each hop."""
    routes = (record_route,) if record_route else ()
    legs = tuple(Leg(hop, f"TLS {OWN}:5061", routes) for hop in hops)
    return Target(legs, uri, group)


class Bench:
    """A proxy, and the story so far.

    :ivar permitted: what the permission says: None, or the refusal.
    """

    def __init__(self, **options: Any) -> None:
        self.permitted: RemoteError | None = None
        self.asked: list[Question] = []

        def permit(request: SipRequest, source: Any, question: Question) -> RemoteError | None:
            self.asked.append(question)
            return self.permitted

        self.proxy = Proxy(ours, lambda host, port: host == OWN, permit, counting_ids(), **options)
        self.now = 1000.0
        self.context: Context | None = None
        self.branches: list[Branch] = []
        self.sent: list[tuple[Any, SipRequest]] = []

    def took(self, effects: list[Effect]) -> list[Effect]:
        """Note what was begun; return everything."""
        for effect in effects:
            if isinstance(effect, Locate):
                self.context = effect.context
            elif isinstance(effect, Start):
                self.branches.append(effect.branch)
                parsed = parse_message(effect.data)
                assert isinstance(parsed, SipRequest)
                self.sent.append((effect.hop, parsed))
        return effects

    def request(self, request: SipRequest, received: str = "") -> list[Effect]:
        """Let a request arrive."""
        return self.took(self.proxy.request(request, "server", "source", self.now, received))

    def decide(self, *targets: Target) -> list[Effect]:
        """Say where it goes."""
        assert self.context is not None
        return self.took(self.proxy.decided(self.context, targets, self.now))

    def forward(self, request: SipRequest, *targets: Target) -> list[Effect]:
        """Let a request arrive, and say where it goes."""
        effects = self.request(request)
        assert isinstance(effects[0], Locate), effects
        return self.decide(*(targets or (target("hop"),)))

    def answer(
        self, number: int, status: int, *headers: tuple[str, str], tag: str = "2"
    ) -> list[Effect]:
        """Let a branch be answered."""
        response = parse_message(response_bytes(self.sent[number][1], status, "", tag, headers))
        assert isinstance(response, SipResponse)
        return self.took(self.proxy.response(self.branches[number], response, self.now))

    def fail(self, number: int, status: int = 503) -> list[Effect]:
        """Let a branch get no answer."""
        return self.took(self.proxy.failed(self.branches[number], status, self.now))

    def advance(self, seconds: float) -> list[Effect]:
        """Let time pass."""
        self.now += seconds
        return self.took(self.proxy.handle_timers(self.now))


def said(effects: list[Effect]) -> list[tuple[str, object]]:
    """Return effects as kind and what matters of them."""
    story: list[tuple[str, object]] = []
    for effect in effects:
        detail: object = getattr(effect, "status", None)
        error = getattr(effect, "error", None)
        if error is not None:
            detail = error.status
        elif isinstance(effect, Start):
            detail = effect.hop
        story.append((type(effect).__name__, detail))
    return story
