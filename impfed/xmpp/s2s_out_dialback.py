"""The dialback half of an outgoing S2S stream: what we ask the peer, and its answers.

Every answer is matched with a question of the same stream; an answer that was not asked for opens
nothing (XEP-0220 section 2.1.1).
"""

from __future__ import annotations

from enum import Enum
from typing import Any
from xml.etree.ElementTree import Element

from impfed.xmpp import dialback
from impfed.xmpp.dialback import DialbackElement
from impfed.xmpp.jid import JidError
from impfed.xmpp.s2s_base import Input, S2SStream
from impfed.xmpp.s2s_names import domain_of
from impfed.xmpp.s2s_parts import PairProven, PairRefused, S2SEvent, S2SWorld, VerifyAnswered
from impfed.xmpp.stanza import NS_STANZAS

Next = tuple[Input, Any] | None


class State(Enum):
    """Where an outgoing stream stands."""

    IDLE = "not connected"
    SECURING = "waiting for TLS"
    HEADER = "waiting for the stream header"
    FEATURES = "waiting for the features"
    CHOOSING = "deciding"
    PROCEED = "waiting for the answer to STARTTLS"
    SASL = "waiting for the answer to SASL EXTERNAL"
    DIALBACK = "waiting for the answer to dialback"
    OPEN = "open"
    CLOSED = "closed"


class AskingStream(S2SStream):
    """What an outgoing stream asks by dialback.

    :ivar method: how our own domain was proven; "" while it is not.
    """

    state: State
    CLOSED = State.CLOSED
    SECURING = State.SECURING

    def __init__(self, world: S2SWorld) -> None:
        super().__init__(world, State.IDLE)
        self.method = ""
        self._pairs: dict[tuple[str, str], float] = {}  # (local, remote) asked for, due
        self._verifies: dict[tuple[str, str, str], float] = {}  # (local, remote, id) asked, due
        self._questions: list[tuple[str, str, str, str]] = []  # to be asked once open

    def add_pair(self, local: str, remote: str, now: float) -> list[S2SEvent]:
        """Ask for a further domain pair on an open stream, by dialback."""
        self._begin(now)
        if self.state is State.OPEN:
            self._ask_for(local, remote)
        return self._events

    def verify(
        self, local: str, remote: str, stream_id: str, key: str, now: float
    ) -> list[S2SEvent]:
        """Ask whether a key is right, which came on another stream.

        Before the stream is open the question waits.
        """
        self._begin(now)
        if self.state is State.OPEN:
            self._ask_about(local, remote, stream_id, key)
        else:
            self._questions.append((local, remote, stream_id, key))
        return self._events

    @property
    def asking(self) -> bool:
        """Whether an answer about a key is still to come."""
        return bool(self._verifies or self._questions)

    # -- time ----------------------------------------------------------------------------------

    def _due_times(self) -> list[float]:
        return [*self._pairs.values(), *self._verifies.values()]

    def _expire(self, now: float) -> None:
        if self.state is not State.OPEN:
            return
        for pair, due in list(self._pairs.items()):
            if now >= due:
                del self._pairs[pair]
                words = "the peer did not answer the dialback request"
                self._events.append(PairRefused(*pair, "remote-server-timeout", words))
        for asked, due in list(self._verifies.items()):
            if now >= due:
                del self._verifies[asked]
                self._events.append(VerifyAnswered(*asked, False, "remote-server-timeout"))

    # -- dialback ------------------------------------------------------------------------------

    def _prove_us(self, item: Any) -> Next:
        self._ask_for(self.local, self.remote)
        return None

    def _ask_for(self, local: str, remote: str) -> None:
        if (local, remote) in self._pairs:
            return
        self._pairs[local, remote] = self._now + self._limits.verification
        key = self._world.keys.key(remote, local, self.id)
        self._output.append(dialback.result(local, remote, key))

    def _pair_answered(self, item: Element) -> Next:
        """Take an answer to a request of ours; whatever was not asked here proves nothing."""
        answer = DialbackElement.of(item)
        pair = _pair(answer)
        if pair is None or self._pairs.pop(pair, None) is None:
            return None
        if answer.type == "valid":
            if self.state is State.DIALBACK:
                self.method = "dialback"
                return Input.GO_OPEN, None
            self._announce(*pair)
            return None
        condition = answer.condition or "not-authorized"
        words = f"the peer refuses {pair[0]}: {_dialback_words(item, answer)}"
        if self.state is State.DIALBACK:
            return Input.REFUSED, (condition, words)
        self._events.append(PairRefused(*pair, condition, words))
        return None

    def _ask_about(self, local: str, remote: str, stream_id: str, key: str) -> None:
        self._verifies[local, remote, stream_id] = self._now + self._limits.verification
        self._output.append(dialback.verify(local, remote, stream_id, key))

    def _verify_answered(self, item: Element) -> Next:
        answer = DialbackElement.of(item)
        pair = _pair(answer)
        if pair is None or self._verifies.pop((*pair, answer.id), None) is None:
            return None
        condition = "" if answer.type in ("valid", "invalid") else answer.condition
        if answer.type == "error":
            condition = condition or "undefined-condition"
        valid = answer.type == "valid"
        self._events.append(VerifyAnswered(*pair, answer.id, valid, condition))
        return None

    def _key_out_of_place(self, item: Element) -> Next:
        """Refuse a question about keys: it may not come by the stream that carried them."""
        asked = DialbackElement.of(item)
        self._output.append(dialback.verify_error(asked.to, asked.from_, asked.id, "not-allowed"))
        return None

    def _request_out_of_place(self, item: Element) -> Next:
        asked = DialbackElement.of(item)
        self._output.append(dialback.result_error(asked.to, asked.from_, "not-allowed"))
        return None

    def _announce(self, local: str, remote: str) -> None:
        self._reader.relax(self._limits.proven)
        if self.bidi and remote == self.remote:
            self._receiving.add((remote, local))
        both = (remote, local) in self._receiving
        method = self.method or "dialback"
        self._events.append(PairProven(local, remote, both, True, method))


def _pair(answer: DialbackElement) -> tuple[str, str] | None:
    """Return (local, remote) of an answer; None if it names no domains."""
    try:
        return domain_of(answer.to), domain_of(answer.from_)
    except JidError:
        return None


def _dialback_words(element: Element, answer: DialbackElement) -> str:
    if answer.type != "error":
        return "dialback says that our key is not ours (do all nodes have the same secret?)"
    text = element.find(f".//{{{NS_STANZAS}}}text")
    words = "" if text is None else text.text or ""
    return f"{answer.condition}: {words}" if words else answer.condition
