"""What ``budget`` tells, in words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from impfed.ctl.words import moment, printable


def words(items: Sequence[dict[str, Any]]) -> str:
    """Return the answer to any form of the command."""
    if not items:
        return "nothing\n"
    if "rate_now" in items[0]:
        return "\n".join(map(_domain, items))
    if "forgotten" in items[0]:
        return f"{items[0]['forgotten']} unknown users of {_name(items[0])} are asked for again\n"
    if "resumed" in items[0]:
        return f"{items[0]['resumed']} pauses of next hops of {_name(items[0])} ended\n"
    return "".join(
        f"{printable(item['user'])}  not asked for until {moment(item['not_asked_until'])[:19]}Z\n"
        for item in items
    )


def _name(item: dict[str, Any]) -> str:
    return printable(item["domain"])


def _domain(item: dict[str, Any]) -> str:
    waiting = ", ".join(f"{name} {count}" for name, count in item["waiting"].items() if count)
    if waiting and item["waiting_since"]:
        waiting += f" (without a break since {moment(item['waiting_since'])[:19]}Z)"
    rate = _of(item["rate_used"], item["rate_now"])
    if item["slowed_since"]:
        rate += (
            f"; slowed down from {item['rate_limit']} since {moment(item['slowed_since'])[:19]}Z"
        )
    if item.get("share", 1.0) < 1.0:
        rate += f" ({item['share']:.0%} of the cluster's budget)"
    rows = [
        ("requests a second", rate),
        ("waiting", waiting or "none"),
        ("addresses", _of(item["addresses"], item["address_limit"])),
        ("failures", f"{item['failure_ratio']:.1%} of the answers of the last minute"),
        ("not sent", f"{item['not_sent']} since the start"),
        ("unknown users", f"{item['unknown_users']} not asked for"),
    ]
    rows += [
        ("pause", f"{printable(each['hop'])} asked for one until {moment(each['until'])[:19]}Z")
        for each in item["pauses"]
    ]
    if item["advice"]:
        rows.append(("advice", printable(item["advice"])))
    return _name(item) + "\n" + "".join(f"  {name:<18} {text}\n" for name, text in rows)


def _of(used: float, limit: float | str) -> str:
    return f"{used:g}, {limit}" if isinstance(limit, str) else f"{used:g} of {limit:g}"
