"""What becomes of the question whether somebody outside may see a user, on a real Prosody.

With ejabberd: ``test_ejabberd_node.py``.
"""

from __future__ import annotations

from tests.interop.node_story import Answers, NodeCase


class ProsodyAnswers(Answers, NodeCase):
    """One component, and our module."""

    home = "prosody"
