"""The page: what users can do on it, and what nobody can do to them."""

from __future__ import annotations

import re

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from impfed.admin.options_api import Added, Entry, Request, Watcher
from impfed.xmpp.jid import JID
from tests.admin.kit import ALICE, ROMEO, TYBALT, Place

XSS = '"><script>alert(1)</script><img src=x onerror=alert(2)>'


class WebCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.place = Place()
        self.options = self.place.options


class LoginTests(WebCase):
    def test_login_by_link(self) -> None:
        """A link that came as a message opens the page of the user who asked for it."""
        browser = self.place.logged_in()
        self.assertIn("alice@home.example", browser.page.body)
        self.assertIn("Privacy policies", browser.page.body)

    def test_without_link(self) -> None:
        """Whoever is not logged in reads how to get a link, and nothing else."""
        page = self.place.browser().get()
        self.assertEqual(page.status, 200)
        self.assertIn("<kbd>login</kbd>", page.body)
        self.assertIn("xmpp:federation.home.example?message;body=login", page.body)

    def test_looking_does_not_use_the_link_up(self) -> None:
        """A preview that opens a link, by GET or HEAD, leaves it usable."""
        path = self.place.link()
        for _ in range(3):
            self.assertEqual(self.place.browser().get(path).status, 200)
            self.assertEqual(self.place.browser().send("HEAD", path).status, 200)
        browser = self.place.browser()
        page = browser.get(path)
        browser.post("/login", {"token": page.hidden("token")})
        self.assertIn("Privacy policies", browser.page.body)

    def test_link_works_once(self) -> None:
        """A link that was used is worthless, to look at and to use."""
        path = self.place.link()
        first, second = self.place.browser(), self.place.browser()
        page, other = first.get(path), second.get(path)
        first.post("/login", {"token": page.hidden("token")})
        again = second.post("/login", {"token": other.hidden("token")})
        self.assertEqual(again.status, 410)
        self.assertNotIn("Privacy policies", again.body)
        self.assertEqual(self.place.browser().get(path).status, 410)
        self.assertEqual(self.place.logged_in_now(), 1)

    def test_link_expires(self) -> None:
        """Five minutes after it was asked for a link is worthless."""
        path = self.place.link()
        browser = self.place.browser()
        self.place.clock.advance(299)
        page = browser.get(path)
        self.assertEqual(page.status, 200)
        self.place.clock.advance(1)
        self.assertEqual(browser.post("/login", {"token": page.hidden("token")}).status, 410)
        self.assertEqual(browser.get(path).status, 410)

    def test_newer_link_replaces_older(self) -> None:
        """With a second link the first is worthless."""
        old, new = self.place.link(), self.place.link()
        self.assertEqual(self.place.browser().get(old).status, 410)
        self.assertEqual(self.place.browser().get(new).status, 200)

    def test_invented_link(self) -> None:
        """A token that was never given out is worthless."""
        for path in ("/login/" + "0" * 48, "/login/%C3%BC%00", "/login/x"):
            self.assertEqual(self.place.browser().get(path).status, 410, path)
        self.assertEqual(self.place.browser().get("/login/%ff").status, 400)

    def test_login_form_of_another_browser(self) -> None:
        """Nobody can be logged in as somebody else by a form that another page sends for him."""
        path = self.place.link("mallory@home.example/x")
        attacker = self.place.browser()
        page = attacker.get(path)
        victim = self.place.browser()
        refused = victim.post("/login", {"token": page.hidden("token")}, csrf=page.hidden("csrf"))
        self.assertEqual(refused.status, 403)
        self.assertEqual(self.place.logged_in_now(), 0)

    def test_cookies(self) -> None:
        """Cookies are for this host over TLS only, out of reach for scripts and other sites."""
        browser = self.place.logged_in()
        self.assertTrue(browser.set)
        for cookie in browser.set:
            words = [word.strip().lower() for word in cookie.split(";")]
            self.assertTrue(cookie.startswith("__Host-"), cookie)
            self.assertLessEqual({"secure", "httponly", "samesite=strict", "path=/"}, set(words))

    def test_idle(self) -> None:
        """Half an hour without a click ends a session."""
        browser = self.place.logged_in()
        for _ in range(3):
            self.place.clock.advance(1799)
            self.assertIn("Privacy policies", browser.get().body)
        csrf = browser.page.hidden("csrf")
        self.place.clock.advance(1800)
        self.assertEqual(browser.post("/default", {"default": "block"}, csrf=csrf).status, 403)
        self.assertEqual(self.options.overview(ALICE).default, "ask")
        self.assertNotIn("Privacy policies", browser.get().body)

    def test_day_of_work(self) -> None:
        """After eight hours a session is over, however much it was used."""
        browser = self.place.logged_in()
        for _ in range(16):
            self.place.clock.advance(1790)
            browser.get()
        self.assertIn("Privacy policies", browser.page.body)
        self.place.clock.advance(1790)
        self.assertNotIn("Privacy policies", browser.get().body)

    def test_logout(self) -> None:
        """After logging out the cookie is worthless, even if somebody has kept it."""
        browser = self.place.logged_in()
        kept = dict(browser.cookies)
        browser.post("/logout")
        self.assertNotIn("Privacy policies", browser.page.body)
        browser.cookies = kept
        self.assertNotIn("Privacy policies", browser.get().body)

    def test_logout_everywhere(self) -> None:
        """One click ends all sessions of a user, and of nobody else."""
        first, second = self.place.logged_in(), self.place.logged_in()
        other = self.place.logged_in("carol@home.example/x")
        first.post("/logout", {"everywhere": "yes"})
        self.assertNotIn("Privacy policies", second.get().body)
        self.assertIn("Privacy policies", other.get().body)


