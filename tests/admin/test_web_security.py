"""What the web page refuses: strangers, forged forms, markup in what people have chosen."""

from __future__ import annotations

from impfed.admin.options_api import Contact, Entry, Request, Watcher
from impfed.xmpp.jid import JID
from tests.admin.kit import ALICE, CAROL, ROMEO, TYBALT, URL
from tests.admin.test_web import XSS, WebCase


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
