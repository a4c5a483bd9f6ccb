"""What one node of a cluster asks all others on behalf of an operator, and answers them, by letters."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol

import msgspec
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.python.failure import Failure

from impfed.cluster.ownership import Pair, node_pair
from impfed.core.ids import IdSource
from impfed.core.log import EventLog
from impfed.core.timers import Timer
from impfed.transport.timers import ReactorTimers

log = EventLog("impfed.cluster")

#: Seconds that the others may take.
PATIENCE = 3.0


class Question(msgspec.Struct, tag="question", gc=False):
    """Something asked of one node.

    :ivar node: who asks.
    :ivar number: what the reply refers to.
    :ivar subject: what kind of question it is.
    """

    node: str
    number: str
    subject: str
    words: list[str]


class Reply(msgspec.Struct, tag="reply", gc=False):
    """The answer of one node, in the subject's own spelling."""

    number: str
    node: str
    answer: bytes


Said = dict[str, bytes | None]
"""By node what it has answered; None of one that has not."""

Answerer = Callable[[list[str]], "Deferred[bytes] | bytes"]


class Post(Protocol):
    """What is asked of the cluster."""

    def send(self, pair: Pair, payload: bytes) -> bool:
        """Bring a letter to the node that owns a pair."""
        ...


class _Open:
    """A question that not all have answered."""

    __slots__ = ("done", "said", "timer")

    def __init__(self, nodes: Sequence[str], done: Deferred[Said]) -> None:
        self.said: Said = dict.fromkeys(nodes)
        self.done = done
        self.timer: Timer | None = None


class Questions:
    """Asks, and answers.

    :param node: this node's name.
    :ivar answers: by subject, who answers here.
    """

    def __init__(self, post: Post, timers: ReactorTimers, ids: IdSource, node: str) -> None:
        self.answers: dict[str, Answerer] = {}
        self._post = post
        self._timers = timers
        self._ids = ids
        self._node = node
        self._open: dict[str, _Open] = {}

    def ask(self, subject: str, words: Sequence[str], nodes: Sequence[str]) -> Deferred[Said]:
        """Ask nodes; fires when all have answered, or after :data:`PATIENCE`."""
        done: Deferred[Said] = Deferred()
        number = self._ids.token(8)
        asked = _Open(nodes, done)
        letter = msgspec.msgpack.encode(Question(self._node, number, subject, list(words)))
        reached = [self._post.send(node_pair(name), letter) for name in nodes]
        if not any(reached):
            done.callback(asked.said)
            return done
        self._open[number] = asked
        asked.timer = self._timers.after(PATIENCE, self._end, number)
        return done

    def letter(self, letter: Question | Reply) -> None:
        """Answer a question, or take in the reply to one."""
        if isinstance(letter, Reply):
            self._replied(letter)
            return
        answerer = self.answers.get(letter.subject)
        if answerer is None:
            return  # of a newer release: the other node sees that we say nothing
        answered = maybeDeferred(answerer, letter.words)
        answered.addCallbacks(partial(self._reply, letter), partial(self._cannot, letter.subject))

    def _reply(self, question: Question, answer: bytes) -> None:
        reply = msgspec.msgpack.encode(Reply(question.number, self._node, answer))
        if not self._post.send(node_pair(question.node), reply):
            log.warn("answer_dropped", "an answer to another node was dropped: too much waits")

    @staticmethod
    def _cannot(subject: str, failure: Failure) -> None:
        log.failure("question_failed", "{subject} failed", failure, subject=subject)

    def _replied(self, reply: Reply) -> None:
        asked = self._open.get(reply.number)
        if asked is None or reply.node not in asked.said:
            return
        asked.said[reply.node] = reply.answer
        if all(answer is not None for answer in asked.said.values()):
            self._end(reply.number)

    def _end(self, number: str) -> None:
        asked = self._open.pop(number)
        if asked.timer is not None:
            asked.timer.cancel()
        asked.done.callback(asked.said)


def decoded(said: Said, type: Any) -> tuple[list[Any], tuple[str, ...]]:
    """Return the answers that came, of one type, and the names of the nodes that gave none."""
    answers = [
        msgspec.msgpack.decode(each, type=type) for each in said.values() if each is not None
    ]
    return answers, tuple(sorted(name for name, answer in said.items() if answer is None))
