"""The reference page of the configuration, made from the tables that the loader reads by."""

from __future__ import annotations

from dataclasses import MISSING, fields
from typing import Any

from impfed.config.sections import SECTIONS, Key, Section

_HEAD = """# Configuration

*This page is made from the program's own tables by `scripts/config-reference`; change those.*

A node reads one [TOML](https://toml.io) file. `etc/impfed.toml` is a documented sample. All
problems of a file are reported at once, each with file, line, key, what was found and what is
allowed:

```
$ impfedctl check-config impfed.toml
impfed.toml:31: domain[1].kind: found "simpel"; allowed: "microsoft", "office365", "simple"; did
you mean "simple"?
```

A key is written with the section's name and, where a section may stand several times, its number
counted from 1. Relative paths are taken from the directory of the file. Keys without "required" may
be left out.
"""

_TAIL = """
## Secrets

A component's secret is taken from the first line of `secret_file`, from the environment variable
`secret_env`, or from `secret` in the file itself. It is never logged, traced or shown by
`impfedctl`.

## Checked beyond single keys

* No domain is both local and foreign; no domain has two home servers; no two sections share a name.
* A TLS listener has a certificate; a next hop over TLS needs a `[tls]` section; the transport of a
  next hop has a listener, whose address the peer is told.
* A listener bound to every address says which one peers are told.
* A listener with `proxy_protocol` has `proxy_addresses`, and is not UDP.
* Certificate, key, root and user files are there, readable, and hold what they should.
* `client_certificate` names a certificate; `peer_names` hold no wildcard.
* A `[[route]]` has a pattern or a plugin; its pattern is reversed the right way round and is no local
  domain; its next hop is not this node itself, and over TLS it is a name or has a `tls_name`.
* A `[[neighbour]]` hosts no domain of a `[[home]]` or `[[domain]]`, has addresses of its own, and no name
  that a partner's certificate may carry; there is a listener over TLS.
* With `[web]` a home server has an `address`, and there is the certificate that the page shows.
* A home server of kind `prosody` has an `address`, which is neither a local nor a foreign domain.
"""


def reference() -> str:
    """Return the page, in Markdown."""
    return _HEAD + "".join(_section(section) for section in SECTIONS) + _TAIL


def _section(section: Section) -> str:
    title = f"[[{section.name}]]" if section.repeated else f"[{section.name}]"
    rows = [_row(section, key) for key in section.keys]
    several = " May stand several times." if section.repeated else ""
    table = "\n".join(["| Key | Holds | Default | Meaning |", "|---|---|---|---|", *rows])
    return f"\n## `{title}`\n\n{section.text}{several}\n\n{table}\n"


def _row(section: Section, key: Key) -> str:
    cells = (f"`{key.name}`", key.kind.allowed, _default(section, key), key.text)
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _default(section: Section, key: Key) -> str:
    if key.required:
        return "required"
    if key.default:
        return f"`{key.default}`" if key.default.startswith('"') else key.default
    known: dict[str, Any] = {
        field.name: field.default for field in fields(section.model) if field.default is not MISSING
    }
    value = known.get(key.fields[0] if key.fields else key.name)
    if value in (None, "", ()):
        return "none"
    shown = key.kind.show(value)
    if shown in ("true", "false"):
        return f"`{shown}`"
    return f"`{shown}`" if shown.startswith(('"', "[")) or shown.isdigit() else f'`"{shown}"`'
