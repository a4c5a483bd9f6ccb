"""One LDAP directory for an organisation and its partner: slapd with people of both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from demo.parts import Part

from .net import Machine, call

_CONFIGURATION = """\
include /etc/ldap/schema/core.schema
include /etc/ldap/schema/cosine.schema
include /etc/ldap/schema/inetorgperson.schema
modulepath /usr/lib/ldap
moduleload back_mdb
pidfile {directory}/slapd.pid
database mdb
maxsize 10485760
suffix "dc=example"
directory {directory}/db
access to * by * read
"""


class People:
    """A slapd on port 389 of a machine.

    :param people: mail addresses by user name.
    """

    def __init__(
        self, machine: Machine, directory: Path, people: Mapping[str, Sequence[str]]
    ) -> None:
        (directory / "db").mkdir(parents=True)
        configuration, entries = directory / "slapd.conf", directory / "people.ldif"
        configuration.write_text(_CONFIGURATION.format(directory=directory))
        lines = ["dn: dc=example\nobjectClass: domain\ndc: example\n"]
        for uid, mails in people.items():
            head = f"dn: uid={uid},dc=example\nobjectClass: inetOrgPerson\ncn: {uid}\nsn: {uid}\n"
            lines.append(head + "".join(f"mail: {mail}\n" for mail in mails))
        entries.write_text("\n".join(lines))
        call("slapadd", "-f", str(configuration), "-l", str(entries))
        url = f"ldap://{machine.at('inside')}:389"
        command = ["slapd", "-f", configuration, "-h", url, "-d", "0"]
        self.part = Part("slapd", command, directory, netns=machine.netns)
        self.part.await_port(389)

    def stop(self) -> None:
        """Stop it."""
        self.part.stop()
