"""Users in a real LDAP directory: slapd with people of local and of foreign domains in one tree."""

from __future__ import annotations

import shutil
import socket
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import ldap3
from twisted.internet import reactor
from twisted.internet.defer import Deferred, inlineCallbacks, maybeDeferred
from twisted.internet.task import deferLater
from twisted.trial.unittest import TestCase
from zope.interface.verify import verifyObject

from demo.parts import free_ports
from impfed.config.model import LdapConfig
from impfed.core.metrics import Metrics
from impfed.routing.api import Existence, IDirectory
from impfed.routing.ldap import LdapDirectory
from impfed.testing.pki import make_ca, make_certificate
from tests.interop.servers import Child

CONFIGURATION = """\
include /etc/ldap/schema/core.schema
include /etc/ldap/schema/cosine.schema
include /etc/ldap/schema/inetorgperson.schema
modulepath /usr/lib/ldap
moduleload back_mdb
pidfile {base}/slapd.pid
TLSCertificateFile {certificate}
TLSCertificateKeyFile {key}
TLSCACertificateFile {ca}
database mdb
maxsize 10485760
suffix "dc=company,dc=example"
directory {base}/db
rootdn "cn=admin,dc=company,dc=example"
rootpw s3cret
access to attrs=userPassword by anonymous auth by * none
access to * by users read by anonymous auth
"""

MAILS = {
    "alice": ["Alice@company.example"],
    "bob": ["bob@foreign.company.example"],
    "carol": ["carol@old.example", "carol@company.example"],
    "paren": ["a(b)*c@company.example"],
    "nobody": [],
}


