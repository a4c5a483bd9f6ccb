"""Judges what nodes say to the SIP partner, message by message (RFC 3261, RFC 6665)."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field

from demo.farside.wire import Message, address_of, parameters, uri_of
from tests.simulation.accounts import domain_of
from tests.simulation.cast import PARTNER_DOMAIN
from tests.simulation.history import History

#: What a node writes into a request of its own (RFC 3261 section 8.1.1.6); each hop takes one away.
_MAX_FORWARDS = 70
#: What tells the far side where a dialog goes on (RFC 3261 section 12.2, RFC 6665 section 4.4.1), or
#: that it is over.
_MAY_TAKE_OVER = ("INVITE", "SUBSCRIBE", "NOTIFY", "BYE")

#: Seconds by which two requests from different nodes may cross.
_ON_THE_WAY = 0.01


@dataclass
class _Asked:
    """A request of the partner; ``final`` is the status that has ended it, 0 for none."""

    request: Message
    final: int = 0


@dataclass
class _Direction:
    """What nodes say in one dialog.

    :ivar node: address of the node that has said something last.
    :ivar past: those of the nodes that had before it.
    :ivar at: when that was.
    """

    cseq: int = 0
    node: str = ""
    at: float = 0.0
    past: set[str] = field(default_factory=set)
    terminated: bool = False


class Referee:
    """Sees every request and response at the partner; what breaks a rule is a problem of the run.

    :param locals: domains whose users may speak.
    :param owner: returns the address of the node that a dialog belongs to, by its Call-ID; "" when
        nobody knows.
    :param now: the time, in seconds.
    :param remembers: says whether nodes can know of the numbers that others have used last.
    :ivar strict: whether every request has to be answered: nothing goes wrong, nor has lately.
    """

    def __init__(
        self,
        history: History,
        locals: Collection[str],
        owner: Callable[[str], str],
        now: Callable[[], float],
        remembers: Callable[[], bool] = lambda: True,
    ) -> None:
        self._history = history
        self._owner = owner
        self._now = now
        self._remembers = remembers
        self._locals = locals
        self._asked: dict[str, _Asked] = {}  # by branch
        self._branches: dict[str, str] = {}  # of the nodes' requests, with their methods
        self._tags: dict[str, str] = {}  # of the nodes, with their Call-IDs
        self._directions: dict[tuple[str, str], _Direction] = {}  # by Call-ID and the node's tag
        self._invites: dict[tuple[str, str], set[int]] = {}
        self._subscribed: set[str] = set()  # Call-IDs
        self.strict = False

    def _wrong(self, message: Message, words: str) -> None:
        self._history.problems.append(f"SIP: {words}: {message.start}, {message.get('call-id')}")

    # -- requests of the partner -------------------------------------------------------------------

    def asks(self, request: Message) -> None:
        """The partner sends a request."""
        if request.method != "ACK":
            self._asked[request.branch] = _Asked(request)
        if request.method == "SUBSCRIBE":
            self._subscribed.add(request.get("call-id"))

    def answered(self, response: Message) -> None:
        """A response has come: it belongs to a request, and there is one final one."""
        asked = self._asked.get(response.branch)
        if asked is None:
            self._wrong(response, "an answer to nothing")
            return
        request, vias = asked.request, response.values("via")
        if len(vias) != 1 or not vias[0].startswith(request.get("via")):
            self._wrong(response, f"what was pushed is not what was popped: {vias}")
        for name in ("call-id", "cseq", "from"):
            if response.get(name) != request.get(name):
                self._wrong(response, f"{name} is not that of the request")
        accepted = request.method == "INVITE" and 200 <= response.status < 300
        if asked.final and not (accepted and response.status == asked.final):
            self._wrong(response, f"after {asked.final}")
        if response.status >= 200:
            asked.final = response.status
            self._tag(response, response.tag("to"))
            self._directions.setdefault((response.get("call-id"), response.tag("to")), _Direction())

    def unanswered(self, request: Message) -> None:
        """Nothing has come for a request, though its connection stands."""
        if self.strict:
            self._wrong(request, "no answer")

    # -- requests of nodes -------------------------------------------------------------------------

    def asked(self, request: Message) -> None:
        """A request has come."""
        vias, call_id = request.values("via"), request.get("call-id")
        node = vias[-1].partition(" ")[2].partition(":")[0]
        left = int(request.get("max-forwards"))
        if left != _MAX_FORWARDS - (len(vias) - 1):
            self._wrong(request, f"Max-Forwards {left} after {len(vias)} hops")
        self._tag(request, request.tag("from"))
        people = [domain_of(address_of(uri_of(request.get(name)))) for name in ("from", "to")]
        if people[0] not in self._locals or people[1] != PARTNER_DOMAIN:
            self._wrong(request, f"it is between {people}")
        key = (call_id, request.tag("from"))
        if request.method in ("ACK", "CANCEL"):
            if key in self._invites and request.cseq not in self._invites[key]:
                self._wrong(request, f"CSeq {request.cseq} is not that of an INVITE")
            return
        if request.method == "INVITE":
            # Not of the last one alone: when a session moves on at once its ACK comes by another way.
            self._invites.setdefault(key, set()).add(request.cseq)
        if request.branch in self._branches:
            self._wrong(request, f"the branch was that of a {self._branches[request.branch]}")
        self._branches[request.branch] = request.method
        direction = self._directions.setdefault(key, _Direction())
        self._in_order(request, direction, node)
        if request.method == "NOTIFY":
            self._notify(request, direction)

    def _tag(self, message: Message, tag: str) -> None:
        call_id = message.get("call-id")
        if not tag:
            self._wrong(message, "no tag")
        elif self._tags.setdefault(tag, call_id) != call_id:
            self._wrong(message, f"the tag was used with {self._tags[tag]}")

    def _in_order(self, request: Message, direction: _Direction, node: str) -> None:
        now = self._now()
        earlier = request.cseq < direction.cseq and direction.node not in ("", node)
        if earlier and now < direction.at + _ON_THE_WAY:
            return  # it was on its way when the dialog went to the other node, which has been faster
        direction.at = now
        if request.cseq <= direction.cseq and self._remembers():
            self._wrong(request, f"CSeq {request.cseq} after {direction.cseq}")
        direction.cseq = max(direction.cseq, request.cseq)
        before, direction.node = direction.node, node
        if before in ("", node):
            return
        direction.past.add(before)
        owner = self._owner(request.get("call-id"))
        # Who speaks for the first time may have given the dialog on while that was on its way.
        if owner not in ("", node) and node in direction.past:
            self._wrong(request, f"{node} speaks after {before}, but it is {owner}'s")
        elif request.method not in _MAY_TAKE_OVER:
            self._wrong(request, f"{node} speaks after {before}, and does not say where it is")

    def _notify(self, request: Message, direction: _Direction) -> None:
        if direction.terminated:
            self._wrong(request, "NOTIFY after the subscription was terminated")
        if request.get("call-id") not in self._subscribed:
            self._wrong(request, "NOTIFY without a SUBSCRIBE")
        state = request.get("subscription-state")
        direction.terminated = state.startswith("terminated")
        if direction.terminated or "expires" in parameters(state):
            return
        self._wrong(request, f"Subscription-State {state!r} does not say until when")
