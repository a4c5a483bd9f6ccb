"""The names that our certificates must carry for XMPP federation, and those that they lack."""

from __future__ import annotations

from impfed.config.model import Config
from impfed.relay.crossing import elsewhere
from impfed.transport.s2s_identity import missing_names
from impfed.transport.tls_files import read_certificates
from impfed.xmpp.s2s_names import domain_of


def wanted_names(config: Config) -> frozenset[str]:
    """Return every local domain, room domains included, and what ``certificate_names`` adds.

    What comes here for domains of another cluster needs certificates of these, too.
    """
    more = config.s2s.certificate_names if config.s2s is not None else ()
    return frozenset(domain_of(name) for name in (*config.local_domains, *elsewhere(config), *more))


def missing_in_files(config: Config) -> list[str]:
    """Say which names the certificates in the files of a configuration lack; [] without ``[s2s]``.

    :raises TlsFileError: a file cannot be read.
    """
    if config.s2s is None:
        return []
    leaves = [read_certificates(each.certificate)[0] for each in config.tls.certificates]
    return list(missing_names(leaves, wanted_names(config)).values())
