"""Texts from a foreign user to a local one (SPEC section 3)."""

from __future__ import annotations

import base64

from twisted.trial.unittest import SynchronousTestCase

from impfed.core.errors import RemoteError
from impfed.routing.api import Existence, Reject
from impfed.routing.neighbours import Neighbours
from impfed.store.api import StoreError, StoreFault
from impfed.store.records import HeldTextRecord
from impfed.testing.fakes import FakeFlow
from tests.gateway.harness import World
from tests.gateway.test_sights import NODE2


def embedded(text: str) -> str:
    return (
        "ms-text-format: text/plain; charset=UTF-8; ms-body="
        + base64.b64encode(text.encode()).decode()
    )


class InwardTests(SynchronousTestCase):
    """A far side opens a session and writes; the home server decides what it is told."""

    def setUp(self) -> None:
        self.world = World()

    def statuses(self):
        return [answer.status for answer in self.world.stack.answers]

    def test_session_and_text(self) -> None:
        """INVITE, 200, ACK, MESSAGE: the text reaches the home server, and only then the 200 goes."""
        world = self.world
        tag = world.romeo_opens()
        answer = world.stack.last_answer().message
        self.assertEqual(answer.status, 200)
        self.assertIn(b"a=accept-types:text/plain", answer.body)
        self.assertIsNone(answer.get("supported"))
        self.assertEqual(
            answer.get("record-route"),
            "<sip:sip.lync.example:5061;transport=tls;lr;ms-route-sig=aa>;tag=3F",
        )
        world.romeo_writes(tag, "But soft!")
        self.assertEqual(self.statuses(), [200])
        stanza = world.home.accept()
        self.assertIn("<body>But soft!</body>", stanza.xml)
        self.assertEqual(
            (str(stanza.to), str(stanza.from_)), ("alice@home.example", "romeo@lync.example")
        )
        self.assertIn(">Romeo</nick>", stanza.xml)
        self.assertEqual(self.statuses(), [200, 200])
        (entry,) = world.ledger()
        self.assertEqual(
            (entry.direction, entry.outcome, entry.sip_status), ("in", "delivered", 200)
        )

    def test_refused_by_the_home_server(self) -> None:
        """A stanza error becomes the mapped answer, and the ledger keeps both."""
        world = self.world
        world.romeo_writes(world.romeo_opens(), "Hello?")
        world.home.refuse("service-unavailable", "not here")
        self.assertEqual(self.statuses()[-1], 480)
        (entry,) = world.ledger()
        self.assertEqual((entry.outcome, entry.xmpp_condition), ("bounced", "service-unavailable"))

    def test_no_decision(self) -> None:
        """When the home link goes down before it has decided, the answer is 480 and we are unsure."""
        world = self.world
        world.romeo_writes(world.romeo_opens(), "Hello?")
        world.home.lose()
        self.assertEqual(self.statuses()[-1], 480)
        self.assertIsNotNone(world.stack.last_answer().message.get("retry-after"))
        self.assertEqual(world.ledger()[0].outcome, "unsure")

    def test_error_after_acceptance(self) -> None:
        """An error that comes after our 200 is told to the sender in plain words."""
        world = self.world
        world.romeo_writes(world.romeo_opens(), "Hello?")
        id = world.home.accept().id
        world.home_sends(
            "<message type='error' from='alice@home.example' to='romeo@lync.example'"
            f" id='{id}'><error type='wait'><resource-constraint"
            " xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error></message>"
        )
        notice = world.stack.take("MESSAGE")
        self.assertIn("could not be delivered: resource constraint", notice.body)
        notice.answer(200)
        self.assertEqual(len(world.ledger()), 1)

    def test_unknown_user(self) -> None:
        """A user whom the directory knows not to exist gets 404, and no session begins."""
        self.world.existing["alice@home.example"] = Existence.ABSENT
        self.world.romeo_invites()
        self.assertEqual(self.statuses(), [404])
        self.assertEqual(self.world.im.view(), [])

    def test_unsupported_types_keep_the_session(self) -> None:
        """A type that we do not read gets 415 with Accept, and the session goes on."""
        world = self.world
        tag = world.romeo_opens()
        world.romeo_writes(tag, "{\\rtf1}", media="text/rtf")
        answer = world.stack.last_answer().message
        self.assertEqual(answer.status, 415)
        self.assertIn("text/plain", answer.get("accept"))
        world.romeo_writes(tag, "plain then", 3)
        self.assertIn("plain then", world.home.accept().xml)

    def test_html_keeps_its_meaning(self) -> None:
        """HTML arrives as clean plain text and as XHTML-IM."""
        world = self.world
        world.romeo_writes(world.romeo_opens(), "<B>a</B><BR>b &lt;3", media="text/html")
        xml = world.home.accept().xml
        self.assertIn("<body>a\nb &lt;3</body>", xml)
        self.assertIn("http://jabber.org/protocol/xhtml-im", xml)

    def test_sequence_number_going_back(self) -> None:
        """A request whose CSeq is lower than the last one's gets 500 (RFC 3261 section 12.2.2)."""
        world = self.world
        tag = world.romeo_opens()
        world.romeo_writes(tag, "one", 7)
        world.home.accept()
        world.romeo_writes(tag, "old", 5)
        self.assertEqual(self.statuses()[-1], 500)
        self.assertEqual(world.home.deliveries, [])

    def test_merged_request(self) -> None:
        """A copy of a request that is being answered, which came another way, gets 482."""
        world = self.world
        transaction = world.romeo_invites_only()
        transaction.merged = True
        world.gateway.request_arrived(transaction, transaction.request, world.flow)
        self.assertEqual(self.statuses()[-1], 482)

    def test_unknown_dialog(self) -> None:
        """A MESSAGE of a dialog that nobody knows gets 481."""
        self.world.romeo_writes("nosuchtag", "Hello?")
        self.assertEqual(self.statuses(), [481])

    def test_other_node_refused(self) -> None:
        """What must not be passed on to the node that has its dialog is refused, not left unanswered."""

        def refused(*_: object) -> bool:
            raise RemoteError(403, "Forbidden")

        self.world.gateway.search = lambda request, sender, done: done(481, "node2")
        self.world.gateway.pass_on = refused
        self.world.romeo_writes("nosuchtag", "Hello?")
        self.assertEqual(self.statuses(), [403])

    def test_goodbye(self) -> None:
        """BYE ends the session; a later MESSAGE in it gets 481."""
        world = self.world
        tag = world.romeo_opens()
        world.far_dialog("BYE", 2, tag)
        world.romeo_writes(tag, "one more", 3)
        self.assertEqual(self.statuses(), [200, 200, 481])
        self.assertEqual(world.home.sent, [])

    def test_goodbye_to_a_client_with_chat_states(self) -> None:
        """BYE is shown as "gone" only to a client that uses chat states."""
        world = self.world
        tag = world.romeo_opens()
        world.home_sends(
            "<message from='alice@home.example/phone' to='romeo@lync.example' type='chat'>"
            "<active xmlns='http://jabber.org/protocol/chatstates'/></message>"
        )
        world.far_dialog("BYE", 2, tag)
        self.assertIn("<gone ", world.home.sent[-1].xml)

    def test_busy_home_link(self) -> None:
        """A home link with enough to do answers new sessions and texts with 480 and Retry-After."""
        world = self.world
        tag = world.romeo_opens()
        world.home.busy = True
        world.romeo_writes(tag, "Hello?")
        self.assertEqual(self.statuses()[-1], 480)
        self.assertIsNotNone(world.stack.last_answer().message.get("retry-after"))
        world.romeo_invites(call_id="c2")
        self.assertEqual(self.statuses()[-1], 480)

    def test_never_acknowledged(self) -> None:
        """A 200 that is never acknowledged ends in a BYE."""
        world = self.world
        world.romeo_invites()
        world.gateway.no_ack(world.stack.last_answer().transaction)
        world.stack.take("BYE").answer(481)
        self.assertEqual(len(world.dialogs), 0)

    def test_cancelled_in_time(self) -> None:
        """An INVITE that is withdrawn while the directory is asked gets 487, and nothing more."""
        world = self.world
        asked = []
        world.directory = lambda address, done: asked.append(done)
        transaction = world.romeo_invites_only()
        self.assertEqual(world.stack.answers, [])
        world.gateway.cancel_arrived(transaction, transaction.request)
        asked[0](Existence.EXISTS)
        self.assertEqual(self.statuses(), [487])


