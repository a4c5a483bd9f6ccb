"""The local users' own lists, applied to people in foreign XMPP domains (SPEC section 5).

The home server keeps the roster, and it is what asks a user and remembers his answer.  What is kept
here, in the same records as for SIP pairs, is what has been seen of those answers, because the rule
of the lists needs it: whom a user has approved stays visible when his default is "block".
"""

from __future__ import annotations

from collections.abc import Callable

from impfed.policy.users import Judgement, PolicyChange, Rule, UserPolicies, Verdict
from impfed.relay.pairs import Answers, Pair
from impfed.xmpp.jid import JID
from impfed.xmpp.stanza import OutStanza, Stanza, presence

#: Conversations that are remembered.
_WRITTEN_LIMIT = 100_000


class PeoplePolicy:
    """Judges pairs, and knows which presence has been shown to whom.

    :param takes: says whether a domain is a foreign one that is reached over XMPP.
    :param to_foreign: sends a stanza to a foreign user.
    :param to_home: sends a stanza to a local user's home server.
    :param seconds: the time, in seconds since the epoch.
    :param conversation: seconds for which somebody whom the user has written to may answer, where
        the user's default is "block".
    """

    def __init__(
        self,
        policies: UserPolicies,
        answers: Answers,
        takes: Callable[[str], bool],
        to_foreign: Callable[[OutStanza], None],
        to_home: Callable[[OutStanza], object],
        seconds: Callable[[], float],
        conversation: float,
    ) -> None:
        self._policies = policies
        self._answers = answers
        self._takes = takes
        self._to_foreign = to_foreign
        self._to_home = to_home
        # Local bare address -> where it was sent -> resources that are available there.
        self._shown: dict[JID, dict[JID, set[str]]] = {}
        self._seconds = seconds
        self._conversation = conversation
        self._written: dict[Pair, float] = {}  # oldest first
        policies.listen(self._changed)

    # -- judging -----------------------------------------------------------------------------------

    def judge(self, pair: Pair) -> Judgement:
        """Apply the local user's list."""
        answers = self._answers
        contact = answers.outbound(pair) in ("pending", "approved")
        return self._policies.judge(*pair, answers.inbound(pair), contact)

    def blocks(self, pair: Pair) -> bool:
        """Whether the list hides the local user and stops what the foreign one sends."""
        return self.judge(pair).stops_texts

    def stops(self, pair: Pair) -> bool:
        """Whether texts and questions of the foreign user are stopped.

        Somebody whom only the default blocks may answer while he is written to, and so may a room
        that the user has joined.
        """
        judgement = self.judge(pair)
        if not judgement.stops_texts or judgement.rule is not Rule.DEFAULT:
            return judgement.stops_texts
        if self._seconds() - self._written.get(pair, 0.0) < self._conversation:
            return False
        return not any(to.bare == pair[1] for to in self._shown.get(pair[0], ()))

    def approves(self, pair: Pair) -> bool:
        """Whether a request is to be approved without asking."""
        judgement = self.judge(pair)
        return judgement.verdict is Verdict.ALLOW and judgement.rule is not Rule.CLIENT

    # -- from foreign users ------------------------------------------------------------------------

    def presence_from(self, stanza: Stanza, pair: Pair) -> None:
        """Learn from what a foreign user sends that is passed on."""
        answers = self._answers
        if stanza.type == "subscribed":
            answers.decide_outbound(pair, "approved")
        elif stanza.type == "unsubscribed":
            answers.decide_outbound(pair, "none")
        elif stanza.type == "unsubscribe" and answers.inbound(pair) != "declined":
            answers.decide_inbound(pair, "none")

    def asked(self, pair: Pair) -> None:
        """Note that a local user is asked, or will be when he takes a block back."""
        if self._answers.inbound(pair) == "none":
            self._answers.decide_inbound(pair, "pending")

    def not_asked(self, pair: Pair) -> None:
        """Note that the question did not reach him."""
        if self._answers.inbound(pair) == "pending":
            self._answers.decide_inbound(pair, "none")

    def declined(self, pair: Pair) -> bool:
        """Whether the local user has declined the foreign one, and his list says nothing of him."""
        judgement = self.judge(pair)
        return judgement.verdict is Verdict.BLOCK and judgement.rule is Rule.CLIENT

    def undecided(self, pair: Pair) -> bool:
        """Whether the local user was asked, and has not answered."""
        return self._answers.inbound(pair) == "pending"

    def decline_again(self, stanza: Stanza, pair: Pair) -> None:
        """Answer the request of somebody who was declined as it was answered before."""
        local, foreign = pair
        self._to_foreign(presence(foreign, local, type="unsubscribed", id=stanza.id))

    def subscribe_politely(self, stanza: Stanza, pair: Pair) -> None:
        """Answer a blocked user's request: accepted, and nobody there."""
        self.asked(pair)
        local, foreign = pair
        self._to_foreign(presence(foreign, local, type="subscribed", id=stanza.id))
        self.show_offline(pair)

    def show_offline(self, pair: Pair) -> None:
        """Tell a foreign user that a local one is not there."""
        local, foreign = pair
        self._to_foreign(presence(foreign, local, type="unavailable"))

    # -- from local users --------------------------------------------------------------------------

    def text_to(self, stanza: Stanza) -> None:
        """Note that a local user writes to a foreign one, where his default is "block"."""
        local = stanza.from_.bare
        if stanza.type == "error" or self._policies.default(local) != "block":
            return
        pair = (local, stanza.to.bare)
        self._written.pop(pair, None)
        self._written[pair] = self._seconds()
        while len(self._written) > _WRITTEN_LIMIT:
            del self._written[next(iter(self._written))]

    def presence_to(self, stanza: Stanza) -> bool:
        """Learn from a local user's presence; returns whether it is passed on."""
        pair = (stanza.from_.bare, stanza.to.bare)
        type, answers = stanza.type, self._answers
        if type in ("", "unavailable"):
            return self._state_to(stanza, pair)
        if type == "subscribed":
            answers.decide_inbound(pair, "approved")
        elif type == "unsubscribed":
            # A home server says so by itself to strangers: nobody was asked about those.
            if answers.inbound(pair) != "none":
                answers.decide_inbound(pair, "declined")
        elif type == "subscribe":
            if answers.outbound(pair) != "approved":
                answers.decide_outbound(pair, "pending")
        elif type == "unsubscribe":
            answers.decide_outbound(pair, "none")
        return True

    def _state_to(self, stanza: Stanza, pair: Pair) -> bool:
        local, resource = stanza.from_.bare, stanza.from_.resource
        shown = self._shown.get(local)
        if stanza.type:
            resources = shown.get(stanza.to) if shown is not None else None
            if shown is None or resources is None:
                return not self.blocks(pair)
            resources.discard(resource)
            if not resources:
                del shown[stanza.to]
            if not shown:
                del self._shown[local]
            return True
        if not stanza.to.resource and self._answers.inbound(pair) in ("none", "pending"):
            # The home server shows it to people on the roster, so he was approved once.
            self._answers.decide_inbound(pair, "approved")
        judgement = self.judge(pair)
        joins = judgement.rule is Rule.DEFAULT and bool(
            stanza.to.resource
        )  # a room, by his own will
        if judgement.stops_texts and not joins:
            return False
        if shown is None:
            shown = self._shown[local] = {}
        shown.setdefault(stanza.to, set()).add(resource)
        return True

    # -- changes of a list -------------------------------------------------------------------------

    def _changed(self, change: PolicyChange) -> None:
        """Act at once on a change of a user's list."""
        local = change.local
        self._hide(change)
        if change.decision == "block":
            return
        for record in self._answers.of(local):
            foreign = JID.parse(record.foreign)
            pair = (local, foreign)
            if record.inbound not in ("pending", "approved") or not change.concerns(foreign):
                continue
            if self._takes(foreign.domain) and not self.blocks(pair):
                # He is asked what was answered politely while he did not want to be asked.
                type = "probe" if record.inbound == "approved" else "subscribe"
                self._to_home(presence(local, foreign, type=type))

    def _hide(self, change: PolicyChange) -> None:
        local = change.local
        shown = self._shown.get(local, {})
        told = set()
        for to in [to for to in shown if change.concerns(to.bare)]:
            if self.blocks((local, to.bare)):
                told.add(to.bare)
                for resource in shown.pop(to):
                    full = JID.parse(f"{local.text}/{resource}") if resource else local
                    self._to_foreign(presence(to, full, type="unavailable"))
        if not shown:
            self._shown.pop(local, None)
        if change.decision != "block":
            return
        for record in self._answers.of(local):  # shown by an earlier process, perhaps
            foreign = JID.parse(record.foreign)
            if (
                record.inbound == "approved"
                and foreign not in told
                and change.concerns(foreign)
                and self._takes(foreign.domain)
                and self.blocks((local, foreign))
            ):
                self.show_offline((local, foreign))
