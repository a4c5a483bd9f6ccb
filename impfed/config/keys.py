"""What a section of the configuration file is made of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from impfed.config.values import Kind


@dataclass(frozen=True)
class Key:
    """One key of a section.

    :ivar name: as the file spells it.
    :ivar kind: what it may hold.
    :ivar text: what it is for.
    :ivar fields: the model's fields that it fills, when not one of the same name.
    :ivar required: whether it must be there.
    :ivar default: what holds without it, in words, when the model's default does not say it.
    """

    name: str
    kind: Kind
    text: str
    fields: tuple[str, ...] = ()
    required: bool = False
    default: str = ""


@dataclass(frozen=True)
class Section:
    """One section.

    :ivar name: as the file spells it, with dots.
    :ivar repeated: whether it is written ``[[name]]`` and may stand several times.
    :ivar model: the dataclass it becomes.
    :ivar text: what it is for.
    :ivar keys: its keys.
    """

    name: str
    repeated: bool
    model: type[Any]
    text: str
    keys: tuple[Key, ...]
