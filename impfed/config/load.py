"""From a TOML file to a :class:`~impfed.config.model.Config`, or to everything wrong with it."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from impfed.config import edge, lines, local, model, s2s, sections, store
from impfed.config.checks import check
from impfed.config.problems import ConfigErrors, Problem, Unsuitable, did_you_mean, shown
from impfed.config.sections import Key, Section

__all__ = ["ConfigErrors", "Loader", "load"]

_Model = TypeVar("_Model")

_SECRETS = ("secret_file", "secret_env", "secret")

#: Sections at the top of the file, by name.
_TOP = {section.name: section for section in sections.SECTIONS if "." not in section.name}


def load(path: Path | str, environ: Mapping[str, str] | None = None) -> model.Config:
    """Return the configuration that a file holds.

    Relative paths in it are taken from its directory.

    :param environ: where ``secret_env`` looks; the process's environment by default.
    :raises ConfigErrors: with every problem of the file at once.
    """
    path = Path(path)
    text = _read(path)
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigErrors([_syntax(path, error)]) from None
    loader = Loader(path, document, lines.key_lines(text), environ or os.environ)
    config = loader.config()
    problems = loader.problems
    check(config, document, loader)
    if problems:
        raise ConfigErrors(sorted(problems, key=lambda problem: problem.line or 0))
    return config


def _read(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8").replace("\r\n", "\n")
    except OSError as error:
        hint = "name the configuration file with --config" if not path.exists() else ""
        raise ConfigErrors([Problem(path, "", error.strerror or str(error), "", hint)]) from None
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        text = "the file is not UTF-8 here"
        raise ConfigErrors([Problem(path, "", text, "", "save it as UTF-8", line)]) from None


def _syntax(path: Path, error: tomllib.TOMLDecodeError) -> Problem:
    place = re.search(r" \(at line (\d+), column (\d+)\)\Z", str(error))
    text = str(error)[: place.start()] if place else str(error)
    message = f"not TOML: {text[:1].lower()}{text[1:]}" + (f" (column {place[2]})" if place else "")
    hint = "texts stand in double quotes, lists in [brackets]" if "value" in text.lower() else ""
    return Problem(path, "", message, "", hint, int(place[1]) if place else None)


class Loader:
    """Reads one document by the tables of :mod:`impfed.config.sections`.

    :ivar problems: what was found wrong so far.
    """

    def __init__(
        self,
        path: Path,
        document: dict[str, Any],
        line_numbers: Mapping[lines.Path, int],
        environ: Mapping[str, str],
    ) -> None:
        self.path = path
        self.problems: list[Problem] = []
        self._document = document
        self._lines = line_numbers
        self._environ = environ
        self._base = path.parent

    def report(
        self, where: lines.Path, message: str, allowed: str = "", suggestion: str = ""
    ) -> None:
        """Note a problem at a key path (positions counted from 0)."""
        key = ""
        for part in where:
            key += f"[{part + 1}]" if isinstance(part, int) else f".{part}" if key else part
        line = lines.line_of(self._lines, where)
        self.problems.append(Problem(self.path, key, message, allowed, suggestion, line))

    def config(self) -> model.Config:
        """Return the configuration as far as it can be read; problems are in :attr:`problems`."""
        self._unknown_sections()
        tls = self._table(("tls",), sections.TLS, ("certificate",))
        certificates = self._tables(("tls",), "certificate", sections.CERTIFICATE)
        locals_ = _made(
            local.LocalDomainConfig,
            self._tables((), "local_domain", local.LOCAL_DOMAIN),
            local.LOCAL_DOMAIN,
        )
        return model.Config(
            path=self.path,
            node=self._node(),
            tls=model.TlsConfig(
                certificates=_made(model.CertificateConfig, certificates, sections.CERTIFICATE),
                asked=_asked(locals_),
                **tls,
            ),
            listeners=self._listeners(),
            domains=self._domains(),
            homes=self._homes(),
            im=model.ImConfig(**self._table(("im",), sections.IM)),
            presence=model.PresenceConfig(**self._table(("presence",), sections.PRESENCE)),
            ledger=model.LedgerConfig(**self._table(("ledger",), sections.LEDGER)),
            web=self._web(),
            routes=_made(
                model.RouteConfig, self._tables((), "route", sections.ROUTE), sections.ROUTE
            ),
            dns=model.DnsConfig(**self._table(("dns",), sections.DNS)),
            open_federation=model.OpenFederationConfig(
                **self._table(("open_federation",), sections.OPEN_FEDERATION)
            ),
            plugins=model.PluginsConfig(**self._table(("plugins",), sections.PLUGINS)),
            ldap=_made(model.LdapConfig, self._tables((), "ldap", sections.LDAP), sections.LDAP),
            mappings=_made(
                model.MappingConfig, self._tables((), "mapping", sections.MAPPING), sections.MAPPING
            ),
            s2s=self._s2s(),
            neighbours=self._neighbours(),
            edge=self._edge(),
            sip=model.SipConfig(**self._table(("sip",), sections.SIP)),
            store=self._store(),
            local=locals_,
        )

    def _edge(self) -> edge.EdgeConfig | None:
        if "edge" not in self._document:
            return None
        raw = self._document["edge"]
        if not isinstance(raw, dict):  # reported already
            return edge.EdgeConfig()
        if not isinstance(raw.get("limits", {}), dict):
            where = ("edge", "limits")
            self.report(where, f"found {shown(raw['limits'])}", "a section [edge.limits]")
        fields = self._table(("edge",), edge.EDGE, ("target", "port", "limits"))
        targets = self._tables(("edge",), "target", edge.TARGET)
        ports = self._tables(("edge",), "port", edge.PORT)
        return edge.EdgeConfig(
            **fields,
            targets=_made(edge.EdgeTargetConfig, targets, edge.TARGET),
            ports=_made(edge.EdgePortConfig, ports, edge.PORT),
            limits=edge.EdgeLimitsConfig(**self._table(("edge", "limits"), edge.LIMITS)),
        )

    def _node(self) -> model.NodeConfig:
        fields = self._table(("node",), sections.NODE)
        self._secret(("node",), fields, "relay_")
        return model.NodeConfig(**fields)

    def _store(self) -> store.StoreConfig:
        fields = self._table(("store",), store.STORE)
        if {"password_file", "password_env"} <= fields.keys():
            self.report(("store", "password_env"), "password_file is there too", "one of them")
        if (variable := fields.pop("password_env", None)) is not None:
            where = ("store", "password_env")
            fields["password"] = self._secret_in_environment(where, variable)
        for name in ("password", "sentinel_password"):
            if (file := fields.pop(f"{name}_file", None)) is not None:
                fields[name] = self._secret_in_file(("store", f"{name}_file"), file)
        return store.StoreConfig(**fields)

    def _s2s(self) -> s2s.S2SConfig | None:
        if "s2s" not in self._document:
            return None
        fields = self._table(("s2s",), s2s.S2S, ("domain", "exception"))
        self._secret(("s2s",), fields)
        domains = self._tables(("s2s",), "domain", s2s.S2S_DOMAIN)
        made = _made(s2s.S2SDomainConfig, domains, s2s.S2S_DOMAIN)
        found = self._tables(("s2s",), "exception", s2s.S2S_EXCEPTION)
        exceptions = _made(s2s.S2SExceptionConfig, found, s2s.S2S_EXCEPTION)
        return s2s.S2SConfig(**fields, domains=made, exceptions=exceptions)

    def _web(self) -> model.WebConfig | None:
        if "web" not in self._document:
            return None
        fields = self._table(("web",), sections.WEB)
        return model.WebConfig(**fields) if {"host", "public_url"} <= fields.keys() else None

    def _listeners(self) -> tuple[model.ListenerConfig, ...]:
        found = self._tables((), "listener", sections.LISTENER)
        for fields in found:
            if "host" in fields:
                fields.setdefault("advertised_host", fields["host"])
                fields.setdefault("advertised_port", fields["port"])
        return _made(model.ListenerConfig, found, sections.LISTENER)

    def _neighbours(self) -> tuple[model.NeighbourConfig, ...]:
        found = self._tables((), "neighbour", sections.NEIGHBOUR)
        for fields in found:
            fields.setdefault("domains", ())
        return _made(model.NeighbourConfig, found, sections.NEIGHBOUR)

    def _domains(self) -> tuple[model.SipDomainConfig, ...]:
        found = self._tables((), "domain", sections.DOMAIN, ("next_hop", "budget"))
        for position, raw in enumerate(self._raw_tables((), "domain")):
            self._budget(position, raw, found[position])
            if "next_hop" not in raw:
                continue
            where = ("domain", position, "next_hop")
            if isinstance(raw["next_hop"], str):
                hint = f"write next_hop = {{ address = {shown(raw['next_hop'])} }}"
                self.report(where, f"found {shown(raw['next_hop'])}", "a table", hint)
                continue
            hop = self._table(where, sections.NEXT_HOP)
            if "host" in hop:
                found[position]["next_hop"] = model.NextHopConfig(**hop)
        return _made(model.SipDomainConfig, found, sections.DOMAIN)

    def _budget(self, position: int, raw: dict[str, Any], found: dict[str, Any]) -> None:
        where = ("domain", position, "budget")
        given = raw.get("budget", {})
        if isinstance(given, dict):
            found["budget"] = model.BudgetConfig(**self._table(where, sections.BUDGET))
        else:
            hint = f"write budget = {{ rate = {shown(given)} }}"
            self.report(where, f"found {shown(given)}", "a table", hint)

    def _homes(self) -> tuple[model.HomeConfig, ...]:
        found = self._tables((), "home", sections.HOME)
        for position, fields in enumerate(found):
            where = ("home", position)
            raw = self._raw_tables((), "home")[position]
            self._secret(where, fields)
            if raw.get("kind") != "s2s" and not any(name in raw for name in _SECRETS):
                allowed = "secret_file, secret_env or secret"
                self.report(where, "the component's secret is missing", allowed)
        return _made(model.HomeConfig, found, sections.HOME)

    def _secret(self, where: lines.Path, fields: dict[str, Any], prefix: str = "") -> None:
        """Take a secret from the one place that is given."""
        in_file, in_environment, plain = [prefix + name for name in _SECRETS]
        given = [name for name in (in_file, in_environment, plain) if name in fields]
        file, variable = fields.pop(in_file, None), fields.pop(in_environment, None)
        if len(given) > 1:
            self.report((*where, given[1]), f"{given[0]} is there too", "one of them")
        elif file is not None:
            fields[plain] = self._secret_in_file((*where, in_file), file)
        elif variable is not None:
            fields[plain] = self._secret_in_environment((*where, in_environment), variable)

    def _secret_in_file(self, where: lines.Path, path: Path) -> str:
        try:
            first = path.read_text("utf-8").split("\n")[0].strip()
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
            self.report(where, f"{path}: {reason}", "a file that impfed can read")
            return ""
        if not first:
            self.report(where, f"the first line of {path} is empty", "the secret on the first line")
        return first

    def _secret_in_environment(self, where: lines.Path, variable: str) -> str:
        secret = self._environ.get(variable, "")
        if not secret:
            state = "empty" if variable in self._environ else "not set"
            hint = "set it in the environment that starts impfed"
            self.report(where, f"the variable {variable} is {state}", "", hint)
        return secret

    def _unknown_sections(self) -> None:
        for name, value in self._document.items():
            section = _TOP.get(name)
            if section is None:
                hint = did_you_mean(name, list(_TOP)) or _place_of(name)
                self.report((name,), "there is no such section", ", ".join(_TOP), hint)
            elif section.repeated and isinstance(value, dict):
                allowed = f"[[{name}]], which may stand several times"
                self.report((name,), f"found [{name}]", allowed, f"write [[{name}]]")
            elif not section.repeated and not isinstance(value, dict):
                self.report((name,), f"found {_written(name, value)}", f"one section [{name}]")
            elif section.repeated and not isinstance(value, list):
                self.report((name,), f"found {shown(value)}", f"sections [[{name}]]")

    def _raw_tables(self, above: tuple[str, ...], name: str) -> list[dict[str, Any]]:
        holder: Any = self._document
        for part in above:
            holder = holder.get(part, {}) if isinstance(holder, dict) else {}
        found = holder.get(name, []) if isinstance(holder, dict) else []
        # A single [name] in the place of [[name]] is reported, and read as if it were right.
        entries = [found] if isinstance(found, dict) else found if isinstance(found, list) else []
        return [entry for entry in entries if isinstance(entry, dict)]

    def _tables(
        self, above: tuple[str, ...], name: str, section: Section, other: tuple[str, ...] = ()
    ) -> list[dict[str, Any]]:
        return [
            self._fields((*above, name, position), raw, section, other)
            for position, raw in enumerate(self._raw_tables(above, name))
        ]

    def _table(
        self, where: lines.Path, section: Section, other: tuple[str, ...] = ()
    ) -> dict[str, Any]:
        raw: Any = self._document
        for part in where:
            raw = raw.get(part, {}) if isinstance(raw, dict) else raw[part]
        return self._fields(where, raw, section, other) if isinstance(raw, dict) else {}

    def _fields(
        self, where: lines.Path, raw: dict[str, Any], section: Section, other: tuple[str, ...]
    ) -> dict[str, Any]:
        known = {key.name: key for key in section.keys}
        fields: dict[str, Any] = {}
        misspelt = set()
        for name, value in raw.items():
            if name in known:
                self._field((*where, name), value, known[name], fields)
            elif name not in other:
                hint = did_you_mean(name, [*known, *other])
                misspelt.add(hint[14:-2])
                allowed = ", ".join([*known, *other])
                title = f"[[{section.name}]]" if section.repeated else f"[{section.name}]"
                self.report((*where, name), f"{title} has no such key", allowed, hint)
        for key in section.keys:
            if key.required and key.name not in raw and key.name not in misspelt:
                self.report(where, f"{key.name} is missing", f"{key.name} = {key.kind.allowed}")
        return fields

    def _field(self, where: lines.Path, value: Any, key: Key, fields: dict[str, Any]) -> None:
        try:
            read = key.kind.read(value, self._base)
        except Unsuitable as problem:
            secret = key.name.endswith("secret")
            found = "found a value that will not do" if secret else f"found {shown(value)}"
            message = f"{found}, {problem.reason}" if problem.reason else found
            self.report(where, message, key.kind.allowed, problem.suggestion)
            return
        names = key.fields or (key.name,)
        fields.update(zip(names, read if len(names) > 1 else (read,), strict=True))


def _made(kind: type[_Model], found: list[dict[str, Any]], section: Section) -> tuple[_Model, ...]:
    required = [name for key in section.keys if key.required for name in key.fields or (key.name,)]
    return tuple(kind(**fields) for fields in found if all(name in fields for name in required))


def _asked(locals_: tuple[local.LocalDomainConfig, ...]) -> tuple[tuple[str, str], ...]:
    return tuple(
        (name, each.certificate)
        for each in locals_
        if each.certificate
        for name in (each.name, each.advertised)
        if name
    )


def _written(name: str, value: Any) -> str:
    return f"[[{name}]]" if isinstance(value, list) else shown(value)


def _place_of(key: str) -> str:
    for section in sections.SECTIONS:
        if key in [known.name for known in section.keys]:
            title = f"[[{section.name}]]" if section.repeated else f"[{section.name}]"
            return f"a key {key} belongs under {title}"
    return ""
