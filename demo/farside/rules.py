"""What the far side insists on. Each check returns breaches as ``(rule, detail)``."""

from __future__ import annotations

from dataclasses import dataclass, field
from xml.etree import ElementTree

from .wire import Message, address_of, parameters, uri_of

Breach = tuple[str, str]
#: Header names that only Microsoft's own servers and clients may write.
PRIVATE = ("ms-text-format", "ms-im-format", "ms-edge-proxy-message-trust", "ms-user-data")


@dataclass
class Dialog:
    """One dialog as the far side keeps it: what it issued, and what has to come back.

    :ivar routes: Record-Route values as issued, the edge's first.
    :ivar beyond: Route values behind ours: what other proxies recorded, the nearest first.
    :ivar target: the node's Contact URI.
    :ivar events: what a request in this dialog is handed to.
    """

    user: str
    peer: str
    call_id: str
    local: str
    remote: str
    local_tag: str
    remote_tag: str
    gruu: str
    routes: list[str]
    target: str = ""
    beyond: list[str] = field(default_factory=list)
    local_cseq: int = 1
    remote_cseq: int = 0
    theirs: bool = False
    connection: object = None
    state: dict[str, object] = field(default_factory=dict)

    @property
    def key(self) -> tuple[str, str]:
        return (self.call_id, self.local_tag)

    @property
    def recorded(self) -> list[str]:
        """Record-Route values of our answer in a dialog that the node has opened."""
        return [*reversed(self.routes), *self.beyond]

    def answered(self, sent: Message, got: Message) -> None:
        """Take tag, target and route from the answer that made the dialog."""
        self.remote_tag = got.tag("to")
        self.target = uri_of(got.get("contact"))
        self.beyond = beyond(sent, got)[::-1]


def every_message(message: Message) -> list[Breach]:
    """Rules for anything that the node sends."""
    found: list[Breach] = []
    if not message.get("content-length"):
        found.append(("content-length", f"missing in {message.start}"))
    for option in message.values("supported") + message.values("require"):
        if option.lower().startswith(("ms-", "com.microsoft.")):
            found.append(("supported", f"{option} in {message.start}"))
    for name, value in message.headers:
        if name.lower() in PRIVATE:
            found.append(("private-header", f"{name}: {value}"))
        if value != value.strip() or "\r" in value or "\n" in value:
            found.append(("header-line", f"{name}: {value!r}"))
    return found


def same_lines(rule: str, wanted: list[str], got: list[str], where: str) -> list[Breach]:
    """Compare values that have to come back byte for byte."""
    if wanted == got:
        return []
    return [(rule, f"{where}: issued {wanted}, got {got}")]


def beyond(sent: Message, got: Message) -> list[str]:
    """Return what the partner's proxies put on top of our Record-Route values."""
    more = len(got.values("record-route")) - len(sent.values("record-route"))
    return got.values("record-route")[:more] if more > 0 else []


def answer(sent: Message, got: Message, proxied: bool = False) -> list[Breach]:
    """Rules for a response to one of our requests.

    :param proxied: the partner has proxies, which may record their route.
    """
    where = f"{got.status} to {sent.method}"
    found = every_message(got)
    found += same_lines("via", sent.values("via"), got.values("via"), where)
    for name in ("from", "call-id", "cseq"):
        found += same_lines(name, [sent.get(name)], [got.get(name)], where)
    to, given = sent.get("to"), got.get("to")
    if "tag" in parameters(to) or got.status == 100:
        found += same_lines("to", [to], [given], where)
    elif not given.startswith(to) or not got.tag("to"):
        found.append(("to", f"{where}: {given!r} is not {to!r} with a tag"))
    if sent.method in ("INVITE", "SUBSCRIBE") and 100 < got.status < 300 and got.tag("to"):
        routes = [] if "tag" in parameters(to) else sent.values("record-route")
        if routes:
            theirs = beyond(sent, got) if proxied else []
            given_back = got.values("record-route")[len(theirs) :]
            found += same_lines("record-route", routes, given_back, where)
            found += [("record-route", route) for route in theirs if ";lr" not in uri_of(route)]
    accepted = 200 <= got.status < 300
    if sent.method in ("INVITE", "SUBSCRIBE") and accepted and len(got.values("contact")) != 1:
        found.append(("contact", f"{where}: {got.values('contact')}"))
    if sent.method == "NEGOTIATE" and (accepted or got.get("compression")):
        found.append(("negotiate", f"compression was not declined: {got.start}"))
    return found


def request(message: Message, seen_branches: set[str]) -> list[Breach]:
    """Rules for any request of the node."""
    found = every_message(message)
    where = message.start
    via = message.values("via")
    if not via or not via[0].upper().startswith("SIP/2.0/TLS "):
        found.append(("via", f"{where}: top Via {via[:1]}"))
    if not message.branch.startswith("z9hG4bK"):
        found.append(("branch", f"{where}: {message.branch!r}"))
    elif message.method not in ("ACK", "CANCEL") and message.branch in seen_branches:
        found.append(("branch", f"{where}: {message.branch} came before; TLS repeats nothing"))
    if not message.get("max-forwards").isdigit():
        found.append(("max-forwards", where))
    if not message.tag("from"):
        found.append(("from", f"{where}: no tag"))
    if message.get("cseq").split()[1:] != [message.method]:
        found.append(("cseq", f"{where}: CSeq {message.get('cseq')}"))
    if message.method in ("INVITE", "SUBSCRIBE", "NOTIFY") and not message.get("contact"):
        found.append(("contact", f"{where}: none"))
    if message.body and not message.get("content-type"):
        found.append(("content-type", f"{where}: none"))
    return found


