"""The local users' lists, applied to people of foreign XMPP domains."""

from __future__ import annotations

from impfed.xmpp.jid import JID
from tests.relay.world import RelayCase, read

JULIET, ROMEO = "juliet@home.example", "romeo@verona.example"
PAIR = (JID.parse(JULIET), JID.parse(ROMEO))
IN = f"from='{ROMEO}/orchard' to='{JULIET}'"
ASK = f"<presence from='{ROMEO}' to='{JULIET}' type='subscribe' id='s1'/>"
SHOW = f"<presence from='{JULIET}/b' to='{ROMEO}'><show>dnd</show></presence>"


class BlockTests(RelayCase):
    """Whoever is blocked sees an offline user, and is told no reason."""

    def block(self, subject: str = ROMEO) -> None:
        self.policies.set(PAIR[0], subject, "block")

    def test_request(self) -> None:
        """His request is accepted, nobody is there, and nobody is asked."""
        self.up()
        self.block()
        self.assertEqual(self.far(ASK), "")
        accepted, offline = self.streams.take()
        self.assertIn("type='subscribed'", accepted)
        self.assertIn("type='unavailable'", offline)

    def test_probe(self) -> None:
        """His server's question for the state is answered with offline."""
        self.up()
        self.block("verona.example")
        self.assertEqual(self.far(f"<presence {IN} type='probe'/>"), "")
        (offline,) = self.streams.take()
        self.assertIn(f"from='{JULIET}' to='{ROMEO}' type='unavailable'", offline)

    def test_texts_and_questions(self) -> None:
        """Texts and questions come back; errors and answers pass."""
        self.up()
        self.block()
        for xml in (
            f"<message {IN} id='m'><body>hi</body></message>",
            f"<iq {IN} type='get' id='q'><x xmlns='y'/></iq>",
        ):
            self.assertEqual(self.far(xml), "")
            (error,) = self.streams.take()
            self.assertIn("<service-unavailable ", error)
            self.assertNotIn("<text", error)
        self.assertIn("result", self.far(f"<iq {IN} type='result' id='q'/>"))
        self.assertIn("error", self.far(f"<message {IN} type='error' id='q'/>"))
        self.assertEqual(self.streams.take(), [])

    def test_own_texts_pass(self) -> None:
        """A list does not stop what its owner writes."""
        self.up()
        self.block()
        self.assertEqual(len(self.local(f"<message from='{JULIET}/b' to='{ROMEO}'/>")), 1)

    def test_state_is_hidden(self) -> None:
        """Changes of state do not pass, and neither does going offline."""
        self.up()
        self.block()
        self.assertEqual(self.local(SHOW), [])
        gone = f"<presence from='{JULIET}/b' to='{ROMEO}' type='unavailable'/>"
        self.assertEqual(self.local(gone), [])

    def test_at_once(self) -> None:
        """Who is blocked sees each device go offline at once; who is not any more is shown anew."""
        self.up()
        self.assertEqual(len(self.local(SHOW)), 1)
        self.assertEqual(self.answers.inbound(PAIR), "approved")
        self.block()
        (gone,) = self.streams.take()
        self.assertIn(f"from='{JULIET}/b' to='{ROMEO}' type='unavailable'", gone)
        self.policies.delete(PAIR[0], ROMEO)
        self.assertIn(f"from='{ROMEO}' to='{JULIET}' type='probe'", self.turn())
        self.assertEqual(len(self.local(SHOW)), 1)

    def test_after_a_restart(self) -> None:
        """What an earlier process has shown is hidden too."""
        self.up()
        self.answers.decide_inbound(PAIR, "approved")
        self.block("verona.example")
        (gone,) = self.streams.take()
        self.assertIn(f"from='{JULIET}' to='{ROMEO}' type='unavailable'", gone)

    def test_unblocked_request(self) -> None:
        """A request that was answered politely is put to the user once he takes the block back."""
        self.up()
        self.block()
        self.far(ASK)
        self.assertEqual(self.answers.inbound(PAIR), "pending")  # survives a restart of the node
        self.policies.delete(PAIR[0], ROMEO)
        self.assertIn("type='subscribe'", self.turn())

    def test_default(self) -> None:
        """Where the default is block, who was approved before stays visible."""
        self.up()
        self.local(f"<presence from='{JULIET}' to='{ROMEO}' type='subscribed'/>")
        self.policies.set_default(PAIR[0], "block")
        self.assertEqual(len(self.local(SHOW)), 1)
        self.assertIn("hi", self.far(f"<message {IN}><body>hi</body></message>"))
        stranger = f"<message from='tybalt@verona.example' to='{JULIET}'><body>x</body></message>"
        self.assertEqual(self.far(stranger), "")

    def test_written_to(self) -> None:
        """Where the default is block, who is written to may answer for a while."""
        self.up()
        self.policies.set_default(PAIR[0], "block")
        answer = f"<message {IN}><body>hi</body></message>"
        self.assertEqual(self.far(answer), "")
        self.local(f"<message from='{JULIET}/b' to='{ROMEO}'><body>hi</body></message>")
        self.assertIn("hi", self.far(answer))
        self.reactor.advance(601)
        self.turn()
        self.assertEqual(self.far(answer), "")

    def test_room(self) -> None:
        """Where the default is block, a room that the user joins is open to him until he leaves."""
        self.up()
        self.policies.set_default(PAIR[0], "block")
        join = f"<presence from='{JULIET}/b' to='ball@rooms.verona.example/j'/>"
        said = f"<message from='ball@rooms.verona.example/r' to='{JULIET}/b' type='groupchat'/>"
        self.assertEqual(self.far(said), "")
        self.streams.take()
        self.assertEqual(len(self.local(join)), 1)
        self.assertIn("groupchat", self.far(said))
        self.assertEqual(len(self.local(join.replace("/>", " type='unavailable'/>"))), 1)
        self.assertEqual(self.far(said), "")


