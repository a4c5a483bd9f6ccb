"""What ``impfedctl route`` tells: the chain of routes, the hops in order, and which is used now."""

from __future__ import annotations

from typing import Any

from impfed.ctl.words import printable

_STATES = {
    "open": "connected",
    "connecting": "connecting",
    "securing": "connecting (TLS handshake)",
    "resting": "out of reach",
    "down": "does not answer",
    "idle": "no connection yet",
}


def story(item: dict[str, Any]) -> str:
    """Return an answer of ``route`` in words."""
    lines = [f"{printable(item['address'])}"]
    width = max((len(step["route"]) for step in item["chain"]), default=0)
    for step in item["chain"]:
        mark = "*" if step["decides"] else " "
        lines.append(
            f" {mark} {step['order']:>4}  {printable(step['route']):<{width}}  "
            + printable(step["answer"])
        )
    if item["hops"]:
        lines.append("hops, in the order in which they are tried")
    for number, hop in enumerate(item["hops"], start=1):
        lines += _hop(number, hop, hop["hop"] == item["used"])
    if item["used"]:
        lines.append(f"used now: {printable(item['used'])} ({printable(item['why'])})")
    elif item["status"]:
        lines.append(f"goes nowhere: {item['status']}, {printable(item['why'])}")
    else:
        lines.append(f"not over SIP now: {printable(item['why'])}")
    if item.get("lately"):
        lines.append(printable(item["lately"]))
    return "\n".join(lines) + "\n"


def _hop(number: int, hop: dict[str, Any], used: bool) -> list[str]:
    state = _STATES.get(hop["state"], hop["state"])
    reason = f": {hop['reason']}" if hop["reason"] else ""
    details = [f"priority {hop['priority']}", f"weight {hop['weight']}"]
    if hop["tls_name"]:
        details.append(f"must prove {hop['tls_name']}")
        details.append(f"we show certificate {hop['certificate']}")
    return [
        f" {'*' if used else ' '} {number:>4}  {printable(hop['hop'])}  {printable(state + reason)}",
        f"          {printable(', '.join(details))}",
        f"          from {printable(hop['from'] or 'its route')}",
    ]
