"""The commands themselves: for each a form, and what its answer does."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from twisted.internet.defer import Deferred, inlineCallbacks, succeed

from impfed.admin import forms
from impfed.admin.actions import ANSWERS, DECISIONS, DEFAULTS, Actions, plain, shown, shown_subject
from impfed.admin.login import TooMany
from impfed.admin.options_api import Entry, OptionsError, Overview, Request, Watcher
from impfed.xmpp.jid import JID

Values = Mapping[str, list[str]]

#: What a watcher is shown, and how a contact stands, in words.
SEES = {"sees": "sees you", "waits": "waits for your answer", "hidden": "sees you as offline"}
STANDS = {
    "approved": "lets you see them",
    "pending": "has not answered yet",
    "declined": "does not let you see them",
}


def sees(watcher: Watcher) -> str:
    """Return what a watcher is shown, in words."""
    if watcher.sees == "sees" and not watcher.devices:
        return "may see you"
    return SEES[watcher.sees]


@dataclass(frozen=True, slots=True)
class Command:
    """One command (XEP-0050).

    :ivar node: its name for machines.
    :ivar name: its name for people.
    :ivar show: makes the form from the user, what he has filled in before, and words about an error.
        Without ``submit`` the form is a result, and all that there is.
    :ivar submit: does what the form asks for; fires with, or fails in, words.
    """

    node: str
    name: str
    show: Callable[[JID, Values, str], str | Deferred[str]]
    submit: Callable[[JID, Values], Deferred[str]] | None = None


def first(values: Values, name: str) -> str:
    """Return a field's first value, "" if it has none."""
    return next(iter(values.get(name, ())), "")


