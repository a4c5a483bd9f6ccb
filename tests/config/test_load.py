"""Reading a file by the tables: values, places of problems, suggestions."""

from __future__ import annotations

import shutil
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

import impfed
from impfed.config import model
from impfed.config.load import load
from impfed.config.problems import ConfigErrors, Problem
from impfed.config.reference import reference
from tests.config.samples import CERTIFICATE, GOOD, KEY, Workshop

ROOT = Path(impfed.__file__).resolve().parent.parent


class SampleTests(SynchronousTestCase):
    """The shipped sample and its reference page."""

    def test_sample_loads(self) -> None:
        """The documented sample is a valid configuration once the files it names are there."""
        shop = Workshop(self.mktemp())
        shutil.copy(ROOT / "etc" / "impfed.toml", shop.path)
        shop.put("tls/ca.pem", CERTIFICATE)
        shop.put("tls/company.example.pem", CERTIFICATE)
        shop.put("tls/company.example.key", KEY)
        shop.put("secrets/prosody", "from the file\n")
        config = load(shop.path, {})
        self.assertEqual(config.local_domains, {"company.example"})
        [home], [domain] = config.homes, config.domains
        self.assertEqual(
            (home.secret, home.address), ("from the file", "federation.company.example")
        )
        self.assertEqual(
            domain.next_hop,
            model.NextHopConfig("sip.lync.example", 5061, "tls", "sip.lync.example"),
        )
        self.assertEqual(config.tls.ca, shop.directory / "tls" / "ca.pem")

    def test_sample_spells_out_the_defaults(self) -> None:
        """Where the sample shows a default it is the program's."""
        text = (ROOT / "etc" / "impfed.toml").read_text("utf-8")
        shop = Workshop(self.mktemp())
        start = text.index("[im]")
        config = shop.load(GOOD + text[start:])
        self.assertEqual(config.im, model.ImConfig())
        self.assertEqual(config.presence, model.PresenceConfig())
        self.assertEqual(config.ledger, model.LedgerConfig())
        self.assertEqual(config.node, model.NodeConfig())

    def test_reference_page_is_fresh(self) -> None:
        """docs/configuration.md is what scripts/config-reference writes."""
        page = (ROOT / "docs" / "configuration.md").read_text("utf-8")
        self.assertEqual(page, reference(), "run scripts/config-reference")

    def test_sample_names_every_key(self) -> None:
        """Every section of the tables stands in the sample of a node or in that of an edge."""
        samples = ("impfed.toml", "impfed-edge.toml", "impfed-cluster.toml")
        text = "".join((ROOT / "etc" / name).read_text("utf-8") for name in samples)
        from impfed.config.sections import SECTIONS

        for section in SECTIONS:
            title = f"[[{section.name}]]" if section.repeated else f"[{section.name}]"
            self.assertIn(title, text)


class LoadCase(SynchronousTestCase):
    """Helpers."""

    def setUp(self) -> None:
        self.shop = Workshop(self.mktemp())

    def only(self, text: str, **environ: str) -> Problem:
        """Return the one problem of a text."""
        problems = self.shop.problems(text, **environ)
        self.assertEqual(len(problems), 1, [str(problem) for problem in problems])
        return problems[0]

    def replaced(self, old: str, new: str) -> Problem:
        """Return the one problem of the good text with something replaced."""
        self.assertIn(old, GOOD)
        return self.only(GOOD.replace(old, new))


