"""What users can do, from what they typed to words that say what happened.

The page and the ad-hoc commands both go through here, so that they can do the same and say the
same.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

from twisted.internet.defer import Deferred, succeed

from impfed.admin.options_api import Added, OptionsError, Overview, UserOptions
from impfed.core.errors import RemoteError
from impfed.xmpp.jid import JID, JidError, escape_local, unescape_local

#: Characters of a name given to a contact.
NAME_LIMIT = 100
#: Characters of an address that are looked at; longer ones are none.
_ADDRESS_LIMIT = 3071

_SCHEME = re.compile(r"(?:sips?|xmpp|im|pres|mailto):(?://)?", re.IGNORECASE)

DECISIONS = {"allow": "Allow", "block": "Block"}
DEFAULTS = {"ask": "Ask me", "block": "Block"}
ANSWERS = {"accept": "Accept", "decline": "Decline", "clear": "Clear"}


def shown(jid: JID) -> str:
    """Return a bare address as people write it: ``user@domain``, without XEP-0106's escapes."""
    if not jid.local:
        return jid.domain
    try:
        local = unescape_local(jid.local)
    except JidError:
        local = jid.local
    return f"{local}@{jid.domain}"


def shown_subject(subject: str) -> str:
    """Return an entry of a list, address or domain, as people write it."""
    try:
        return shown(JID.parse(subject))
    except JidError:
        return subject


def plain(text: str, limit: int = NAME_LIMIT) -> str:
    """Return one line of text without control characters and without marks that turn it around."""
    kept = (mark if unicodedata.category(mark)[0] != "C" else " " for mark in text[: 4 * limit])
    return " ".join("".join(kept).split())[:limit]


def read_address(text: str) -> JID:
    """Return the bare address that somebody typed or pasted.

    Understands ``romeo@lync.example``, ``sip:romeo@lync.example;transport=tls`` and
    ``Romeo <romeo@lync.example>``; characters that XMPP does not have in an address are escaped.

    :raises OptionsError: when it is none.
    """
    typed = text.strip()
    if typed.endswith(">") and "<" in typed:
        typed = typed[typed.rindex("<") + 1 : -1].strip()
    scheme = _SCHEME.match(typed)
    if scheme:
        typed = re.split(r"[;?]", typed[scheme.end() :])[0]
    if not typed:
        raise OptionsError("Write an address, for example romeo@lync.example.")
    local, at, domain = typed.rpartition("@")
    domain = domain.partition("/")[0]
    quoted = plain(typed, 80)
    if not at or not local or len(typed) > _ADDRESS_LIMIT:
        raise OptionsError(f"“{quoted}” is no address: write it as name@domain.")
    try:
        return JID.of(local, domain)
    except JidError:
        pass  # perhaps it only has to be escaped
    try:
        return JID.of(escape_local(local), domain)
    except JidError as error:
        raise OptionsError(f"“{quoted}” is no address: {error.problem}.") from None


def read_domain(text: str) -> JID:
    """Return the domain that somebody typed.

    :raises OptionsError: when it is none.
    """
    typed = text.strip().removeprefix("@")
    quoted = plain(typed, 80)
    if not typed:
        raise OptionsError("Write a domain, for example lync.example.")
    if "@" in typed:
        raise OptionsError(f"“{quoted}” is an address, not a domain: use Add User.")
    if "*" in typed:
        raise OptionsError("Write one domain; a star cannot stand for several.")
    try:
        jid = JID.parse(typed)
    except JidError as error:
        raise OptionsError(f"“{quoted}” is no domain: {error.problem}.") from None
    if jid.local or jid.resource or "." not in jid.domain:
        raise OptionsError(f"“{quoted}” is no domain.")
    return jid


