"""Kamailio as a SIMPLE presence server: an independent presentity for our watchers."""

from __future__ import annotations

import shutil
from pathlib import Path

from demo.parts import Part, free_ports

TABLES = Path("/usr/share/kamailio/dbtext/kamailio")


class PresenceServer:
    """A running Kamailio with presence for one domain, over TCP and UDP on ``port``.

    Users appear by PUBLISH (the SIPp scenario ``publish``); ``nobody`` does not exist.
    """

    def __init__(self, directory: Path, domain: str, port: int = 0) -> None:
        self.port = port or free_ports(1)[0]
        directory.mkdir(parents=True, exist_ok=True)
        shutil.copytree(TABLES, directory / "db", dirs_exist_ok=True)
        text = Path(__file__).with_name("kamailio.cfg.in").read_text()
        for word, value in (
            ("@PORT@", str(self.port)),
            ("@DOMAIN@", domain),
            ("@DIRECTORY@", str(directory)),
        ):
            text = text.replace(word, value)
        configuration = directory / "kamailio.cfg"
        configuration.write_text(text)
        command = ["kamailio", "-f", configuration, "-DD", "-E", "-m", "64", "-M", "16"]
        command += ["-P", directory / "kamailio.pid", "-w", directory]
        self.part = Part("kamailio", command, directory)
        self.part.await_port(self.port)

    def stop(self) -> None:
        """Stop it."""
        self.part.stop()