class ValueTests(LoadCase):
    """Values in a file become values of the model."""

    def test_defaults(self) -> None:
        """What is left out has the model's defaults; advertised is what is bound."""
        config = self.shop.load()
        self.assertEqual(config.node, model.NodeConfig())
        self.assertEqual(
            config.listeners,
            (model.ListenerConfig("federation", "tls", "127.0.0.1", 5061, "127.0.0.1", 5061),),
        )
        self.assertEqual(config.domains[0].kind, "microsoft")
        self.assertEqual((config.homes[0].host, config.homes[0].port), ("127.0.0.1", 5347))

    def test_units(self) -> None:
        """Durations become seconds, sizes octets."""
        config = self.shop.load(
            GOOD
            + """
[im]
idle_timeout = "1h 30m"
acceptance_timeout = "1500 ms"
answer_timeout = 75
message_limit = "1 MiB"
[presence]
expires = "1h45m"
"""
        )
        self.assertEqual(config.im.idle_timeout, 5400.0)
        self.assertEqual(config.im.acceptance_timeout, 1.5)
        self.assertEqual(config.im.answer_timeout, 75.0)
        self.assertEqual(config.im.message_limit, 1048576)
        self.assertEqual(config.presence.expires, 6300)
        self.assertIs(type(config.presence.expires), int)

    def test_ipv6(self) -> None:
        """An IPv6 address stands in brackets, and is kept without them."""
        config = self.shop.load(
            GOOD.replace('"127.0.0.1:5061"', '"[::1]:5061"\nadvertised = "[2001:DB8::1]:443"')
        )
        [listener] = config.listeners
        self.assertEqual((listener.host, listener.port), ("::1", 5061))
        self.assertEqual((listener.advertised_host, listener.advertised_port), ("2001:db8::1", 443))

    def test_domains_are_lower_case(self) -> None:
        """Domains are compared without case and final dot."""
        config = self.shop.load(GOOD.replace('"lync.example"', '"Lync.Example."'))
        self.assertEqual(config.domains[0].name, "lync.example")

    def test_paths_are_relative_to_the_file(self) -> None:
        """A relative path is taken from the file's directory, an absolute one as it is."""
        config = self.shop.load('[node]\nstate_directory = "state"\n' + GOOD)
        self.assertEqual(config.node.state_directory, self.shop.directory / "state")
        self.assertEqual(config.tls.certificates[0].key, self.shop.directory / "node.key")

    def test_windows_line_ends(self) -> None:
        """A file saved with CR LF is read, with the right line numbers."""
        self.shop.path.write_bytes(
            GOOD.replace('transport = "tls"', 'transport = "tsl"').replace("\n", "\r\n").encode()
        )
        with self.assertRaises(ConfigErrors) as caught:
            load(self.shop.path, {})
        self.assertEqual([problem.line for problem in caught.exception.problems], [11])


class PlaceTests(LoadCase):
    """Each problem says where it is."""

    def test_line_and_key(self) -> None:
        """A problem has the line and the key, sections counted from 1."""
        problem = self.replaced('transport = "tls"', 'transport = "tsl"')
        self.assertEqual((problem.line, problem.key), (11, "listener[1].transport"))
        self.assertEqual(problem.path, self.shop.path)
        self.assertEqual(
            str(problem),
            f'{self.shop.path}:11: listener[1].transport: found "tsl"; allowed: "tls", "tcp",'
            ' "udp"; did you mean "tls"?',
        )

    def test_inline_table(self) -> None:
        """A key inside an inline table has the line of the table."""
        problem = self.replaced('"sip.lync.example:5061"', '"sip.lync.example"')
        self.assertEqual((problem.line, problem.key), (16, "domain[1].next_hop.address"))
        self.assertIn('write "sip.lync.example:5061"', problem.suggestion)

    def test_second_section_and_sub_section(self) -> None:
        """The second [[domain]] and its [domain.next_hop] are told from the first."""
        problem = self.only(
            GOOD + '\n[[domain]]\nname = "b.example"\n\n[domain.next_hop]\naddress = "x:99999"\n'
        )
        self.assertEqual((problem.line, problem.key), (28, "domain[2].next_hop.address"))

    def test_lists_and_long_strings_do_not_confuse_the_lines(self) -> None:
        """Keys that stand inside strings or lists over several lines are not taken for keys."""
        text = GOOD.replace(
            'name = "lync.example"\n',
            'name = "lync.example"\npeer_names = [\n  "a.example", # [home]\n  "b.example",\n]\n'
            'description = "[[home]] x = 1 #"\n',
        )
        text = text.replace('kind = "component"', 'kind = "compnent"')
        self.assertEqual(self.only(text).line, text.split("\n").index('kind = "compnent"') + 1)

    def test_missing_key_has_the_line_of_its_section(self) -> None:
        """A required key that is missing is reported at its section, with what it holds."""
        problem = self.replaced('bind = "127.0.0.1:5061"\n', "")
        self.assertEqual((problem.line, problem.key), (9, "listener[1]"))
        self.assertIn("bind is missing", problem.message)
        self.assertIn("host:port", problem.allowed)

    def test_everything_at_once(self) -> None:
        """All problems come together, in the order of the file."""
        text = GOOD.replace('"tls"', '"quic"').replace('"component"', '"jabber"')
        text = text.replace('"ca.pem"', '"missing.pem"') + '[im]\nidle_timeout = "soon"\n[imm]\n'
        problems = self.shop.problems(text)
        self.assertEqual(
            [problem.key for problem in problems],
            ["tls.ca", "listener[1].transport", "home[1].kind", "im.idle_timeout", "imm"],
        )
        lines = [problem.line or 0 for problem in problems]
        self.assertEqual(lines, sorted(lines))

    def test_syntax_error(self) -> None:
        """A file that is no TOML gives one problem with the line."""
        problem = self.only(GOOD.replace('name = "company"', "name = company"))
        self.assertEqual((problem.line, problem.key), (5, ""))
        self.assertIn("not TOML", problem.message)
        self.assertIn("double quotes", problem.suggestion)

    def test_missing_file(self) -> None:
        """A missing configuration file is a problem like any other."""
        with self.assertRaises(ConfigErrors) as caught:
            load(self.shop.directory / "nowhere.toml")
        self.assertIn("No such file", str(caught.exception))

    def test_not_utf8(self) -> None:
        """A file in another encoding says so, with the line."""
        self.shop.path.write_bytes(GOOD.encode() + b"\n# caf\xe9\n")
        with self.assertRaises(ConfigErrors) as caught:
            load(self.shop.path)
        [problem] = caught.exception.problems
        self.assertEqual(problem.line, GOOD.count("\n") + 2)

    def test_as_dict(self) -> None:
        """A problem can be given to programs."""
        problem = self.replaced('transport = "tls"', 'transport = "tsl"')
        self.assertEqual(problem.as_dict()["line"], 11)
        self.assertEqual(problem.as_dict()["suggestion"], 'did you mean "tls"?')


