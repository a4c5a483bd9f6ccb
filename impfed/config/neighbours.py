"""``[[neighbour]]``: its keys, and what it must say together with the other sections."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from impfed.config import model, values
from impfed.config.keys import Key, Section
from impfed.config.model import Config, SipDomainConfig

if TYPE_CHECKING:
    from impfed.config.checks import Report

NEIGHBOUR = Section(
    "neighbour",
    True,
    model.NeighbourConfig,
    "Another node, or the way into another cluster, of the same organisation (docs/topologies.md)."
    " Requests of federated domains for users of its domains are proxied to it, and it may send us"
    " those of its users. Connections are mutual TLS.",
    (
        Key(
            "name",
            values.NAME,
            "Name of the node in logs and status; with relay tokens its own `[node]` name (docs/pat.md).",
            required=True,
        ),
        Key(
            "domains",
            values.DOMAINS,
            "The local domains that it hosts. A node without any is passed no new requests, only what"
            " belongs to its own dialogs.",
            default="none",
        ),
        Key(
            "address",
            values.ADDRESS,
            "Where we connect to; over TLS.",
            ("host", "port"),
            required=True,
        ),
        Key(
            "tls_name",
            values.HOST,
            "Name that its certificate must carry.",
            default="the host",
        ),
        Key(
            "peer_names",
            values.PEER_NAMES,
            "Certificate names by which it is known when it connects to us.",
            default="`tls_name`",
        ),
        Key(
            "advertised",
            values.ADDRESSES,
            "What its listeners tell peers (their `advertised`), so that a request for one of these"
            " finds it.",
            default="`address`",
        ),
        Key(
            "fallback",
            values.ADDRESSES,
            "More addresses of it, or of other nodes that host the same domains: the next one is used"
            " while those before it do not answer.",
            default="none",
        ),
        Key(
            "xmpp",
            values.ADDRESSES,
            "Where nodes of that cluster take XMPP (`[s2s] bind`): what foreign servers send here for its"
            " domains is passed on to the first of them that answers, and what they send there for ours is"
            " taken from its nodes.",
            default="none: it is refused",
        ),
        Key(
            "users",
            values.USERS_FILE,
            "Users of this node's own domains whose home has moved to that cluster: a file with an address,"
            " or a user name, a line, which is read again when it has changed.",
        ),
        Key(
            "check_interval",
            values.duration(0, 600),
            "Each address is asked with OPTIONS so often whether it is there; 0 for never.",
        ),
    ),
)


#: Fewest characters of a relay secret.
_SECRET = 16


def check_neighbours(config: Config, document: dict[str, Any], report: Report) -> None:
    """Report domains with two places, addresses of two nodes, and names that are a partner's, too."""
    if len(config.neighbours) == len(document.get("neighbour", ())):  # else positions do not fit
        _domains(config, report)
        _addresses(config, report)
        _names(config, report)
    _relaying(config, document, report)
    several = sum(bool(each.users and each.xmpp) for each in config.neighbours) > 1
    for position, neighbour in enumerate(config.neighbours):
        if several and neighbour.users and neighbour.xmpp:
            words = "what comes over XMPP for users whose home has moved goes to one cluster only"
            report.report(("neighbour", position, "users"), words, "", "xmpp in one [[neighbour]]")
        if neighbour.xmpp and (config.s2s is None or neighbour.is_member):
            missing = "domains" if config.s2s is not None else "[s2s]"
            words = "what comes over XMPP is passed on for domains of another cluster"
            report.report(("neighbour", position, "xmpp"), words, "", f"add {missing}")
    if (config.neighbours or config.node.trusted_upstreams) and not any(
        listener.transport == "tls" for listener in config.listeners
    ):
        where = ("neighbour", 0) if config.neighbours else ("node", "trusted_upstreams")
        report.report(
            where,
            "nodes know each other by their certificates, and there is no listener over TLS",
            "",
            'add a [[listener]] with transport = "tls"',
        )


