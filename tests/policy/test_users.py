"""Each user's own list: precedence, durability, what is refused (SPEC section 5)."""

from __future__ import annotations

from itertools import product

from twisted.trial.unittest import SynchronousTestCase

from impfed.policy.users import (
    ENTRY_LIMIT,
    Entry,
    PolicyError,
    Rule,
    UserPolicies,
    Verdict,
    subject_of,
)
from impfed.store.memory import MemoryStore
from impfed.store.records import PolicyDefaultRecord, PolicyEntryRecord
from impfed.xmpp.jid import JID

ALICE = JID.parse("alice@home.example")
ROMEO = JID.parse("romeo@lync.example")


class PolicyCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.store = MemoryStore()
        self.store.start()
        self.policies = UserPolicies(self.store, lambda: 1000.0)

    def reloaded(self) -> UserPolicies:
        fresh = UserPolicies(self.store, lambda: 2000.0)
        entries = self.successResultOf(self.store.load(PolicyEntryRecord))
        fresh.load(entries, self.successResultOf(self.store.load(PolicyDefaultRecord)))
        return fresh


class PrecedenceTests(PolicyCase):
    def test_every_combination(self) -> None:
        """User before domain before answer in the client before contact list before default."""
        lists = ("", "allow", "block")
        answers = ("none", "pending", "approved", "declined")
        for user, domain, answer, contact, default in product(
            lists, lists, answers, (False, True), ("ask", "block")
        ):
            policies = UserPolicies(self.store, lambda: 0.0)
            if user:
                policies.set_user(ALICE, ROMEO, user)
            if domain:
                policies.set_domain(ALICE, "lync.example", domain)
            policies.set_default(ALICE, default)
            if user:
                expected = (Verdict(user), Rule.USER)
            elif domain:
                expected = (Verdict(domain), Rule.DOMAIN)
            elif answer == "approved":
                expected = (Verdict.ALLOW, Rule.CLIENT)
            elif answer == "declined":
                expected = (Verdict.BLOCK, Rule.CLIENT)
            elif contact:
                expected = (Verdict.ALLOW, Rule.CONTACT)
            else:
                expected = (Verdict(default), Rule.DEFAULT)
            found = policies.judge(ALICE, ROMEO, answer, contact)
            case = (user, domain, answer, contact, default)
            self.assertEqual((found.verdict, found.rule), expected, case)

    def test_shipped_default_is_ask(self) -> None:
        """Who has decided nothing is asked."""
        found = self.policies.judge(ALICE, ROMEO)
        self.assertEqual((found.verdict, found.rule), (Verdict.ASK, Rule.DEFAULT))
        self.assertIn("ask", found.words)

    def test_allowed_user_in_a_blocked_domain(self) -> None:
        """He stays visible to; others of his domain, and of no other domain, are blocked."""
        self.policies.set_domain(ALICE, "lync.example", "block")
        self.policies.set_user(ALICE, ROMEO, "allow")
        judge = self.policies.judge
        self.assertIs(judge(ALICE, ROMEO).verdict, Verdict.ALLOW)
        self.assertIs(judge(ALICE, JID.parse("paris@lync.example")).verdict, Verdict.BLOCK)
        for other in ("x@sub.lync.example", "x@example", "x@evillync.example"):
            self.assertIs(judge(ALICE, JID.parse(other)).verdict, Verdict.ASK, other)
        self.assertIs(judge(JID.parse("bob@home.example"), ROMEO).verdict, Verdict.ASK)

    def test_words_name_the_rule(self) -> None:
        """The judgement says in words what decided."""
        self.policies.set_domain(ALICE, "lync.example", "block")
        self.assertIn("domain lync.example", self.policies.judge(ALICE, ROMEO).words)

    def test_what_stops_texts(self) -> None:
        """A block stops messages; a request declined in a client does not."""
        judge = self.policies.judge
        self.assertFalse(judge(ALICE, ROMEO, "declined").stops_texts)
        self.policies.set_default(ALICE, "block")
        self.assertTrue(judge(ALICE, ROMEO).stops_texts)
        self.assertFalse(judge(ALICE, ROMEO, "approved").stops_texts)
        self.policies.set_user(ALICE, ROMEO, "block")
        self.assertTrue(judge(ALICE, ROMEO, "approved").stops_texts)


