"""XMPP addresses: preparation by RFC 7622, escaping of local parts by XEP-0106.

The local part is prepared by the PRECIS profile UsernameCaseMapped and the resource part by
OpaqueString, both from the library ``precis-i18n``; the domain part by ``idna``.  (The stringprep
profiles of RFC 6122, which ``twisted.words`` still has, would fold "ß" into "ss" and final sigma
into sigma, that is make one address of two people's.)  Addresses in plain ASCII, nearly all of
them, take a path of their own that gives the same result.
"""

from __future__ import annotations

import re
import unicodedata
from sys import intern

import idna
from precis_i18n import get_profile

from impfed.core.errors import RemoteError
from impfed.xmpp.xmltext import xml_attr

#: Longest part, in octets of UTF-8 after preparation (RFC 7622 sections 3.2 to 3.4).
PART_LIMIT = 1023

_CACHE_LIMIT = 32768
#: The same while everything is loaded: whoever appears in several records is one object.
_LOAD_LIMIT = 2_000_000

_username = get_profile("UsernameCaseMapped")
_opaque = get_profile("OpaqueString")

# Printable ASCII without what RFC 7622 section 3.3.1 forbids in a local part: space " & ' / : < > @
_plain_local = re.compile(r"[!#-%(-.0-9;=?A-Z\[-~]+\Z")
_forbidden_local = re.compile(r"[ \"&'/:<>@]")
_plain_resource = re.compile(r"[!-~][ -~]*\Z")
_label = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_plain_domain = re.compile(rf"{_label}(?:\.{_label})*\Z")
#: A whole bare address that is prepared as it stands, but for A-labels; nothing in it needs escaping.
_plain_bare = re.compile(rf"([!#-%(-.0-9;=?\[-~]+)@{_label}(?:\.{_label})*\Z")
_PLAIN_LIMIT = 255  # of the whole, so no part is too long
_address_literal = re.compile(r"\[[0-9a-f:.]+\]\Z")


class JidError(RemoteError):
    """A text that is no JID; answered as a bad address."""

    def __init__(self, text: str, problem: str) -> None:
        super().__init__(400, "Bad Address")
        self.text = text
        self.problem = problem
        self.args = (f"{text!r} is no JID: {problem}",)


def _prepare_local(text: str, whole: str) -> str:
    if _plain_local.match(text):
        return text.lower()
    if _forbidden_local.search(text):
        raise JidError(whole, "character not allowed in a local part (RFC 7622 section 3.3.1)")
    try:
        # Lower case goes by single characters: str.lower() turns a word-final capital sigma into
        # U+03C2, and the same name would have two forms.
        prepared = _username.enforce("".join(map(str.lower, text)))
    except UnicodeError as error:
        raise JidError(whole, f"local part: {error}") from error
    if _forbidden_local.search(prepared):
        raise JidError(whole, "character not allowed in a local part (RFC 7622 section 3.3.1)")
    return prepared


def _prepare_domain(text: str, whole: str) -> str:
    text = text.removesuffix(".").lower()
    if _plain_domain.match(text):
        if "xn--" not in text:
            return text
    elif _address_literal.match(text):
        return text
    elif text.isascii():
        raise JidError(whole, "not a domain name")
    try:
        labels = [
            label
            if _plain_domain.match(label) and not label.startswith("xn--")
            # RFC 7622 section 3.2.1: A-labels are turned into U-labels.
            else idna.decode(label, uts46=True)
            for label in text.replace("。", ".").split(".")
        ]
    except UnicodeError as error:
        raise JidError(whole, f"domain part: {error}") from error
    return ".".join(labels)


def _prepare_resource(text: str, whole: str) -> str:
    if _plain_resource.match(text):
        return text
    try:
        prepared = _opaque.enforce(text)
    except UnicodeEncodeError as error:
        if "unassigned" not in str(error.reason):
            raise JidError(whole, f"resource part: {error}") from error
        # A character newer than this Python's Unicode tables.  A resource is opaque and chosen by
        # a client: its messages are not to be refused for a new emoji.
        prepared = unicodedata.normalize("NFC", text)
    if prepared[0] == " ":
        raise JidError(whole, "resource part begins with a space (RFC 7622 table 2)")
    return prepared


