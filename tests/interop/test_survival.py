"""What a node took over survives ``kill -9``, between a real Prosody and the Lync-style far side."""

from __future__ import annotations

from tests.interop.node_story import NodeCase, Survival


class Killed(Survival, NodeCase):
    """A node that dies without warning."""

    home = "prosody"
