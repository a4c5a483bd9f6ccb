"""Rows of availability tables in the configuration, and the pace of a domain."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from impfed.interwork.availability import Kind, Kinds
from tests.config.samples import GOOD, Workshop

_ROWS = """
[[to_xmpp]]
state = "Busy"
basic = "open"
activity = ["busy"]
show = "dnd"
"""
_SECTION = '\n[[mapping]]\nkind = "microsoft"\nfile = "rows.toml"\n'


class MappingTests(SynchronousTestCase):
    """``[[mapping]]``."""

    def setUp(self) -> None:
        self.shop = Workshop(self.mktemp())

    def problems(self, rows: str, section: str = _SECTION) -> str:
        """Return what is wrong with a file of rows, in words."""
        self.shop.put("rows.toml", rows)
        return " / ".join(str(each) for each in self.shop.problems(GOOD + section))

    def test_rows_are_read(self) -> None:
        """The file's rows reach the table of that kind."""
        self.shop.put("rows.toml", _ROWS)
        config = self.shop.load(GOOD + _SECTION)
        kinds = Kinds({mapping.kind: mapping.rows for mapping in config.mappings})
        busy = [row for row in kinds.kind("microsoft").to_rows if row.state == "Busy"]
        self.assertEqual([row.show for row in busy], ["dnd"])
        self.assertEqual(kinds.kind("simple"), Kind.load("simple"))

    def test_the_shipped_tables_are_examples(self) -> None:
        """A copy of the rows that we ship is a valid file."""
        from importlib.resources import files

        for kind in ("microsoft", "simple", "webex"):
            text = files("impfed.interwork").joinpath("kinds", f"{kind}.toml").read_text("utf-8")
            rows = text[text.index("[[") :]
            section = _SECTION.replace("microsoft", kind)
            self.assertEqual(self.problems(rows, section), "", kind)

    def test_what_is_wrong_is_said(self) -> None:
        """Each mistake is named with the file, the row and the key."""
        for rows, words in (
            ("x", "not TOML"),
            ("[[to_xmp]]\nstate='a'\n", "to_xmp"),
            ("[to_xmpp]\nstate='a'\n", "found [to_xmpp]"),
            (_ROWS.replace("show", "shw"), "shw"),
            (_ROWS.replace('basic = "open"', ""), "no basic"),
            (_ROWS.replace('"open"', '"opened"'), "opened"),
            (_ROWS.replace('["busy"]', '"busy"'), "a list of texts"),
            (_ROWS.replace('"dnd"', '"busy"'), "no show of XMPP"),
            ('[[to_peer]]\nstate="a"\nshow=["xa"]\nbecomes="dnd"\n', "no rows [[to_peer]]"),
        ):
            self.assertIn(words, self.problems(rows), rows)
        self.assertIn("already", self.problems(_ROWS, _SECTION * 2))
        missing = _SECTION.replace("rows.toml", "nowhere.toml")
        self.assertIn("nowhere.toml", self.problems(_ROWS, missing))

    def test_pace(self) -> None:
        """A domain's pace is a number, nothing for the kind's own, or "none"."""
        for text, pace in (("", 0), ("presence_pace = 7\n", 7), ('presence_pace = "none"\n', None)):
            section = f'\n[[domain]]\nname = "more.example"\n{text}'
            section += 'next_hop = { address = "sip.more.example:5061" }\n'
            config = self.shop.load(GOOD + section)
            self.assertEqual(config.domains[-1].presence_pace, pace)