class SuggestionTests(LoadCase):
    """Misspellings are recognised."""

    def suggestion(self, old: str, new: str) -> str:
        return self.replaced(old, new).suggestion

    def test_key(self) -> None:
        """A misspelt key suggests the right one, once, and does not also count as missing."""
        self.assertEqual(self.suggestion("bind =", "bnid ="), 'did you mean "bind"?')

    def test_section(self) -> None:
        """A misspelt section suggests the right one."""
        self.assertEqual(self.only(GOOD + "[presense]\n").suggestion, 'did you mean "presence"?')

    def test_key_without_its_section(self) -> None:
        """A key at the top of the file is sent to its section."""
        problem = self.only('idle_timeout = "5m"\n' + GOOD)
        self.assertIn("under [im]", problem.suggestion)

    def test_single_brackets(self) -> None:
        """[home] where [[home]] belongs is recognised."""
        self.assertEqual(self.suggestion("[[home]]", "[home]"), "write [[home]]")

    def test_double_brackets(self) -> None:
        """[[node]] where [node] belongs is recognised."""
        self.assertIn("[node]", self.only(GOOD + '[[node]]\nname = "x"\n').allowed)

    def test_unit(self) -> None:
        """A unit written out suggests the short one."""
        problem = self.only(GOOD + '[im]\nidle_timeout = "5 minutes"\n')
        self.assertIn('write "5m"', problem.suggestion)

    def test_size_unit(self) -> None:
        """A size unit without its B suggests the whole one."""
        problem = self.only(GOOD + '[im]\nmessage_limit = "256K"\n')
        self.assertIn('"256 KiB"', problem.suggestion)

    def test_out_of_bounds(self) -> None:
        """A duration out of bounds says which bounds."""
        problem = self.only(GOOD + '[im]\nanswer_timeout = "5s"\n')
        self.assertIn("from 1m to 10m", problem.allowed)

    def test_reversed_pattern(self) -> None:
        """A domain spelt as a reversed pattern suggests the plain domain."""
        self.assertIn('"lync.example"', self.suggestion('"lync.example"', '".example.lync.*"'))

    def test_wildcard_domain(self) -> None:
        """A domain with a wildcard suggests the plain domain."""
        self.assertIn('"lync.example"', self.suggestion('"lync.example"', '"*.lync.example"'))

    def test_address_for_a_domain(self) -> None:
        """An address where a domain belongs suggests its domain."""
        self.assertIn(
            '"company.example"', self.suggestion('["company.example"]', '["carol@company.example"]')
        )

    def test_list(self) -> None:
        """A text where a list belongs suggests the brackets."""
        self.assertEqual(
            self.suggestion('["company.example"]', '"company.example"'), 'write ["company.example"]'
        )

    def test_international_domain(self) -> None:
        """A domain in other letters suggests its ASCII form."""
        self.assertIn(
            '"xn--mnchen-3ya.example"', self.suggestion('"lync.example"', '"münchen.example"')
        )

    def test_ipv6_without_brackets(self) -> None:
        """An IPv6 address without brackets suggests them."""
        self.assertIn('"[::1]:5061"', self.suggestion('"127.0.0.1:5061"', '"::1"'))

    def test_file_name(self) -> None:
        """A missing file suggests one beside it whose name is close."""
        self.assertIn('"node.pem"', self.suggestion('"node.pem"', '"nod.pem"'))

    def test_swapped_files(self) -> None:
        """Certificate and key in each other's place are recognised."""
        text = (
            GOOD.replace("node.key", "x").replace("node.pem", "node.key").replace("x", "node.pem")
        )
        text = GOOD.replace('certificate = "node.pem"', 'certificate = "node.key"')
        self.assertIn("swapped", self.only(text).suggestion)


