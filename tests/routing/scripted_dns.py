"""A DNS from a table, for tests: every question not in it has no answer."""

from __future__ import annotations

from collections.abc import Callable

from impfed.core.dns import Answer, Naptr, Outcome, Question, RecordType, Srv


class ScriptedDns:
    """Answers from a zone written as text lines: ``name ttl type data``.

    :ivar asked: every question, in order.
    :ivar held: with True, answers wait for :meth:`release`.
    """

    def __init__(self, zone: str = "") -> None:
        self.answers: dict[Question, Answer] = {}
        self.asked: list[str] = []
        self.held = False
        self._waiting: list[Callable[[], None]] = []
        for line in filter(str.strip, zone.splitlines()):
            name, ttl, kind, *data = line.split()
            self.add(Question(name, RecordType(kind)), float(ttl), data)

    def add(self, question: Question, ttl: float, data: list[str]) -> None:
        """Add one record."""
        record: str | Srv | Naptr
        if question.type is RecordType.SRV:
            priority, weight, port, target = data
            record = Srv(int(priority), int(weight), int(port), target.rstrip("."))
        elif question.type is RecordType.NAPTR:
            order, preference, flags, service, replacement = data
            record = Naptr(int(order), int(preference), flags, service, replacement)
        else:
            (record,) = data
        known = self.answers.get(question)
        records = (*known.records, record) if known is not None else (record,)
        self.answers[question] = Answer(Outcome.FOUND, records, ttl)

    def fail(self, name: str, kind: RecordType, outcome: Outcome = Outcome.FAILED) -> None:
        """Let a question end otherwise."""
        self.answers[Question(name, kind)] = Answer(outcome, ttl=30.0, reason="SERVFAIL")

    def lookup(self, question: Question, done: Callable[[Answer], None]) -> None:
        """Answer a question."""
        self.asked.append(str(question))
        answer = self.answers.get(question, Answer(Outcome.NO_DATA, ttl=60.0))
        if self.held:
            self._waiting.append(lambda: done(answer))
        else:
            done(answer)

    def release(self) -> None:
        """Give the held answers."""
        waiting, self._waiting = self._waiting, []
        for each in waiting:
            each()
