"""A real Prosody, linked by S2S inside the house."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from demo.parts import wait_until
from tests.interop.home_streams import VERONA, StreamProsody, StreamScene
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
        (link,) = self.status()["home_links"]
        self.assertEqual((link["kind"], link["state"]), ("s2s", "up"))
        self.assertNotIn(", 0 of them acknowledged", link["streams"])

    def test_node_killed_with_texts_that_wait(self) -> None:
        """A text that waits in the node for a foreign server arrives once both are back, and once only."""
        stage, server = self.scene.stage, self.scene.verona.server
        nurse = self.scene.local("nurse")
        # Prosody counts only what follows the text that opens a stream.
        nurse.send("message", to=f"tybalt@{VERONA}", body="My fan, Peter")
        self.scene.foreign("tybalt").expect(event="message", body="My fan, Peter")
        self.kill(server.part)
        nurse.send("message", to=f"tybalt@{VERONA}", body="Peter!", id="waits")
        self.assertTrue(wait_until(lambda: self.waiting() == 1))
        self.assertTrue(wait_until(lambda: self.status()["store_backlog"] == 0))
        self.kill(stage.node.part)
        for name in [name for name in self.scene.talkers if VERONA in name]:
            self.scene.talkers.pop(name).stop()
        with self.scene.network.entered():
            server.start()
        tybalt = self.scene.foreign("tybalt")
        with self.scene.network.entered():
            stage.node.start()
        tybalt.expect(0, 60, event="message", body="Peter!")
        nurse.send("message", to=f"tybalt@{VERONA}", body="And now?")
        tybalt.expect(0, 60, event="message", body="And now?")
        self.assertEqual(len(tybalt.seen(event="message", body="Peter!")), 1)
        self.assertEqual(nurse.seen(event="refused", id="waits"), [])

    def waiting(self) -> int:
        """Return how many stanzas wait for the foreign server."""
        return sum(int(one.get("waiting") or 0) for one in self.status()["xmpp_streams"])

    def status(self) -> Any:
        """Return what the node says of itself."""
        socket = self.scene.stage.node.socket
        command = [str(Path(sys.executable).with_name("impfedctl")), "--socket", str(socket)]
        done = subprocess.run([*command, "status", "--json"], capture_output=True, text=True)
        return json.loads(done.stdout.splitlines()[0])


class InClear(Streams, StreamCase):
    """Without TLS, by dialback alone: pings confirm what it has accepted."""

    acknowledges = False

    def make(self) -> StreamScene:
        return StreamScene("streams-clear", lambda base, _: StreamProsody(base), 'tls = "none"\n')


class EjabberdCertified(Streams, StreamCase):
    """An ejabberd with a certificate; it acknowledges nothing between servers."""

    acknowledges = False

    def make(self) -> StreamScene:
        lines = 'tls = "required"\nrequire_certificates = true\nca = "{ca}"\n'
        return StreamScene(
            "streams-ejabberd",
            lambda base, issued: StreamEjabberd(base, certificate=issued),
            lines,
        )


class EjabberdInClear(Streams, StreamCase):
    """An ejabberd without TLS."""

    acknowledges = False

    def make(self) -> StreamScene:
        return StreamScene(
            "streams-ejabberd-clear", lambda base, _: StreamEjabberd(base), 'tls = "none"\n'
        )