def outside(message: Message, person_address: str) -> list[Breach]:
    """Rules for a request that opens a dialog."""
    found: list[Breach] = []
    if message.values("route"):
        found.append(("route", f"{message.start}: a first request names no Route"))
    if address_of(message.uri) != person_address or ";" in message.uri:
        found.append(("request-uri", f"{message.start}: the bare address was expected"))
    if address_of(uri_of(message.get("to"))) != person_address:
        found.append(("to", f"{message.start}: To is {message.get('to')}"))
    if message.method == "INVITE":
        found += offer(message)
    if message.method == "SUBSCRIBE":
        found += watcher(message)
    return found


def offer(message: Message) -> list[Breach]:
    """Rules for the session description of an IM session."""
    kind = message.get("content-type").partition(";")[0].strip().lower()
    lines = message.body.decode("utf-8", "replace").splitlines()
    media = [line for line in lines if line.startswith("m=")]
    found: list[Breach] = []
    if kind != "application/sdp":
        found.append(("sdp", f"content type {kind!r}"))
    if len(media) != 1 or not media[0].startswith(("m=message ", "m=x-ms-message ")):
        found.append(("sdp", f"media lines {media}"))
    if not any(line.startswith("a=accept-types:") for line in lines):
        found.append(("sdp", "no accept-types"))
    for letter in "vost":
        if not any(line.startswith(f"{letter}=") for line in lines):
            found.append(("sdp", f"no {letter}= line"))
    return found


def watcher(message: Message) -> list[Breach]:
    """Rules for a SUBSCRIBE, first or refresh."""
    found: list[Breach] = []
    if message.get("event") != "presence":
        found.append(("event", f"{message.start}: Event {message.get('event')!r}"))
    if message.values("accept") != ["application/pidf+xml"]:
        found.append(("accept", f"{message.start}: Accept {message.values('accept')}"))
    if not message.get("expires").isdigit():
        found.append(("expires", f"{message.start}: Expires {message.get('expires')!r}"))
    return found


def inside(message: Message, dialog: Dialog) -> list[Breach]:
    """Rules for a request of the node within a dialog."""
    found: list[Breach] = []
    where = message.start
    if message.uri != dialog.gruu:
        found.append(("request-uri", f"{where}: the GRUU {dialog.gruu} was expected"))
    wanted, got = dialog.routes, message.values("route")
    bare = [f"<{uri_of(route)}>" for route in wanted]
    # Parameters after the bracket may be left out or copied, nothing between.
    good = len(wanted) == len(got) and all(
        given in (short, whole) for given, short, whole in zip(got, bare, wanted, strict=True)
    )
    if not good:
        found.append(("route", f"{where}: issued {bare}, got {got}"))
    if not dialog.remote_tag:
        dialog.remote_tag = message.tag("from")  # a NOTIFY may overtake the 200
    if message.tag("from") != dialog.remote_tag or message.tag("to") != dialog.local_tag:
        found.append(("tags", f"{where}: From {message.get('from')}, To {message.get('to')}"))
    if message.method != "ACK":
        if message.cseq <= dialog.remote_cseq:
            found.append(("cseq", f"{where}: {message.cseq} after {dialog.remote_cseq}"))
        dialog.remote_cseq = max(dialog.remote_cseq, message.cseq)
    if message.method == "SUBSCRIBE":
        found += watcher(message)
    return found


def document(message: Message, presentity: str) -> list[Breach]:
    """Rules for a NOTIFY's head and document."""
    found: list[Breach] = []
    if message.get("event") != "presence":
        found.append(("event", f"NOTIFY with Event {message.get('event')!r}"))
    state = message.get("subscription-state").partition(";")[0].strip()
    if state not in ("active", "pending", "terminated"):
        found.append(("subscription-state", repr(message.get("subscription-state"))))
    if not message.body:
        if state == "active":
            found.append(("pidf", "an active NOTIFY without a document"))
        return found
    if message.get("content-type").partition(";")[0].strip() != "application/pidf+xml":
        found.append(("pidf", f"content type {message.get('content-type')}"))
    try:
        entity = ElementTree.fromstring(message.body).get("entity", "")
    except ElementTree.ParseError as error:
        return [*found, ("pidf", f"not well-formed: {error}")]
    if entity != f"sip:{presentity.lower()}":
        found.append(("pidf", f"entity {entity!r} is not sip:{presentity.lower()}"))
    return found


def certificate(names: list[str], *wanted: str) -> list[Breach]:
    """Rules for the peer's certificate: one of the names has to be there, exactly."""
    if set(wanted).intersection(names) and not any("*" in name for name in names):
        return []
    return [("certificate", f"{' or '.join(wanted)} expected, the certificate says {names}")]


def sender(message: Message, names: list[str]) -> list[Breach]:
    """The From domain must be proven: itself or the name's parent in the certificate."""
    domain = address_of(uri_of(message.get("from"))).rpartition("@")[2]
    parents = {name.partition(".")[2] for name in names} | set(names)
    if domain in parents:
        return []
    return [("from-domain", f"{domain} is not proven by a certificate for {names}")]
