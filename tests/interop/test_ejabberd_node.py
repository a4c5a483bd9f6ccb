"""A whole node with a real ejabberd as home server."""

from __future__ import annotations

from tests.interop.node_story import Allowed, Answers, Degraded, NodeCase, Survival, WholeStory


class EjabberdNode(Answers, Allowed, Survival, WholeStory, NodeCase):
    """One component for each foreign domain, and our module."""

    home = "ejabberd"


class PlainEjabberdNode(Degraded, WholeStory, NodeCase):
    """ejabberd as it comes."""

    home = "ejabberd-plain"
