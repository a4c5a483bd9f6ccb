"""Texts both ways between many pairs while things go wrong, and what became of each afterwards."""

from __future__ import annotations

import itertools
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from demo.parts import wait_until
from tests.interop.cluster import Cluster
from tests.interop.scene import FOREIGN, HOME

_runs = itertools.count(1)


@dataclass
class Text:
    """One text on its way.

    :ivar outward: from a local user to a foreign one.
    :ivar number: of the far side's command, for what it says.
    """

    body: str
    local: str
    foreign: str
    outward: bool
    number: str = ""


@dataclass
class History:
    """What became of all texts.

    :ivar lost: those that nobody got and whose sender was not told.
    :ivar refused: those that nobody got, their senders being told.
    :ivar doubtful: those that came though the sender was told that they had not.
    :ivar twice: how often each came that came more than once.
    :ivar changed: those that came to an XMPP user again, under another id.
    :ivar disordered: those that came after a later one of the same people, though nobody had told
        their sender that they had not come: a text inside an INVITE waits for its repeat.
    """

    sent: int = 0
    delivered: int = 0
    lost: list[str] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)
    doubtful: dict[str, str] = field(default_factory=dict)
    twice: dict[str, int] = field(default_factory=dict)
    changed: list[str] = field(default_factory=list)
    disordered: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return (
            f"{self.sent} texts: {self.delivered} delivered, {len(self.refused)} refused"
            f" {dict(Counter(self.refused.values()))},"
            f" {len(self.lost)} lost {self.lost[:10]}, {len(self.twice)} twice or more"
            f" {list(self.twice.items())[:10]}, {len(self.doubtful)} delivered and told otherwise"
            f" {list(self.doubtful.items())[:10]}, {len(self.changed)} under two ids {self.changed[:10]},"
            f" {len(self.disordered)} out of order {self.disordered[:10]}"
        )


class Load:
    """Sends texts at a rate until it is told to stop.

    :param rate: texts a second, each way.
    """

    def __init__(self, cluster: Cluster, rate: float) -> None:
        self._cluster = cluster
        self._pause = 1 / rate
        self._run = next(_runs)
        self._texts: list[Text] = []
        self._stopped = threading.Event()
        self._far_begin = cluster.far.position
        self._begin = {name: user.position for name, user in cluster.users.items()}
        self._thread = threading.Thread(target=self._send, daemon=True)
        self._thread.start()

    def _send(self) -> None:
        locals_, foreigns = itertools.cycle(self._cluster.users), self.foreigners()
        begin = time.monotonic()
        for number in itertools.count():
            due = begin + number * self._pause
            if self._stopped.wait(max(0.0, due - time.monotonic())):
                return
            local = next(locals_)
            foreign = foreigns[number // 4 % len(foreigns)]
            for outward in (True, False):
                self._one(
                    f"{self._run}.{number}.{'out' if outward else 'in'}", local, foreign, outward
                )

    def _one(self, body: str, local: str, foreign: str, outward: bool) -> None:
        text = Text(body, local, foreign, outward)
        if outward:
            self._cluster.users[local].send("message", to=f"{foreign}@{self.domain}", body=body)
        else:
            text.number = self.write_in(foreign, local, body)
        self._texts.append(text)

    # -- the partner -------------------------------------------------------------------------------

    domain = FOREIGN

    def foreigners(self) -> tuple[str, ...]:
        """Return who writes and is written to."""
        return self._cluster.far_users

    def write_in(self, foreign: str, local: str, body: str) -> str:
        """Have a foreign user write; returns the number of the command whose end tells of it."""
        details = {"from": foreign, "to": f"{local}@{HOME}", "text": body}
        return self._cluster.far.send("im", **details)

    def came_out(self) -> list[str]:
        """Return the bodies that came to foreign users, those of each in order."""
        return [each["text"] for each in self._cluster.far.seen(self._far_begin, event="im")]

    def refused_in(self) -> dict[str, str]:
        """Return what foreign users were told of texts that were not delivered."""
        done = self._cluster.far.seen(self._far_begin, event="done", do="im")
        numbers = {text.number: text.body for text in self._texts if not text.outward}
        return {
            numbers[each["id"]]: f"{each['status']} {each['reason']}"
            for each in done
            if each["status"] != 200 and each["id"] in numbers
        }

    # -- afterwards --------------------------------------------------------------------------------

    def end(self, seconds: float = 150.0) -> History:
        """Stop, wait until every text has met its fate, and tell."""
        self._stopped.set()
        self._thread.join()
        wait_until(lambda: not self._open(), seconds, 0.5)
        return self._history()

    def _came(self) -> tuple[list[str], dict[str, list[str]]]:
        """Return the bodies in the order in which they came: at the far side, at each local user."""
        near = {
            name: [each["body"] for each in user.seen(self._begin[name], event="message")]
            for name, user in self._cluster.users.items()
        }
        return self.came_out(), near

    def _told(self) -> dict[str, str]:
        """Return what senders were told of texts that were not delivered."""
        return self.refused_in() | {
            each["body"]: f"{each['condition']} {each['text']}"
            for name, user in self._cluster.users.items()
            for each in user.seen(self._begin[name], event="refused")
        }

    def _open(self) -> list[Text]:
        """Return those of which nobody knows anything yet, or that were accepted and have not come."""
        far, near = self._came()
        known = {*far, *itertools.chain(*near.values()), *self._told()}
        return [text for text in self._texts if text.body not in known]

    def _history(self) -> History:
        far, near = self._came()
        told = self._told()
        counts = Counter(far) + Counter(itertools.chain(*near.values()))
        history = History(len(self._texts))
        for text in self._texts:
            came = counts[text.body]
            history.delivered += came > 0
            if came > 1:
                history.twice[text.body] = came
            if came and text.body in told:
                history.doubtful[text.body] = told[text.body]
            elif text.body in told:
                history.refused[text.body] = told[text.body]
            elif not came:
                history.lost.append(text.body)
        history.changed = self._changed()
        for bodies in (far, *near.values()):
            late = self._disordered(bodies)
            history.disordered += [body for body in late if body not in told]
        return history

    def _changed(self) -> list[str]:
        ids: dict[str, set[str]] = {}
        for name, user in self._cluster.users.items():
            for each in user.seen(self._begin[name], event="message"):
                ids.setdefault(each["body"], set()).add(each["id"])
        return [body for body, found in ids.items() if len(found) > 1]

    def _disordered(self, bodies: list[str]) -> Iterator[str]:
        """Yield those that came for the first time after a later one of the same two people."""
        pairs = {text.body: (text.local, text.foreign) for text in self._texts}
        highest: dict[tuple[str, str], int] = {}
        for body in dict.fromkeys(bodies):
            if body not in pairs:
                continue
            number = int(body.split(".")[1])
            if number < highest.get(pairs[body], -1):
                yield body
            highest[pairs[body]] = max(number, highest.get(pairs[body], -1))
