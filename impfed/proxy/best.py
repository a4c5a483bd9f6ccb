"""Which of several answers goes up (RFC 3261 section 16.7, steps 6 and 7)."""

from __future__ import annotations

from collections.abc import Sequence

from impfed.sip.message import SipResponse

#: Of the 4xx these tell the caller how to do better, so they come before the others.
_HELPFUL = (401, 407, 415, 420, 484)

#: Answers of a branch: status, and the response; None where the proxy itself says so.
Answers = Sequence[tuple[int, SipResponse | None]]


def best_of(answers: Answers) -> tuple[int, SipResponse | None]:
    """Return the best answer: any 6xx, else the lowest class, in it a helpful one, else the first.

    Of what the proxy says itself (408, 503) and what somebody answered the latter is better.

    :param answers: final answers other than 2xx; (408, None) when there are none.
    """
    if not answers:
        return (408, None)
    for status, response in answers:
        if status >= 600:
            return (status, response)
    lowest = min(status // 100 for status, _ in answers)
    group = [answer for answer in answers if answer[0] // 100 == lowest]
    for wanted in _HELPFUL:
        for answer in group:
            if answer[0] == wanted:
                return answer
    # 503 says more about the way than about the user (section 16.7 step 6); so do our own answers.
    group.sort(key=lambda answer: (answer[0] == 503, answer[1] is None))
    return group[0]


def challenges(status: int, best: SipResponse | None, answers: Answers) -> list[tuple[str, str]]:
    """Return the challenges of other branches, which go up with a 401 or 407 (step 7)."""
    if status not in (401, 407):
        return []
    return [
        (name, value)
        for other, response in answers
        if other in (401, 407) and response is not None and response is not best
        for name in ("WWW-Authenticate", "Proxy-Authenticate")
        for value in response.get_all(name.lower())
    ]
