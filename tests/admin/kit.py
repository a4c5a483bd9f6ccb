"""A node of which only the User Options are real, and a browser without a network."""

from __future__ import annotations

import io
import re
from dataclasses import replace
from html import unescape
from http.client import HTTPResponse
from http.cookies import SimpleCookie
from urllib.parse import urlencode

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport

from impfed.admin.actions import Actions
from impfed.admin.command_list import CommandList
from impfed.admin.commands import Commands
from impfed.admin.login import LoginLinks, Sessions
from impfed.admin.node_address import NodeAddress
from impfed.admin.options_api import (
    Added,
    Contact,
    Entry,
    ForeignDomain,
    OptionsError,
    Overview,
    Request,
    Watcher,
)
from impfed.admin.site import _root, _Site
from impfed.admin.web import UserOptionsWeb
from impfed.core.metrics import Metrics
from impfed.store.memory import MemoryStore
from impfed.store.records import WebSessionRecord
from impfed.testing.fakes import FakeHome, counting_ids, stanza
from impfed.xmpp.jid import JID

START = 1_790_000_000.0
ALICE, CAROL = JID.parse("alice@home.example"), JID.parse("carol@home.example")
ROMEO, TYBALT = JID.parse("romeo@lync.example"), JID.parse("tybalt@lync.example")
OWN = "federation.home.example"
URL = "https://federation.home.example:8443"


class FakeOptions:
    """Keeps an overview for each user; remembers what else it was asked.

    :ivar adds: what becomes of a contact: an Added, or words of an error.
    :ivar accepting: set to a Deferred to answer later, to words to refuse.
    """

    def __init__(self) -> None:
        self.views: dict[JID, Overview] = {}
        self.asked: list[tuple] = []
        self.adds: Added | str = Added.ROSTER
        self.accepting: Deferred | str | None = None
        self.domains = (ForeignDomain("lync.example", "Our supplier"), ForeignDomain("b.example"))

    def overview(self, user: JID) -> Overview:
        return replace(self.views.get(user, Overview()), domains=self.domains)

    def change(self, user: JID, **changes) -> None:
        """Set parts of a user's overview."""
        self.views[user] = replace(self.overview(user), **changes)

    def decide(self, user, subject, decision) -> None:
        entries = [each for each in self.overview(user).entries if each.subject != str(subject)]
        if len(entries) >= 3:
            raise OptionsError("The list has 3 entries already.")
        self.change(user, entries=[*entries, Entry(str(subject), decision)])

    def delete(self, user, subject) -> bool:
        entries = self.overview(user).entries
        kept = [each for each in entries if each.subject != subject]
        self.change(user, entries=kept)
        return len(kept) < len(entries)

    def set_default(self, user, default) -> None:
        self.change(user, default=default)

    def _settle(self, user, foreign) -> None:
        view = self.overview(user)
        for name in ("waiting", "declined"):
            kept = [each for each in getattr(view, name) if each.foreign != foreign]
            self.change(user, **{name: kept})

    def accept(self, user, foreign):
        self.asked.append(("accept", user, foreign))
        if isinstance(self.accepting, str):
            return fail(OptionsError(self.accepting))
        if self.accepting is not None:
            return self.accepting
        self._settle(user, foreign)
        self.change(user, watchers=[*self.overview(user).watchers, Watcher(foreign, "sees")])
        return succeed(None)

    def decline(self, user, foreign) -> None:
        self._settle(user, foreign)
        self.change(user, declined=[*self.overview(user).declined, Request(foreign)])

    def clear(self, user, foreign) -> None:
        self._settle(user, foreign)

    def add_contact(self, user, foreign, name):
        self.asked.append(("add", user, foreign, name))
        if isinstance(self.adds, str):
            return fail(OptionsError(self.adds))
        self.change(user, contacts=[*self.overview(user).contacts, Contact(foreign, "pending")])
        return succeed(self.adds)

    def federated(self, domain) -> bool:
        return any(each.name == domain for each in self.domains)

    def hosted(self, domain) -> bool:
        return domain in ("home.example", OWN)


class Answer:
    """What a browser got."""

    def __init__(self, data: bytes) -> None:
        class Socket:
            def makefile(self, *_, **__):
                return io.BytesIO(data)

        response = HTTPResponse(Socket())
        response.begin()
        self.status = response.status
        self.headers = response.headers
        self.body = response.read().decode()

    def hidden(self, name: str) -> str:
        """Return the value of the first hidden field of a name."""
        found = re.search(rf'name="{name}" value="([^"]*)"', self.body)
        assert found, f"no field {name} in {self.body}"
        return unescape(found[1])


