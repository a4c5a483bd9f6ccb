"""A real Prosody, linked by S2S inside the house."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.interop.home_streams import StreamProsody, StreamScene
from tests.interop.home_streams_ejabberd import StreamEjabberd
from tests.interop.scene import HOME
from tests.interop.stream_story import StreamCase, Streams


class Certified(Streams, StreamCase):
    """Its certificate proves its domain, so its streams acknowledge stanzas."""

    def make(self) -> StreamScene:
        lines = 'tls = "required"\nrequire_certificates = true\nca = "{ca}"\n'
        return StreamScene(
            "streams-certified", lambda base, issued: StreamProsody(base, certificate=issued), lines
        )

    def test_acknowledged(self) -> None:
        """The operator sees that streams stand, and that they acknowledge."""
        cast = self.scene.cast
        cast.far_does("im", 200, **{"from": "romeo", "to": f"alice@{HOME}", "text": "ack"})
        socket = self.scene.stage.node.socket
        command = [Path(sys.executable).with_name("impfedctl"), "--socket", socket]
        done = subprocess.run([*command, "status", "--json"], capture_output=True, text=True)
        (link,) = json.loads(done.stdout.splitlines()[0])["home_links"]
        self.assertEqual((link["kind"], link["state"]), ("s2s", "up"))
        self.assertNotIn(", 0 of them acknowledged", link["streams"])


class InClear(Streams, StreamCase):
    """Without TLS, by dialback alone: pings confirm what it has accepted."""

    def make(self) -> StreamScene:
        return StreamScene("streams-clear", lambda base, _: StreamProsody(base), 'tls = "none"\n')


class EjabberdCertified(Streams, StreamCase):
    """An ejabberd with a certificate; it acknowledges nothing between servers."""

    def make(self) -> StreamScene:
        lines = 'tls = "required"\nrequire_certificates = true\nca = "{ca}"\n'
        return StreamScene(
            "streams-ejabberd",
            lambda base, issued: StreamEjabberd(base, certificate=issued),
            lines,
        )


class EjabberdInClear(Streams, StreamCase):
    """An ejabberd without TLS."""

    def make(self) -> StreamScene:
        return StreamScene(
            "streams-ejabberd-clear", lambda base, _: StreamEjabberd(base), 'tls = "none"\n'
        )
