"""Lets wokkel 18 run on Twisted 24 and later.  To be imported before any wokkel module.

Twisted dropped two names that ``wokkel.data_form``, ``disco``, ``ping``, ``pubsub`` and ``muc``
import: ``twisted.python.compat._PY3`` and the module ``twisted.python.constants``, which lives on
as ``constantly``.  This module puts them back, and nothing else; it does nothing where they exist.
"""

from __future__ import annotations

import importlib.util
import sys

import constantly
import twisted.python
from twisted.python import compat

# Type checkers know that the names are not there, hence setattr.
if not hasattr(compat, "_PY3"):
    setattr(compat, "_PY3", True)  # noqa: B010
if importlib.util.find_spec("twisted.python.constants") is None:
    sys.modules["twisted.python.constants"] = constantly
    setattr(twisted.python, "constants", constantly)  # noqa: B010