class SecretTests(LoadCase):
    """Where a component's secret comes from, and that it goes nowhere else."""

    LINE = 'secret = "s3cr3t-of-the-component"'

    def test_from_file(self) -> None:
        """The secret is the first line of the file."""
        self.shop.put("word", "hidden \nsecond line\n")
        config = self.shop.load(GOOD.replace(self.LINE, 'secret_file = "word"'))
        self.assertEqual(config.homes[0].secret, "hidden")

    def test_from_environment(self) -> None:
        """The secret is the variable's value."""
        text = GOOD.replace(self.LINE, 'secret_env = "IMPFED_SECRET"')
        self.assertEqual(self.shop.load(text, IMPFED_SECRET="hidden").homes[0].secret, "hidden")

    def test_missing(self) -> None:
        """Without any of the three ways the problem names all of them."""
        problem = self.replaced(self.LINE, "")
        self.assertEqual(problem.allowed, "secret_file, secret_env or secret")

    def test_two_ways(self) -> None:
        """Two ways at once are refused."""
        problem = self.replaced(self.LINE, self.LINE + '\nsecret_env = "X"')
        self.assertIn("is there too", problem.message)

    def test_unset_variable(self) -> None:
        """A variable that is not set, or empty, is a problem that names it."""
        text = GOOD.replace(self.LINE, 'secret_env = "IMPFED_SECRET"')
        self.assertIn("IMPFED_SECRET is not set", self.only(text).message)
        self.assertIn("IMPFED_SECRET is empty", self.only(text, IMPFED_SECRET="").message)

    def test_empty_or_missing_file(self) -> None:
        """A secret file that is empty or missing is a problem."""
        text = GOOD.replace(self.LINE, 'secret_file = "word"')
        self.assertIn("No such file", self.only(text).message)
        self.shop.put("word", "\nsecond\n")
        self.assertIn("first line", self.only(text).message)

    def test_never_in_repr(self) -> None:
        """The secret is in no representation of the configuration."""
        config = self.shop.load()
        self.assertEqual(config.homes[0].secret, "s3cr3t-of-the-component")
        for shown in (repr(config), str(config), repr(config.homes), f"{config.homes[0]!s}"):
            self.assertNotIn("s3cr3t", shown)

    def test_never_in_problems(self) -> None:
        """A problem with the secret, or near it, does not quote it."""
        for wrong in (
            'secret = "s3cr3t\\u0007"',
            'secrett = "s3cr3t"',
            'secret = "s3cr3t"\nsecret_file = "x"',
            'secret = ["s3cr3t"]',
            "secret = s3cr3t",
            'secret = "s3cr3t',
        ):
            problems = self.shop.problems(GOOD.replace(self.LINE, wrong))
            self.assertNotEqual(problems, [], wrong)
            for problem in problems:
                self.assertNotIn("s3cr3t", str(problem) + repr(problem))
