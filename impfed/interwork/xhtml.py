"""HTML out of messages: reduced to plain text, and cleaned into XHTML-IM (XEP-0071).

The reader is a linear scan, made for hostile input: what is no tag is text, a tag that never ends
is text, and nesting is bounded.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from impfed.xmpp.stanza import xml_attr, xml_text

#: Elements that are passed on, with the name they get.
_KEPT = {
    "p": "p", "div": "p", "span": "span", "font": "span", "strong": "strong", "b": "strong",
    "em": "em", "i": "em", "u": "span", "s": "span", "strike": "span", "del": "span", "ins": "span",
    "a": "a", "blockquote": "blockquote", "cite": "cite", "ul": "ul", "ol": "ol", "li": "li",
    "pre": "p", "code": "span", "tt": "span", "h1": "p", "h2": "p", "h3": "p", "h4": "p", "h5": "p",
    "h6": "p",
}  # fmt: skip
_OWN_STYLE = {
    "u": "text-decoration: underline",
    "ins": "text-decoration: underline",
    "s": "text-decoration: line-through",
    "strike": "text-decoration: line-through",
    "del": "text-decoration: line-through",
    "code": "font-family: monospace",
    "tt": "font-family: monospace",
    "pre": "font-family: monospace",
}
_STYLES = frozenset(
    {"background-color", "color", "font-family", "font-size", "font-style", "font-weight"}
    | {"margin-left", "margin-right", "text-align", "text-decoration"}
)
_STYLE_VALUE = re.compile(r"[#\w\s.,%'-]{1,80}")
_LINK = re.compile(r"(?:https?|mailto|xmpp|sip|tel):[^\s\x00-\x1f]{1,2000}", re.IGNORECASE)
_BLOCKS = frozenset(
    {"p", "div", "li", "tr", "h1", "h2", "h3", "h4", "h5", "h6", "blockquote", "ul", "ol", "dl"}
    | {"dt", "dd", "table", "pre", "center", "form", "address", "section", "article", "header"}
    | {"footer", "hr", "body"}
)
_SILENT = frozenset(
    {"script", "style", "head", "title", "template", "object", "noscript", "textarea", "iframe"}
)
_MAX_OPEN = 48

_TAG = re.compile(
    r"<(?P<end>/?)(?P<name>[a-zA-Z][a-zA-Z0-9:]*+)"
    r"(?P<rest>(?:[^\"'<>]++|\"[^\"<]*+\"|'[^'<]*+')*)>"
)
_TAG_START = re.compile(r"</?[a-zA-Z]")
_ATTRIBUTE = re.compile(r"([a-zA-Z_:][-\w:.]*+)\s*+(?:=\s*+(\"[^\"]*+\"|'[^']*+'|[^\s\"'>]++))?")
_BLANKS = re.compile(r"[ \t\r\n\f]+")


_LONG_NUMBER = re.compile(r"&#(?:\d{8,}|[xX][0-9a-fA-F]{7,});?")


def _unescape(text: str) -> str:
    """Resolve character references; numbers beyond Unicode are refused before they are computed."""
    return html.unescape(_LONG_NUMBER.sub("\ufffd", text)) if "&" in text else text


@dataclass(frozen=True, slots=True)
class _Tag:
    name: str
    end: bool
    attributes: dict[str, str] = field(default_factory=dict)


def _tokens(source: str) -> Iterator[str | _Tag]:
    """Text (entities resolved) and tags, in order; comments and declarations are left out."""
    position, length = 0, len(source)
    last_end = source.rfind(">")
    while position < length:
        start = source.find("<", position)
        if start < 0:
            yield _unescape(source[position:])
            return
        if start > position:
            yield _unescape(source[position:start])
        if source.startswith("<!--", start):
            end = source.find("-->", start + 4)
            position = end + 3 if end >= 0 else length
        elif source.startswith(("<!", "<?"), start):
            end = source.find(">", start)
            position = end + 1 if end >= 0 else length
        elif match := _TAG.match(source, start):
            yield _tag(match)
            position = match.end()
        elif start > last_end and _TAG_START.match(source, start):
            yield _unescape(source[start:])
            return
        else:
            yield "<"
            position = start + 1


def _tag(match: re.Match[str]) -> _Tag:
    attributes: dict[str, str] = {}
    for name, value in _ATTRIBUTE.findall(match["rest"]):
        text = value[1:-1] if value[:1] in ("'", '"') else value
        attributes.setdefault(name.lower(), _unescape(text))
    return _Tag(match["name"].lower(), bool(match["end"]), attributes)


class _Plain:
    """Builds the plain text: line breaks, list marks and link targets are kept."""

    def __init__(self) -> None:
        self._parts: list[str] = []
        self._links: list[tuple[str, int]] = []
        self._blank = True  # whether a blank here would be one too many
        self._pending_break = False
        self._verbatim = 0

    def text(self, text: str) -> None:
        if not self._verbatim:
            text = _BLANKS.sub(" ", text)
            if self._blank or self._pending_break:
                text = text.lstrip(" ")
        if not text:
            return
        if self._pending_break and self._parts:
            self._parts.append("\n")
        self._pending_break = False
        self._parts.append(text)
        self._blank = text[-1] in " \n"

    def tag(self, tag: _Tag) -> None:
        if tag.name == "br":
            if self._pending_break and self._parts:
                self._parts.append("\n")
            self._pending_break = False
            self._parts.append("\n")
            self._blank = True
        elif tag.name == "img" and tag.attributes.get("alt"):
            self.text(tag.attributes["alt"])
        elif tag.name == "a":
            self._link(tag)
        elif tag.name in _BLOCKS:
            self._block(tag)
        elif tag.name in ("td", "th") and not tag.end and not self._blank:
            self.text(" ")

    def _block(self, tag: _Tag) -> None:
        if self._parts and self._parts[-1] != "\n":
            self._pending_break = True
        if tag.name == "pre":
            self._verbatim = max(0, self._verbatim + (-1 if tag.end else 1))
        if tag.name == "li" and not tag.end:
            self.text("• ")

    def _link(self, tag: _Tag) -> None:
        if not tag.end:
            self._links.append((tag.attributes.get("href", "").strip(), len(self._parts)))
        elif self._links:
            target, start = self._links.pop()
            shown = "".join(self._parts[start:]).strip()
            if _LINK.fullmatch(target) and not _same_target(shown, target):
                self.text(f" ({target})" if shown else target)

    def result(self) -> str:
        while self._links:
            self._link(_Tag("a", True))
        lines = "".join(self._parts).replace("\u00a0", " ").split("\n")
        return "\n".join(line.rstrip(" ") for line in lines).strip("\n")


def _same_target(shown: str, target: str) -> bool:
    bare = re.sub(r"^(?:https?://|mailto:|sip:|xmpp:|tel:)", "", target, flags=re.IGNORECASE)
    return shown.rstrip("/") in (target.rstrip("/"), bare.rstrip("/"))


class _Clean:
    """Builds XHTML-IM: only what the allow-lists name, always well-formed."""

    def __init__(self) -> None:
        self._parts: list[str] = []
        self._open: list[tuple[str, str]] = []

    def text(self, text: str) -> None:
        self._parts.append(xml_text(text))

    def tag(self, tag: _Tag) -> None:
        if tag.name == "br":
            self._parts.append("<br/>")
        elif tag.end:
            self._close(tag.name)
        elif tag.name in _KEPT and len(self._open) < _MAX_OPEN:
            self._open_tag(tag)

    def _open_tag(self, tag: _Tag) -> None:
        written = _KEPT[tag.name]
        attributes = ""
        if written == "a":
            target = tag.attributes.get("href", "").strip()
            if not _LINK.fullmatch(target) or any(name == "a" for _, name in self._open):
                written = "span"
            else:
                attributes = f' href="{xml_attr(target)}"'
        if style := _style(tag):
            attributes += f' style="{xml_attr(style)}"'
        self._open.append((tag.name, written))
        self._parts.append(f"<{written}{attributes}>")

    def _close(self, name: str) -> None:
        if not any(source == name for source, _ in self._open):
            return
        while self._open:
            source, written = self._open.pop()
            self._parts.append(f"</{written}>")
            if source == name:
                return

    def result(self) -> str:
        while self._open:
            self._parts.append(f"</{self._open.pop()[1]}>")
        return "".join(self._parts)


def _style(tag: _Tag) -> str:
    kept = [_OWN_STYLE[tag.name]] if tag.name in _OWN_STYLE else []
    for entry in tag.attributes.get("style", "")[:2000].split(";"):
        name, colon, value = entry.partition(":")
        name, value = name.strip().lower(), value.strip()
        if colon and name in _STYLES and _STYLE_VALUE.fullmatch(value):
            kept.append(f"{name}: {value}")
    return "; ".join(kept)


def reduce_html(source: str) -> tuple[str, str]:
    """Reduce HTML to what can be shown safely.

    :returns: the plain text, with line breaks and link targets; and the XHTML-IM extension element,
        serialised, "" when nothing is left to show.
    """
    plain, clean = _Plain(), _Clean()
    silent = ""
    for token in _tokens(source):
        if isinstance(token, str):
            if not silent:
                plain.text(token)
                clean.text(token)
        elif silent:
            if token.end and token.name == silent:
                silent = ""
        elif token.name in _SILENT and not token.end:
            silent = token.name
        else:
            plain.tag(token)
            clean.tag(token)
    text = plain.result()
    if not text:
        return "", ""
    return text, (
        '<html xmlns="http://jabber.org/protocol/xhtml-im">'
        f'<body xmlns="http://www.w3.org/1999/xhtml">{clean.result().strip()}</body></html>'
    )
