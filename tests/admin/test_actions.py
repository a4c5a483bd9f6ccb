"""What people type as an address, and what is said to them."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from impfed.admin.actions import Actions, plain, read_address, read_domain, shown
from impfed.admin.options_api import OptionsError
from impfed.xmpp.jid import JID
from tests.admin.kit import ALICE, FakeOptions


class AddressTests(SynchronousTestCase):
    def test_ways_to_write_an_address(self) -> None:
        """An address is understood as people type and paste it."""
        for typed in (
            "romeo@lync.example",
            "  Romeo@LYNC.example ",
            "sip:romeo@lync.example",
            "SIPS:romeo@lync.example;transport=tls",
            "xmpp:romeo@lync.example?message",
            "mailto:romeo@lync.example",
            "im:romeo@lync.example",
            "Romeo Montague <romeo@lync.example>",
            '"Romeo, M." <sip:romeo@lync.example>',
            "romeo@lync.example/phone",
        ):
            self.assertEqual(str(read_address(typed)), "romeo@lync.example", typed)

    def test_characters_that_xmpp_lacks(self) -> None:
        """Characters that XMPP has not are escaped, and shown as they were typed."""
        jid = read_address("d'artagnan@lync.example")
        self.assertEqual(str(jid), "d\\27artagnan@lync.example")
        self.assertEqual(shown(jid), "d'artagnan@lync.example")
        self.assertEqual(read_address(shown(jid)), jid)
        self.assertEqual(shown(read_address("a@b@lync.example")), "a@b@lync.example")

    def test_no_address(self) -> None:
        """What is no address is refused in words that quote it."""
        for typed in ("", "   ", "romeo", "@lync.example", "romeo@", "romeo@a b", "sip:", "<>",
                      "romeo@" + "x" * 4000, "romeo@exa_mple..x"):  # fmt: skip
            with self.assertRaises(OptionsError, msg=typed) as caught:
                read_address(typed)
            self.assertLess(len(str(caught.exception)), 300)

    def test_domains(self) -> None:
        """A domain is understood with and without the sign before it; nothing else is."""
        for typed in ("lync.example", "@Lync.Example", " lync.example. "):
            self.assertEqual(str(read_domain(typed)), "lync.example")
        for typed in ("", "romeo@lync.example", "*.example", "lync", "lync.example/x", "a b.c"):
            self.assertRaises(OptionsError, read_domain, typed)
        self.assertIn("Add User", str(self.assertRaises(OptionsError, read_domain, "a@b.c")))

    def test_plain(self) -> None:
        """A name is one short line without control characters."""
        self.assertEqual(plain("a\r\nb\x00\u202ec\u2066d  e"), "a b c d e")
        self.assertEqual(len(plain("x" * 1000)), 100)
        self.assertEqual(plain("\ue000\ud800"), "")


class ActionTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.options = FakeOptions()
        self.actions = Actions(self.options)

    def test_own_people(self) -> None:
        """Colleagues are none of this page's business."""
        for do in (
            lambda: self.actions.add_user(ALICE, "bob@home.example", "block"),
            lambda: self.actions.add_domain(ALICE, "home.example", "block"),
            lambda: self.actions.add_contact(ALICE, "bob@home.example"),
            lambda: self.actions.add_contact(ALICE, "x@federation.home.example"),
        ):
            self.assertIn("our own domain", str(self.assertRaises(OptionsError, do)))

    def test_domain_not_federated(self) -> None:
        """A policy for a domain that we do not reach is taken, and the user told."""
        words = self.actions.add_domain(ALICE, "elsewhere.example", "block")
        self.assertIn("We do not exchange messages with elsewhere.example at present", words)

    def test_no_choice(self) -> None:
        """Without a choice nothing happens."""
        for decision in ("", "ask", "Allow"):
            self.assertRaises(
                OptionsError, self.actions.add_user, ALICE, "a@lync.example", decision
            )
        self.assertEqual(self.options.views, {})

    def test_delete_only_what_is_there(self) -> None:
        """An entry that was deleted meanwhile, or never was there, is no fault."""
        self.options.decide(ALICE, JID.parse("b.example"), "block")
        words = self.actions.delete(ALICE, ["b.example", "b.example", "../x"])
        self.assertEqual(words, "1 entry was deleted.")
        self.assertIn("already", self.actions.delete(ALICE, ["b.example"]))

    def test_name_of_a_contact(self) -> None:
        """The name given to a contact becomes one plain line."""
        self.actions.add_contact(ALICE, "romeo@lync.example", "Ro\u202e\nmeo" + "x" * 200)
        name = self.options.asked[0][3]
        self.assertTrue(name.startswith("Ro meo"))
        self.assertEqual(len(name), 100)
