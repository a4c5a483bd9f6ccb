"""A gateway's presence half on doubles and a clock, with words for what the two sides do."""

from __future__ import annotations

from impfed.gateway.presence import PresenceGateway
from impfed.interwork.availability import Kind
from impfed.interwork.pidf import read_pidf
from impfed.testing.fakes import FakeFlow
from tests.gateway.harness import CONFIG, World

ROUTES = (
    "Record-Route: <sip:sip.lync.example:5061;transport=tls;lr;ms-route-sig=aa>;tag=3F",
    "Record-Route: <sip:pool01.lync.example:5061;transport=tls;lr;ms-route-sig=bb>;ms-rrsig=cc",
)
GRUU = "<sip:romeo@lync.example;opaque=user:epid:abc;gruu>"


def pidf(basic: str, activity: str = "", extra: str = "", entity: str = "romeo@lync.example"):
    """Return a presence document as a Microsoft edge sends it."""
    activities = ""
    if activity:
        activities = f"<ep:activities><ep:activity>{activity}</ep:activity></ep:activities>"
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\r\n'
        '<presence xmlns="urn:ietf:params:xml:ns:pidf"'
        ' xmlns:ep="urn:ietf:params:xml:ns:pidf:status:rpid-status"'
        f' xmlns:ci="urn:ietf:params:xml:ns:pidf:cipid" entity="sip:{entity}">\r\n'
        f'<tuple id="0"><status><basic>{basic}</basic>{activities}</status></tuple>\r\n'
        f"{extra}</presence>"
    )


class PresenceWorld(World):
    """Romeo at lync.example, benvolio at simple.example, alice at home.example."""

    def __init__(self, config=CONFIG, store=None, at: float = 0.0) -> None:
        super().__init__(config, store)
        if at > self.clock.seconds():
            self.clock.advance(at - self.clock.seconds())

    def make_presence(self):
        return PresenceGateway(self.around)

    def crash(self) -> PresenceWorld:
        """The process is killed; another one starts on the same store, a minute later."""
        self.dead = True
        fresh = PresenceWorld(self.config, self.store, at=self.clock.seconds() + 60)
        loaded = []
        fresh.presence.load(self.store).addCallback(loaded.append)
        assert loaded, "the store did not answer"
        fresh.presence.resume()
        return fresh

    def link_comes_up(self) -> None:
        """The home server is connected."""
        self.home.up = True
        self.presence.link_up(frozenset({"home.example"}))

    # -- they watch us -----------------------------------------------------------------------------

    def subscribes(
        self,
        *,
        call_id="s1",
        cseq=1,
        tag="",
        expires: int | None = 28800,
        event="presence",
        extra="",
        who="romeo@lync.example",
        to="alice@home.example",
        accept="application/msrtc-event-categories+xml, application/pidf+xml",
        flow=None,
    ):
        """A SUBSCRIBE arrives; returns our answer."""
        tag_text = f";tag={tag}" if tag else ""
        target = "sip:alice@fed.home.example:5061;transport=tls" if tag else f"sip:{to}"
        lines = [
            f"SUBSCRIBE {target} SIP/2.0",
            f"Via: SIP/2.0/TLS 192.0.2.10:5061;branch=z9hG4bK{call_id}{cseq}",
            *(() if tag else ROUTES),
            "Max-Forwards: 67",
            f'From: "Romeo Montague"<sip:{who}>;tag=w1;epid=e1',
            f"To: <sip:{to}>{tag_text}",
            f"Call-ID: {call_id}",
            f"CSeq: {cseq} SUBSCRIBE",
            f"Contact: <sip:{who};opaque=user:epid:abc;gruu>",
            "Supported: ms-piggyback-first-notify",
        ]
        if event:
            lines.append(f"Event: {event}")
        if accept:
            lines.append(f"Accept: {accept}")
        if expires is not None:
            lines.append(f"Expires: {expires}")
        if extra:
            lines += extra.splitlines()
        self.far_sends("\n".join(lines), flow=flow)
        return self.stack.last_answer().message if self.stack.answers else None

    def notify(self):
        """Take the NOTIFY that was sent, answer it with 200, and return it."""
        sent = self.stack.take("NOTIFY")
        sent.answer(200, to_tag="w1")
        return sent.message

    def alice_says(self, type: str, to="romeo@lync.example") -> None:
        """Alice's server passes on a subscription stanza."""
        self.home_sends(f"<presence from='alice@home.example' to='{to}' type='{type}'/>")

    def alice_is(
        self, show="", status="", *, type="", resource="phone", priority=0, to="romeo@lync.example"
    ):
        """Alice's server passes on her presence."""
        kind = f" type='{type}'" if type else ""
        sender = f"alice@home.example/{resource}" if resource else "alice@home.example"
        children = f"<show>{show}</show>" if show else ""
        children += f"<status>{status}</status>" if status else ""
        children += f"<priority>{priority}</priority>" if priority else ""
        self.home_sends(f"<presence from='{sender}' to='{to}'{kind}>{children}</presence>")

    def settle(self) -> None:
        """What the home server has to say in answer to a probe is said."""
        self.clock.advance(0.1)

    def alice_approves(self, show="", status="") -> None:
        """Alice lets romeo see her, and her server tells how she is."""
        self.alice_says("subscribed")
        self.alice_is(show, status)
        self.settle()

    # -- we watch them -----------------------------------------------------------------------------

    def notifies(
        self,
        subscribe,
        state: str,
        body: str = "",
        *,
        cseq=1,
        method="NOTIFY",
        media="application/pidf+xml",
        tag="n1",
    ):
        """A NOTIFY of romeo's arrives for a SUBSCRIBE of ours."""
        message = subscribe.message
        lines = [
            f"{method} sip:alice@fed.home.example:5061;transport=tls SIP/2.0",
            f"Via: SIP/2.0/TLS 192.0.2.10:5061;branch=z9hG4bK{message.call_id}n{cseq}",
            "Max-Forwards: 69",
            f"From: {message.to.text.partition(';tag')[0]};tag={tag}",
            f"To: {message.from_.text}",
            f"Call-ID: {message.call_id}",
            f"CSeq: {cseq} {method}",
            f"Contact: {GRUU}",
            "Event: presence",
            f"subscription-state: {state}",
        ]
        if body:
            lines.append(f"Content-Type: {media}")
        foreign = message.to.uri.host
        flow = FakeFlow((f"sip.{foreign}", foreign))
        return self.far_sends("\n".join(lines), body, flow=flow)

    def stanzas(self):
        """Return and forget what was sent to the home server, as elements."""
        from xml.etree import ElementTree

        sent, self.home.sent = self.home.sent, []
        return [ElementTree.fromstring(each.xml) for each in sent]

    def watching(self, to="romeo@lync.example", body=None):
        """Alice subscribes and is allowed to see romeo; returns our SUBSCRIBE."""
        self.alice_says("subscribe", to=to)
        sent = self.stack.take("SUBSCRIBE")
        sent.answer(200, headers=[("Expires", "7200"), ("Contact", GRUU)], to_tag="n1")
        self.notifies(sent, "active;expires=7200", pidf("open") if body is None else body)
        self.stanzas()
        return sent


def state_of(notify, kind="microsoft"):
    """Return (available, show, status) of a NOTIFY's document, None without one."""
    if not notify.body:
        return None
    found = read_pidf(notify.body).availability(Kind.load(kind))
    return (found.available, found.show, found.status)
