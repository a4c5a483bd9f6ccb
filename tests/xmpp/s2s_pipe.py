"""Two stream machines tied together, without any IO."""

from __future__ import annotations

from impfed.core.ids import IdSource
from impfed.xmpp.dialback import DialbackKeys
from impfed.xmpp.s2s_in import IncomingStream
from impfed.xmpp.s2s_in import State as In
from impfed.xmpp.s2s_out import OutgoingStream
from impfed.xmpp.s2s_out import State as Out
from impfed.xmpp.s2s_parts import (
    PairProven,
    Retry,
    S2SEvent,
    StreamClosed,
    StreamLimits,
    VerifyWanted,
)
from impfed.xmpp.s2s_security import Security

LIMITS = StreamLimits()


class Shown:
    """A certificate that proves one domain, or none."""

    def __init__(self, domain: str, trouble: str = "for another name") -> None:
        self._domain = domain
        self._trouble = trouble

    def problem(self, domain: str) -> str:
        return "" if domain == self._domain else f"the certificate is {self._trouble}"


class World:
    """What streams ask their node."""

    def __init__(
        self,
        *domains: str,
        security: Security | None = None,
        secret: str = "s",
        limits: StreamLimits = LIMITS,
    ) -> None:
        count = iter(range(1, 1 << 30))
        self.ids = IdSource(lambda octets: next(count).to_bytes(octets, "big"))
        self.keys = DialbackKeys(secret)
        self.limits = limits
        self.settings = security or Security()
        self.domains = domains
        self.refused: dict[str, str] = {}
        self.offers_tls = True

    def serves(self, domain: str) -> bool:
        return domain in self.domains

    def security(self, local: str, remote: str) -> Security:
        return self.settings

    def refusal(self, local: str, remote: str, incoming: bool) -> str:
        return self.refused.get(remote, "")


class Pipe:
    """``a.example`` connects to ``b.example``.

    :ivar cut: octets that arrive at once; 0 for everything.
    :ivar log: what was written, with "> " and "< " before it.
    """

    def __init__(
        self,
        initiator: Security,
        receiver: Security,
        initiator_certificate: Shown | None = None,
        receiver_certificate: Shown | None = None,
        limits: StreamLimits = LIMITS,
    ) -> None:
        self.a = World("a.example", "a2.example", security=initiator, secret="a", limits=limits)
        self.b = World("b.example", "b2.example", security=receiver, secret="b", limits=limits)
        self.certificates = (
            initiator_certificate or Shown("a.example"),
            receiver_certificate or Shown("b.example"),
        )
        self.external = True
        self.cut = 0
        self.tls = False
        self.log: list[str] = []
        self.out_events: list[S2SEvent] = []
        self.in_events: list[S2SEvent] = []
        self.now = 100.0
        self._start(Retry.LATER)

    def _start(self, retry: Retry) -> None:
        self.tls = False
        self.out = OutgoingStream(
            self.a,
            "a.example",
            "b.example",
            in_clear=retry is Retry.WITHOUT_TLS,
            without_sasl=retry is Retry.WITHOUT_SASL,
            external=self.external,
        )
        self.in_ = IncomingStream(self.b)

    @property
    def up(self) -> bool:
        return self.out.state is Out.OPEN and self.in_.state is In.PROVEN

    @property
    def method(self) -> str:
        proven = [event for event in self.in_events if isinstance(event, PairProven)]
        return proven[-1].method if proven and self.up else ""

    def run(self, tls_fails: bool = False) -> None:
        """Negotiate, with further attempts where an attempt ends in one."""
        for _ in range(4):
            self.out_events += self.out.connected(self.now)
            self.in_events += self.in_.connected(self.now)
            self.exchange(tls_fails)
            closed = [event for event in self.out_events if isinstance(event, StreamClosed)]
            again = closed[-1].retry if closed and not self.up else Retry.LATER
            if again not in (Retry.WITHOUT_TLS, Retry.WITHOUT_SASL):
                return
            self._start(again)

    def exchange(self, tls_fails: bool = False) -> None:
        """Carry octets until nothing more comes."""
        for _ in range(50):
            ahead = self.out.output()
            self.log.append("> " + ahead.decode())
            self._in(ahead)
            back = self.in_.output()
            self.log.append("< " + back.decode())
            for piece in self._pieces(back):
                self.out_events += self.out.receive(piece, self.now)
            if self.out.state is Out.SECURING:
                self._secure(tls_fails)
            elif not ahead and not back:
                return

    def _in(self, data: bytes) -> None:
        for piece in self._pieces(data):
            self._take(self.in_.receive(piece, self.now))

    def _take(self, events: list[S2SEvent]) -> None:
        self.in_events += events
        for event in events:
            if isinstance(event, VerifyWanted):
                # The authoritative server of a.example is a itself.
                valid = self.a.keys.right(event.local, event.remote, event.stream_id, event.key)
                self._take(self.in_.verdict(event.local, event.remote, valid, "", self.now))

    def _secure(self, fails: bool) -> None:
        if fails:
            self.out_events += self.out.connection_lost("no certificate there", self.now)
            self.in_events += self.in_.connection_lost("TLS failed", self.now)
            return
        self.tls = True
        ours, theirs = self.certificates
        self.out_events += self.out.tls_done(theirs, self.now)
        self.in_events += self.in_.tls_done(ours, self.now)

    def _pieces(self, data: bytes) -> list[bytes]:
        step = self.cut or len(data) or 1
        return [data[start : start + step] for start in range(0, len(data), step)]