class Actions:
    """Everything that a user can do; each method returns what has happened, in a sentence.

    ``user`` is always the bare address of whoever has proven to be it.
    """

    def __init__(self, options: UserOptions) -> None:
        self._options = options

    def overview(self, user: JID) -> Overview:
        """Return what the user's page shows."""
        return self._options.overview(user)

    def add_user(self, user: JID, address: str, decision: str) -> str:
        """Allow or block a foreign user.

        :raises OptionsError: when that is not possible.
        """
        foreign = read_address(address)
        return self._decide(user, foreign, decision)

    def add_domain(self, user: JID, domain: str, decision: str) -> str:
        """Allow or block a foreign domain.

        :raises OptionsError: when that is not possible.
        """
        return self._decide(user, read_domain(domain), decision)

    def _decide(self, user: JID, subject: JID, decision: str) -> str:
        if decision not in ("allow", "block"):
            raise OptionsError("Choose Allow or Block.")
        self._refuse_own(subject, "The list is for people at other organisations")
        self._options.decide(user, subject, "allow" if decision == "allow" else "block")
        words = f"{shown(subject)} is {'allowed' if decision == 'allow' else 'blocked'} now."
        if not self._options.federated(subject.domain):
            return f"{words} We do not exchange messages with {subject.domain} at present, though."
        if decision == "allow" and not self._options.overview(user).approves:
            return f"{words} Your chat program will still ask you once."
        return words

    def delete(self, user: JID, subjects: Iterable[str]) -> str:
        """Take entries off the list.

        :raises OptionsError: when none was chosen.
        """
        chosen = list(dict.fromkeys(subjects))
        if not chosen:
            raise OptionsError("Nothing was selected.")
        known = {entry.subject for entry in self._options.overview(user).entries}
        count = sum(self._options.delete(user, each) for each in chosen if each in known)
        if not count:
            return "These entries had been deleted already."
        return "1 entry was deleted." if count == 1 else f"{count} entries were deleted."

    def set_default(self, user: JID, default: str) -> str:
        """Set what becomes of everybody who is not on the list.

        :raises OptionsError: when there is no such default.
        """
        if default not in DEFAULTS:
            raise OptionsError("Choose Ask me or Block.")
        self._options.set_default(user, "ask" if default == "ask" else "block")
        if default == "ask":
            return "You will be asked about everybody who is not on your list."
        return "Everybody who is not on your list is blocked now."

    def answer(self, user: JID, address: str, answer: str) -> Deferred[str]:
        """Accept or decline a request, or forget how one was answered.

        :raises OptionsError: at once or by the Deferred, when that is not possible.
        """
        foreign = read_address(address)
        overview = self._options.overview(user)
        known = [*overview.waiting, *overview.declined]
        who = shown(foreign)
        if all(request.foreign != foreign for request in known):
            raise OptionsError(f"There is no request of {who} any more.")
        if answer == "accept":
            accepting = self._options.accept(user, foreign)
            return accepting.addCallback(lambda _: f"{who} can see you now.")
        if answer == "decline":
            self._options.decline(user, foreign)
            return succeed(f"{who} was declined, and sees you as offline.")
        if answer == "clear":
            self._options.clear(user, foreign)
            return succeed(f"Forgotten. You will be asked when {who} wants to see you again.")
        raise OptionsError("Choose Accept, Decline or Clear.")

    def add_contact(self, user: JID, address: str, name: str = "") -> Deferred[str]:
        """Put somebody on the user's contact list.

        :raises OptionsError: at once or by the Deferred, when that is not possible.
        """
        foreign = read_address(address)
        self._refuse_own(foreign, "This is for contacts at other organisations")
        if not self._options.federated(foreign.domain):
            raise OptionsError(
                f"We do not exchange messages with {foreign.domain}. {self._reachable(user)}"
            )
        adding = self._options.add_contact(user, foreign, plain(name))
        return adding.addCallback(_added_words, shown(foreign))

    def _reachable(self, user: JID) -> str:
        names = [domain.name for domain in self._options.overview(user).domains]
        if not names:
            return "Ask your administrator."
        return f"You can reach people at {' or '.join(filter(None, (', '.join(names[:-1]), names[-1])))}."

    def _refuse_own(self, subject: JID, why: str) -> None:
        if self._options.hosted(subject.domain):
            raise OptionsError(
                f"{why}, and {subject.domain} is our own domain:"
                " your chat program manages your colleagues."
            )


def _added_words(added: Added, who: str) -> str:
    if added is Added.ROSTER:
        return f"{who} is on your contact list now."
    if added is Added.SUGGESTED:
        return f"Your chat program was asked to add {who}: look there, and confirm it."
    return f"Add {who} in your chat program: your server does not let us do it for you."


def words_of(error: BaseException) -> str:
    """Return an expected error in words for the user."""
    if isinstance(error, OptionsError):
        return str(error)
    if isinstance(error, RemoteError):
        return error.reason
    return "Something went wrong here. Your administrator finds the details in the log."
