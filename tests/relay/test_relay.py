"""What passes between local users and foreign XMPP domains, and what is answered on the way."""

from __future__ import annotations

from xml.etree import ElementTree as ET

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from impfed.policy.federation import DomainException
from impfed.xmpp.jid import JID
from impfed.xmpp.reader import StanzaReader
from impfed.xmpp.stanza import Stanza
from tests.relay.world import RelayCase, read
from tests.transport.home_case import HEADER

JULIET, ROMEO = "juliet@home.example", "romeo@verona.example"
CONTENT = "jabber:component:accept"
IN = f"from='{ROMEO}/orchard' to='{JULIET}'"
OUT = f"from='{JULIET}/balcony' to='{ROMEO}'"


def canonical(xml: str, namespace: str) -> str:
    """Return a stanza in canonical form, its content namespace taken away.

    That is the stream's, and another on each side; within an extension it is the extension's own.
    """

    def neutral(element: ET.Element) -> None:
        if element.tag.startswith(f"{{{namespace}}}"):
            element.tag = element.tag.partition("}")[2]
            for child in element:
                neutral(child)

    element = ET.fromstring(f"<r xmlns='{namespace}'>{xml}</r>")[0]
    neutral(element)
    return ET.canonicalize(ET.tostring(element, "unicode"), rewrite_prefixes=True)


class PassTests(RelayCase):
    """Stanzas pass as they came."""

    def test_message_out(self) -> None:
        """What a local user writes goes to S2S."""
        self.up()
        (sent,) = self.local(f"<message {OUT} type='chat' id='m1'><body>hi</body></message>")
        self.assertEqual(
            sent,
            f"<message from='{JULIET}/balcony' to='{ROMEO}' type='chat' id='m1'>"
            "<body>hi</body></message>",
        )
        self.assertEqual(self.gateway.events, ["up"])

    def test_message_in(self) -> None:
        """What a foreign user writes goes to the home server."""
        self.up()
        self.assertIn("<body>hi</body>", self.far(f"<message {IN}><body>hi</body></message>"))

    def test_questions_and_answers(self) -> None:
        """IQs of all types pass both ways, to domains too."""
        self.up()
        for type in ("get", "set", "result", "error"):
            self.assertEqual(
                len(self.local(f"<iq {OUT} type='{type}' id='q'><x xmlns='y'/></iq>")), 1
            )
            self.assertIn(type, self.far(f"<iq {IN} type='{type}' id='q'><x xmlns='y'/></iq>"))
        (sent,) = self.local("<iq from='home.example' to='verona.example' type='result' id='b1'/>")
        self.assertIn("id='b1'", sent)

    def test_sip_domain_stays_with_the_gateway(self) -> None:
        """A SIP domain's stanzas are none of the relay's."""
        self.up()
        sent = self.local(
            f"<message from='{JULIET}/b' to='bob@lync.example' id='m'><body>x</body></message>"
        )
        self.assertEqual(sent, [])
        self.assertIn(("message", "", "m", "bob@lync.example"), self.gateway.events)

    def test_own_address(self) -> None:
        """The node's own address is no foreign domain."""
        self.assertFalse(self.relay.takes("federation.home.example"))
        self.assertTrue(self.relay.takes("sub.home.example"))

    def test_forged_sender(self) -> None:
        """A home server speaks for its own domains only."""
        self.up()
        sent = self.local(
            f"<message from='x@verona.example' to='{ROMEO}' id='f'><body>x</body></message>"
        )
        self.assertEqual(sent, [])
        self.assertIn("forbidden", self.wires[-1].take())

    def test_no_foreign_to_foreign(self) -> None:
        """Nothing is relayed between two foreign domains."""
        self.up()
        written = self.far(
            f"<message from='{ROMEO}' to='x@mantua.example'><body>x</body></message>"
        )
        self.assertEqual((written, self.streams.take()), ("", []))

    @settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
    @given(
        st.recursive(
            st.tuples(
                st.sampled_from(["{%s}a", "{%s}body", "{urn:x}c", "{urn:y}d", "{jabber:client}m"]),
                st.dictionaries(
                    st.sampled_from(
                        ["n", "{urn:x}o", "{http://www.w3.org/XML/1998/namespace}lang"]
                    ),
                    st.text("a<&'\" é\n\t😀", max_size=5),
                    max_size=3,
                ),
                st.text("t<&'\"> ü\n😀", max_size=6),
                st.just(()),
            ),
            lambda below: st.tuples(
                st.sampled_from(["{%s}a", "{urn:x}c", "{urn:y}d"]),
                st.just({}),
                st.text("t<&>]", max_size=4),
                st.lists(below, max_size=3),
            ),
            max_leaves=8,
        )
    )
    def test_any_extension(self, tree: tuple[object, ...]) -> None:
        """Any extension arrives canonically equal, in both directions."""

        def build(node: tuple[object, ...], namespace: str) -> ET.Element:
            name, attributes, text, children = node
            tag = str(name) % namespace if "%s" in str(name) else str(name)
            element = ET.Element(tag, dict(attributes))  # type: ignore[call-overload]
            element.text = element.tail = str(text)
            element.extend(build(child, namespace) for child in children)  # type: ignore[attr-defined]
            return element

        for namespace, ways in ((CONTENT, "out"), ("jabber:server", "in")):
            to, sender = (ROMEO, JULIET) if ways == "out" else (JULIET, ROMEO)
            root = ET.Element(f"{{{namespace}}}message", {"from": sender, "to": to, "id": "é'"})
            root.append(build(tree, namespace))
            stanza = _reread(ET.tostring(root, "unicode"), namespace)
            if ways == "out":
                self.relay.from_home(stanza)
                (sent,) = self.streams.take()
            else:
                link = self.home.links[0]
                kept: list[str] = []
                self.patch(link, "deliver", lambda out, done, kept=kept: kept.append(out.xml))
                self.relay.stanza_arrived(stanza, object())
                (sent,) = kept
            self.assertEqual(
                canonical(sent, "other"), canonical(ET.tostring(root, "unicode"), namespace)
            )


