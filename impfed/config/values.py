"""The kinds of value a configuration file holds: durations, sizes, addresses, names, files.

Each kind reads a TOML value or raises :class:`~impfed.config.problems.Unsuitable`, says what it
allows (errors and the reference page use the same words), and shows a default the way the file
spells it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from impfed.config.patterns import parse_pattern
from impfed.config.problems import Unsuitable, did_you_mean

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
_SIZES = {"": 1, "b": 1, "kb": 1000, "mb": 1000**2, "kib": 1024, "mib": 1024**2, "gib": 1024**3}
_PART = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*")
_LABEL = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)\Z")


@dataclass(frozen=True)
class Kind:
    """A kind of value.

    :ivar allowed: what the file may say, in words.
    :ivar read: from the TOML value and the file's directory to the value of the model.
    :ivar show: from a value of the model to the file's spelling, for defaults.
    """

    allowed: str
    read: Callable[[Any, Path], Any]
    show: Callable[[Any], str] = lambda value: (
        f'"{value}"' if isinstance(value, str) else str(value)
    )


def _text(value: Any, _: Path) -> str:
    if not isinstance(value, str):
        raise Unsuitable
    if any(ord(mark) < 32 or ord(mark) == 127 for mark in value):
        raise Unsuitable("control characters are not possible here")
    return value


def _filled(value: Any, base: Path) -> str:
    text = _text(value, base)
    if not text.strip():
        raise Unsuitable("it is empty")
    return text


def read_duration(value: Any, _: Path | None = None) -> float:
    """Return seconds: from a number, or from parts such as "1h 45m".

    :raises Unsuitable: for anything else, and for less than nothing.
    """
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        if value < 0 or value != value or value == float("inf"):
            raise Unsuitable
        return float(value)
    if not isinstance(value, str) or not value.strip():
        raise Unsuitable
    total, position = 0.0, 0
    while position < len(value):
        part = _PART.match(value, position)
        unit = part[2].lower() if part else ""
        if part is None or (unit not in _UNITS):
            unknown = part[2] if part and part[2] else ""
            close = did_you_mean(unknown, ["seconds", "minutes", "hours", "days", "weeks"])
            short = {"sec": "s", "min": "m", "hou": "h", "day": "d", "wee": "w"}
            word = short.get(close[14:17], "")
            raise Unsuitable(
                f'the unit "{unknown}" is not known' if unknown else "",
                f'write "{part[1]}{word}"' if part and word else "",
            )
        total += float(part[1]) * _UNITS[unit]
        position = part.end()
    return total


def show_duration(seconds: float) -> str:
    """Return seconds as the file spells them: "1h 45m"."""
    if seconds != int(seconds):
        return f'"{round(seconds * 1000)}ms"'
    left, parts = int(seconds), []
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60), ("s", 1)):
        count, left = divmod(left, length)
        if count:
            parts.append(f"{count}{unit}")
    return '"' + (" ".join(parts) or "0s") + '"'


def read_size(value: Any, _: Path | None = None) -> int:
    """Return octets: from a whole number, or from a text such as "256 KiB".

    :raises Unsuitable: for anything else.
    """
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    part = _PART.fullmatch(value) if isinstance(value, str) else None
    if part is None:
        raise Unsuitable
    unit = part[2].lower()
    if unit not in _SIZES:
        meant = {"k": "KiB", "m": "MiB", "g": "GiB", "ki": "KiB", "mi": "MiB"}.get(unit, "")
        raise Unsuitable(
            f'the unit "{part[2]}" is not known', f'write "{part[1]} {meant}"' if meant else ""
        )
    return round(float(part[1]) * _SIZES[unit])


def show_size(octets: int) -> str:
    """Return octets as the file spells them: "256 KiB"."""
    for unit, length in (("MiB", 1024**2), ("KiB", 1024)):
        if octets and octets % length == 0:
            return f'"{octets // length} {unit}"'
    return str(octets)


def domain_name(text: str) -> str:
    """Return a domain name, lower case, without a dot at the end.

    :raises Unsuitable: when it is none, with the right spelling of what was probably meant.
    """
    name = text.strip().lower().rstrip(".")
    if "*" in name or name.startswith("."):
        raise Unsuitable("a domain is matched exactly, without wildcards", _unreversed(name))
    if "@" in name:
        raise Unsuitable("that is an address", f'write "{name.rpartition("@")[2]}"')
    if not name.isascii():
        try:
            ascii_name = name.encode("idna").decode("ascii")
        except UnicodeError:
            raise Unsuitable from None
        raise Unsuitable("on the wire a domain is written in ASCII", f'write "{ascii_name}"')
    if len(name) > 253 or not all(_LABEL.match(label) for label in name.split(".")):
        raise Unsuitable
    return name


def _unreversed(pattern: str) -> str:
    labels = [label for label in pattern.split(".") if label and label != "*"]
    if not labels or not all(_LABEL.match(label) for label in labels):
        return ""
    if pattern.startswith(".") and pattern.endswith("*"):
        labels.reverse()
    return f'write "{".".join(labels)}", and one more entry for each subdomain that federates'


def read_address(value: Any, _: Path | None = None) -> tuple[str, int]:
    """Return host and port of "host:port"; an IPv6 address stands in brackets.

    :raises Unsuitable: for anything else.
    """
    if not isinstance(value, str):
        raise Unsuitable
    text = value.strip()
    host, colon, port = text.rpartition(":")
    if text.count(":") > 1 and not text.startswith("["):
        raise Unsuitable("an IPv6 address stands in brackets", _bracketed(text))
    if not colon or text.endswith("]"):
        raise Unsuitable("the port is missing", f'write "{text}:5061"')
    if not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise Unsuitable(f'the port "{port}" is no number from 0 to 65535')
    if host.startswith("[") and host.endswith("]"):
        try:
            return str(ip_address(host[1:-1])), int(port)
        except ValueError:
            raise Unsuitable(f"{host} is no IPv6 address") from None
    return host_name(host), int(port)


def host_name(text: str) -> str:
    """Return a host name or IP address, lower case.

    :raises Unsuitable: when it is neither.
    """
    try:
        return str(ip_address(text))
    except ValueError:
        if re.fullmatch(r"[0-9.]+", text):
            raise Unsuitable(f'"{text}" is no IPv4 address') from None
    return domain_name(text)


def _bracketed(text: str) -> str:
    head, _, port = text.rpartition(":")
    try:
        ip_address(text)
        return f'write "[{text}]:5061"'
    except ValueError:
        pass
    try:
        ip_address(head)
        return f'write "[{head}]:{port}"'
    except ValueError:
        return ""


def show_address(host: str, port: int) -> str:
    """Return "host:port", with brackets around an IPv6 address."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _domain(value: Any, base: Path) -> str:
    return domain_name(_filled(value, base))