class ListTests(PolicyCase):
    def test_list(self) -> None:
        """Domains come first, each part in order; addresses are written in one form."""
        self.policies.set(ALICE, "Romeo@LYNC.example", "allow")
        self.policies.set(ALICE, "sip:benvolio@lync.example", "block")
        self.policies.set(ALICE, "Lync.example.", "block")
        self.assertEqual(
            self.policies.entries(ALICE),
            [
                Entry("lync.example", "block", 1000.0),
                Entry("benvolio@lync.example", "block", 1000.0),
                Entry("romeo@lync.example", "allow", 1000.0),
            ],
        )
        self.assertEqual([each.is_domain for each in self.policies.entries(ALICE)],
                         [True, False, False])  # fmt: skip

    def test_set_again_replaces(self) -> None:
        """A later decision about the same replaces the earlier one."""
        self.policies.set_user(ALICE, ROMEO, "allow")
        self.policies.set_user(ALICE, ROMEO, "block")
        self.assertEqual([each.decision for each in self.policies.entries(ALICE)], ["block"])

    def test_delete(self) -> None:
        """What is deleted is gone; what is not there is said not to be."""
        self.policies.set_user(ALICE, ROMEO, "block")
        self.assertTrue(self.policies.delete(ALICE, "romeo@lync.example"))
        self.assertFalse(self.policies.delete(ALICE, "romeo@lync.example"))
        self.assertFalse(self.policies.delete(JID.parse("bob@home.example"), "lync.example"))
        self.assertEqual(self.reloaded().entries(ALICE), [])

    def test_survives(self) -> None:
        """Lists and defaults come back from the store."""
        self.policies.set_user(ALICE, ROMEO, "allow")
        self.policies.set_domain(ALICE, "lync.example", "block")
        self.policies.set_default(ALICE, "block")
        fresh = self.reloaded()
        self.assertEqual(fresh.entries(ALICE), self.policies.entries(ALICE))
        self.assertEqual(fresh.default(ALICE), "block")
        fresh.set_default(ALICE, "ask")
        self.assertEqual(self.successResultOf(self.store.load(PolicyDefaultRecord)), [])

    def test_nonsense(self) -> None:
        """What is no address, no domain or no decision is refused in words, and nothing kept."""
        for subject in ("", "@", "a b@lync.example", "x@", "ly nc.example", "lync.example/x"):
            with self.assertRaises(PolicyError, msg=subject):
                self.policies.set(ALICE, subject, "allow")
        with self.assertRaises(PolicyError):
            self.policies.set(ALICE, "lync.example", "perhaps")
        with self.assertRaises(PolicyError):
            self.policies.set_default(ALICE, "allow")
        self.assertEqual(self.policies.entries(ALICE), [])

    def test_full(self) -> None:
        """A list has an end; entries that are there can still be changed."""
        for number in range(ENTRY_LIMIT):
            self.policies.set(ALICE, f"u{number}@lync.example", "block")
        with self.assertRaises(PolicyError):
            self.policies.set(ALICE, "one-more@lync.example", "block")
        self.policies.set(ALICE, "u7@lync.example", "allow")

    def test_subjects(self) -> None:
        """Addresses become bare JIDs, domains plain names."""
        self.assertEqual(subject_of(" romeo@lync.example/x "), ROMEO)
        self.assertEqual(subject_of("@Lync.Example"), "lync.example")


class ListenerTests(PolicyCase):
    def test_told_of_every_change(self) -> None:
        """A listener hears who changed what to what, and another one's failure stops nobody."""
        heard = []
        self.policies.listen(lambda change: 1 / 0)
        self.policies.listen(heard.append)
        self.policies.set_user(ALICE, ROMEO, "block")
        self.policies.set_domain(ALICE, "lync.example", "allow")
        self.policies.set_default(ALICE, "block")
        self.policies.set_default(ALICE, "block")
        self.policies.delete(ALICE, "lync.example")
        self.assertEqual(
            [(each.local, each.subject, each.decision) for each in heard],
            [
                (ALICE, "romeo@lync.example", "block"),
                (ALICE, "lync.example", "allow"),
                (ALICE, "", "block"),
                (ALICE, "lync.example", ""),
            ],
        )
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 4)
        paris = JID.parse("paris@lync.example")
        self.assertEqual([each.concerns(paris) for each in heard], [False, True, True, True])


class PeopleWhoGoTests(PolicyCase):
    def test_removed(self) -> None:
        """A removed user's list is gone, in the store too."""
        self.policies.set_user(ALICE, ROMEO, "block")
        self.policies.set_default(ALICE, "block")
        self.assertEqual(self.policies.remove_user(ALICE), 1)
        fresh = self.reloaded()
        self.assertEqual((fresh.entries(ALICE), fresh.default(ALICE)), ([], "ask"))

    def test_renamed(self) -> None:
        """A renamed user keeps his list; what the new address has decided goes before it."""
        new = JID.parse("alicia@home.example")
        self.policies.set_user(ALICE, ROMEO, "block")
        self.policies.set_domain(ALICE, "lync.example", "block")
        self.policies.set_default(ALICE, "block")
        self.policies.set_user(new, ROMEO, "allow")
        self.assertEqual(self.policies.rename_user(ALICE, new), 2)
        fresh = self.reloaded()
        self.assertEqual(fresh.entries(ALICE), [])
        self.assertEqual(
            [(each.subject, each.decision) for each in fresh.entries(new)],
            [("lync.example", "block"), ("romeo@lync.example", "allow")],
        )
        self.assertEqual(fresh.default(new), "block")
