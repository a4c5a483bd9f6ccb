"""Small XML documents out of SIP bodies (PIDF, typing notices), read without trusting them.

DTDs, entities, processing instructions with effect and deep nesting are refused before anything is
expanded; the standard library's expat does the rest.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NoReturn
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from impfed.core.errors import RemoteError

#: Deepest nesting of elements that is read.
MAX_DEPTH = 64

#: Largest document that is read, in octets.
MAX_SIZE = 256 * 1024


class DocumentError(RemoteError):
    """A body that is no XML, or XML of a kind that is never read; answered with 400."""

    def __init__(self, why: str) -> None:
        super().__init__(400, f"Bad XML body: {why}")


class _Reader:
    """Feeds a tree builder from expat and stops at whatever is not allowed."""

    def __init__(self) -> None:
        self._depth = 0
        self._tree = TreeBuilder()
        parser = expat.ParserCreate(namespace_separator="}")
        parser.buffer_text = True
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.CharacterDataHandler = self._tree.data
        parser.StartDoctypeDeclHandler = self._refuse_doctype
        parser.EntityDeclHandler = self._refuse_entity
        self._parser = parser

    def read(self, data: bytes) -> Element:
        try:
            self._parser.Parse(data, True)
        except (expat.ExpatError, ValueError, LookupError) as problem:
            raise DocumentError(str(problem)) from None
        return self._tree.close()

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise DocumentError("nested too deeply")
        self._tree.start(_braced(name), {_braced(key): text for key, text in attributes.items()})

    def _end(self, name: str) -> None:
        self._depth -= 1
        self._tree.end(_braced(name))

    def _refuse_doctype(self, *_: object) -> NoReturn:
        raise DocumentError("document types are not read")

    def _refuse_entity(self, *_: object) -> NoReturn:
        raise DocumentError("entities are not read")


def _braced(name: str) -> str:
    return "{" + name if "}" in name else name


def read_document(data: bytes) -> Element:
    """Read one XML document.

    :param data: the document's octets, of at most :data:`MAX_SIZE`.
    :raises DocumentError: if it is not well-formed, too large, too deep, or has a DTD.
    """
    if len(data) > MAX_SIZE:
        raise DocumentError("too large")
    return _Reader().read(data)


def local_name(element: Element) -> str:
    """Return an element's name without its namespace."""
    return element.tag.rpartition("}")[2]


def namespace(element: Element) -> str:
    """Return an element's namespace, "" if it has none."""
    return element.tag[1:].partition("}")[0] if element.tag.startswith("{") else ""


def children(element: Element, name: str) -> Iterator[Element]:
    """Yield the child elements of a local name, whatever their namespace."""
    for child in element:
        if local_name(child) == name:
            yield child


def text_of(element: Element | None) -> str:
    """Return an element's own text with the blanks around it taken off; "" for None."""
    return (element.text or "").strip() if element is not None else ""