class TypingTests(SynchronousTestCase):
    """Typing of the foreign user is shown, and forgotten by itself."""

    def setUp(self) -> None:
        self.world = World()
        self.tag = self.world.romeo_opens()

    def types(self, status: str, cseq: int) -> None:
        body = f'<KeyboardActivity><status status="{status}" /></KeyboardActivity>'
        self.world.far_dialog("INFO", cseq, self.tag, body, "application/xml")

    def states(self):
        return [stanza.xml.split("><")[1].split(" ")[0] for stanza in self.world.home.sent]

    def test_typing(self) -> None:
        """The first notice shows composing, repeats show nothing new, idle shows active."""
        self.types("type", 2)
        self.world.clock.advance(5)
        self.types("type", 3)
        self.types("idle", 4)
        self.assertEqual(self.states(), ["composing", "active"])

    def test_forgotten(self) -> None:
        """Without a repetition the typing is over after ten seconds."""
        self.types("type", 2)
        self.world.clock.advance(10)
        self.assertEqual(self.states(), ["composing", "paused"])

    def test_unreadable_notice(self) -> None:
        """An INFO that cannot be read is answered with 200 all the same."""
        self.world.far_dialog("INFO", 2, self.tag, "<broken", "application/xml")
        self.assertEqual(self.world.stack.last_answer().status, 200)


