"""Writes rosters through the home links."""

from __future__ import annotations

from twisted.internet.defer import Deferred
from zope.interface import implementer

from impfed.core.log import EventLog
from impfed.gateway.roster import IRosterWriter
from impfed.transport.home import HomeLinks, RosterAnswer
from impfed.xmpp.jid import JID

log = EventLog("impfed.presence")


@implementer(IRosterWriter)
class HomeRosterWriter:
    """Asks the home server of the local user: our module there, or XEP-0356.

    :param home: the home links, which know what each server can do.
    """

    def __init__(self, home: HomeLinks) -> None:
        self._home = home

    def available(self, local: JID) -> bool:
        """Say whether the user's home server lets us approve contacts now."""
        return self._home.can_write_rosters(local.domain)

    def approve(self, local: JID, foreign: JID) -> Deferred[bool]:
        """Fire with whether the home server has approved; why not is in the log."""
        approved: Deferred[bool] = Deferred()

        def answered(answer: RosterAnswer) -> None:
            if not answer.done:
                log.warn(
                    "roster_not_written",
                    "{foreign} is not approved in the roster of {local}: {outcome}, {why}",
                    local=local.text,
                    foreign=foreign.text,
                    outcome=answer.outcome.value,
                    why=answer.text,
                )
            approved.callback(answer.done)

        self._home.approve(local, foreign, answered)
        return approved
