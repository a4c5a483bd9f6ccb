"""Plays one combination of settings and certificates with a real server, and says what it has seen."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Generator
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from twisted.internet.defer import Deferred, inlineCallbacks
from twisted.logger import globalLogPublisher

from impfed.xmpp.s2s_security import Direction, Outcome, outcome
from impfed.xmpp.stanza import error_of
from tests.interop.s2s_matrix import (
    OUR_SETTINGS,
    PEER_SETTINGS,
    Case,
    Seen,
    agrees,
    make,
    write_seen,
)
from tests.transport.s2s_kit import Node, S2SCase, text

Steps = Generator[Deferred[Any], Any, Any]
#: Seconds that a stanza may wait for a stream, at the first try and at the second.
PATIENCE = (2.0, 20.0)
_RECORD = os.environ.get("IMPFED_RECORD")


class Tail:
    """The end of a log that grows: what was written since :meth:`mark`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._from = 0

    def mark(self) -> None:
        """What is there by now is of no interest any more."""
        self._from = self._path.stat().st_size

    def find(self, pattern: str) -> str:
        """Return the last group of the first match, "" without one."""
        with self._path.open("rb") as file:
            file.seek(self._from)
            found = re.search(pattern, file.read().decode("utf-8", "replace"))
        return (found.group(found.lastindex or 0) or "?") if found else ""


class Diary:
    """What the log of this process says of the streams of one case.

    :ivar proven: direction -> "over TLS, by SASL EXTERNAL", the like.
    :ivar refused: why the peer's domain was not believed.
    :ivar ended: why the last incoming stream ended.
    """

    def __init__(self, local: str, remote: str) -> None:
        self.proven: dict[str, str] = {}
        self.refused = self.ended = ""
        self._pair = (local, remote)
        self._incoming = ("from", remote)
        globalLogPublisher.addObserver(self._observe)

    def close(self) -> None:
        """Read no further."""
        globalLogPublisher.removeObserver(self._observe)

    def _observe(self, event: dict[str, Any]) -> None:
        name, way = event.get("event"), event.get("direction")
        if name == "impfed.s2s.pair_proven":
            if (event["local"], event["remote"]) == self._pair:
                tls = event["tls"] if event["tls"] == "in clear" else "over TLS"
                self.proven[event["direction"]] = f"{tls}, by {event['method']}"
        elif name == "impfed.s2s.pair_refused" and way == "in":
            self.refused = event["words"]
        elif name == "impfed.s2s.stream_closed" and (way, event["remote"]) == self._incoming:
            self.ended = event["reason"]


class Stage(Protocol):
    """What differs from server to server.

    :ivar server: its name in the record.
    :ivar tail: of its log.
    """

    server: str
    tail: Tail

    def order(self, case: Case, sender: str, recipient: str) -> None:
        """Have the server's user write to ours, though nobody has written to him."""

    def failure(self, case: Case, domain: str) -> str:
        """Return why the server could not reach our domain, by its log; "" while it does not say."""


def _plain(words: str, domain: str, peer: str) -> str:
    """Return words without what differs from run to run."""
    words = words.replace(peer, "peer.example").replace(domain, "ours.example")
    words = re.sub(r"20\d\d-\d\d-\d\d( \d\d:\d\d(:\d\d)?( ?UTC|Z)?)?", "<date>", words)
    words = re.sub(r"(xmpp\.peer\.example|127\.0\.0\.1):\d+( \(127\.0\.0\.1\))?", "<server>", words)
    words = re.sub(r" \(0x[0-9a-f]+\)", "", words)
    return re.sub(r"; bouncing for \d+ seconds", "", words)


class MatrixCase(S2SCase):
    """Plays cases, and holds what it sees against what is foretold.

    :ivar played: how many so far.
    """

    played = 0

    @inlineCallbacks
    def play_all(
        self,
        stage: Stage,
        cases: list[Case],
        node: Callable[..., Node],
        peer: Callable[[Case], str],
    ) -> Steps:
        """Play cases one after the other; fails at the end with what went wrong in each.

        Stanzas are returned quickly, for most cases end so. On a busy machine that can be too quickly
        for a stream that comes about, so a case that fails is played once more, with patience.

        :param node: makes our side, of a domain and a patience in seconds.
        :param peer: returns the domain of the server that is as the case says.
        """
        problems = []
        for case in cases:
            for patience in PATIENCE:
                try:
                    yield self.play(stage, case, partial(node, patience=patience), peer(case))
                    break
                except AssertionError as problem:
                    if patience == PATIENCE[-1]:
                        problems.append(str(problem))
        self.assertEqual(problems, [], f"{len(problems)} of {len(cases)}\n" + "\n\n".join(problems))

    @inlineCallbacks
    def play(self, stage: Stage, case: Case, node: Callable[..., Node], peer: str) -> Steps:
        """Play a case with a domain of ours that no other case has."""
        self.played += 1
        domain = f"ours{self.played}.example"
        security = OUR_SETTINGS[case.ours]
        certificate = make(self.world, case.our_certificate, domain)
        ours = node(domain, security=security, certificate=certificate)
        diary = Diary(domain, peer)
        stage.tail.mark()
        foretold = {
            direction: outcome(security, PEER_SETTINGS[case.theirs], *case[2:], direction)
            for direction in Direction
        }
        try:
            seen = yield self._see(stage, case, ours, (domain, peer), diary)
            self._judge(foretold, seen)
        except AssertionError as problem:
            told = "\n".join(str(one) for one in ours.s2s.status())
            words = f"{stage.server} {case}: {[str(one) for one in foretold.values()]}\n{problem}"
            raise AssertionError(f"{words}\n{told}") from problem
        finally:
            diary.close()
            self.nodes.remove(ours)
            yield ours.stop()
        if _RECORD:
            write_seen(Path(_RECORD), stage.server, case, seen)

    @inlineCallbacks
    def _see(
        self, stage: Stage, case: Case, ours: Node, pair: tuple[str, str], diary: Diary
    ) -> Steps:
        """Return what is seen of both directions."""
        domain, peer = pair
        alice, bob, user = f"alice@{domain}", f"bob@{peer}", ours.user
        ours.s2s.send(text(alice, bob))
        failed = lambda: stage.failure(case, domain)  # noqa: E731
        yield self.until(lambda: user.stanzas or failed())
        # What the server cannot send back it had got; but an answer may yet be under way to us.
        if not user.stanzas and "out" not in diary.proven:
            yield self.until(lambda: user.stanzas)
        error = error_of(user.errors[0]) if user.errors else None
        words = f"{error.condition}: {error.text}" if error is not None else ""
        out = Seen("" if user.errors else diary.proven["out"], _plain(words, domain, peer))
        if out.how and user.bodies:
            return {Direction.OUT: out, Direction.IN: Seen(diary.proven["in"])}
        if not failed():
            # The other direction by itself: somebody else asks bob to write.
            before = len(user.bodies)
            stage.order(case, bob, alice)
            yield self.until(lambda: len(user.bodies) > before or failed())
            if len(user.bodies) > before:
                return {Direction.OUT: out, Direction.IN: Seen(diary.proven["in"])}
        ours_say = diary.refused or diary.ended
        words = f"we: {ours_say}; " if ours_say else ""
        words += f"the peer: {failed()}"
        return {Direction.OUT: out, Direction.IN: Seen("", _plain(words, domain, peer))}

    def _judge(self, foretold: dict[Direction, Outcome], seen: dict[Direction, Seen]) -> None:
        for direction, expected in foretold.items():
            one = seen[direction]
            self.assertTrue(agrees(expected, direction, one), f"{direction.value}: {one}")
