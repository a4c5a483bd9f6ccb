"""What ``pat-check`` tells, in words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from impfed.ctl.words import printable

#: What comes first: the worst.
_ORDER = ("missing", "crossed", "right", "not checked")


def words(items: Sequence[dict[str, Any]]) -> str:
    """Return the answer: a line for each address, then how many mappings are to be corrected."""
    rows = [
        (
            item["verdict"],
            f"{item['address']} {item['transport']}",
            f"of {item['of']}",
            item["words"],
        )
        for item in sorted(items, key=lambda item: _ORDER.index(item["verdict"]))
    ]
    widths = [max((len(row[column]) for row in rows), default=0) for column in range(3)]
    lines = [
        "  ".join(
            printable(text).ljust(width) for text, width in zip(row, (*widths, 0), strict=True)
        )
        for row in rows
    ]
    wrong = sum(not item["passes"] for item in items)
    if wrong:
        lines.append(f"{wrong} of {len(items)} addresses to correct at the firewall")
    else:
        lines.append("every address leads where it should")
    return "\n".join(line.rstrip() for line in lines) + "\n"