def _peer_name(value: Any, base: Path) -> str:
    text = _filled(value, base)
    if "*" in text:
        raise Unsuitable(
            "on SIP no certificate name is matched by a wildcard (RFC 5922)",
            "name each peer that may connect, as its certificate spells it",
        )
    return domain_name(text)


def _path(value: Any, base: Path) -> Path:
    return base / Path(_filled(value, base)).expanduser()


def _pem_file(marks: Sequence[str], what: str) -> Callable[[Any, Path], Path]:
    def read(value: Any, base: Path) -> Path:
        path = _path(value, base)
        text = _file_text(path)
        if not any(f"{mark}-----" in text for mark in marks):
            other = "it holds a private key" if "PRIVATE KEY-----" in text else ""
            other = other or ("it holds a certificate" if "CERTIFICATE-----" in text else "")
            raise Unsuitable(
                f"{path} holds no {what} in PEM" + (f" ({other})" if other else ""),
                "the two files seem to be swapped" if other and what != "certificates" else "",
            )
        return path

    return read


def _file_text(path: Path) -> str:
    try:
        return path.read_text("utf-8", "replace")
    except OSError as error:
        raise Unsuitable(f"{path}: {error.strerror}", _nearby(path)) from None


def _nearby(path: Path) -> str:
    if not path.parent.is_dir():
        return f"the directory {path.parent} does not exist"
    try:
        names = [entry.name for entry in path.parent.iterdir()]
    except OSError:
        return ""
    return did_you_mean(path.name, names) if not path.exists() else ""


