"""Rosters written through the Prosody module, with slixmpp as an independent client."""

from __future__ import annotations

import subprocess

from twisted.trial import unittest

from impfed.transport.home import RosterOutcome
from tests.interop.roster_story import ALICE, BOB, RosterStory, ask
from tests.interop.servers import ROOT
from tests.interop.test_prosody_link import LinkCase


class ProsodyRosterTests(RosterStory, LinkCase):
    """One component and mod_impfed."""

    mode = "module"


class PlainProsodyTests(LinkCase):
    """Plain components: nothing can be written."""

    mode = "component"

    async def test_not_available(self) -> None:
        """Without the module the answer is, in words, that it cannot be done."""
        await self.start()
        await self.start_links()
        answer = await ask(self.links.approve, ALICE, BOB)
        self.assertEqual(answer.outcome, RosterOutcome.UNAVAILABLE)
        self.assertIn("neither module impfed nor XEP-0356", answer.text)
        self.assertFalse(self.links.can_write_rosters("home.example"))


class ModuleSyntaxTests(unittest.TestCase):
    """The module as a file."""

    def test_syntax(self) -> None:
        """Lua's own compiler takes it."""
        path = ROOT / "etc" / "prosody" / "mod_impfed.lua"
        subprocess.run(["luac", "-p", str(path)], check=True)
