"""What was said and what became of it, as the people at both ends know it."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Said:
    """One text.

    :ivar shown: when it was shown to its recipient, each time.
    :ivar returned: what its sender was told, each time.
    :ivar at_risk: how long it was on a connection before that broke, or before a node had to say
        that it has it; None when it was neither.
    """

    sender: str
    recipient: str
    at: float
    shown: list[float] = field(default_factory=list)
    returned: list[str] = field(default_factory=list)
    at_risk: float | None = None


class History:
    """All texts of a run, by their words, which are unique."""

    def __init__(self) -> None:
        self.texts: dict[str, Said] = {}
        self.problems: list[str] = []

    def sent(self, text: str, sender: str, recipient: str, at: float) -> None:
        """Somebody wrote a text."""
        self.texts[text] = Said(sender, recipient, at)

    def shown(self, text: str, recipient: str, at: float) -> None:
        """A text appeared on somebody's screen."""
        said = self.texts.get(text)
        if said is None:
            if not text.startswith(("Your message", "A message")):  # what the node itself says
                self.problems.append(f"{recipient} is shown what nobody wrote: {text!r}")
        elif said.recipient != recipient:
            self.problems.append(f"{recipient} is shown what was for {said.recipient}: {text!r}")
        else:
            said.shown.append(at)

    def returned(self, text: str, why: str) -> None:
        """A sender was told that his text did not arrive, or may not have."""
        if text in self.texts:
            self.texts[text].returned.append(why)

    def perhaps_lost(self, text: str, age: float) -> None:
        """A text was written so many seconds before its connection broke, or before it was counted."""
        self.texts[text].at_risk = age
