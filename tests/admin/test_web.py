"""The page: what users can do on it, and what nobody can do to them."""

from __future__ import annotations

import re

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from impfed.admin.options_api import Added, Contact, Entry, Request, Watcher
from impfed.xmpp.jid import JID
from tests.admin.kit import ALICE, CAROL, ROMEO, TYBALT, URL, Place

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


class SecurityTests(WebCase):
    def setUp(self) -> None:
        super().setUp()
        self.browser = self.place.logged_in()
        self.forms = {
            "/add-contact": {"address": "romeo@lync.example"},
            "/add-user": {"address": "romeo@lync.example", "decision": "allow"},
            "/add-domain": {"domain": "lync.example", "decision": "allow"},
            "/delete": {"entries": "b.example"},
            "/default": {"default": "block"},
            "/answer": {"person": str(TYBALT), "answer": "accept"},
            "/logout": {},
        }
        self.options.change(ALICE, waiting=[Request(TYBALT)], entries=[Entry("b.example", "block")])
        self.before = self.options.overview(ALICE)

    def untouched(self, page, status: int) -> None:
        self.assertEqual(page.status, status)
        self.assertEqual(self.options.overview(ALICE), self.before)
        self.assertEqual(self.options.asked, [])

    def test_no_csrf_token(self) -> None:
        """Every form without the session's token is refused."""
        for path, fields in self.forms.items():
            for token in ("", "0" * 48):
                self.untouched(self.browser.post(path, fields, csrf=token), 403)
        self.assertIn("Privacy policies", self.browser.get().body)

    def test_csrf_token_of_somebody_else(self) -> None:
        """The token of another session does not do."""
        other = self.place.logged_in("carol@home.example/x").page.hidden("csrf")
        for path, fields in self.forms.items():
            self.untouched(self.browser.post(path, fields, csrf=other), 403)

    def test_other_origin(self) -> None:
        """A form that another site sends is refused even with the right token."""
        for headers in (
            {"origin": "https://evil.example", "sec_fetch_site": ""},
            {"origin": "null", "sec_fetch_site": ""},
            {"origin": "", "sec_fetch_site": "cross-site"},
            {"origin": "https://federation.home.example", "sec_fetch_site": ""},
        ):
            csrf = self.browser.get().hidden("csrf")
            for path, fields in self.forms.items():
                self.untouched(self.browser.post(path, fields, csrf=csrf, **headers), 403)

    def test_old_browser(self) -> None:
        """A browser that sends neither Origin nor Sec-Fetch-Site is served."""
        page = self.browser.post("/default", {"default": "block"}, origin="", sec_fetch_site="")
        self.assertEqual(page.status, 200)
        self.assertEqual(self.options.overview(ALICE).default, "block")

    def test_not_logged_in(self) -> None:
        """Without a session no form does anything."""
        stranger = self.place.browser()
        for path, fields in self.forms.items():
            self.untouched(stranger.post(path, fields, csrf=""), 403)

    def test_get_changes_nothing(self) -> None:
        """No address does anything by being opened."""
        for path in self.forms:
            self.untouched(self.browser.get(f"{path}?default=block&decision=allow"), 405)

    def test_another_users_session(self) -> None:
        """A user sees and changes his own list, whatever his forms say."""
        self.options.change(CAROL, waiting=[Request(ROMEO, "For Carol only")])
        page = self.browser.get()
        self.assertNotIn("For Carol only", page.body)
        page = self.browser.post("/answer", {"person": str(ROMEO), "answer": "accept"})
        self.untouched(page, 422)
        self.browser.post(
            "/add-user",
            {
                "address": "x@lync.example",
                "decision": "allow",
                "user": str(CAROL),
                "local": str(CAROL),
            },
        )
        self.assertEqual(self.options.overview(CAROL).entries, ())
        self.assertEqual(len(self.options.overview(ALICE).entries), 2)

    def test_markup_from_outside(self) -> None:
        """Names, addresses and descriptions from outside are shown as text."""
        strange = JID.parse("o\\27<b>&\"'@lync.example".replace("<b>&\"'", "\\3cb\\3e\\26\\22"))
        self.options.domains = (
            *self.options.domains,
            type(self.options.domains[0])("c.example", XSS),
        )
        self.options.change(
            ALICE,
            waiting=[Request(strange, XSS)],
            declined=[Request(strange, XSS)],
            watchers=[Watcher(strange, "sees", XSS)],
            contacts=[Contact(strange, "<i>pending</i>")],
            entries=[Entry(str(strange), "allow")],
        )
        page = self.browser.get()
        self.assertNotRegex(page.body, r"<(script|img|b|i)\b")
        self.assertIn("o&#39;&lt;b&gt;&amp;&#34;@lync.example", page.body)
        self.assertIn("&lt;script&gt;", page.body)

    def test_markup_in_what_is_typed(self) -> None:
        """What was typed comes back as text, in the field and in the words about it."""
        for path, field in (
            ("/add-user", "address"),
            ("/add-domain", "domain"),
            ("/add-contact", "name"),
        ):
            fields = {field: XSS, "decision": "allow"}
            page = self.browser.post(path, fields)
            self.assertEqual(page.status, 422)
            self.assertNotRegex(page.body, r"<(script|img)\b")

    def test_names_cannot_turn_the_text_around(self) -> None:
        """Marks that reverse the reading direction, and line ends, are taken out of names."""
        self.options.change(ALICE, waiting=[Request(ROMEO, "Ann\u202etxet\nsecond line\x00")])
        page = self.browser.get()
        self.assertIn("Ann txet second line", page.body)

    def test_headers(self) -> None:
        """Every answer forbids scripts, frames, sniffing and keeping copies."""
        place = self.place
        for page in (
            self.browser.get(),
            place.browser().get(),
            place.browser().get(place.link("carol@home.example/x")),
            place.browser().get("/login/x"),
            place.browser().get("/nowhere"),
            self.browser.post("/default", {}, csrf="x"),
        ):
            policy = page.headers["content-security-policy"]
            self.assertIn("default-src 'none'", policy)
            self.assertIn("frame-ancestors 'none'", policy)
            self.assertNotIn("unsafe", policy)
            self.assertEqual(page.headers["cache-control"], "no-store")
            self.assertEqual(page.headers["x-content-type-options"], "nosniff")
            self.assertEqual(page.headers["referrer-policy"], "same-origin")

    def test_no_scripts(self) -> None:
        """The page has neither scripts nor inline styles, so that the policy costs nothing."""
        body = self.browser.get().body
        self.assertNotRegex(body, r"<script|<style|\son\w+=|javascript:|\sstyle=")

    def test_token_stays_out_of_the_log(self) -> None:
        """No line of the log holds a token."""
        from twisted.logger import globalLogPublisher

        seen: list[str] = []
        observer = lambda event: seen.append(repr(event))  # noqa: E731
        globalLogPublisher.addObserver(observer)
        self.addCleanup(globalLogPublisher.removeObserver, observer)
        path = self.place.link("carol@home.example/x")
        browser = self.place.browser()
        page = browser.get(path)
        browser.post("/login", {"token": page.hidden("token")})
        self.assertTrue(seen)
        self.assertFalse([line for line in seen if path.rpartition("/")[2] in line])

    def test_fault_of_ours(self) -> None:
        """A fault of ours is answered without telling what it was."""
        self.options.overview = lambda user: 1 / 0
        page = self.browser.get()
        self.assertEqual(page.status, 500)
        self.assertNotIn("ZeroDivision", page.body)
        self.assertNotIn("Traceback", page.body)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_bad_octets(self) -> None:
        """Octets that are no UTF-8 are told as a bad address."""
        csrf = self.browser.page.hidden("csrf").encode()
        body = b"address=%ff%fe@lync.example&decision=allow&csrf=" + csrf
        self.untouched(self.browser.send("POST", "/add-user", body, origin=URL), 422)


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
