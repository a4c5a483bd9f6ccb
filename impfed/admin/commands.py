"""Ad-hoc commands (XEP-0050): the User Options in the menu of a user's own client."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from xml.etree.ElementTree import Element

from twisted.internet.defer import maybeDeferred
from twisted.python.failure import Failure

from impfed.admin.actions import words_of
from impfed.admin.command_list import Command, CommandList, Values
from impfed.admin.forms import NS_DATA, BadForm, submitted
from impfed.admin.options_api import OptionsError
from impfed.core.ids import IdSource
from impfed.core.log import EventLog
from impfed.core.metrics import Metrics
from impfed.xmpp.jid import JID
from impfed.xmpp.stanza import OutStanza, Stanza, error_reply, iq_result, xml_attr, xml_text

log = EventLog("impfed.admin")

NS_COMMANDS = "http://jabber.org/protocol/commands"
NS_INFO = "http://jabber.org/protocol/disco#info"
NS_ITEMS = "http://jabber.org/protocol/disco#items"

#: What service discovery says of the node's own address on behalf of its commands.
FEATURES = (NS_COMMANDS, NS_DATA)

#: Seconds after which a command that was begun and not finished is forgotten.
SESSION_LIFETIME = 600.0
SESSIONS_PER_USER = 10
_SESSIONS = 10_000

Send = Callable[[OutStanza], bool]


@dataclass(slots=True)
class _Execution:
    """A command that somebody has begun; it is his, and his alone."""

    user: JID
    command: Command
    begun: float
    busy: bool = field(default=False)


class Commands:
    """Answers service discovery of commands, and runs them.

    :param seconds: the time, in seconds since the epoch.
    """

    def __init__(
        self, commands: CommandList, ids: IdSource, seconds: Callable[[], float], metrics: Metrics
    ) -> None:
        self._commands = commands.by_node
        self._ids = ids
        self._seconds = seconds
        self._metrics = metrics
        self._running: dict[str, _Execution] = {}

    def iq_arrived(self, stanza: Stanza, send: Send) -> bool:
        """Answer an IQ of type get or set of a local user; False if it is none of ours."""
        items = stanza.child("query", NS_ITEMS)
        info = stanza.child("query", NS_INFO)
        command = stanza.child("command", NS_COMMANDS)
        if stanza.type == "get" and items is not None and items.get("node") == NS_COMMANDS:
            send(iq_result(stanza, self._items(stanza.to)))
        elif stanza.type == "get" and info is not None and info.get("node"):
            self._info(stanza, info.get("node", ""), send)
        elif stanza.type == "set" and command is not None:
            self._command(stanza, command, send)
        else:
            return False
        return True

    # -- discovery ---------------------------------------------------------------------------------

    def _items(self, own: JID) -> str:
        items = "".join(
            f"<item jid='{own.attribute}' node='{xml_attr(each.node)}' name='{xml_attr(each.name)}'/>"
            for each in self._commands.values()
        )
        return f"<query xmlns='{NS_ITEMS}' node='{NS_COMMANDS}'>{items}</query>"

    def _info(self, stanza: Stanza, node: str, send: Send) -> None:
        command = self._commands.get(node)
        if node == NS_COMMANDS:
            type, name = "command-list", "User Options"
        elif command is not None:
            type, name = "command-node", command.name
        else:
            send(error_reply(stanza, "item-not-found"))
            return
        listed = "".join(f"<feature var='{feature}'/>" for feature in (*FEATURES, NS_INFO))
        identity = f"<identity category='automation' type='{type}' name='{xml_attr(name)}'/>"
        query = f"<query xmlns='{NS_INFO}' node='{xml_attr(node)}'>{identity}{listed}</query>"
        send(iq_result(stanza, query))

    # -- running -----------------------------------------------------------------------------------

    def _command(self, stanza: Stanza, element: Element, send: Send) -> None:
        command = self._commands.get(element.get("node", ""))
        action = element.get("action", "execute")
        id = element.get("sessionid", "")
        if command is None:
            send(error_reply(stanza, "item-not-found", original=False))
        elif action not in ("execute", "complete", "next", "cancel", "prev"):
            send(_error(stanza, "bad-request", "malformed-action"))
        elif not id:
            self._begin(stanza, command, action, send)
        else:
            self._go_on(stanza, element, command, id, action, send)

    def _begin(self, stanza: Stanza, command: Command, action: str, send: Send) -> None:
        if action != "execute":
            send(_error(stanza, "bad-request", "bad-action"))
            return
        self._metrics.count("admin.commands")
        id = self._ids.token()
        showing: Any = maybeDeferred(command.show, stanza.from_.bare, {}, "")
        showing.addCallback(self._shown, stanza, command, id, send)
        showing.addErrback(self._not_shown, stanza, command, id, send)
        showing.addErrback(self._fault, stanza, id, send)

    def _not_shown(
        self, failure: Failure, stanza: Stanza, command: Command, id: str, send: Send
    ) -> None:
        failure.trap(OptionsError)
        note = _note("error", str(failure.value))
        send(iq_result(stanza, _answer(command, id, "completed", note)))

    def _shown(self, form: str, stanza: Stanza, command: Command, id: str, send: Send) -> None:
        """Show a command's form, or what it has to say."""
        if command.submit is None or "type='result'" in form[: form.index(">")]:
            send(iq_result(stanza, _answer(command, id, "completed", form)))
            return
        self._forget(stanza.from_.bare)
        self._running[id] = _Execution(stanza.from_, command, self._seconds())
        send(iq_result(stanza, _answer(command, id, "executing", _ACTIONS + form)))

    def _go_on(
        self, stanza: Stanza, element: Element, command: Command, id: str, action: str, send: Send
    ) -> None:
        running = self._running.get(id)
        if running is None or running.user != stanza.from_ or running.command is not command:
            send(_error(stanza, "bad-request", "bad-sessionid"))
        elif self._seconds() - running.begun >= SESSION_LIFETIME:
            del self._running[id]
            send(_error(stanza, "not-allowed", "session-expired"))
        elif action == "cancel":
            del self._running[id]
            send(iq_result(stanza, _answer(command, id, "canceled", "")))
        elif action == "prev" or running.busy:
            send(_error(stanza, "bad-request", "bad-action"))
        else:
            self._submit(stanza, element, running, id, send)

    def _submit(
        self, stanza: Stanza, element: Element, running: _Execution, id: str, send: Send
    ) -> None:
        command, user = running.command, stanza.from_.bare
        try:
            values = submitted(element)
        except BadForm:
            send(_error(stanza, "bad-request", "bad-payload"))
            return
        assert command.submit is not None
        running.busy = True
        try:
            doing = command.submit(user, values)
        except OptionsError as error:
            self._again(Failure(error), stanza, running, id, values, send)
            return
        doing.addCallback(self._done, stanza, command, id, send)
        doing.addErrback(self._again, stanza, running, id, values, send)
        doing.addErrback(self._fault, stanza, id, send)

    def _done(self, words: str, stanza: Stanza, command: Command, id: str, send: Send) -> None:
        self._running.pop(id, None)
        send(iq_result(stanza, _answer(command, id, "completed", _note("info", words))))

    def _again(
        self,
        failure: Failure,
        stanza: Stanza,
        running: _Execution,
        id: str,
        values: Values,
        send: Send,
    ) -> None:
        """Show the form once more, with what was filled in and what is wrong with it."""
        failure.trap(OptionsError)
        assert failure.value is not None
        words = words_of(failure.value)
        running.busy = False
        form = running.command.show(stanza.from_.bare, values, words)
        assert isinstance(form, str)  # what can be filled in is shown at once
        payload = _ACTIONS + _note("error", words) + form
        if "type='result'" in form[: form.index(">")]:  # there is nothing to choose from any more
            self._running.pop(id, None)
            answer = _answer(running.command, id, "completed", _note("error", words))
        else:
            answer = _answer(running.command, id, "executing", payload)
        send(iq_result(stanza, answer))

    def _fault(self, failure: Failure, stanza: Stanza, id: str, send: Send) -> None:
        self._running.pop(id, None)
        log.failure("command_failed", "a command of {user} failed", failure, user=str(stanza.from_))
        send(error_reply(stanza, "internal-server-error", original=False))

    def _forget(self, user: JID) -> None:
        """Make room: for each user some, for all of them many."""
        now = self._seconds()
        old = [id for id, each in self._running.items() if now - each.begun >= SESSION_LIFETIME]
        own = [id for id, each in self._running.items() if each.user.bare == user]
        old += own[: max(0, len(own) - SESSIONS_PER_USER + 1)]
        if len(self._running) >= _SESSIONS:
            old.append(next(iter(self._running)))
        for id in old:
            self._running.pop(id, None)


_ACTIONS = "<actions execute='complete'><complete/></actions>"


def _note(type: str, words: str) -> str:
    return f"<note type='{type}'>{xml_text(words)}</note>"


def _answer(command: Command, id: str, status: str, payload: str) -> str:
    head = f"<command xmlns='{NS_COMMANDS}' node='{xml_attr(command.node)}'"
    return f"{head} sessionid='{xml_attr(id)}' status='{status}'>{payload}</command>"


def _error(stanza: Stanza, condition: str, detail: str) -> OutStanza:
    """Answer with one of the errors of XEP-0050 section 3.3."""
    reply = error_reply(stanza, condition, original=False)
    words = f"<{detail} xmlns='{NS_COMMANDS}'/></error>"
    return reply._replace(xml=reply.xml.replace("</error>", words, 1))