class EmbeddedTextTests(SynchronousTestCase):
    """The first text may ride in the INVITE; it is shown once, whatever happens."""

    def setUp(self) -> None:
        self.world = World()
        self.text = "But soft, what light"

    def shown(self):
        return [stanza for stanza, _ in self.world.home.deliveries]

    def held(self):
        found = []
        self.world.store.load(HeldTextRecord).addCallback(found.extend)
        return found

    def test_repeated_as_message(self) -> None:
        """The MESSAGE that repeats it is delivered, the embedded copy forgotten."""
        world = self.world
        tag = world.romeo_opens(extra=embedded(self.text + "\r\n"))
        self.assertEqual(len(self.held()), 1)
        world.romeo_writes(tag, self.text)
        world.clock.advance(20)
        self.assertEqual(len(self.shown()), 1)
        self.assertEqual(self.held(), [])

    def test_never_repeated(self) -> None:
        """Ten seconds after the ACK without a MESSAGE it is delivered, with a delay stamp."""
        world = self.world
        world.romeo_opens(extra=embedded(self.text))
        world.clock.advance(9.9)
        self.assertEqual(self.shown(), [])
        world.clock.advance(0.2)
        self.assertIn(self.text, world.home.accept().xml)
        self.assertEqual(self.held(), [])
        self.assertEqual(world.ledger()[0].outcome, "delivered")

    def test_repeated_too_late(self) -> None:
        """A repetition after it was shown is answered with 200 and not shown again."""
        world = self.world
        tag = world.romeo_opens(extra=embedded(self.text))
        world.clock.advance(11)
        world.home.accept()
        world.romeo_writes(tag, self.text)
        self.assertEqual(world.stack.last_answer().status, 200)
        self.assertEqual(self.shown(), [])

    def test_another_text_comes_first(self) -> None:
        """A MESSAGE with another text lets the embedded one go before it."""
        world = self.world
        tag = world.romeo_opens(extra=embedded(self.text))
        world.romeo_writes(tag, "something else")
        self.assertIn(self.text, world.home.accept().xml)
        self.assertIn("something else", world.home.accept().xml)

    def test_session_ends_first(self) -> None:
        """When the session ends before a MESSAGE came, the embedded text is delivered at once."""
        world = self.world
        tag = world.romeo_opens(extra=embedded(self.text))
        world.far_dialog("BYE", 2, tag)
        self.assertIn(self.text, world.home.accept().xml)

    def test_survives_the_process(self) -> None:
        """A text held by a process that died is delivered by the next one."""
        self.world.romeo_opens(extra=embedded(self.text))
        heir = World(store=self.world.store)
        heir.im.restore([], self.held())
        heir.clock.advance(10)
        self.assertIn(self.text, heir.home.accept().xml)

    def test_link_down_when_due(self) -> None:
        """It waits for the home link, and goes when one is up."""
        world = self.world
        world.romeo_opens(extra=embedded(self.text))
        world.home.up = False
        world.clock.advance(11)
        self.assertEqual(len(self.held()), 1)
        world.home.up = True
        world.clock.advance(5)
        world.home.accept()
        self.assertEqual(self.held(), [])

    def test_nothing_is_accepted_that_cannot_be_kept(self) -> None:
        """While the store refuses, the INVITE gets 480."""
        self.world.store.failing = StoreError(StoreFault.FULL, "disk full")
        self.world.romeo_invites(extra=embedded(self.text))
        self.assertEqual(self.world.stack.last_answer().status, 480)


