"""What we ask of a home server's roster: to let a foreign user see a local one without a question."""

from __future__ import annotations

from twisted.internet.defer import Deferred, succeed
from zope.interface import Interface, implementer

from impfed.xmpp.jid import JID


class IRosterWriter(Interface):
    """Changes rosters of local users, where their home server lets us (SPEC section 5).

    *Allow without asking* needs it: a home server sends presence only to whom its user's roster
    has approved.
    """

    def available(local: JID) -> bool:
        """Say whether the user's home server lets us change his roster now."""

    def approve(local: JID, foreign: JID) -> Deferred[bool]:
        """Let the foreign user see the local one, as if the local user had approved him.

        Both are bare.  Fires with False when the home server did not; the user is asked then.
        """


@implementer(IRosterWriter)
class NoRosterWriter:
    """For home servers that let nobody change rosters: everybody is asked."""

    def available(self, local: JID) -> bool:
        """Never."""
        return False

    def approve(self, local: JID, foreign: JID) -> Deferred[bool]:
        """Not possible."""
        return succeed(False)
