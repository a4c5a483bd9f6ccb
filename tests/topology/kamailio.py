"""Kamailio between the internet and a LAN: a record-routing TLS proxy, or a stateless one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from demo.certificates import Certificate
from demo.parts import Part

from .net import Machine

_TLS = """\
method = TLSv1.2+
verify_certificate = yes
require_certificate = yes
private_key = {key}
certificate = {certificate}
ca_list = {ca}
"""


class Edge:
    """An edge that is not impfed's.

    :param listen: (address, name that it goes by); the one inside last.
    :param server: host and port of where what comes from outside goes.
    :param domains: those inside.
    :param one_server: whether dialogs, too, go to the server whatever their route says.
    :param stateless: whether it routes by name and keeps nothing.
    """

    def __init__(
        self,
        machine: Machine,
        directory: Path,
        certificate: Certificate,
        listen: Sequence[tuple[str, str]],
        server: tuple[str, int],
        domains: Sequence[str],
        one_server: bool = False,
        stateless: bool = False,
    ) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        tls = _TLS.format(
            key=certificate.key, certificate=certificate.certificate, ca=certificate.ca
        )
        (directory / "tls.cfg").write_text(f"[server:default]\n{tls}\n[client:default]\n{tls}")
        text = Path(__file__).with_name("edge.cfg.in").read_text()
        for address, name in listen:  # it wants to know where it is itself
            machine.knows(name, address)
        lines = [f"listen=tls:{bracketed(a)}:5061 advertise {name}:5061" for a, name in listen]
        for word, value in (
            ("@LISTEN@", "\n".join(lines)),
            ("@INNER@", listen[-1][0]),
            ("@INNERB@", bracketed(listen[-1][0])),
            ("@OUTER@", bracketed(listen[0][0])),
            ("@SERVER@", bracketed(server[0])),
            ("@PORT@", str(server[1])),
            ("@DOMAINS@", "|".join(domain.replace(".", "\\.") for domain in domains)),
            ("@DIRECTORY@", str(directory)),
        ):
            text = text.replace(word, value)
        configuration = directory / "kamailio.cfg"
        configuration.write_text(text)
        command = ["kamailio", "-f", configuration, "-DD", "-E", "-m", "64", "-M", "8"]
        command += ["-P", directory / "kamailio.pid", "-w", directory, "-Y", directory]
        command += [] if stateless else ["-A", "WITH_STATE"]
        command += ["-A", "ONE_SERVER"] if one_server else []
        self.part = Part("kamailio", command, directory, netns=machine.netns)
        self.part.await_port(5061)

    def stop(self) -> None:
        """Stop it."""
        self.part.stop()


def bracketed(address: str) -> str:
    """Return an address as it stands before a port."""
    return f"[{address}]" if ":" in address else address