class DiscardTests(RelayCase):
    """Where the operator wants it, what a blocked user writes is thrown away."""

    blocked_texts = "discard"

    def test_discarded(self) -> None:
        """His sender hears nothing; questions are answered all the same."""
        self.up()
        self.policies.set(PAIR[0], ROMEO, "block")
        self.far(f"<message {IN}><body>hi</body></message>")
        self.assertEqual(self.streams.take(), [])
        self.far(f"<iq {IN} type='get' id='q'><x xmlns='y'/></iq>")
        self.assertEqual(len(self.streams.take()), 1)
        self.assertEqual(self.relay_metrics.value("relay.blocked"), 2)


class AnswerTests(RelayCase):
    """What a user's client answers passes as it is, and is remembered."""

    def test_ask(self) -> None:
        """Without a decision the user is asked; his decline passes as it is, and is remembered."""
        self.up()
        self.assertIn("type='subscribe'", self.far(ASK))
        self.assertEqual(self.answers.inbound(PAIR), "pending")
        declined = f"<presence from='{JULIET}' to='{ROMEO}' type='unsubscribed'/>"
        self.assertIn("type='unsubscribed'", self.local(declined)[0])
        self.assertEqual(self.far(ASK), "")
        (again,) = self.streams.take()
        self.assertIn("type='unsubscribed'", again)
        self.assertIn("hi", self.far(f"<message {IN}><body>hi</body></message>"))

    def test_decline_outlives_the_asker(self) -> None:
        """Who was declined cannot make it forgotten; the user can, or his list."""
        self.up()
        self.far(ASK)
        self.local(f"<presence from='{JULIET}' to='{ROMEO}' type='unsubscribed'/>")
        self.far(f"<presence from='{ROMEO}' to='{JULIET}' type='unsubscribe'/>")
        self.assertEqual(self.far(ASK), "")
        self.answers.decide_inbound(PAIR, "none")
        self.assertIn("type='subscribe'", self.far(ASK))

    def test_change_of_mind(self) -> None:
        """A user who approves whom he has declined is seen."""
        self.up()
        self.far(ASK)
        for type in ("unsubscribed", "subscribed"):
            self.local(f"<presence from='{JULIET}' to='{ROMEO}' type='{type}'/>")
        self.assertEqual(self.answers.inbound(PAIR), "approved")
        self.assertEqual(len(self.local(SHOW)), 1)

    def test_home_server_answers_for_strangers(self) -> None:
        """What a home server says by itself to a stranger's probe is no answer of the user's."""
        self.up()
        self.far(f"<presence {IN} type='probe'/>")
        self.local(f"<presence from='{JULIET}' to='{ROMEO}' type='unsubscribed'/>")
        self.assertEqual(self.answers.inbound(PAIR), "none")
        self.far(ASK)
        self.streams.take()
        self.assertEqual(self.far(f"<presence {IN} type='probe'/>"), "")  # nobody declines for him
        self.assertIn("type='unavailable'", self.streams.take()[0])
        self.assertEqual(self.answers.inbound(PAIR), "pending")

    def test_contacts(self) -> None:
        """Own requests and their answers are remembered."""
        self.up()
        for xml, far, outbound in (
            (f"<presence from='{JULIET}' to='{ROMEO}' type='subscribe'/>", False, "pending"),
            (f"<presence from='{ROMEO}' to='{JULIET}' type='subscribed'/>", True, "approved"),
            (f"<presence from='{JULIET}' to='{ROMEO}' type='subscribe'/>", False, "approved"),
            (f"<presence from='{ROMEO}' to='{JULIET}' type='unsubscribed'/>", True, "none"),
        ):
            (self.far if far else self.local)(xml)
            self.assertEqual(self.answers.outbound(PAIR), outbound)

    def test_allowed_but_asked(self) -> None:
        """Where rosters cannot be written, allow becomes ask."""
        self.up()
        self.policies.set(PAIR[0], ROMEO, "allow")
        self.assertIn("type='subscribe'", self.far(ASK))

    def test_probe_for_open_federation(self) -> None:
        """A ping that comes back over a stream says that a domain is reached; a bounce says no."""
        self.up()
        self.probe.bind("home.example", self.streams.send, lambda domain, incoming: "")
        for stream, there in ((object(), True), (None, False)):
            answer = self.probe.reachable("verona.example")
            (ping,) = self.streams.take()
            id = ping.partition("id='")[2].partition("'")[0]
            reply = f"<iq from='verona.example' to='home.example' type='error' id='{id}'/>"
            self.relay.stanza_arrived(read(reply), stream)
            self.assertEqual(self.successResultOf(answer), there)