def _existing(value: Any, base: Path) -> Path:
    path = _path(value, base)
    _file_text(path)
    return path


def _list_of(read: Callable[[Any, Path], Any]) -> Callable[[Any, Path], tuple[Any, ...]]:
    def read_list(value: Any, base: Path) -> tuple[Any, ...]:
        if not isinstance(value, list):
            hint = f'write ["{value}"]' if isinstance(value, str) else ""
            raise Unsuitable("", hint)
        items = tuple(read(item, base) for item in value)
        for item in items:
            if items.count(item) > 1:
                raise Unsuitable(f'"{item}" stands there twice')
        return items

    return read_list


def _filled_list(value: Any, base: Path) -> tuple[Any, ...]:
    items = _list_of(_domain)(value, base)
    if not items:
        raise Unsuitable("it is empty")
    return items


def choice(*words: str) -> Kind:
    """Return the kind of a value that is one of some words."""

    def read(value: Any, _: Path) -> str:
        if isinstance(value, str) and value.lower() in words:
            return value.lower()
        raise Unsuitable("", did_you_mean(str(value), words))

    return Kind(", ".join(f'"{word}"' for word in words), read)


def whole(low: int, high: int) -> Kind:
    """Return the kind of a whole number within bounds."""

    def read(value: Any, _: Path) -> int:
        if isinstance(value, int) and not isinstance(value, bool) and low <= value <= high:
            return value
        hint = f"write {value} without quotes" if str(value).isdigit() else ""
        raise Unsuitable("", hint if isinstance(value, str) else "")

    return Kind(f"a whole number from {low} to {high}", read)


def limit(low: int, high: int) -> Kind:
    """Return the kind of a limit: a whole number within bounds, or "none", which is None."""

    def read(value: Any, _: Path) -> int | None:
        if isinstance(value, str) and value.lower() == "none":
            return None
        if isinstance(value, int) and not isinstance(value, bool) and low <= value <= high:
            return value
        raise Unsuitable("", 'write "none" for no limit' if value in (0, "", "unlimited") else "")

    return Kind(f'a whole number from {low} to {high}, or "none"', read)


def duration(low: float, high: float, whole_seconds: bool = False) -> Kind:
    """Return the kind of a duration within bounds, in seconds; an ``int`` if asked for."""
    bounds = f"from {show_duration(low)} to {show_duration(high)}".replace('"', "")

    def read(value: Any, _: Path) -> float:
        seconds = read_duration(value)
        if not low <= seconds <= high:
            raise Unsuitable
        return int(seconds) if whole_seconds else seconds

    return Kind(f'a duration such as "90s", "10m", "1h 45m", "30d", {bounds}', read, show_duration)


def size(low: int, high: int) -> Kind:
    """Return the kind of a size within bounds, in octets."""
    bounds = f"from {show_size(low)} to {show_size(high)}".replace('"', "")

    def read(value: Any, _: Path) -> int:
        octets = read_size(value)
        if not low <= octets <= high:
            raise Unsuitable
        return octets

    return Kind(f'a size such as "256 KiB" or "1 MiB", {bounds}', read, show_size)


def _public_url(value: Any, base: Path) -> str:
    text = _filled(value, base).strip().rstrip("/")
    parts = urlsplit(text)
    if parts.scheme != "https":
        rest = text.partition("://")[2] or text
        raise Unsuitable("a page with a login needs https", f'write "https://{rest}"')
    try:
        port = parts.port
    except ValueError:
        raise Unsuitable("that is no port number") from None
    if parts.query or parts.fragment or parts.username or not parts.hostname:
        raise Unsuitable
    if not re.fullmatch(r"(/[A-Za-z0-9._~-]+)*", parts.path):
        raise Unsuitable(f'"{parts.path}" is no plain path')
    name = host_name(parts.hostname)
    host = f"[{name}]" if ":" in name else name
    return f"https://{host}{'' if port in (None, 443) else f':{port}'}{parts.path}"