class Slapd(Child):
    """slapd with its configuration, data and process id in a directory of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.base = Path(tempfile.mkdtemp(prefix="impfed-ldap"))
        (self.base / "db").mkdir()
        ca = make_ca(self.base)
        issued = make_certificate(ca, self.base, "localhost", ["localhost", "127.0.0.1"])
        self.ca = ca.path
        self.port, self.tls_port = free_ports(2)
        self.configuration = self.base / "slapd.conf"
        self.configuration.write_text(
            CONFIGURATION.format(
                base=self.base, certificate=issued.certificate, key=issued.key, ca=ca.path
            )
        )
        self.password = self.base / "password"
        self.password.write_text("s3cret\n")

    @inlineCallbacks
    def start(self) -> Any:
        """Start it; fires when it listens, which is a moment after it says that it is starting."""
        ready = self.line(lambda line: "slapd starting" in line)
        urls = f"ldap://127.0.0.1:{self.port} ldaps://127.0.0.1:{self.tls_port}"
        self.spawn(["/usr/sbin/slapd", "-f", str(self.configuration), "-h", urls, "-d", "stats"])
        yield ready
        for port in (self.port, self.tls_port):
            wire = yield from self._connected(port)
            wire.close()

    def _connected(self, port: int) -> Any:
        while True:
            try:
                return socket.create_connection(("127.0.0.1", port), 1)
            except ConnectionRefusedError:
                yield deferLater(reactor, 0.01)

    def fill(self) -> None:
        """Put the people in, over LDAP."""
        server = ldap3.Server(f"ldap://127.0.0.1:{self.port}", get_info=ldap3.NONE)
        admin = ldap3.Connection(server, "cn=admin,dc=company,dc=example", "s3cret", auto_bind=True)
        base = {"o": "company", "dc": "company"}
        assert admin.add("dc=company,dc=example", ["dcObject", "organization"], base), admin.result
        for uid, mails in MAILS.items():
            person: dict[str, Any] = {"cn": uid, "sn": uid}
            if mails:
                person["mail"] = mails
            done = admin.add(f"uid={uid},dc=company,dc=example", "inetOrgPerson", person)
            assert done, admin.result
        admin.unbind()

    def remove(self) -> None:
        """Take its directory away."""
        shutil.rmtree(self.base, ignore_errors=True)


class LdapTests(TestCase):
    """The directory, asked as the node asks it."""

    @inlineCallbacks
    def setUp(self) -> Any:
        self.slapd = Slapd()
        self.addCleanup(self.slapd.remove)
        self.addCleanup(self.slapd.stop)
        yield self.slapd.start()
        self.slapd.fill()
        self.config = LdapConfig(
            "people",
            f"ldap://127.0.0.1:{self.slapd.port}",
            "dc=company,dc=example",
            bind_dn="cn=admin,dc=company,dc=example",
            password_file=self.slapd.password,
            timeout=20.0,
            cache=0.0,
        )

    def directory(self, *domains: str, **changes: Any) -> LdapDirectory:
        config = replace(self.config, **changes)
        self.metrics = Metrics()
        directory = LdapDirectory(config, domains or ("company.example",), reactor, self.metrics)
        self.addCleanup(directory.stop)
        return directory

    def ask(self, directory: LdapDirectory, address: str) -> Deferred[Existence]:
        return maybeDeferred(directory.lookup, address)

    @inlineCallbacks
    def check(self, directory: LdapDirectory, expected: dict[str, Existence]) -> Any:
        for address, existence in expected.items():
            found = yield self.ask(directory, address)
            self.assertIs(found, existence, address)

    @inlineCallbacks
    def test_addresses(self) -> Any:
        """Who has exactly the address exists, in any case of letters; any of several values counts."""
        directory = self.directory()
        verifyObject(IDirectory, directory)
        yield self.check(
            directory,
            {
                "alice@company.example": Existence.EXISTS,
                "ALICE@Company.Example": Existence.EXISTS,
                "carol@company.example": Existence.EXISTS,
                "nobody@company.example": Existence.ABSENT,
                "bob@company.example": Existence.ABSENT,
            },
        )

    @inlineCallbacks
    def test_only_exactly_local_domains(self) -> Any:
        """Domains under, above and beside a local one are not looked up at all."""
        yield self.check(
            self.directory(),
            {
                "bob@foreign.company.example": Existence.UNKNOWN,
                "carol@old.example": Existence.UNKNOWN,
                "alice@example": Existence.UNKNOWN,
            },
        )

    @inlineCallbacks
    def test_a_hit_in_a_foreign_domain(self) -> Any:
        """Found by local part, a person with an address in a foreign domain does not become local."""
        directory = self.directory(filter="(uid={user})")
        yield self.check(
            directory,
            {
                "alice@company.example": Existence.EXISTS,
                "bob@company.example": Existence.ABSENT,
                "nobody@company.example": Existence.ABSENT,
            },
        )

    @inlineCallbacks
    def test_local_parts(self) -> Any:
        """An attribute without a domain holds in every domain that uses the directory."""
        directory = self.directory(
            "company.example", "second.example", filter="(uid={user})", attribute="uid"
        )
        yield self.check(
            directory,
            {
                "bob@company.example": Existence.EXISTS,
                "bob@second.example": Existence.EXISTS,
                "eve@second.example": Existence.ABSENT,
                "bob@third.example": Existence.UNKNOWN,
            },
        )

    @inlineCallbacks
    def test_nobody_writes_filters(self) -> Any:
        """Characters that mean something in a filter are searched for, not obeyed."""
        yield self.check(
            self.directory(),
            {
                "*@company.example": Existence.ABSENT,
                "a(b)*c@company.example": Existence.EXISTS,
                "x)(uid=*@company.example": Existence.ABSENT,
                "\0@company.example": Existence.ABSENT,
            },
        )

    @inlineCallbacks
    def test_tls(self) -> Any:
        """TLS from the start and STARTTLS are both checked against the trusted root."""
        for changes in (
            {"url": f"ldaps://127.0.0.1:{self.slapd.tls_port}", "ca": self.slapd.ca},
            {"url": f"ldap://127.0.0.1:{self.slapd.port}", "ca": self.slapd.ca, "start_tls": True},
        ):
            directory = self.directory(**changes)
            yield self.check(directory, {"alice@company.example": Existence.EXISTS})
        stranger = make_ca(self.slapd.base, "Other CA").path
        directory = self.directory(url=f"ldaps://127.0.0.1:{self.slapd.tls_port}", ca=stranger)
        yield self.check(directory, {"alice@company.example": Existence.UNKNOWN})

    @inlineCallbacks
    def test_wrong_password_and_base(self) -> Any:
        """A refused login and a base that is not there leave users unknown, and are counted."""
        wrong = self.slapd.base / "wrong"
        wrong.write_text("wrong\n")
        for changes in ({"password_file": wrong}, {"base": "dc=nowhere"}):
            directory = self.directory(**changes)
            yield self.check(directory, {"alice@company.example": Existence.UNKNOWN})
            self.assertEqual(self.metrics.value("routing.directory_failed"), 1)

    @inlineCallbacks
    def test_a_restart_is_survived(self) -> Any:
        """An idle connection that the server closed is made anew; while it is down users are unknown."""
        directory = self.directory()
        yield self.check(directory, {"alice@company.example": Existence.EXISTS})
        yield self.slapd.stop()
        yield self.slapd.start()
        yield self.check(directory, {"alice@company.example": Existence.EXISTS})
        yield self.slapd.stop()
        yield self.check(directory, {"alice@company.example": Existence.UNKNOWN})
        # It rests: the next question is answered at once.
        self.assertIs(directory.lookup("carol@company.example"), Existence.UNKNOWN)

    @inlineCallbacks
    def test_answers_are_kept(self) -> Any:
        """Within its time an answer is given again without asking; same questions share one search."""
        directory = self.directory(cache=60.0)
        first = directory.lookup("alice@company.example")
        second = directory.lookup("alice@company.example")
        self.assertIs((yield first), Existence.EXISTS)
        self.assertIs((yield second), Existence.EXISTS)
        yield self.slapd.stop()
        self.assertIs(directory.lookup("alice@company.example"), Existence.EXISTS)
