"""The picture that the demo draws while it runs: who sent what to whom, SIP left, XMPP right."""

from __future__ import annotations

import re
import sys
import threading
from typing import TextIO

from .parts import Event

SHOWN = (
    "from", "to", "cseq", "event", "subscription-state", "expires", "require", "unsupported",
    "warning", "content-type",
)  # fmt: skip
WIDTH = 100


class Ladder:
    """Prints events of the far side and of the XMPP users as they come.

    :ivar far: name of the far side's lifeline.
    :ivar full: print whole messages instead of what matters of them.
    """

    def __init__(self, far: str, out: TextIO = sys.stdout, full: bool = False) -> None:
        self.far, self.out, self.full = far, out, full
        self.quiet = False
        self._colour = out.isatty()
        self._lock = threading.Lock()

    def title(self, text: str) -> None:
        """Print the title of a step."""
        self._print(f"\n{self._paint('1', text)}\n{'─' * min(len(text), WIDTH)}")

    def note(self, text: str, good: bool = True) -> None:
        """Print a remark, such as what was proved."""
        self._print(self._paint("32" if good else "31", ("✔ " if good else "✘ ") + text))

    def say(self, text: str) -> None:
        """Print as it is."""
        self._print(text)

    def __call__(self, name: str, event: Event) -> None:
        """Take an event of a part."""
        kind = event.get("event")
        if kind == "violation":
            self.note(f"the far side objects: {event['rule']}: {event['detail']}", good=False)
        elif kind == "error":
            self.note(f"{name}: {event.get('text')}", good=False)
        elif kind == "wire" and not self.quiet:
            if "connection" in event:
                self._sip(event)
            else:
                self._xmpp(name, event)

    # -------------------------------------------------------------- inside

    def _sip(self, event: Event) -> None:
        head, _, body = event["text"].partition("\r\n\r\n")
        start, *lines = head.split("\r\n")
        what = start.split(" ")[0] if not start.startswith("SIP/") else start[8:]
        self._arrow(self.far, "impfed", f"SIP {what}", right=event["direction"] == "sent")
        if self.full:
            shown = [start, *lines]
        else:
            shown = [start, *(line for line in lines if line.split(":")[0].lower() in SHOWN)]
            hidden = len(lines) + 1 - len(shown)
            shown.append(f"… and {hidden} more lines" if hidden else "")
        bodies = body.split("\r\n") if self.full else self._brief(body)
        self._lines([*shown, *bodies], left=True)

    @staticmethod
    def _brief(body: str) -> list[str]:
        if body.startswith("v=0"):
            return [line for line in body.splitlines() if line.startswith(("m=", "a="))]
        lines = re.sub(r' xmlns(:\w+)?="[^"]*"', "", body).splitlines()
        return [
            line for line in lines if line.strip() and not line.startswith("<?xml version")
        ] or ([re.sub(r"<\?.*?\?>", "", body)] if body else [])

    def _xmpp(self, name: str, event: Event) -> None:
        text = event["text"]
        kind = re.match(r"<(\w+)", text)
        if kind is None or kind[1] == "iq" or ("to=" not in text and event["direction"] == "sent"):
            return
        if kind[1] == "presence" and re.search(rf'from="{name}@', text):
            return  # the server's echo of one's own presence
        what = re.search(r'type="(\w+)"', text)
        label = f"<{kind[1]}{' ' + what[1] if what else ''}/>"
        self._arrow("impfed", name, f"XMPP {label}", right=event["direction"] == "received")
        if not self.full:
            text = re.sub(r' (xmlns(:\w+)?|xml:lang)="(?!http)[^"]*"', "", text)
        self._lines([text], left=False)

    def _arrow(self, left: str, right_: str, label: str, right: bool) -> None:
        line = f" {label} ".center(40, "─")
        shaft = f"{line}▶" if right else f"◀{line}"
        indent = "" if right_ == "impfed" else " " * 20
        self._print(self._paint("36", f"{indent}{left:<8} {shaft} {right_}"))

    def _lines(self, lines: list[str], left: bool) -> None:
        indent = " " * (10 if left else 30)
        text = []
        for line in "\n".join(lines).split("\n"):
            while line:
                text.append(indent + line[: WIDTH - len(indent)])
                line = line[WIDTH - len(indent) :]
        self._print(self._paint("2", "\n".join(text)))

    def _paint(self, code: str, text: str) -> str:
        return f"\033[{code}m{text}\033[0m" if self._colour else text

    def _print(self, text: str) -> None:
        with self._lock:
            self.out.write(text + "\n")
            self.out.flush()