class CommandList:
    """Every command, on the same actions as the page.

    :param link_for: makes a one-time link to the page; None where there is none.
    """

    def __init__(self, actions: Actions, link_for: Callable[[JID], Deferred[str]] | None) -> None:
        self._actions = actions
        self._link_for = link_for
        commands = [
            Command("impfed#requests", "Answer requests", self._requests, self._answer),
            Command("impfed#add-contact", "Add a contact", self._contact, self._add_contact),
            Command("impfed#watchers", "Who watches me", self._watchers),
            Command("impfed#add-user", "Add User: allow or block", self._user, self._add_user),
            Command(
                "impfed#add-domain", "Add Domain: allow or block", self._domain, self._add_domain
            ),
            Command("impfed#delete", "Delete from my list", self._list, self._delete),
            Command("impfed#default", "Default policy", self._default, self._set_default),
        ]
        if link_for is not None:
            commands.append(Command("impfed#login", "Open the User Options page", self._login))
        self.by_node = {command.node: command for command in commands}

    # -- requests ----------------------------------------------------------------------------------

    def _requests(self, user: JID, values: Values, error: str) -> str:
        overview = self._actions.overview(user)
        people = {
            **{str(each.foreign): f"{_named(each)}: waits" for each in overview.waiting},
            **{str(each.foreign): f"{_named(each)}: declined" for each in overview.declined},
        }
        title = "Requests"
        if not people:
            return forms.result(title, [forms.note("No request waits, and none was declined.")])
        fields = [
            forms.choice("person", "Person", people, _known(people, first(values, "person"))),
            forms.choice("answer", "Answer", ANSWERS, _known(ANSWERS, first(values, "answer"))),
        ]
        words = (
            "These people want to see whether you are available. Who is declined sees you as"
            " offline, and is not told. Clear forgets a decision: you will be asked again."
        )
        return forms.form(title, error or words, fields)

    def _answer(self, user: JID, values: Values) -> Deferred[str]:
        return self._actions.answer(user, first(values, "person"), first(values, "answer"))

    # -- contacts and watchers ---------------------------------------------------------------------

    def _contact(self, user: JID, values: Values, error: str) -> str:
        domains = self._actions.overview(user).domains
        places = ", ".join(domain.name for domain in domains[:10])
        fields = [
            forms.text("address", "Address", first(values, "address"), hint="name@domain"),
            forms.text("name", "Name on your contact list", first(values, "name"), required=False),
        ]
        words = f"People at these organisations can be reached: {places}" if places else ""
        return forms.form("Add a contact", error or words, fields)

    def _add_contact(self, user: JID, values: Values) -> Deferred[str]:
        return self._actions.add_contact(user, first(values, "address"), first(values, "name"))

    def _watchers(self, user: JID, values: Values, error: str) -> str:
        overview = self._actions.overview(user)
        watchers = [f"{shown(each.foreign)}: {sees(each)}" for each in overview.watchers]
        contacts = [
            f"{shown(each.foreign)}: {STANDS.get(each.state, each.state)}"
            for each in overview.contacts
        ]
        return forms.result(
            "Who watches me",
            [
                forms.lines("watchers", "They watch you", watchers or ["Nobody"]),
                forms.lines("contacts", "You watch them", contacts or ["Nobody"]),
            ],
        )

    # -- the list ----------------------------------------------------------------------------------

    def _user(self, user: JID, values: Values, error: str) -> str:
        fields = [
            forms.text("address", "Address", first(values, "address"), hint="name@domain"),
            forms.choice(
                "decision", "Policy", DECISIONS, _known(DECISIONS, first(values, "decision"))
            ),
        ]
        words = (
            "Allow shows a person whether you are available, without asking you. Block shows you as"
            " offline, and refuses messages."
        )
        return forms.form("Add User", error or words, fields)

    def _add_user(self, user: JID, values: Values) -> Deferred[str]:
        words = self._actions.add_user(user, first(values, "address"), first(values, "decision"))
        return succeed(words)

    def _domain(self, user: JID, values: Values, error: str) -> str:
        fields = [
            forms.text("domain", "Domain", first(values, "domain"), hint="lync.example"),
            forms.choice(
                "decision", "Policy", DECISIONS, _known(DECISIONS, first(values, "decision"))
            ),
        ]
        words = "For everybody there whom you have not put on your list by name."
        return forms.form("Add Domain", error or words, fields)

    def _add_domain(self, user: JID, values: Values) -> Deferred[str]:
        words = self._actions.add_domain(user, first(values, "domain"), first(values, "decision"))
        return succeed(words)

    def _list(self, user: JID, values: Values, error: str) -> str:
        overview = self._actions.overview(user)
        title = "Privacy policies"
        if not overview.entries:
            words = f"Your list is empty. {_default_words(overview)}"
            return forms.result(title, [forms.note(words)])
        options = {each.subject: _entry_words(each) for each in overview.entries}
        fields = [forms.several("entries", "Delete", options)]
        return forms.form(title, error or _default_words(overview), fields)

    def _delete(self, user: JID, values: Values) -> Deferred[str]:
        return succeed(self._actions.delete(user, values.get("entries", [])))

    def _default(self, user: JID, values: Values, error: str) -> str:
        now = self._actions.overview(user).default
        chosen = _known(DEFAULTS, first(values, "default")) or now
        words = "For everybody at other organisations who is not on your list."
        fields = [forms.choice("default", "Default policy", DEFAULTS, chosen)]
        return forms.form("Default policy", error or words, fields)

    def _set_default(self, user: JID, values: Values) -> Deferred[str]:
        return succeed(self._actions.set_default(user, first(values, "default")))

    # -- the page ----------------------------------------------------------------------------------

    @inlineCallbacks
    def _login(self, user: JID, values: Values, error: str) -> Any:
        assert self._link_for is not None
        try:
            link = yield self._link_for(user)
        except TooMany:
            raise OptionsError("You asked for many links. Ask again in some minutes.") from None
        note = "The link works once, for 5 minutes, and for you alone."
        return forms.result(
            "User Options", [forms.text("link", "Link", link, required=False), forms.note(note)]
        )


def _known(options: Mapping[str, str], value: str) -> str:
    return value if value in options else ""


def _named(request: Request) -> str:
    name = plain(request.name)
    return f"{name} ({shown(request.foreign)})" if name else shown(request.foreign)


def _entry_words(entry: Entry) -> str:
    what = "everybody at " if entry.is_domain else ""
    return f"{DECISIONS[entry.decision]} {what}{shown_subject(entry.subject)}"


def _default_words(overview: Overview) -> str:
    if overview.default == "ask":
        return "You are asked about everybody who is not on your list."
    return "Everybody who is not on your list is blocked."
