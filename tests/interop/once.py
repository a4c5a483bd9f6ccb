"""Scenes that take long to start: each is started once, and stays up until the tests end."""

from __future__ import annotations

import atexit
import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from demo.parts import PartFailed

P = ParamSpec("P")
T = TypeVar("T")


def started_once(stop: Callable[[T], object]) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Make of what starts a scene what returns it, started at the first call.

    A scene that could not start fails every test that asks for it.

    :param stop: stops it, when the tests end.
    """

    def decorate(start: Callable[P, T]) -> Callable[P, T]:
        @functools.cache
        def attempt(*arguments: P.args, **named: P.kwargs) -> T | PartFailed:
            try:
                scene = start(*arguments, **named)
            except PartFailed as error:
                return error
            atexit.register(stop, scene)
            return scene

        @functools.wraps(start)
        def started(*arguments: P.args, **named: P.kwargs) -> T:
            found = attempt(*arguments, **named)
            if isinstance(found, PartFailed):
                raise PartFailed(str(found))
            return found

        return started

    return decorate