def _reread(xml: str, namespace: str) -> Stanza:
    reader = StanzaReader(namespace)
    reader.feed(
        f"<stream:stream xmlns='{namespace}' xmlns:stream='http://etherx.jabber.org/streams'>".encode()
    )
    (item,) = reader.feed(xml.encode())
    assert isinstance(item, Stanza)
    return item


class PolicyTests(RelayCase):
    """Domains that policy refuses."""

    exceptions = (
        DomainException("*.spam.example"),
        DomainException("deaf.example", "out"),
        DomainException("mute.example", "in"),
    )

    def test_out(self) -> None:
        """The local sender gets an error; presence and answers get none."""
        self.up()
        for domain in ("spam.example", "very.spam.example", "deaf.example"):
            self.say(f"<message from='{JULIET}/b' to='x@{domain}' id='m'><body>hi</body></message>")
            written = self.wires[-1].take()
            self.assertIn("<not-allowed ", written)
            self.assertIn("<body>hi</body>", written)
            for silent in (
                "<presence {} type='unavailable'/>",
                "<message {} type='error'/>",
                "<iq {} type='result' id='q'/>",
            ):
                self.say(silent.format(f"from='{JULIET}/b' to='x@{domain}'"))
            self.assertEqual(self.wires[-1].take(), "")
        self.assertEqual(len(self.local(f"<message from='{JULIET}/b' to='x@mute.example'/>")), 1)
        self.assertEqual(self.streams.take(), [])

    def test_in(self) -> None:
        """The local user hears nothing; the sender gets an error."""
        self.up()
        for domain in ("spam.example", "mute.example"):
            text = f"<message from='x@{domain}' to='{JULIET}' id='m'><body>hi</body></message>"
            self.assertEqual(self.far(text), "")
            (error,) = self.streams.take()
            self.assertIn("<not-allowed ", error)
        self.assertIn(
            "hi",
            self.far(f"<message from='x@deaf.example' to='{JULIET}'><body>hi</body></message>"),
        )


class DenyTests(RelayCase):
    """Denied by default, with exceptions."""

    allow = False
    exceptions = (DomainException("verona.example"),)

    def test_exception_only(self) -> None:
        """Only the excepted domain is federated with, not what lies under it."""
        self.up()
        self.assertEqual(len(self.local(f"<message {OUT}/>")), 1)
        self.assertEqual(self.local(f"<message from='{JULIET}/b' to='x@a.verona.example'/>"), [])
        self.assertIn("not among the federated", self.wires[-1].take())


