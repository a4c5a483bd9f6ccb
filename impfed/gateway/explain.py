"""What would happen to a message and to a subscription, gate by gate, while nothing is sent."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from twisted.internet.defer import Deferred, succeed

from impfed.core.errors import ImpfedError
from impfed.gateway.budgets import Budgets
from impfed.gateway.gates import Ruling
from impfed.gateway.im import ImGateway
from impfed.gateway.presence import PresenceGateway
from impfed.gateway.surroundings import Surroundings
from impfed.policy.budget import Urgency
from impfed.policy.peers import PeerPolicy
from impfed.routing.api import Existence
from impfed.xmpp.jid import JID, JidError


class ExplainError(ImpfedError):
    """Nothing can be said about these two addresses; why, in words."""


@dataclass(frozen=True, slots=True)
class Line:
    """One step of an explanation.

    :ivar about: "message", "subscription", or "both".
    :ivar step: what is looked at.
    :ivar result: what comes of it, in a word or two; the step "outcome" sums up.
    :ivar passes: False where it ends here.
    """

    about: str
    step: str
    result: str
    why: str = ""
    passes: bool = True


def _ends(about: str, result: str, why: str = "") -> Line:
    return Line(about, "outcome", result, why, False)


#: What the ruling of the last gate means for the watcher, and for the local user.
_MEANING = {
    Ruling.SHOW: ("active", "accepted; shown what the home server tells"),
    Ruling.HIDE: ("active", "accepted politely; shown offline, whatever the state"),
    Ruling.ASK: ("pending", "accepted, no state; the local user is asked in his client"),
    Ruling.WAIT: ("pending", "accepted, no state; the local user has not answered yet"),
}

#: Fires with where a message between two addresses would go; see ``Routing.explain``.
RouteStory = Callable[[str, str], Deferred[dict[str, Any]]]


class XmppSide(Protocol):
    """What says the same of domains that are reached over XMPP."""

    def takes(self, domain: str) -> bool:
        """Say whether a foreign domain is reached over XMPP."""
        ...

    def explain(
        self, local: JID, foreign: JID, incoming: bool
    ) -> list[tuple[str, str, str, str, bool]]:
        """Return the steps, each with the fields of :class:`Line`."""
        ...


class Explainer:
    """Answers ``impfedctl explain FROM TO``, in both directions.

    :param route: tells the route from the local to the foreign address.
    :param xmpp: XMPP federation; None where there is none.
    :param budgets: what may be sent to each partner; None where nothing is limited.
    """

    def __init__(
        self,
        around: Surroundings,
        peers: PeerPolicy,
        im: ImGateway,
        presence: PresenceGateway,
        route: RouteStory,
        budgets: Budgets | None = None,
        xmpp: XmppSide | None = None,
    ) -> None:
        self._around = around
        self._peers = peers
        self._im = im
        self._presence = presence
        self._gates = presence.watched.gates
        self._route = route
        self._budgets = budgets
        self._xmpp = xmpp

    def explain(self, sender: str, recipient: str) -> Deferred[list[Line]]:
        """Fire with the steps of a message and of a subscription from one address to the other.

        :raises ExplainError: when one of them is no address, or the pair is not ours to connect.
        """
        ours = self._around.config.local_domains
        one, other = _address(sender), _address(recipient)
        if {one.domain, other.domain} <= self._around.config.own_domains:
            raise ExplainError("both are local: home servers connect them without this node")
        at_home_with = self._around.neighbours.hosting(one.bare.text)
        if at_home_with is not None:
            raise ExplainError(f"{one} is at home with {at_home_with.source}; ask that node")
        if self._around.neighbours.hosting(other.bare.text) is not None:
            story = self._route(other.text, one.text)
            return story.addCallback(partial(self._passed_on, (other, one)))
        if one.domain not in ours and other.domain not in ours:
            known = ", ".join(sorted(ours))
            raise ExplainError(f"neither is local; the local domains are {known}")
        incoming = other.domain in ours
        local, foreign = (other, one) if incoming else (one, other)
        if self._xmpp is not None and self._xmpp.takes(foreign.domain):
            told = self._exists(local)
            return told.addCallback(partial(self._over_xmpp, local, foreign, incoming))
        if incoming:
            return self._exists(other).addCallback(partial(self._inward, (other, one)))
        return self._exists(one).addCallback(partial(self._outward, (one, other)))

    def _over_xmpp(
        self, local: JID, foreign: JID, incoming: bool, existence: Existence
    ) -> list[Line]:
        assert self._xmpp is not None
        steps = self._xmpp.explain(local, foreign, incoming)
        return [_user(local, existence), *[Line(*step) for step in steps]]

    def _exists(self, local: JID) -> Deferred[Existence]:
        answer: Deferred[Existence] = Deferred()
        self._around.lookup(local.text, answer.callback)
        return answer

    # -- towards a local user ----------------------------------------------------------------------

    def _inward(self, pair: tuple[JID, JID], existence: Existence) -> list[Line]:
        local = pair[0]
        lines, admitted = self._admitted(pair)
        if not admitted:
            return lines
        lines.append(_user(local, existence))
        if existence is Existence.ABSENT:
            return [*lines, _ends("both", "refused with 404", "nobody there")]
        return [*lines, *self._message_in(pair), *self._subscription_in(pair)]

    def _admitted(self, pair: tuple[JID, JID]) -> tuple[list[Line], bool]:
        """Say what the node itself thinks of a foreign user, and whether he may go on."""
        node = self._gates.node.look(pair)
        lines = [Line("both", "node policy", node.ruling.value, node.words)]
        if node.ruling is Ruling.REFUSE:
            why = "the local user is not contacted"
            return [*lines, _ends("both", "refused with 403", why)], False
        expected = ", ".join(self._peers.expected(pair[1].domain))
        why = f"the peer's certificate must carry one of: {expected}"
        domain = self._around.domain(pair[1].domain)
        if domain is not None and domain.next_hop and domain.next_hop.transport != "tls":
            why += f"; without TLS only {domain.next_hop.host} is believed"
        return [*lines, Line("both", "peer", "checked on the connection", why)], True

    def _passed_on(self, pair: tuple[JID, JID], story: dict[str, Any]) -> list[Line]:
        """A user of another node of ours: that node decides the rest."""
        lines, admitted = self._admitted(pair)
        if not admitted:
            return lines
        hop = story["hops"][0]
        state = " ".join(filter(None, (hop["state"], hop["reason"])))
        why = f"{hop['from']} hosts {pair[0].domain}; its certificate must carry {hop['tls_name']}"
        lines.append(Line("both", f"hop {hop['hop']}", state, why))
        if not story["used"]:
            return [*lines, _ends("both", "refused with 480", story["why"])]
        why = "that node decides; ask it"
        return [*lines, Line("both", "outcome", f"passed on to {hop['from']}", why)]

    def _message_in(self, pair: tuple[JID, JID]) -> list[Line]:
        local, foreign = pair
        blocked = self._im.inbox.stopped(local, foreign)
        if blocked:
            lines = [Line("message", "user policy", "blocked", blocked)]
            if self._im.inbox.refuses:
                outcome = _ends("message", "refused with 480", "its sender is not told why")
            else:
                outcome = _ends("message", "discarded", "[im] blocked_texts is discard")
            return [*lines, outcome]
        lines = [Line("message", "user policy", "passed", self._gates.judge(pair).words)]
        if self._around.home.congested(local.domain, foreign.domain):
            lines.append(Line("message", "home link", "not usable", _NO_LINK.format(local.domain)))
            return [*lines, _ends("message", "refused with 480 and Retry-After")]
        lines.append(Line("message", "home link", "up", f"home server of {local.domain}"))
        return [*lines, Line("message", "outcome", "delivered", "when the home server takes it")]

    def _subscription_in(self, pair: tuple[JID, JID]) -> list[Line]:
        lines = []
        finding = self._gates.node.look(pair)
        for finding in self._gates.explain(pair):
            if finding.gate != "node":
                name = _GATES[finding.gate]
                lines.append(Line("subscription", name, finding.ruling.value, finding.words))
        ruling = finding.ruling
        if ruling is Ruling.APPROVE:
            line, ruling = self._approval(pair)
            lines.append(line)
        if ruling is Ruling.REFUSE:
            outcome = _ends("subscription", "refused with 403", "nobody is asked")
        else:
            outcome = Line("subscription", "outcome", *_MEANING[ruling])
        return [*lines, outcome]

    def _approval(self, pair: tuple[JID, JID]) -> tuple[Line, Ruling]:
        local = pair[0]
        if self._presence.watched.roster.available(local):
            why = f"the home server of {local.domain} lets us approve contacts"
            return Line("subscription", "roster", "approved", why), Ruling.SHOW
        why = f"the home server of {local.domain} lets us approve nobody: allow becomes ask"
        return Line("subscription", "roster", "not possible", why), self._gates.ask.look(
            pair
        ).ruling

    # -- towards a foreign user --------------------------------------------------------------------

    def _outward(self, pair: tuple[JID, JID], existence: Existence) -> Deferred[list[Line]]:
        local, foreign = pair
        lines = [_user(local, existence)]
        if self._around.home.congested(local.domain, foreign.domain):
            why = _NO_LINK.format(local.domain)
            lines.append(Line("both", "home link", "not usable", why))
        domain = self._around.domain(foreign.domain)
        if domain is None:
            why = f"{foreign.domain} is not a SIP federated domain"
            lines.append(Line("both", "node policy", "not configured", why))
        else:
            why = f"{foreign.domain} is a federated domain of kind {domain.kind}"
            lines.append(Line("both", "node policy", "passed", why))
        if existence is Existence.ABSENT:
            why = "his home server would not send anything"
            return succeed([*lines, _ends("both", "nothing", why)])
        told = self._route(foreign.text, local.text)
        return told.addCallback(partial(self._routed, pair, lines))

    def _routed(
        self, pair: tuple[JID, JID], lines: list[Line], story: dict[str, Any]
    ) -> list[Line]:
        foreign = pair[1]
        lines.append(Line("both", "route", story["used"] or "none", story["why"]))
        for hop in story["hops"]:
            state = " ".join(filter(None, (hop["state"], hop["reason"])))
            why = f"from {hop['from']}, priority {hop['priority']}"
            if hop["tls_name"]:
                why += f"; its certificate must carry {hop['tls_name']}"
            lines.append(Line("both", f"hop {hop['hop']}", state, why))
        if self._around.domain(foreign.domain) is None:
            why = f"remote-server-not-found: {story['why']}"
            return [*lines, _ends("both", "returned with an error", why)]
        return [*lines, *self._message_out(pair, story), *self._subscription_out(pair, story)]

    def _message_out(self, pair: tuple[JID, JID], story: dict[str, Any]) -> list[Line]:
        local, foreign = pair
        lines = []
        if self._gates.texts(local, foreign) is not None:
            why = "the list blocks him, which does not stop what the local user writes"
            lines.append(Line("message", "user policy", "passed", why))
        if self._im.outbox.full:
            lines.append(Line("message", "outbox", "full", "too many texts are waiting"))
            return [*lines, _ends("message", "returned", "resource-constraint")]
        session = self._im.known_session(local, foreign)
        if session is not None and session.current is not None:
            lines.append(Line("message", "session", "open", "goes inside the dialog that stands"))
        elif not story["used"]:
            return [*lines, _ends("message", "returned with an error", story["why"])]
        else:
            lines.append(Line("message", "session", "none", "an INVITE goes first"))
            lines += self._budget("message", foreign)
            if not lines[-1].passes:
                words = "item-not-found" if "404" in lines[-1].result else "resource-constraint"
                return [*lines, _ends("message", "returned with an error", words)]
        words = "when the far side takes it; its answer decides"
        return [*lines, Line("message", "outcome", "delivered", words)]

    def _subscription_out(self, pair: tuple[JID, JID], story: dict[str, Any]) -> list[Line]:
        watching, answered = self._presence.watching, self._presence.authorizations.outbound(pair)
        lines = []
        contact = watching.contact(pair)
        if contact is not None:
            view = contact.view()
            why = " ".join(map(str, filter(None, (view["shown"], view["trouble"]))))
            lines.append(Line("subscription", "subscription", str(view["state"]), why))
        else:
            limit = self._around.config.presence.contacts_per_user
            count = watching.contacts(pair[0])
            bound = "no limit" if limit is None else f"the limit is {limit}"
            if limit is not None and count >= limit:
                lines.append(Line("subscription", "limits", "refused", f"{count}, {bound}"))
                return [*lines, _ends("subscription", "returned", "resource-constraint")]
            lines.append(Line("subscription", "limits", "passed", f"{count} contacts, {bound}"))
        words = f"{pair[1]}: {answered}" if answered != "none" else "not asked yet"
        lines.append(Line("subscription", "authorization", answered, words))
        if contact is not None and contact.live and answered == "approved":
            return [*lines, Line("subscription", "outcome", "approved", "answered by this node")]
        if not story["used"]:
            return [*lines, _ends("subscription", "tried again later", story["why"])]
        if contact is None or not contact.live:
            lines += self._budget("subscription", pair[1])
            if not lines[-1].passes:
                return [*lines, _ends("subscription", "tried again later", lines[-1].why)]
        words = "the far side decides; its user may be asked"
        return [*lines, Line("subscription", "outcome", "SUBSCRIBE is sent", words)]

    def _budget(self, about: str, foreign: JID) -> list[Line]:
        """Say what the partner's budget does to the request that comes first."""
        if self._budgets is None:
            return []
        urgency = Urgency.IM if about == "message" else Urgency.SUBSCRIBE
        outlook = self._budgets.outlook(foreign.text, foreign.domain, urgency)
        return [Line(about, "budget", *outlook)]


_GATES = {"limits": "limits", "user": "user policy", "ask": "authorization"}
_NO_LINK = "the home server of {} is not connected, or is behind"


def _user(local: JID, existence: Existence) -> Line:
    words = {
        Existence.EXISTS: "a directory knows him",
        Existence.ABSENT: "the directory says that there is no such user",
        Existence.UNKNOWN: "there is no directory to ask; the home server decides",
    }
    return Line("both", f"user {local}", existence.value, words[existence])


def _address(text: str) -> JID:
    try:
        jid = JID.parse(text.removeprefix("sip:").removeprefix("xmpp:")).bare
    except JidError as error:
        raise ExplainError(f"{text} is no address: {error.problem}") from None
    if not jid.local:
        raise ExplainError(f"{text} is a domain; name a user, USER@DOMAIN")
    return jid
