"""``impfedctl``: asks a running node, and checks configurations without one."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TextIO

from impfed import __version__
from impfed.config.load import load
from impfed.config.model import Config
from impfed.config.problems import ConfigErrors
from impfed.ctl import drain, people, routes, store, words
from impfed.ctl.api import COMMANDS, DEFAULT_SOCKET, OPERATIONS, ControlError
from impfed.ctl.client import ControlClient
from impfed.relay.names import missing_in_files
from impfed.transport.tls_files import TlsFileError

_EPILOG = """exit codes: 0 done; 1 the answer is no (problems in the configuration, no such message);
2 wrong usage, or the node cannot be asked"""


def main(arguments: Sequence[str] | None = None, out: TextIO | None = None) -> int:
    """Run one command.

    :param arguments: of the command line; those of the process by default.
    :param out: where answers go; problems in using the tool go to standard error.
    :returns: 0 when all is well, 1 when the answer is no, 2 when nothing could be asked.
    """
    out = out or sys.stdout
    options = _parser().parse_args(arguments)
    try:
        if options.command == "check-config":
            return _check_config(options.file, options.json, out)
        if options.command == "store":
            return store.run(options, out)
        client = ControlClient(_socket_path(options), options.timeout)
        try:
            return _COMMANDS[options.command](client, options, out)
        finally:
            client.close()
    except ControlError as error:
        print(f"impfedctl: {words.printable(str(error))}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 0
    except BrokenPipeError:
        # Whoever read our answers has seen enough; nothing more may be written, not even at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="impfedctl",
        description="Asks a running impfed node, and checks configurations.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"impfed {__version__}")
    place = parser.add_mutually_exclusive_group()
    place.add_argument(
        "--socket",
        metavar="PATH",
        type=Path,
        help=f"the node's control socket (default: $IMPFED_SOCKET, or {DEFAULT_SOCKET})",
    )
    place.add_argument(
        "--config", metavar="FILE", type=Path, help="take the socket from this configuration"
    )
    parser.add_argument(
        "--timeout", metavar="SECONDS", type=float, default=10.0, help="how long to wait (10)"
    )
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--json", action="store_true", help="answer as JSON, an object a line")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    check = commands.add_parser(
        "check-config", parents=[common], help="check a configuration file; prints every problem"
    )
    check.add_argument("file", metavar="FILE", type=Path)
    store.add_parser(commands, [common])
    for name, (argument, text) in COMMANDS.items():
        command = commands.add_parser(name, parents=[common], help=text)
        if name in OPERATIONS and argument:
            command.usage = f"impfedctl {name} [-h] [--json] {argument}"
            number = "*" if argument.startswith("[") else "+"
            command.add_argument("arguments", metavar="ARGUMENT", nargs=number)
        elif argument:
            command.add_argument("text", metavar=argument)
        if name == "route":
            words_ = (
                "a local user whose message it is: his domain may have a certificate of its own"
            )
            command.add_argument("--from", dest="sender", metavar="USER@DOMAIN", help=words_)
        if name == "trace":
            command.add_argument("--full", action="store_true", help="show whole messages")
    return parser


def _socket_path(options: argparse.Namespace) -> Path:
    if options.socket is not None:
        return Path(options.socket)
    if options.config is None:
        return Path(os.environ.get("IMPFED_SOCKET") or DEFAULT_SOCKET)
    path: Path = options.config
    try:
        # Not the whole loader: who asks may not be allowed to read keys and secrets.
        node = tomllib.loads(path.read_text("utf-8")).get("node", {})
    except (OSError, ValueError) as error:
        raise ControlError(f"{path}: {error}; try impfedctl check-config {path}") from None
    found = node.get("control_socket", DEFAULT_SOCKET) if isinstance(node, dict) else DEFAULT_SOCKET
    return path.parent / Path(str(found)).expanduser()


def _check_config(path: Path, as_json: bool, out: TextIO) -> int:
    try:
        config = load(path)
    except ConfigErrors as errors:
        for problem in errors.problems:
            text = json.dumps(problem.as_dict()) if as_json else words.printable(str(problem))
            print(text, file=out)
        if not as_json:
            count = len(errors.problems)
            print(f"{count} problem{'s' if count > 1 else ''}", file=out)
        return 1
    if not as_json:
        print(f"{path} is right: {_summary(config)}", file=out)
        for line in _missing_names(config):
            print(words.printable(line), file=out)
    return 0


def _missing_names(config: Config) -> list[str]:
    """Say what the certificates lack, where their files can be read by who asks."""
    try:
        return [f"but {problem}" for problem in missing_in_files(config)]
    except TlsFileError as error:
        return [f"the names in the certificates are not checked: {error}"]


def _summary(config: Config) -> str:
    parts = (
        (len(config.listeners), "listener"),
        (len(config.domains), "foreign domain"),
        (len(config.local_domains), "local domain"),
        (len(config.homes), "home server"),
    )
    return ", ".join(f"{count} {what}{'' if count == 1 else 's'}" for count, what in parts)


def _as_json(items: Sequence[Any], out: TextIO) -> None:
    for item in items:
        print(json.dumps(item), file=out)


def _width() -> int:
    # Answers that go to a file or a pipe are not made narrower for it.
    return shutil.get_terminal_size((100 if sys.stdout.isatty() else 250, 24)).columns


def _status(client: ControlClient, options: argparse.Namespace, out: TextIO) -> int:
    items = client.ask("status")
    if options.json:
        _as_json(items, out)
    else:
        out.write("".join(words.status(item, _width()) for item in items))
    return 0


def _table(client: ControlClient, options: argparse.Namespace, out: TextIO) -> int:
    items = client.ask(options.command)
    if options.json:
        _as_json(items, out)
    else:
        out.write(words.listing(items, f"no {options.command}", _width()))
    return 0


def _where(client: ControlClient, options: argparse.Namespace, out: TextIO) -> int:
    items = client.ask("where", options.text)
    if options.json:
        _as_json(items, out)
        return 0 if any("id" in item for item in items) else 1
    found = [item for item in items if "id" in item]
    if found:
        out.write(words.whereabouts(found))
    else:
        print(f"the ledger knows no message with id or address {options.text}", file=out)
    out.write(words.silence(item["silent"] for item in items if "silent" in item))
    return 0 if found else 1


def _route(client: ControlClient, options: argparse.Namespace, out: TextIO) -> int:
    sender = (options.sender,) if options.sender else ()
    items = client.ask("route", options.text, *sender)
    if options.json:
        _as_json(items, out)
    else:
        out.write("".join(routes.story(item) for item in items))
    return 0 if any(item["used"] for item in items) else 1


def _learned(client: ControlClient, options: argparse.Namespace, out: TextIO) -> int:
    items = client.ask("learned")
    if options.json:
        _as_json(items, out)
    else:
        out.write(words.listing(items, "no learned domains", _width()))
    return 0


def _forget(client: ControlClient, options: argparse.Namespace, out: TextIO) -> int:
    items = client.ask("forget", options.text)
    if options.json:
        _as_json(items, out)
    elif items[0]["forgotten"]:
        print(f"{options.text} is forgotten, and will be tried anew", file=out)
    else:
        print(f"nothing was learned of {options.text}", file=out)
    return 0 if items[0]["forgotten"] else 1


def _trace(client: ControlClient, options: argparse.Namespace, out: TextIO) -> int:
    ladder = words.Ladder(_width(), options.full)
    if not options.json:
        if "edge" in client.ask("status")[0]:
            ladder = words.Ladder(_width(), options.full, ("far side", "edge", "inside"))
        print(f"messages from and to {options.text}, until Ctrl-C", file=out)
        out.write(ladder.head())
        out.flush()
    for item in client.follow("trace", options.text):
        out.write(json.dumps(item) + "\n" if options.json else ladder.draw(item))
        out.flush()
    raise ControlError("the node has stopped")


_COMMANDS: dict[str, Callable[[ControlClient, argparse.Namespace, TextIO], int]] = {
    "status": _status,
    "sessions": _table,
    "subscriptions": _table,
    "where": _where,
    "route": _route,
    "learned": _learned,
    "forget": _forget,
    "trace": _trace,
    **{name: people.command(name, _width) for name in OPERATIONS},
    "drain": drain.run,
}


if __name__ == "__main__":
    sys.exit(main())
