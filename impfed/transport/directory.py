"""Asks the home server's module whether users exist; many questions ride in one IQ.

The questions go in our own namespace (``etc/prosody/mod_impfed.lua`` answers them)::

    <query xmlns='urn:xmpp:impfed:directory:0'><user jid='alice@home.example'/></query>

    <query xmlns='urn:xmpp:impfed:directory:0'>
      <host name='home.example'/><host name='rooms.home.example' kind='service'/>
      <user jid='alice@home.example' state='exists'/></query>

A question without users is the greeting: its answer shows that the module is there, which hosts
it can speak of, and what else it can do (:mod:`.handover`).
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum

from impfed.xmpp.jid import JID
from impfed.xmpp.stanza import OutStanza, Stanza, iq

NS_DIRECTORY = "urn:xmpp:impfed:directory:0"

#: Users asked about in one IQ.
BATCH = 100

#: Seconds to wait for an answer.
TIMEOUT = 10.0


class Existence(Enum):
    """What a home server says of a user; the values are those of the routing room's enum."""

    EXISTS = "exists"
    ABSENT = "absent"
    UNKNOWN = "unknown"


Done = Callable[[Existence], None]


class _Asked:
    """Questions that went out together."""

    __slots__ = ("greeting", "users", "when")

    def __init__(self, users: dict[str, list[Done]], when: float, greeting: bool) -> None:
        self.users = users
        self.when = when
        self.greeting = greeting


class DirectoryQueries:
    """The open questions of one link.

    :param address: the component's own address, from which the questions go.
    :param target: whom they go to: the component's address, or a local domain.
    :param fault: called inside the ``except`` clause when a ``done`` function raises, to log it.
    :ivar hosts: hosts that the module speaks of, as it said when greeted; None until it has
        answered anything.
    :ivar accounts: those of them that have users; the others are services, such as rooms.
    :ivar abilities: what else the module can do, as namespaces.
    :ivar queue: what it calls the numbers that it gives to stanzas; "" if it gives none.
    """

    def __init__(self, address: JID, target: JID, fault: Callable[[], None]) -> None:
        self._address = address
        self._target = target
        self._fault = fault
        self._waiting: dict[str, list[Done]] = {}
        self._asked: dict[str, _Asked] = {}
        self.hosts: frozenset[str] | None = None
        self.accounts: frozenset[str] = frozenset()
        self.abilities: frozenset[str] = frozenset()
        self.queue = ""

    def ask(self, user: JID, done: Done) -> None:
        """Add a question; ``done`` is called exactly once."""
        self._waiting.setdefault(user.bare.text, []).append(done)

    @property
    def waiting(self) -> bool:
        """Whether there are questions that have not been sent."""
        return bool(self._waiting)

    @property
    def greeted(self) -> bool:
        """Whether a module has answered, or may still answer the greeting."""
        return self.hosts is not None or any(asked.greeting for asked in self._asked.values())

    def greeting(self, id: str, now: float, limit: int) -> OutStanza:
        """Return the question that shows whether the module is there.

        :param limit: octets that we take in one stanza.
        """
        self._asked[id] = _Asked({}, now, True)
        # As attributes: a module that does not know them takes a question without content as greeting.
        return self._query(id, "", f" acknowledges='true' limit='{limit}'")

    def next_query(self, id: str, now: float) -> OutStanza:
        """Return the next questions, as one IQ."""
        users = dict(list(self._waiting.items())[:BATCH])
        for user in users:
            del self._waiting[user]
        self._asked[id] = _Asked(users, now, False)
        return self._query(
            id, "".join([f"<user jid='{JID.parse(user).attribute}'/>" for user in users])
        )

    def _query(self, id: str, content: str, attributes: str = "") -> OutStanza:
        payload = f"<query xmlns='{NS_DIRECTORY}'{attributes}>{content}</query>"
        return iq(self._target, self._address, id=id, type="get", payload=payload)

    def answered(self, stanza: Stanza) -> bool | None:
        """Take an IQ of type result or error (or, without the module, our own question back).

        :return: None if it answers no question of ours; else whether the module is there.
        """
        asked = self._asked.pop(stanza.id, None)
        if asked is None:
            return None
        query = stanza.child("query", NS_DIRECTORY)
        there = stanza.type == "result" and query is not None
        states: dict[str, str] = {}
        if there and query is not None:
            for child in query:
                name = child.tag.removeprefix(f"{{{NS_DIRECTORY}}}")
                if name == "user":
                    states[child.get("jid", "")] = child.get("state", "")
            if self.hosts is None:
                self.hosts = frozenset()
            if asked.greeting:
                hosts = query.findall(f"{{{NS_DIRECTORY}}}host")
                self.hosts = frozenset(host.get("name", "") for host in hosts)
                self.accounts = frozenset(
                    host.get("name", "") for host in hosts if host.get("kind") is None
                )
                abilities = query.findall(f"{{{NS_DIRECTORY}}}can")
                self.abilities = frozenset(each.get("name", "") for each in abilities)
                self.queue = next((queue for each in abilities if (queue := each.get("queue"))), "")
        for user, calls in asked.users.items():
            state = states.get(user, "unknown")
            self._tell(calls, Existence(state) if state in _STATES else Existence.UNKNOWN)
        return there

    def expire(self, now: float) -> None:
        """Give up the questions that were asked too long ago: nothing is known."""
        for id, asked in list(self._asked.items()):
            if asked.when <= now - TIMEOUT:
                del self._asked[id]
                for calls in asked.users.values():
                    self._tell(calls, Existence.UNKNOWN)

    @property
    def deadline(self) -> float | None:
        """When :meth:`expire` is due; None while nothing is open."""
        if not self._asked:
            return None
        return min(asked.when for asked in self._asked.values()) + TIMEOUT

    def lost(self) -> None:
        """Give up all questions: the link is gone."""
        open_calls = [calls for asked in self._asked.values() for calls in asked.users.values()]
        open_calls += self._waiting.values()
        self._asked.clear()
        self._waiting = {}
        self.hosts = None
        self.abilities = frozenset()
        self.queue = ""
        for calls in open_calls:
            self._tell(calls, Existence.UNKNOWN)

    def _tell(self, calls: list[Done], existence: Existence) -> None:
        for done in calls:
            try:
                done(existence)
            except Exception:  # the others must be told, too
                self._fault()


_STATES = {existence.value for existence in Existence}
