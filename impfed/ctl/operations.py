"""The commands about people and partners, as a running node answers them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any, Protocol, cast

from twisted.internet.defer import Deferred

from impfed.ctl.api import COMMANDS, ControlError
from impfed.gateway.budgets import Budgets
from impfed.gateway.explain import Explainer, ExplainError
from impfed.gateway.people import Done, People, PeopleError
from impfed.gateway.presence import PresenceGateway
from impfed.policy.users import Default, ListDecision, PolicyError, subject_of
from impfed.proxy.pat_check import PatCheck
from impfed.xmpp.jid import JID

Items = list[dict[str, Any]]


class Drain(Protocol):
    """Gives away what a node has."""

    def begin(self) -> bool:
        """Begin, or go on; False when that cannot be now."""
        ...

    def work_again(self) -> bool:
        """Take work again; False when the node does not drain."""
        ...

    def progress(self) -> dict[str, Any]:
        """Return how far it is, as plain values."""
        ...


class Operations:
    """Answers by command name; what is wrong with a request is a :class:`ControlError`.

    :param local_domains: exact names, lower case.
    :param budgets: what may be sent to each partner.
    :param pat: calls the advertised addresses.
    :param drain: gives away what this node of a cluster has; None outside of one.
    """

    def __init__(
        self,
        explainer: Explainer,
        people: People,
        presence: PresenceGateway,
        local_domains: frozenset[str],
        budgets: Budgets | None = None,
        pat: PatCheck | None = None,
        drain: Drain | None = None,
    ) -> None:
        self._explainer = explainer
        self._people = people
        self._presence = presence
        self._local_domains = local_domains
        self._budgets = budgets
        self._pat = pat
        self._drains = drain
        self._answers: dict[str, Callable[[Sequence[str]], Items | Deferred[Items]]] = {
            "explain": self._explain,
            "policy": self._policy,
            "user": self._user,
            "budget": self._budget,
            "limits": self._limits,
            "pat-check": self._pat_check,
            "drain": self._drain,
        }

    def perform(self, command: str, arguments: Sequence[str]) -> Items | Deferred[Items]:
        """Return the items of an answer.

        :raises ControlError: for a wrong request, in words.
        """
        try:
            return self._answers[command](arguments)
        except (ExplainError, PolicyError, PeopleError) as error:
            raise ControlError(str(error)) from None

    def _explain(self, arguments: Sequence[str]) -> Deferred[Items]:
        if len(arguments) != 2:
            raise _usage("explain")
        lines = self._explainer.explain(*arguments)
        return lines.addCallback(lambda found: [asdict(line) for line in found])

    def _limits(self, arguments: Sequence[str]) -> Items:
        if arguments:
            raise _usage("limits")
        return cast(Items, self._presence.limits())

    def _pat_check(self, arguments: Sequence[str]) -> Deferred[Items]:
        if arguments:
            raise _usage("pat-check")
        if self._pat is None:
            raise ControlError("this node has no advertised addresses")
        found: Deferred[Items] = Deferred()
        self._pat.check(found.callback)
        return found

    def _drain(self, arguments: Sequence[str]) -> Items:
        drain = self._drains
        if drain is None:
            raise ControlError("this node is in no cluster: nobody could take what it has")
        action = " ".join(arguments)
        if action not in ("", "state", "stop"):
            raise _usage("drain")
        if not action and not drain.begin():
            raise ControlError("this node cannot drain now: it is no member of its cluster")
        if action == "stop" and not drain.work_again():
            raise ControlError("this node does not drain")
        return [drain.progress()]

    # -- partners ----------------------------------------------------------------------------------

    def _budget(self, arguments: Sequence[str]) -> Items:
        budgets = self._budgets
        if budgets is None:
            raise ControlError("this node has no budgets")
        if not arguments:
            return budgets.status()
        domain, action = arguments[0].lower(), " ".join(arguments[1:2])
        if not budgets.known(domain):
            raise ControlError(f"{domain} is no domain that this node federates with over SIP")
        if len(arguments) == 1:
            return budgets.status(domain)
        if action == "unknown" and len(arguments) == 2:
            return budgets.unknown_users(domain)
        if action == "forget" and len(arguments) <= 3:
            return [{"domain": domain, "forgotten": budgets.forget_unknown(domain, *arguments[2:])}]
        if action == "resume" and len(arguments) == 2:
            return [{"domain": domain, "resumed": budgets.end_pauses(domain)}]
        raise _usage("budget")

    # -- lists -------------------------------------------------------------------------------------

    def _policy(self, arguments: Sequence[str]) -> Items:
        if not arguments:
            raise _usage("policy")
        local, action, rest = self._local(arguments[0]), "list", tuple(arguments[1:])
        if rest:
            action, *others = rest
            rest = tuple(others)
        policies = self._presence.policies
        if action == "list" and not rest:
            pass
        elif action in ("allow", "block") and len(rest) == 1:
            policies.set(local, rest[0], cast(ListDecision, action))
        elif action == "delete" and len(rest) == 1:
            if not policies.delete(local, rest[0]):
                raise ControlError(f"the list of {local} has no entry {rest[0]}")
        elif action == "clear" and len(rest) == 1:
            foreign = subject_of(rest[0])
            if not isinstance(foreign, JID):
                raise ControlError(
                    f"{rest[0]} is a domain; what is cleared is the answer to a user"
                )
            if not self._presence.watched.clear((local, foreign)):
                raise ControlError(f"{local} has not answered a request of {foreign}")
        elif action == "default" and len(rest) == 1:
            policies.set_default(local, cast(Default, rest[0]))
        else:
            raise _usage("policy")
        return self._list(local)

    def _list(self, local: JID) -> Items:
        """Return a user's whole list: the entries, the default, and what he answered in clients."""
        policies, items = self._presence.policies, []

        def item(subject: str, decision: str, by: str, changed_at: float) -> None:
            items.append(
                {"subject": subject, "decision": decision, "by": by, "changed_at": changed_at}
            )

        for entry in policies.entries(local):
            item(entry.subject, entry.decision, "list", entry.changed_at)
        for record in self._presence.authorizations.of(local):
            if record.inbound != "none":
                item(record.foreign, record.inbound, "client", record.changed_at)
        item("(everybody else)", policies.default(local), "default", 0.0)
        return items

    # -- people ------------------------------------------------------------------------------------

    def _user(self, arguments: Sequence[str]) -> Deferred[Items]:
        def told(done: Done) -> Items:
            return [asdict(done)]

        if len(arguments) == 2 and arguments[0] == "remove":
            return self._people.remove(self._local(arguments[1])).addCallback(told)
        if len(arguments) == 3 and arguments[0] == "rename":
            old, new = map(self._local, arguments[1:])
            return self._people.rename(old, new).addCallback(told)
        raise _usage("user")

    def _local(self, text: str) -> JID:
        found = subject_of(text)
        if not isinstance(found, JID) or found.domain not in self._local_domains:
            known = ", ".join(sorted(self._local_domains))
            raise ControlError(f"{text} is no local user; the local domains are {known}")
        return found


def _usage(command: str) -> ControlError:
    return ControlError(f"usage: {command} {COMMANDS[command][0]}".rstrip())