class JID:
    """An XMPP address in prepared form.  Immutable, hashable, and cheap to compare.

    Made by :meth:`parse` or :meth:`of`, both of which prepare; the constructor takes parts that
    have been prepared already.

    :ivar domain: domain part, lower case, Unicode labels.
    :ivar resource: resource part; empty if there is none.
    :ivar text: the whole address.
    :ivar attribute: the whole address, escaped for an XML attribute.
    """

    __slots__ = ("_bare", "_local_end", "attribute", "domain", "resource", "text")

    domain: str
    resource: str
    text: str
    attribute: str

    _cache: dict[str, JID] = {}
    _limit = _CACHE_LIMIT

    def __init__(self, local: str, domain: str, resource: str = "") -> None:
        text = f"{local}@{domain}" if local else domain
        if resource:
            text = f"{text}/{resource}"
        self._local_end = len(local)
        self.domain = intern(domain)
        self.resource = resource
        self.text = text
        self.attribute = xml_attr(text)
        self._bare: JID | None = None

    @property
    def local(self) -> str:
        """The local part, escaped as on the wire; empty if there is none."""
        return self.text[: self._local_end]

    @classmethod
    def parse(cls, text: str) -> JID:
        """Return the JID that a text spells, prepared and interned.

        :raises JidError: it spells none (RFC 7622).
        """
        cached = cls._cache.get(text)
        if cached is not None:
            return cached
        jid = cls._plain(text) or cls._split(text)
        if len(cls._cache) >= cls._limit:
            cls._cache.clear()
        cls._cache[text] = jid
        return cls._cache.setdefault(jid.text, jid) if jid.text != text else jid

    @classmethod
    def _plain(cls, text: str) -> JID | None:
        """Return a bare address that is prepared already; nearly all that a store holds are."""
        plain = _plain_bare.match(text) if len(text) <= _PLAIN_LIMIT else None
        if plain is None or "xn--" in text:
            return None
        jid = cls.__new__(cls)
        jid._local_end = plain.end(1)
        jid.domain = intern(text[plain.end(1) + 1 :])
        jid.resource = ""
        jid.text = jid.attribute = text
        jid._bare = None
        return jid

    @classmethod
    def _split(cls, text: str) -> JID:
        rest, slash, resource = text.partition("/")
        local, at, domain = rest.rpartition("@")
        if at and not local:
            raise JidError(text, "empty local part")
        if slash and not resource:
            raise JidError(text, "empty resource part")
        return cls._prepared(local, domain, resource, text)

    @classmethod
    def remember(cls, everything: bool) -> None:
        """Keep every JID at hand while a store is loaded, or no more than usual from now on."""
        cls._limit = _LOAD_LIMIT if everything else _CACHE_LIMIT
        if len(cls._cache) > cls._limit:
            cls._cache.clear()

    @classmethod
    def of(cls, local: str, domain: str, resource: str = "") -> JID:
        """Return the JID with these parts, prepared.  The local part is escaped already.

        :raises JidError: a part is not allowed.
        """
        return cls._prepared(local, domain, resource, f"{local}@{domain}/{resource}")

    @classmethod
    def _prepared(cls, local: str, domain: str, resource: str, whole: str) -> JID:
        if not domain:
            raise JidError(whole, "no domain part")
        local = _prepare_local(local, whole) if local else ""
        domain = _prepare_domain(domain, whole)
        resource = _prepare_resource(resource, whole) if resource else ""
        for part in (local, domain, resource):
            if len(part) > 255 and len(part.encode("utf-8", "surrogatepass")) > PART_LIMIT:
                raise JidError(whole[:80], f"a part is longer than {PART_LIMIT} octets")
        return cls(local, domain, resource)

    @property
    def bare(self) -> JID:
        """The address without its resource part."""
        if not self.resource:
            return self
        bare = self._bare
        if bare is None:
            fresh = JID(self.local, self.domain)
            bare = self._bare = JID._cache.get(fresh.text, fresh)
        return bare

    @property
    def is_bare(self) -> bool:
        """Whether there is no resource part."""
        return not self.resource

    def with_resource(self, resource: str) -> JID:
        """Return this user's address with another resource part ("" for none).

        :raises JidError: the resource part is not allowed.
        """
        return JID(
            self.local, self.domain, _prepare_resource(resource, resource) if resource else ""
        )

    def __str__(self) -> str:
        return self.text

    def __repr__(self) -> str:
        return f"JID({self.text!r})"

    def __hash__(self) -> int:
        return hash(self.text)  # which a string remembers

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        return isinstance(other, JID) and self.text == other.text


# XEP-0106: the ten characters, and the backslash only where it would look like an escape.
_ESCAPED = {character: f"\\{ord(character):02x}" for character in " \"&'/:<>@\\"}
_UNESCAPED = {escape: character for character, escape in _ESCAPED.items()}
_codes = "20|22|26|27|2f|3a|3c|3e|40|5c"
_to_escape = re.compile(rf"[ \"&'/:<>@]|\\(?={_codes})")
_to_unescape = re.compile(rf"\\(?:{_codes})")


def escape_local(text: str) -> str:
    r"""Return a user name as a local part (XEP-0106): ``d'artagnan`` becomes ``d\27artagnan``.

    Never to be applied twice.

    :raises JidError: the name begins or ends with a space, which XEP-0106 cannot express.
    """
    if text[:1] == " " or text[-1:] == " ":
        raise JidError(text, "a user name may not begin or end with a space (XEP-0106)")
    return _to_escape.sub(lambda match: _ESCAPED[match[0]], text)


def unescape_local(text: str) -> str:
    r"""Return the user name that a (prepared) local part stands for; the reverse of escaping.

    :raises JidError: ``\20`` at either end (XEP-0106 section 4.2).
    """
    if text.startswith("\\20") or text.endswith("\\20"):
        raise JidError(text, "\\20 may not stand at either end of a local part (XEP-0106)")
    return _to_unescape.sub(lambda match: _UNESCAPED[match[0]], text)
