"""What arrives over a home link: who takes it, and what is refused.

A link speaks only for its own local domains; it carries only foreign domains that are configured;
IQs are answered here; errors and results are never answered.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from impfed.core.log import EventLog
from impfed.transport.directory import DirectoryQueries
from impfed.transport.link_api import LinkContext
from impfed.transport.pair_barriers import PairBarriers
from impfed.transport.queries import Queries
from impfed.transport.rosters import NS_ROSTERS, RosterRequests
from impfed.xmpp.barrier import AcceptanceBarrier
from impfed.xmpp.jid import JID
from impfed.xmpp.reader import BadStanza
from impfed.xmpp.stanza import NS_STANZAS, Stanza, error_reply, xml_attr, xml_text

if TYPE_CHECKING:
    from impfed.transport.home_streams import StreamLink
    from impfed.transport.link import HomeLink

log = EventLog("impfed.home")


class Inbox:
    """Takes the stanzas of one link.

    :param link: the link, to write answers to.
    :param owner: provider of ILinkOwner.
    """

    def __init__(
        self,
        link: HomeLink | StreamLink,
        owner: Any,
        context: LinkContext,
        barrier: AcceptanceBarrier | PairBarriers,
        directory: DirectoryQueries,
        rosters: RosterRequests,
    ) -> None:
        self._link = link
        self._owner = owner
        self._metrics = context.metrics
        self._tracer = context.tracer
        self._locals = frozenset(JID.parse(domain).domain for domain in link.home.domains)
        self._own = JID.parse(link.domain).domain
        self._barrier = barrier
        self._directory = directory
        self._rosters = rosters
        self._module_warned = False
        self._queries = Queries(link.write, owner.describe)

    def stanza_arrived(self, stanza: Stanza) -> None:
        """Take a stanza."""
        if self._tracer.watching:
            self._link.trace(True, stanza.to_xml())
        relay = self._owner.relay
        if relay is not None and relay.takes(stanza.to.domain) and self._relayed(stanza):
            if not self._link.guard(relay.from_home, stanza):
                self._refuse(stanza, "internal-server-error", "")
        elif stanza.kind == "iq":
            self._iq_arrived(stanza)
        elif stanza.from_.domain not in self._locals:
            self._metrics.count("home.foreign_sender")
            self._refuse(stanza, "forbidden", f"{stanza.from_.domain} is not hosted here")
        elif stanza.kind == "message" and self._is_ours(stanza):
            return
        elif self._owner.serves(stanza.to.domain):
            if not self._link.guard(self._owner.user.stanza_arrived, stanza, self._link):
                self._refuse(stanza, "internal-server-error", "")
        elif self._is_own(stanza):
            if not self._link.guard(self._owner.own.stanza_arrived, stanza):
                self._refuse(stanza, "internal-server-error", "")
        elif stanza.kind == "message" or stanza.type != "unavailable":
            known = stanza.to.domain == self._own
            condition = "service-unavailable" if known else "remote-server-not-found"
            self._metrics.count("home.unserved_domain")
            self._refuse(stanza, condition, f"{stanza.to.domain} is not federated with here")

    def _relayed(self, stanza: Stanza) -> bool:
        """Whether a stanza for a domain of the relay's is from a local domain, and for no one here.

        Where such a domain is the component itself, answers to the link's own questions come there.
        """
        if stanza.from_.domain not in self._locals:
            return False
        if stanza.kind != "iq" or not self._link.asks_as(stanza.to):
            return True
        return stanza.type in ("get", "set") or not self._answers_us(stanza)

    def _answers_us(self, stanza: Stanza) -> bool:
        """Take an answer to a question of the link's own; returns whether it was one."""
        if self._barrier.answered(stanza.id):
            if self._barrier.wants_ping:
                self._owner.flush_later(self._link)
            return True
        if self._rosters.answered(stanza) or self._directory_answered(stanza):
            return True
        return self._link.pings(stanza.from_) and stanza.id[:1] in (
            "b",
            "k",
        )  # late, or a keep-alive

    def _iq_arrived(self, stanza: Stanza) -> None:
        if stanza.type in ("result", "error"):
            if not self._barrier.answered(stanza.id):
                if not self._rosters.answered(stanza):
                    self._directory_answered(stanza)
            elif self._barrier.wants_ping:
                self._owner.flush_later(self._link)
        elif stanza.from_.domain == self._own:
            # Our own question to the module came back: nobody took it.
            self._directory_answered(stanza)
        elif stanza.from_.domain not in self._locals:
            self._metrics.count("home.foreign_sender")
            self._refuse(stanza, "forbidden", f"{stanza.from_.domain} is not hosted here")
        elif stanza.type in ("get", "set"):
            if not self._link.guard(self._question_arrived, stanza):
                self._refuse(stanza, "internal-server-error", "")
        else:
            self._refuse(stanza, "bad-request", "an IQ is get, set, result or error")

    def _is_own(self, stanza: Stanza) -> bool:
        """Whether a stanza is for the node itself, and somebody answers for it."""
        domain = stanza.to.domain
        own = self._owner.own is not None and domain == self._own
        return own and not self._owner.serves(domain)

    def _question_arrived(self, stanza: Stanza) -> None:
        if not self._is_own(stanza) or not self._owner.own.iq_arrived(stanza):
            self._queries.handle(stanza)

    def _is_ours(self, stanza: Stanza) -> bool:
        """Take a message that is for the link itself; returns whether it was one."""
        if stanza.type == "error":
            return self._barrier.refused(stanza)
        if stanza.from_.local or not self._rosters.advertised(stanza):
            return False
        log.info(
            "privileges",
            "home link {link}: rosters of {local} are written {how}",
            local=stanza.from_.domain,
            how=self._rosters.describe(stanza.from_.domain),
            **self._link.fields(),
        )
        return True

    def _directory_answered(self, stanza: Stanza) -> bool:
        """Take an answer of the home server's module; returns whether it was one."""
        there = self._directory.answered(stanza)
        if there is not None:
            self._module_answered(there)
        return there is not None

    def _module_answered(self, there: bool) -> None:
        if there and self._directory.queue:
            self._link.numbered(self._directory.queue)
        if there and NS_ROSTERS in self._directory.abilities:
            self._rosters.module_found(self._link.module_address, self._directory.accounts)
        if not self._link.carries_all and not there:
            return  # nobody has said that there is a module
        warned, self._module_warned = self._module_warned, not there
        if not there and not warned:
            log.warn(
                "module_missing",
                "home link {link}: module impfed does not answer on the home server, so nothing"
                ' is known of who exists; enable it for Component "{domain}"',
                **self._link.fields(),
            )
        hosts = self._directory.hosts
        missing = sorted(self._locals - hosts) if hosts else []
        if missing:
            log.warn(
                "domains_not_hosted",
                "home link {link}: the home server does not host {missing}",
                missing=", ".join(missing),
                **self._link.fields(),
            )

    def bad_stanza(self, bad: BadStanza) -> None:
        """Answer a stanza whose addresses cannot be read, as far as that can be done."""
        self._metrics.count("home.bad_stanza")
        log.warn(
            "bad_stanza", "home link {link}: {problem}", problem=bad.problem, **self._link.fields()
        )
        get = bad.element.get
        if get("type") in ("error", "result") or not get("from") or not get("to"):
            return
        self._link.write(
            f"<{bad.kind} type='error' from='{xml_attr(get('to', ''))}'"
            f" to='{xml_attr(get('from', ''))}' id='{xml_attr(get('id', ''))}'>"
            f"<error type='modify'><jid-malformed xmlns='{NS_STANZAS}'/>"
            f"<text xmlns='{NS_STANZAS}'>{xml_text(bad.problem)}</text></error></{bad.kind}>"
        )

    def _refuse(self, stanza: Stanza, condition: str, text: str) -> None:
        """Answer with an error; errors and results are never answered."""
        if stanza.type not in ("error", "result"):
            reply = error_reply(stanza, condition, text=text)
            self._link.trace(False, reply.xml)
            self._link.write(reply.xml)