class OptionsTests(WebCase):
    def setUp(self) -> None:
        super().setUp()
        self.browser = self.place.logged_in()

    def test_add_user(self) -> None:
        """A person is put on the list."""
        page = self.browser.post(
            "/add-user", {"address": "Romeo@Lync.Example", "decision": "allow"}
        )
        self.assertIn("romeo@lync.example is allowed now.", page.body)
        self.assertEqual(
            self.options.overview(ALICE).entries, [Entry("romeo@lync.example", "allow")]
        )

    def test_add_domain(self) -> None:
        """A domain is put on the list."""
        page = self.browser.post("/add-domain", {"domain": "lync.example", "decision": "block"})
        self.assertIn("lync.example is blocked now.", page.body)
        self.assertEqual(self.options.overview(ALICE).entries, [Entry("lync.example", "block")])

    def test_notice_is_shown_once(self) -> None:
        """What has happened is told on the next page only."""
        self.browser.post("/default", {"default": "block"})
        self.assertIn('role="status"', self.browser.page.body)
        self.assertNotIn('role="status"', self.browser.get().body)

    def test_mistake(self) -> None:
        """A mistake is told where it was made, and what was typed stays."""
        page = self.browser.post("/add-user", {"address": "romeo", "decision": "block"})
        self.assertEqual(page.status, 422)
        self.assertIn("“romeo” is no address", page.body)
        self.assertIn('value="romeo"', page.body)
        form = page.body[page.body.index("<h3>Add User") :]
        self.assertRegex(form, r'value="block" required\s+checked')

    def test_full_list(self) -> None:
        """A list that is full is told in words."""
        for name in "abc":
            self.browser.post("/add-user", {"address": f"{name}@lync.example", "decision": "block"})
        page = self.browser.post("/add-user", {"address": "d@lync.example", "decision": "block"})
        self.assertIn("The list has 3 entries already.", page.body)

    def test_delete_selected(self) -> None:
        """What is selected is deleted; what is not stays."""
        for name in "abc":
            self.options.decide(ALICE, JID.parse(f"{name}@lync.example"), "block")
        chosen = [("entries", "a@lync.example"), ("entries", "c@lync.example")]
        page = self.browser.post("/delete", chosen)
        self.assertIn("2 entries were deleted.", page.body)
        self.assertEqual([each.subject for each in self.options.overview(ALICE).entries],
                         ["b@lync.example"])  # fmt: skip
        self.assertIn("Nothing was selected.", self.browser.post("/delete").body)

    def test_default(self) -> None:
        """The default is changed, and shown."""
        page = self.browser.post("/default", {"default": "block"})
        self.assertRegex(page.body, r'name="default" value="block" checked')
        self.assertEqual(self.browser.post("/default", {"default": "allow"}).status, 422)

    def test_contact(self) -> None:
        """A contact is added with a name, and shown as user@domain."""
        page = self.browser.post("/add-contact", {"address": "romeo@lync.example", "name": "Ro"})
        self.assertIn("is on your contact list now", page.body)
        self.assertEqual(self.options.asked, [("add", ALICE, ROMEO, "Ro")])

    def test_contact_by_hand(self) -> None:
        """Where the server lets us write no rosters the user is told what to do."""
        self.options.adds = Added.BY_HAND
        page = self.browser.post("/add-contact", {"address": "romeo@lync.example"})
        self.assertIn("in your chat program", page.body)
        self.options.adds = Added.SUGGESTED
        page = self.browser.post("/add-contact", {"address": "romeo@lync.example"})
        self.assertIn("was asked to add", page.body)

    def test_contact_where_nobody_is(self) -> None:
        """An address that cannot be reached is refused with those that can."""
        page = self.browser.post("/add-contact", {"address": "romeo@elsewhere.example"})
        self.assertIn("We do not exchange messages with elsewhere.example", page.body)
        self.assertIn("lync.example or b.example", page.body)

    def test_requests(self) -> None:
        """Requests are accepted, declined and cleared."""
        self.options.change(ALICE, waiting=[Request(ROMEO, "Romeo M."), Request(TYBALT)])
        page = self.browser.get()
        self.assertIn("Romeo M.", page.body)
        self.browser.post("/answer", {"person": str(ROMEO), "answer": "accept"})
        self.assertIn(("accept", ALICE, ROMEO), self.options.asked)
        page = self.browser.post("/answer", {"person": str(TYBALT), "answer": "decline"})
        self.assertIn("tybalt@lync.example was declined", page.body)
        page = self.browser.post("/answer", {"person": str(TYBALT), "answer": "clear"})
        self.assertIn("You will be asked when tybalt@lync.example", page.body)
        self.assertEqual(self.options.overview(ALICE).declined, [])

    def test_request_that_is_gone(self) -> None:
        """Answering a request that nobody made changes nothing."""
        page = self.browser.post("/answer", {"person": "x@lync.example", "answer": "accept"})
        self.assertEqual(page.status, 422)
        self.assertEqual(self.options.asked, [])

    def test_home_server_takes_its_time(self) -> None:
        """The page waits for the home server's answer."""
        self.options.change(ALICE, waiting=[Request(ROMEO)])
        self.options.accepting = Deferred()
        csrf = self.browser.page.hidden("csrf")
        body = f"person={ROMEO}&answer=accept&csrf={csrf}".encode()
        transport = None
        try:
            self.browser.send("POST", "/answer", body)
        except Exception:  # nothing to be read yet
            transport = self.browser.transport
        self.assertEqual(transport.value(), b"")
        self.options.accepting.callback(None)
        self.assertIn(b" 303 ", transport.value().split(b"\r\n")[0])

    def test_refused_by_home_server(self) -> None:
        """The home server's refusal is told in words."""
        self.options.change(ALICE, waiting=[Request(ROMEO)])
        self.options.accepting = "Your server has not answered. Try again in a minute."
        page = self.browser.post("/answer", {"person": str(ROMEO), "answer": "accept"})
        self.assertEqual(page.status, 422)
        self.assertIn("Your server has not answered.", page.body)

    def test_watchers(self) -> None:
        """Who watches is shown with what he sees."""
        self.options.change(ALICE, watchers=[Watcher(ROMEO, "sees"), Watcher(TYBALT, "hidden")])
        page = self.browser.get()
        self.assertIn("sees you</span>", page.body)
        self.assertIn("sees you as offline", page.body)

    def test_degraded_allow(self) -> None:
        """Where *allow* cannot work the page says so."""
        self.assertNotIn("works like", self.browser.get().body)
        self.options.change(ALICE, approves=False)
        self.assertIn("works like", self.browser.get().body)
        page = self.browser.post("/add-user", {"address": "r@lync.example", "decision": "allow"})
        self.assertIn("will still ask you once", page.body)

    def test_server_that_lets_us_accept_nobody(self) -> None:
        """Where we cannot accept for the user the page sends him to his client, and can decline."""
        self.options.change(ALICE, waiting=[Request(ROMEO)], approves=False)
        page = self.browser.get()
        self.assertNotIn('value="accept"', page.body)
        self.assertIn("To accept, answer in your chat program", page.body)
        self.assertIn('value="decline"', page.body)