class Browser:
    """Keeps cookies as a browser does, as far as the tests need it."""

    def __init__(self, site: _Site) -> None:
        self._site = site
        self.cookies: dict[str, str] = {}
        self.set: list[str] = []
        self.page: Answer | None = None

    def send(self, method: str, path: str, body: bytes = b"", **headers: str) -> Answer:
        """Send a request; header names with underscores."""
        lines = [f"{method} {path} HTTP/1.1", "Host: federation.home.example:8443"]
        if self.cookies:
            lines.append("Cookie: " + "; ".join(f"{k}={v}" for k, v in self.cookies.items()))
        if method == "POST":
            headers.setdefault("content_type", "application/x-www-form-urlencoded")
            headers.setdefault("content_length", str(len(body)))
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items() if value]
        protocol = self._site.buildProtocol(None)
        transport = StringTransport()
        protocol.makeConnection(transport)
        protocol.dataReceived("\r\n".join([*lines, "", ""]).encode() + body)
        self.transport = transport
        answer = Answer(transport.value())
        for line in answer.headers.get_all("set-cookie") or ():
            self.set.append(line)
            for name, morsel in SimpleCookie(line).items():
                if morsel["max-age"] == "0":
                    self.cookies.pop(name, None)
                else:
                    self.cookies[name] = morsel.value
        return answer

    def get(self, path: str = "/", **headers: str) -> Answer:
        """Open a page."""
        self.page = self.send("GET", path, **headers)
        return self.page

    def post(self, path: str, fields=(), *, csrf: str | None = None, **headers: str) -> Answer:
        """Send a form as the page that is open would."""
        pairs = list(fields.items()) if isinstance(fields, dict) else list(fields)
        if csrf is None:
            csrf = self.page.hidden("csrf")
        headers.setdefault("origin", URL)
        headers.setdefault("sec_fetch_site", "same-origin")
        body = urlencode([*pairs, ("csrf", csrf)]).encode()
        answer = self.send("POST", path, body, **headers)
        if answer.headers.get("location"):
            return self.get(answer.headers["location"])
        self.page = answer
        return answer


class Place:
    """The node's own address with page, commands and a home server that the test plays."""

    def __init__(self, url: str = URL, web: bool = True) -> None:
        self.clock = Clock()
        self.clock.advance(START)
        self.home = FakeHome()
        self.metrics = Metrics()
        self.options = FakeOptions()
        ids, seconds = counting_ids(), self.clock.seconds
        actions = Actions(self.options)
        self.store = MemoryStore()
        self.store.start()
        self.links = LoginLinks(self.store, ids, seconds)
        self.sessions = Sessions(self.store, ids, seconds, 1800.0)
        self.web = UserOptionsWeb(actions, self.links, self.sessions, self.metrics, url, OWN)
        self.site = _Site(_root(self.web), self.metrics, self.clock)
        link_for = self.web.link_for if web else None
        commands = Commands(CommandList(actions, link_for), ids, seconds, self.metrics)
        self.own = NodeAddress(
            self.home, ids, self.metrics, seconds, commands, link_for, lambda: self.options.domains
        )

    def arrives(self, xml: str) -> None:
        """A stanza that is no IQ comes to the node."""
        self.own.stanza_arrived(stanza(xml))

    def writes(self, text: str, user: str = "alice@home.example/phone", type="chat", extra=""):
        """A user writes to the node; returns the texts of the answers."""
        before = len(self.home.sent)
        self.arrives(
            f"<message from='{user}' to='{OWN}' type='{type}' id='m1'>"
            f"<body>{text}</body>{extra}</message>"
        )
        return [each.xml for each in self.home.sent[before:]]

    def link(self, user: str = "alice@home.example/phone") -> str:
        """Let a user ask for a link; returns its path."""
        (answer,) = self.writes("login", user)
        return re.search(r"https://[^/]+(/\S+)", answer)[1]

    def browser(self) -> Browser:
        """Return a browser that knows nothing yet."""
        return Browser(self.site)

    def logged_in_now(self) -> int:
        """Return how many sessions there are."""
        found: list[WebSessionRecord] = []
        self.store.load(WebSessionRecord).addCallback(found.extend)
        return len(found)

    def logged_in(self, user: str = "alice@home.example/phone") -> Browser:
        """Return the browser of a user who has used his link."""
        browser = self.browser()
        path = self.link(user)
        page = browser.get(path)
        assert page.status == 200, page.body
        action = re.search(r'action="([^"]+)"', page.body)[1]
        page = browser.post(action, {"token": page.hidden("token")})
        assert page.status == 200, page.body
        return browser
