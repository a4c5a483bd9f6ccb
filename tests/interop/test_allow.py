"""*Allow without asking*, from a Lync-style far side to a client on a real Prosody."""

from __future__ import annotations

from tests.interop.node_story import Allowed, Degraded, NodeCase


class AllowTests(Allowed, NodeCase):
    """A user's list allows the far side's domain, and the module approves."""

    home = "prosody"


class NoModuleTests(Degraded, NodeCase):
    """The same with a component for each foreign domain."""

    home = "component"
