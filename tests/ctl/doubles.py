"""A node's view with things to show, and messages to trace."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from twisted.internet.defer import Deferred, fail, succeed
from zope.interface import implementer

from impfed.core.trace import TraceLine, Tracer
from impfed.ctl.api import ControlError, INodeView, Whereabouts
from impfed.store.records import LedgerEntry

INVITE = (
    "INVITE sip:carol@company.example SIP/2.0\r\n"
    "Via: SIP/2.0/TLS 192.0.2.7:5061;branch=z9hG4bKx\r\n"
    'From: "Bob" <sip:bob@lync.example>;tag=a1;epid=01\r\n'
    "To: <sip:Carol@Company.example>\r\n"
    "Call-ID: call-1\r\n"
    "CSeq: 1 INVITE\r\n"
    "Proxy-Authorization: Digest response=tops3cret,\r\n nonce=tops3cret\r\n"
    "Content-Type: application/sdp\r\n\r\nv=0\r\nm=message 5060 sip null\r\n"
)
ANSWER = (
    "SIP/2.0 200 OK\r\nFrom: <sip:bob@lync.example>;tag=a1\r\nTo: <sip:carol@company.example>;tag=b\r\n"
    "Call-ID: call-1\r\nCSeq: 1 INVITE\r\n\r\n"
)
STANZA = (
    "<message from='bob@lync.example/x' to='carol@company.example' type='chat' id='s1'>"
    "<body>hello Carol</body></message>"
)
OTHER = "<message from='dave@lync.example' to='eve@company.example'><body>other</body></message>"


def entry(**fields: Any) -> LedgerEntry:
    """Return a ledger entry of a delivered text from bob to carol."""
    values: dict[str, Any] = {
        "id": "m1",
        "direction": "in",
        "local": "carol@company.example",
        "foreign": "bob@lync.example",
        "stanza_id": "s1",
        "call_id": "call-1",
        "cseq": 2,
        "node": "node1",
        "received_at": 1700000000.0,
        "finished_at": 1700000000.25,
        "outcome": "delivered",
        "sip_status": 200,
    }
    return LedgerEntry(**{**values, **fields})


class AnnouncingTracer(Tracer):
    """Says when somebody begins to watch."""

    def __init__(self) -> None:
        super().__init__()
        self.watched: Deferred[None] = Deferred()

    def watch(self, watcher: Callable[[TraceLine], None]) -> Callable[[], None]:
        """Add a watcher."""
        stop = super().watch(watcher)
        if not self.watched.called:
            self.watched.callback(None)
        return stop


@implementer(INodeView)
class FakeNode:
    """Shows what it was told to show."""

    def __init__(self) -> None:
        self.tracer = AnnouncingTracer()
        self.answer: dict[str, Any] = {
            "node": "node1",
            "since": 1700000000.0,
            "home_links": [{"link": "prosody", "state": "up", "reason": ""}],
            "certificates": [],
            "store_backlog": 0,
            "metrics": {"sip.malformed": 3.0, "sip.never": 0.0},
        }
        self.session_list: list[dict[str, Any]] = [
            {"local": "carol@company.example", "foreign": "bob@lync.example", "dialogs": ["call-1"]}
        ]
        self.subscription_list: list[dict[str, Any]] = []
        self.found: list[Any] = [entry()]
        self.silent: tuple[str, ...] = ()
        self.asked: list[str] = []
        self.broken = False
        self.refusal = ""
        self.answers: dict[str, list[dict[str, Any]]] = {
            "explain": [
                {"about": "both", "step": "node policy", "result": "passed", "why": "known",
                 "passes": True},
                {"about": "message", "step": "outcome", "result": "delivered", "why": "",
                 "passes": True},
                {"about": "subscription", "step": "outcome", "result": "refused with 403",
                 "why": "nobody is asked", "passes": False},
            ],
            "policy": [
                {"subject": "lync.example", "decision": "block", "by": "list", "changed_at": 0.0}
            ],
            "user": [
                {"user": "carol@company.example", "now": "", "watchers": 2, "contacts": 1,
                 "sessions": 0, "authorizations": 3, "policies": 4, "ledger": 5}
            ],
            "limits": [],
        }  # fmt: skip

    def status(self) -> dict[str, Any]:
        """Return the status."""
        return self.answer

    def sessions(self) -> list[dict[str, Any]]:
        """Return the sessions."""
        return self.session_list

    def subscriptions(self) -> list[dict[str, Any]]:
        """Return the subscriptions."""
        return self.subscription_list

    def where(self, text: str) -> Deferred[Whereabouts]:
        """Return what is to be found under an address in lower case, or under m1."""
        self.asked.append(text)
        if self.broken:
            return fail(RuntimeError("the store is gone"))
        known = text in ("m1", "carol@company.example")
        return succeed(Whereabouts(self.found if known else [], self.silent))

    def route(self, address: str, sender: str = "") -> Deferred[dict[str, Any]]:
        """Return a route with two hops, the first of them out of reach."""
        self.asked += [each for each in (address, sender) if each]
        hops = [
            {"hop": f"tls:sip{n}.lync.example:5061", "tls_name": f"sip{n}.lync.example",
             "certificate": "company", "priority": n, "weight": 1, "from": "static route",
             "state": state, "reason": reason}
            for n, state, reason in ((1, "resting", "connection refused"), (2, "open", ""))
        ]  # fmt: skip
        chain = [
            {"route": "local", "order": 0, "answer": "not mine", "decides": False},
            {"route": "static", "order": 100, "answer": "two hops", "decides": True},
        ]
        nowhere = address == "x@nowhere.example"
        return succeed(
            {
                "address": address,
                "chain": chain[: 1 if nowhere else 2],
                "hops": [] if nowhere else hops,
                "status": 404 if nowhere else 0,
                "used": "" if nowhere else hops[1]["hop"],
                "why": "no route leads there" if nowhere else "the 1 before it cannot be reached",
            }
        )

    def learned(self) -> list[dict[str, Any]]:
        """Return one learned domain."""
        return [
            {"domain": "new.example", "protocol": "sip", "learned_at": 1700000000.0, "proven": True}
        ]

    def forget_domain(self, domain: str) -> bool:
        """Forget it."""
        return domain == "new.example"

    def perform(self, command: str, arguments: Sequence[str]) -> Any:
        """Return what was asked; refuse, or break, where the test wants it."""
        self.asked.append(" ".join([command, *arguments]))
        if self.broken:
            return fail(RuntimeError("the store is gone"))
        if self.refusal:
            raise ControlError(self.refusal)
        return succeed(self.answers[command])

    def pass_by(self, protocol: str, inbound: bool, text: str, when: float = 1700000000.5) -> None:
        """Have a message pass the tracer."""
        self.tracer.record(when, protocol, inbound, "peer", text.encode("utf-8"))