TEXT = Kind("a text", _text)
NAME = Kind("a text that is not empty", _filled)
DOMAIN = Kind('a domain such as "lync.example"', _domain)
DOMAINS = Kind('a list of domains such as ["company.example"]', _filled_list, str)
PEER_NAMES = Kind(
    "a list of names as certificates spell them, without wildcards",
    _list_of(_peer_name),
    lambda names: "[" + ", ".join(f'"{name}"' for name in names) + "]",
)
ADDRESS = Kind(
    '"host:port", for example "sip.company.example:5061", "192.0.2.1:5061" or "[2001:db8::1]:5061"',
    read_address,
)
PUBLIC_URL = Kind('an address such as "https://federation.company.example/options"', _public_url)
HOST = Kind("a host name", lambda value, base: host_name(_filled(value, base)))
PATH = Kind("a path; relative to the directory of the configuration file", _path)
CERTIFICATE_FILE = Kind(
    "a PEM file with the certificate and its intermediates",
    _pem_file(["CERTIFICATE"], "certificate"),
)
KEY_FILE = Kind("a PEM file with the private key", _pem_file(["PRIVATE KEY"], "private key"))
CA_FILE = Kind(
    "a PEM file with the root certificates that are trusted",
    _pem_file(["CERTIFICATE"], "certificates"),
)
USERS_FILE = Kind("a text file with one bare address or local part a line", _existing)


def _boolean(value: Any, _: Path) -> bool:
    if not isinstance(value, bool):
        word = str(value).lower()
        meant = {"yes": "true", "on": "true", "true": "true", "1": "true"}.get(word)
        meant = meant or {"no": "false", "off": "false", "false": "false", "0": "false"}.get(word)
        raise Unsuitable("", f"write {meant} without quotes" if meant else "")
    return value


def _settings(value: Any, _: Path) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise Unsuitable("", 'write settings = { key = "value" }')
    return value


def read_server(value: Any, base: Path) -> tuple[str, int]:
    """Return address and port of a name server; 53 when only an address is given.

    :raises Unsuitable: for anything else, names included (who would resolve them?).
    """
    text = _filled(value, base).strip()
    try:
        return str(ip_address(text)), 53
    except ValueError:
        pass
    host, port = read_address(text)
    try:
        return str(ip_address(host)), port
    except ValueError:
        raise Unsuitable("a name server is given by its address") from None


def _network(value: Any, base: Path) -> str:
    text = _filled(value, base).strip()
    try:
        network = ip_network(text, strict=False)
    except ValueError:
        raise Unsuitable(f'"{text}" is no IP address or network') from None
    if text.partition("/")[2] and str(network) != text.lower():
        raise Unsuitable("an address within a network stands there", f'write "{network}"')
    return text.lower()


def _ldap_url(value: Any, base: Path) -> str:
    text = _filled(value, base).strip()
    if not re.fullmatch(r"ldaps?://(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?/?", text):
        raise Unsuitable("", 'write "ldap://host:389" or "ldaps://host:636"')
    return text.rstrip("/")


PATTERN = Kind(
    'a reversed domain such as ".com.domaina.*" (the domain and what lies under it; ".*" is'
    ' everything), a plain domain such as "domaina.com" (exactly that), or a user at either, such'
    ' as "sales-*@domaina.com"',
    lambda value, base: parse_pattern(_filled(value, base)),
    lambda pattern: f'"{pattern}"',
)
BOOLEAN = Kind("true or false", _boolean, lambda value: "true" if value else "false")
SETTINGS = Kind("a table; what it holds is the plugin's business", _settings)
SERVERS = Kind(
    'a list of addresses such as ["192.0.2.53", "[2001:db8::53]:5353"]', _list_of(read_server), str
)
ADDRESSES = Kind(
    'a list of addresses such as ["203.0.113.10:45062"]',
    _list_of(read_address),
    lambda found: "[" + ", ".join(f'"{show_address(*one)}"' for one in found) + "]",
)
NETWORKS = Kind(
    'a list of addresses or networks such as ["10.0.0.5", "2001:db8:5::/64"]',
    _list_of(_network),
    str,
)
NAMES = Kind('a list of names such as ["acme"]', _list_of(_filled), str)
LDAP_URL = Kind('"ldap://host:port" or "ldaps://host:port"', _ldap_url)
