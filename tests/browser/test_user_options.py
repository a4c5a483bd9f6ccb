"""The User Options as a user meets them: a message, a link, a page; and what the far side sees."""

from __future__ import annotations

import io
import re
import shutil

from selenium.webdriver.remote.webelement import WebElement
from twisted.trial.unittest import SynchronousTestCase

from demo.ladder import Ladder
from demo.parts import ROOT, PartFailed, Talker, free_ports
from demo.run import NODE_NAME, Stage
from demo.story import ALICE, ROMEO
from tests.browser.chromium import DESKTOP, PHONE, SMALL_PHONE, Chromium

TYBALT = "tybalt@lync.example"
OWN = "federation.home.example"
PICTURES = ROOT / "run" / "artefacts" / "user-options"

WEB = """
[web]
bind = "127.0.0.1:{port}"
public_url = "https://{name}:{port}"
"""


class UserOptions(SynchronousTestCase):
    """A node with Prosody and the Lync-style far side, and a browser."""

    def setUp(self) -> None:
        self.directory = ROOT / "run" / "browser" / self.id().rpartition(".")[2]
        shutil.rmtree(self.directory, ignore_errors=True)
        self.stage = Stage(self.directory, Ladder("romeo", io.StringIO()), "prosody", 0.0)
        self.addCleanup(self.stage.stack.close)
        (port,) = free_ports(1)
        self.url = f"https://{NODE_NAME}:{port}"
        self.stage.node.extra = WEB.format(port=port, name=NODE_NAME)
        try:
            self.cast = self.stage.start()
        except PartFailed:
            self.stage.stack.close()
            raise
        self.far, self.alice = self.cast.far, self.cast.alice

    def browser(self, scripts: bool = True) -> Chromium:
        browser = Chromium(self.directory / "profile", (NODE_NAME,), scripts)
        self.addCleanup(browser.stop)
        return browser

    def link(self, user: Talker | None = None) -> str:
        """Let a user ask the node for a link."""
        user = user or self.alice
        since = user.position
        user.send("message", to=OWN, body="login")
        body = user.expect(since, event="message", sender=OWN)["body"]
        found = re.search(r"https://\S+", body)
        assert found is not None, body
        return found[0]

    def log_in(self, browser: Chromium) -> None:
        browser.open(self.link())
        browser.press("Open")
        browser.wait_for("Privacy policies")

    def subscribes(self, who: str) -> None:
        since = self.alice.position
        self.cast.far_does("subscribe", 200, **{"from": who, "to": ALICE})
        self.alice.expect(since, event="asked", sender=f"{who}@lync.example")

    def row(self, browser: Chromium, section: str, text: str) -> WebElement:
        rows = browser.all(f"#{section} li, #{section} tbody tr")
        found = [row for row in rows if text in row.text]
        self.assertEqual(len(found), 1, f"{text} in {[row.text for row in rows]}")
        return found[0]

    # -- stories -----------------------------------------------------------------------------------

    def test_help(self) -> None:
        """Whoever writes anything else is told what to write."""
        since = self.alice.position
        self.alice.send("message", to=OWN, body="hello?")
        body = self.alice.expect(since, event="message", sender=OWN)["body"]
        self.assertIn("Write login", body)
        self.assertIn("lync.example (the far side of the demo)", body)

    def test_whole_story(self) -> None:
        """Requests are answered, people blocked and allowed; the far side sees it at once."""
        browser = self.browser()
        browser.open(self.url)
        browser.picture(PICTURES / "1-welcome.png")
        self.assertIn("Write login", browser.text)

        browser.open(self.link())
        browser.picture(PICTURES / "2-link.png")
        browser.press("Open")
        browser.wait_for("Privacy policies")
        self.assertEqual(browser.driver.current_url, f"{self.url}/")
        browser.picture(PICTURES / "3-empty.png")

        self.subscribes("romeo")
        self.subscribes("tybalt")
        browser.open(self.url)
        self.row(browser, "requests", TYBALT)
        browser.picture(PICTURES / "4-requests.png")
        since = self.far.position
        browser.press(f"Accept {ROMEO}")
        browser.wait_for(f"{ROMEO} can see you now.")
        self.far.expect(
            since, event="presence", sender=ALICE, subscription="active", state="available"
        )
        browser.press(f"Decline {TYBALT}")
        browser.wait_for("was declined")

        self.block_and_allow(browser)
        self.add(browser)
        self.pictures(browser)
        browser.press(f"Clear {TYBALT}")
        browser.wait_for("Forgotten")
        browser.press("Log out")
        self.assertNotIn("Privacy policies", browser.text)
        self.assertEqual(self.far.seen(event="violation"), [])

    def block_and_allow(self, browser: Chromium) -> None:
        """Romeo is blocked, then taken off the list again."""
        since = self.far.position
        browser.press(f"Block {ROMEO}")
        browser.wait_for(f"{ROMEO} is blocked now.")
        self.far.expect(since, event="presence", sender=ALICE, to=ROMEO, state="offline")
        self.assertIn("sees you as offline", self.row(browser, "watchers", ROMEO).text)
        since = self.far.position
        browser.tick("#policies tbody input")
        browser.press("Delete Selected")
        browser.wait_for("1 entry was deleted.")
        self.far.expect(since, event="presence", sender=ALICE, to=ROMEO, state="available")

    def add(self, browser: Chromium) -> None:
        """Users, domains and a contact are added, the default is changed."""
        browser.fill("add-user", address="rosaline", decision="allow")
        browser.press("Add User")
        browser.wait_for("is no address")
        browser.picture(PICTURES / "5-mistake.png")
        browser.fill("add-user", address="Rosaline@lync.example", decision="allow")
        browser.press("Add User")
        browser.wait_for("rosaline@lync.example is allowed now.")
        browser.fill("add-domain", domain="spam.example", decision="block")
        browser.press("Add Domain")
        browser.wait_for("spam.example is blocked now.")
        browser.fill("default", default="block")
        browser.press("Save")
        browser.wait_for("Everybody who is not on your list is blocked now.")
        since = self.alice.position
        browser.fill("add-contact", address=TYBALT, name="Prince of Cats")
        browser.press("Add")
        browser.wait_for("is on your contact list now")
        self.alice.expect(since, event="presence", sender=TYBALT, kind="available")
        browser.open(self.url)
        self.row(browser, "contacts", "lets you see them")

    def pictures(self, browser: Chromium) -> None:
        """The full page at every size, light and dark; nothing is cut off."""
        for name, size in (("desktop", DESKTOP), ("phone", PHONE), ("small-phone", SMALL_PHONE)):
            for dark in (False, True):
                browser.size(size)
                browser.dark(dark)
                browser.open(self.url)
                self.assertLessEqual(browser.overflow, 0, name)
                browser.picture(PICTURES / f"6-{name}{'-dark' if dark else ''}.png")
        browser.size(DESKTOP)
        browser.dark(False)

    def test_without_scripts(self) -> None:
        """With JavaScript switched off, on a phone, everything works the same."""
        browser = self.browser(scripts=False)
        browser.open("data:text/html,<body>off<script>document.body.textContent='on'</script>")
        self.assertEqual(browser.text, "off")
        browser.size(PHONE)
        self.log_in(browser)
        browser.fill("add-user", address=ROMEO, decision="allow")
        browser.press("Add User")
        browser.wait_for(f"{ROMEO} is allowed now.")
        since = self.far.position
        self.cast.far_does("subscribe", 200, **{"from": "romeo", "to": ALICE})
        self.far.expect(
            since, event="presence", sender=ALICE, subscription="active", state="available"
        )
        browser.open(self.url)
        self.row(browser, "watchers", "sees you")
        browser.press("Log out")
        self.assertNotIn("Privacy policies", browser.text)

    def test_a_link_is_for_one_browser(self) -> None:
        """A link that was used opens nothing in a second browser; cookies stay where they are."""
        link = self.link()
        browser = self.browser()
        browser.open(link)
        browser.press("Open")
        browser.wait_for("Privacy policies")
        for cookie in browser.driver.get_cookies():
            self.assertTrue(cookie["secure"] and cookie["httpOnly"], cookie)
            self.assertEqual(cookie["sameSite"], "Strict")
        self.assertEqual(browser.driver.execute_script("return document.cookie"), "")
        browser.open(link)
        self.assertIn("has been used", browser.text)
        browser.driver.delete_all_cookies()
        browser.open(link)
        self.assertIn("has been used", browser.text)
        browser.open(self.url)
        self.assertNotIn("Privacy policies", browser.text)

    def test_form_of_another_site(self) -> None:
        """A form that another page sends for a user who is logged in does nothing."""
        browser = self.browser()
        self.log_in(browser)
        browser.open(
            f"data:text/html,<form method=post action='{self.url}/default'>"
            "<input name=default value=block><button>Win</button></form>"
        )
        browser.press("Win")
        self.assertNotIn("Privacy policies", browser.text)
        browser.open(self.url)
        self.assertTrue(browser.find("input[name=default][value=ask]").is_selected())