class InvitationTests(SynchronousTestCase):
    """What is no plain IM session is refused in words, with no half-open session left."""

    def setUp(self) -> None:
        self.world = World()

    def refused(self, status: int, **invitation):
        self.world.romeo_invites(**invitation)
        answer = self.world.stack.last_answer().message
        self.assertEqual(answer.status, status)
        self.assertEqual(len(self.world.dialogs), 0)
        return answer

    def test_audio(self) -> None:
        """An audio offer gets 488 with Warning 304."""
        sdp = "v=0\r\no=- 0 0 IN IP4 1.2.3.4\r\ns=-\r\nt=0 0\r\nm=audio 5000 RTP/AVP 0\r\n"
        self.assertIn("304", self.refused(488, sdp=sdp).get("warning"))

    def test_conference(self) -> None:
        """A conference, in each of its shapes, gets 488 and is told why."""
        for number, extra in enumerate(
            (
                "EndPoints: <sip:a@lync.example>, <sip:alice@home.example>, <sip:c@lync.example>",
                "Join: 1@x;from-tag=a;to-tag=b",
                "Referred-By: <sip:romeo@lync.example;gruu;opaque=app:conf:focus:id:1>",
            )
        ):
            answer = self.refused(488, extra=extra, call_id=f"conf{number}")
            self.assertIn("Group chat", answer.get("warning"))

    def test_required_extension(self) -> None:
        """A required extension that we lack gets 420 naming it."""
        answer = self.refused(420, extra="Require: com.microsoft.rtc-multiparty")
        self.assertEqual(answer.get("unsupported"), "com.microsoft.rtc-multiparty")

    def test_two_people_in_endpoints(self) -> None:
        """EndPoints with two entries is an ordinary session."""
        self.world.romeo_invites(
            extra="EndPoints: <sip:romeo@lync.example>, <sip:alice@home.example>"
        )
        self.assertEqual(self.world.stack.last_answer().status, 200)

    def test_no_offer(self) -> None:
        """An INVITE without a description leaves the offer to us."""
        self.world.romeo_invites(sdp="")
        answer = self.world.stack.last_answer().message
        self.assertEqual(answer.status, 200)
        self.assertIn(b"m=message", answer.body)


class Handing(World):
    """A node that gets what belongs to it from another node, too."""

    neighbours = Neighbours((NODE2,))


class HandedOverTests(SynchronousTestCase):
    """An INVITE that came to the wrong node of a cluster."""

    def setUp(self) -> None:
        self.world = Handing()
        self.other = FakeFlow((NODE2.tls_name, "lync.example"))

    def destination(self) -> object:
        """Return where alice's text goes, which is accepted."""
        self.world.alice_writes("hello")
        sent = self.world.stack.take("MESSAGE")
        sent.accept()
        return sent.transaction.destination

    def test_straight(self) -> None:
        """What we send in its session goes straight to the partner, not through the other node."""
        self.world.romeo_opens(flow=self.other)
        destination = self.destination()
        self.assertEqual(getattr(destination, "host", ""), "sip.lync.example")

    def test_way_not_known_yet(self) -> None:
        """A text waits until the way to the partner has been found."""
        resolve, asked = self.world.resolve, []
        self.world.resolve = lambda query, done: asked.append((query, done))
        self.world.romeo_opens(flow=self.other)
        self.world.alice_writes("hello")
        self.assertEqual(self.world.stack.sent, [])
        for query, done in asked:
            resolve(query, done)
        self.assertEqual(self.world.stack.take("MESSAGE").body, "hello")

    def test_no_way(self) -> None:
        """Where the routes say nothing it goes back the way that the INVITE came."""
        self.world.resolve = lambda query, done: done(Reject(404, "nowhere"))
        self.world.romeo_opens(flow=self.other)
        self.assertIs(self.destination(), self.other)


class PageModeTests(SynchronousTestCase):
    """MESSAGE outside any dialog is for SIMPLE domains."""

    def page(self, domain: str):
        world = World()
        world.flow.peer = type(world.flow.peer)(frozenset({domain}), True, "")
        world.far_sends(
            f"""MESSAGE sip:alice@home.example SIP/2.0
            Via: SIP/2.0/TLS 192.0.2.10:5061;branch=z9hG4bKpage
            Max-Forwards: 70
            From: <sip:bob@{domain}>;tag=b1
            To: <sip:alice@home.example>
            Call-ID: page1
            CSeq: 1 MESSAGE
            Content-Type: text/plain""",
            "Hi",
        )
        return world

    def test_simple(self) -> None:
        """From a SIMPLE domain it is delivered and answered."""
        world = self.page("simple.example")
        self.assertIn("<body>Hi</body>", world.home.accept().xml)
        self.assertEqual(world.stack.last_answer().status, 200)

    def test_microsoft(self) -> None:
        """A Microsoft domain only knows sessions: 405 with Allow."""
        answer = self.page("lync.example").stack.last_answer().message
        self.assertEqual(answer.status, 405)
        self.assertIn("INVITE", answer.get("allow"))