class LossTests(RelayCase):
    """Nothing is lost without a word."""

    def test_no_home_link(self) -> None:
        """While the home server is away messages, questions and requests come back."""
        self.up()
        self.lose()
        for xml in (
            f"<message {IN} id='m'><body>hi</body></message>",
            f"<iq {IN} type='get' id='q'><x xmlns='y'/></iq>",
            f"<presence {IN} type='subscribe'/>",
        ):
            self.relay.stanza_arrived(read(xml), object())
            (error,) = self.streams.take()
            self.assertIn("<recipient-unavailable ", error)
            self.assertIn("type='wait'", error)
        self.relay.stanza_arrived(read(f"<message {IN} type='error'/>"), object())
        self.relay.stanza_arrived(read(f"<presence {IN} type='probe'/>"), object())
        self.assertEqual(self.streams.take(), [])

    def test_presence_waits(self) -> None:
        """Presence that the home server missed is handed over when it is back: the latest of each."""
        self.up()
        self.lose()
        for xml in (
            f"<presence {IN}><show>away</show></presence>",
            f"<presence {IN}><show>dnd</show></presence>",
            f"<presence {IN} type='subscribed'/>",
        ):
            self.relay.stanza_arrived(read(xml), object())
        self.assertEqual(self.streams.take(), [])
        self.reactor.advance(60)
        wire = self.accept()
        self.say(HEADER)
        self.say("<handshake/>")
        written = wire.take()
        self.assertNotIn("away", written)
        self.assertEqual((written.count("dnd"), written.count("'subscribed'")), (1, 1))

    def test_link_breaks_before_writing(self) -> None:
        """A question passed on in the turn in which the link broke comes back."""
        self.up()
        asked = read(f"<iq {IN} id='q' type='get'><x xmlns='y'/></iq>")
        self.relay.stanza_arrived(asked, object())
        self.lose()
        (error,) = self.streams.take()
        self.assertIn("<recipient-unavailable ", error)
        self.assertIn("id='q'", error)

    def test_stream_error_goes_to_the_local_sender(self) -> None:
        """What S2S could not deliver comes back to the local user, whatever his list says."""
        self.up()
        self.policies.set(JID.parse(JULIET), "verona.example", "block")
        error = f"<message from='{ROMEO}' to='{JULIET}/b' type='error' id='m'><error type='wait'/></message>"
        self.relay.stanza_arrived(read(error), None)
        self.assertIn("type='error'", self.turn())


class RewriteTests(RelayCase):
    """Presence is changed by the kind of the foreign domain, and nothing else is."""

    def test_sametime(self) -> None:
        """Towards Sametime extended away becomes away."""
        self.up()
        presence = (
            f"<presence from='{JULIET}/b' to='x@sametime.example'><show>xa</show>"
            "<status>gone</status><c xmlns='urn:x'/></presence>"
        )
        (sent,) = self.local(presence)
        self.assertIn("<show>away</show><status>gone</status><c xmlns='urn:x'/>", sent)
        (sent,) = self.local(presence.replace("sametime", "verona"))
        self.assertIn("<show>xa</show>", sent)

    def test_webex(self) -> None:
        """From Webex a meeting is available, unless all clients are Jabber."""
        self.up()
        meeting = (
            f"<presence from='x@webex.example/c' to='{JULIET}'><show>away</show>"
            "<status>In a meeting</status></presence>"
        )
        self.assertNotIn("<show>", self.far(meeting))
        self.local(
            f"<presence from='{JULIET}/j' to='x@webex.example'>"
            "<c xmlns='http://jabber.org/protocol/caps' node='http://jabber.cisco.com/x'/></presence>"
        )
        self.assertIn("<show>away</show>", self.far(meeting))
        self.local(f"<presence from='{JULIET}/other' to='x@webex.example'/>")
        self.assertNotIn("<show>", self.far(meeting))


class ComponentTests(RelayCase):
    """A home server with one component for each foreign domain, this one among them."""

    kind = "component"
    foreign = ()
    relayed = ("verona.example",)

    def test_both_ways(self) -> None:
        """Stanzas pass by the component of that domain; others have no way."""
        self.up()
        self.assertEqual(len(self.local(f"<message {OUT}/>")), 1)
        self.assertIn("hi", self.far(f"<message {IN}><body>hi</body></message>"))
        self.assertEqual(self.far(f"<message from='x@mantua.example' to='{JULIET}' id='m'/>"), "")
        self.assertIn("<service-unavailable ", self.streams.take()[0])

    def test_answers_to_the_link(self) -> None:
        """Answers to the link's own questions stay; what foreign servers asked is answered there."""
        self.up()
        answer = "<iq from='home.example' to='verona.example' type='{}' id='{}'/>"
        for id in ("k123", "b456"):
            self.assertEqual(self.local(answer.format("result", id)), [])
        self.assertEqual(len(self.local(answer.format("result", "theirs"))), 1)
        self.assertEqual(len(self.local(answer.format("get", "k123"))), 1)

    def test_slow_home_server(self) -> None:
        """What a home server does not take in time comes back."""
        self.up()
        self.patch(type(self.links.links[0]), "full", True)
        self.far(f"<message {IN} id='m'><body>hi</body></message>")
        self.assertIn("<resource-constraint ", self.streams.take()[0])