class SiteTests(WebCase):
    def test_large_body(self) -> None:
        """A form that is too large is refused before it is read."""
        browser = self.place.browser()
        answer = browser.send("POST", "/login", b"x", content_length="65537")
        self.assertEqual(answer.status, 413)
        self.assertTrue(browser.transport.disconnecting)

    def test_body_without_length(self) -> None:
        """A body of unknown length is refused."""
        answer = self.place.browser().send(
            "POST", "/login", b"", content_length="", transfer_encoding="chunked"
        )
        self.assertEqual(answer.status, 413)

    def test_connections_are_bounded(self) -> None:
        """Beyond the bound connections are refused, and served again when some are gone."""
        from twisted.internet.error import ConnectionDone
        from twisted.internet.testing import StringTransport
        from twisted.python.failure import Failure

        self.patch(__import__("impfed.admin.site", fromlist=["x"]), "CONNECTIONS", 2)
        protocols = [self.place.site.buildProtocol(None) for _ in range(3)]
        self.assertIsNone(protocols[2])
        protocols[0].makeConnection(StringTransport())
        protocols[0].connectionLost(Failure(ConnectionDone()))
        self.assertIsNotNone(self.place.site.buildProtocol(None))

    def test_below_a_path(self) -> None:
        """With a path in its public address everything stands below it, the cookies too."""
        self.place = Place("https://www.home.example/federation/options")
        browser = self.place.browser()
        path = self.place.link()
        self.assertTrue(path.startswith("/federation/options/login/"))
        page = browser.get(path)
        place = {"origin": "https://www.home.example"}
        page = browser.post("/federation/options/login", {"token": page.hidden("token")}, **place)
        self.assertIn("Privacy policies", page.body)
        for found in re.findall(r'(?:action|href)="(/[^"]*)"', page.body):
            self.assertTrue(found.startswith("/federation/options/"), found)
        for cookie in browser.set:
            self.assertIn("path=/federation/options", cookie.lower())
        self.assertEqual(browser.get("/").status, 404)
        bare = browser.get("/federation/options")
        self.assertEqual((bare.status, bare.headers["location"]), (303, "/federation/options/"))

    def test_no_such_page(self) -> None:
        """What is no page of ours is 404, what is no method 405."""
        self.assertEqual(self.place.browser().get("/wp-login.php").status, 404)
        answer = self.place.browser().send("DELETE", "/")
        self.assertEqual(answer.status, 405)
