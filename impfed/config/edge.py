"""``[edge]``: the node is the border proxy for SIP, with an outside, an inside, and no users."""

from __future__ import annotations

from dataclasses import dataclass, field

from impfed.config import values
from impfed.config.keys import Key, Section

#: Sides of a listener of an edge.
SIDES = ("outside", "inside")


@dataclass(frozen=True, slots=True)
class EdgeTargetConfig:
    """A machine inside: a routing node, a load balancer, or another node.

    :ivar host: where we connect to.
    :ivar transport: "tls" or "tcp".
    :ivar tls_name: name that its certificate must carry; the host when empty.
    :ivar peer_names: names by which it is known when it connects to us; ``tls_name`` when empty.
    :ivar advertised: (host, port) of its Contact, where that is no entry of the port table.
    :ivar new_requests: whether it gets what is in no dialog yet.
    :ivar priority: lower first; the next only while none of the better answers.
    :ivar weight: share of the dialogs among targets of equal priority.
    :ivar connections: connections that dialogs are spread over; 0 for ``[edge] connections``.
    """

    name: str
    host: str
    port: int
    transport: str = "tls"
    tls_name: str = ""
    peer_names: tuple[str, ...] = ()
    advertised: tuple[tuple[str, int], ...] = ()
    new_requests: bool = True
    priority: int = 1
    weight: int = 1
    connections: int = 0


@dataclass(frozen=True, slots=True)
class EdgePortConfig:
    """A line of the port table: a public address that leads to one machine inside.

    :ivar target: name of an :class:`EdgeTargetConfig`.
    :ivar host: where the edge listens for it; what is public when empty.
    :ivar inner_host: what the target itself writes into Contact, Via and Record-Route: its own
        address when empty.
    """

    public_host: str
    public_port: int
    target: str
    host: str = ""
    port: int = 0
    inner_host: str = ""
    inner_port: int = 0
    transport: str = "tls"


@dataclass(frozen=True, slots=True)
class EdgeLimitsConfig:
    """What one source outside may have; None for no limit.

    :ivar requests: requests a second from one IP address.
    :ivar domain_requests: requests a second from all connections that speak for one domain.
    :ivar connections: connections from one IP address.
    :ivar handshakes: connections from one IP address whose TLS handshake is not done.
    :ivar hold: seconds over the limit after which the connection is closed.
    """

    requests: int | None = 500
    domain_requests: int | None = 1000
    connections: int = 50
    handshakes: int = 10
    hold: float = 10.0


@dataclass(frozen=True, slots=True)
class EdgeConfig:
    """The border proxy.

    :ivar domains: the local domains behind it.
    :ivar certificate: name of the certificate that it shows inwards; "" for the first.
    :ivar connections: connections to each target that dialogs are spread over.
    :ivar check_interval: seconds from one OPTIONS to a target to the next.
    :ivar check_timeout: seconds that an answer may take.
    :ivar check_falls: checks in a row that have to fail before a target counts as down.
    :ivar check_rises: checks in a row that have to succeed before it counts as up again.
    """

    domains: tuple[str, ...] = ()
    certificate: str = ""
    connections: int = 4
    check_interval: float = 5.0
    check_timeout: float = 3.0
    check_falls: int = 2
    check_rises: int = 1
    targets: tuple[EdgeTargetConfig, ...] = ()
    ports: tuple[EdgePortConfig, ...] = ()
    limits: EdgeLimitsConfig = field(default_factory=EdgeLimitsConfig)


EDGE = Section(
    "edge",
    False,
    EdgeConfig,
    "With this section the node is the border proxy for SIP (docs/edge.md): it has no users, no home"
    " server and no store. Each `[[listener]]` says on which `side` it is.",
    (
        Key("domains", values.DOMAINS, "The local domains behind it.", required=True),
        Key(
            "certificate",
            values.NAME,
            "Name of the certificate that it shows on the inside, as server and as client.",
            default="the first",
        ),
        Key(
            "connections",
            values.whole(1, 64),
            "Connections to each target. A dialog stays on one of them, by its Call-ID.",
        ),
        Key(
            "check_interval",
            values.duration(0.5, 600),
            "Each target is asked with OPTIONS so often whether it is there.",
        ),
        Key("check_timeout", values.duration(0.2, 30), "How long the answer may take."),
        Key(
            "check_falls",
            values.whole(1, 20),
            "Checks in a row that fail before a target gets no new requests.",
        ),
        Key(
            "check_rises",
            values.whole(1, 20),
            "Checks in a row that succeed before it gets them again.",
        ),
    ),
)

TARGET = Section(
    "edge.target",
    True,
    EdgeTargetConfig,
    "A machine inside: the routing node, a load balancer, and every node that sends to partners"
    " through the edge or is named in the port table.",
    (
        Key("name", values.NAME, "Its name in logs and status.", required=True),
        Key("address", values.ADDRESS, "Where we connect to.", ("host", "port"), required=True),
        Key("transport", values.choice("tls", "tcp"), "The transport."),
        Key("tls_name", values.HOST, "Name that its certificate must carry.", default="the host"),
        Key(
            "peer_names",
            values.PEER_NAMES,
            "Certificate names by which it is known when it connects to us.",
            default="`tls_name`",
        ),
        Key(
            "advertised",
            values.ADDRESSES,
            "What it tells peers, besides `address` and its lines of the port table: requests for"
            " one of these go to it.",
        ),
        Key(
            "new_requests",
            values.BOOLEAN,
            "Whether it gets what partners begin. A node behind a routing node or balancer does not.",
        ),
        Key(
            "priority",
            values.whole(0, 65535),
            "Lower first; the next ones only while none of the better answers.",
        ),
        Key("weight", values.whole(1, 65535), "Share of the dialogs among equals."),
        Key(
            "connections",
            values.whole(1, 64),
            "Connections to it.",
            default="what `[edge]` says",
        ),
    ),
)

PORT = Section(
    "edge.port",
    True,
    EdgePortConfig,
    "A line of the port table: an outside address of the edge that belongs to one machine inside. If"
    " that machine writes another address into its messages (`inner`), it is replaced by the"
    " public one on the way out, and put back on the way in.",
    (
        Key(
            "public",
            values.ADDRESS,
            "What peers see.",
            ("public_host", "public_port"),
            required=True,
        ),
        Key("target", values.NAME, "Name of the `[[edge.target]]`.", required=True),
        Key(
            "bind",
            values.ADDRESS,
            "Address and port on this machine.",
            ("host", "port"),
            default="what `public` says",
        ),
        Key(
            "inner",
            values.ADDRESS,
            "What the target advertises. Nothing is replaced if that is `public`.",
            ("inner_host", "inner_port"),
            default="the target's `address`",
        ),
        Key("transport", values.choice("tls", "tcp"), "The transport."),
    ),
)

LIMITS = Section(
    "edge.limits",
    False,
    EdgeLimitsConfig,
    "What one source outside may have (docs/edge.md). The inside has no such limits.",
    (
        Key(
            "requests",
            values.limit(1, 1_000_000),
            "Requests a second from one IP address; what is over it is answered with 480 and"
            " Retry-After.",
        ),
        Key(
            "domain_requests",
            values.limit(1, 1_000_000),
            "The same for all connections whose certificate speaks for one domain.",
        ),
        Key("connections", values.whole(1, 100_000), "Connections from one IP address."),
        Key(
            "handshakes",
            values.whole(1, 10_000),
            "Connections from one IP address whose TLS handshake is not done.",
        ),
        Key(
            "hold",
            values.duration(1, 3600),
            "A connection that goes on over its limit for so long is closed.",
        ),
    ),
)