def _relaying(config: Config, document: dict[str, Any], report: Report) -> None:
    """Report what would make relay tokens worthless: a weak secret, a name of two nodes, none at all."""
    secret = config.node.relay_secret
    if 0 < len(secret) < _SECRET:
        report.report(
            ("node",),
            f"the relay secret has {len(secret)} characters, which can be guessed",
            f"{_SECRET} characters or more",
            "make one with: openssl rand -hex 32",
        )
    for position, neighbour in enumerate(config.neighbours):
        if secret and neighbour.name == config.node.name:
            report.report(
                ("neighbour", position, "name"),
                f'"{neighbour.name}" is the name of this node; relay tokens name nodes, so each needs'
                " its own",
                "the [node] name of the other node",
            )
    shared = [raw.get("contact") for raw in _listeners(document)]
    for position, contact in enumerate(shared):
        if contact is not None and not (secret and config.neighbours):
            missing = "[[neighbour]] for each other node" if secret else "[node] relay_secret_file"
            report.report(
                ("listener", position, "contact"),
                "with one Contact for all nodes the relay token is the only way to the right one",
                "",
                f"add {missing}, or take contact out",
            )


def _listeners(document: dict[str, Any]) -> list[dict[str, Any]]:
    found = document.get("listener", [])
    return [each for each in found if isinstance(each, dict)] if isinstance(found, list) else []


def _domains(config: Config, report: Report) -> None:
    places = {
        domain: f"home[{number}]"
        for number, home in enumerate(config.homes, 1)
        for domain in home.domains
    }
    foreign = {domain.name for domain in config.domains}
    for position, neighbour in enumerate(config.neighbours):
        where = ("neighbour", position, "domains")
        for domain in neighbour.domains:
            if domain in foreign:
                words = f'"{domain}" is a [[domain]] too; a domain is either ours or foreign'
                report.report(where, words, "", "take it out of one of the two places")
            elif domain in places:
                words = f'"{domain}" is hosted by {places[domain]} already'
                report.report(where, words, "", "a domain has one home")
            places.setdefault(domain, f"neighbour[{position + 1}]")


def _addresses(config: Config, report: Report) -> None:
    taken = {
        (host, port): f"listener[{number}]"
        for number, listener in enumerate(config.listeners, 1)
        for host, port in (
            (listener.host, listener.port),
            (listener.advertised_host, listener.advertised_port),
        )
    }
    for position, neighbour in enumerate(config.neighbours):
        place = f"neighbour[{position + 1}]"
        own = {("address", (neighbour.host, neighbour.port))}
        own.update(("fallback", address) for address in neighbour.fallback)
        own.update(("advertised", address) for address in neighbour.advertised)
        for key, (host, port) in sorted(own):
            holder = taken.setdefault((host, port), place)
            if holder != place:
                report.report(
                    ("neighbour", position, key),
                    f"{values.show_address(host, port)} is that of {holder};"
                    " requests would go to the wrong node",
                )


def _names(config: Config, report: Report) -> None:
    """A name that a partner's certificate may carry would let the partner pass for one of us."""
    for position, neighbour in enumerate(config.neighbours):
        for number, (host, _) in enumerate(neighbour.addresses):
            if not neighbour.tls_name and not host.strip("0123456789.:"):
                report.report(
                    ("neighbour", position, "fallback" if number else "address"),
                    "an IP address is no name that a certificate could carry (RFC 5922)",
                    "tls_name beside it",
                )
                break
        where = ("neighbour", position, "peer_names" if neighbour.peer_names else "tls_name")
        for name in neighbour.certificate_names:
            for domain in config.domains:
                if proves(domain, name):
                    report.report(
                        where,
                        f'"{name}" may be the name of a peer of {domain.name}, too, who would pass'
                        " for a node of ours",
                    )
    for name in config.node.trusted_upstreams:
        for domain in config.domains:
            if name == domain.name or name.partition(".")[2] == domain.name:
                report.report(
                    ("node", "trusted_upstreams"),
                    f'"{name}" is a name of {domain.name}, which would be believed for every domain',
                )


def proves(domain: SipDomainConfig, name: str) -> bool:
    """Say whether a certificate's name may be that of a peer of a domain."""
    return domain.name in (name, name.partition(".")[2]) or name in domain.peer_names
