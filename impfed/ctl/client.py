"""The operator's end of the control socket: plain sockets, no reactor."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from impfed.ctl.api import ControlError


class ControlClient:
    """A connection to a running node.

    :param path: the node's control socket.
    :param timeout: seconds to wait for each piece of an answer.
    :raises ControlError: in words, with what to do, when nobody answers there.
    """

    def __init__(self, path: Path, timeout: float = 10.0) -> None:
        self._path = path
        self._buffer = b""
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(timeout)
        try:
            self._socket.connect(str(path))
        except OSError as error:
            self._socket.close()
            raise ControlError(_unreachable(path, error)) from None

    def close(self) -> None:
        """Hang up."""
        self._socket.close()

    def ask(self, command: str, *arguments: str) -> list[Any]:
        """Return the items of an answer.

        :raises ControlError: with the node's words when it refuses, or when it stops answering.
        """
        items: list[Any] = []
        self._send(command, arguments)
        for message in self._messages():
            if message.get("end"):
                return items
            items.append(message.get("item"))
        raise ControlError(f"the node at {self._path} hung up before its answer was complete")

    def follow(self, command: str, *arguments: str) -> Iterator[Any]:
        """Yield the items of an answer without end, waiting for each as long as it takes."""
        self._send(command, arguments)
        for message in self._messages():
            self._socket.settimeout(None)
            if "item" in message:
                yield message["item"]

    def _send(self, command: str, arguments: tuple[str, ...]) -> None:
        request = json.dumps({"command": command, "arguments": list(arguments)})
        try:
            self._socket.sendall(request.encode("ascii") + b"\n")
        except OSError as error:
            raise ControlError(f"the node at {self._path} hung up: {error.strerror}") from None

    def _messages(self) -> Iterator[dict[str, Any]]:
        while True:
            line, newline, rest = self._buffer.partition(b"\n")
            if newline:
                self._buffer = rest
                message = json.loads(line)
                if "error" in message:
                    raise ControlError(str(message["error"]))
                yield message
                continue
            try:
                data = self._socket.recv(65536)
            except TimeoutError:
                raise ControlError(
                    f"the node at {self._path} does not answer; it may be overloaded or stopped"
                    " (see its log)"
                ) from None
            except OSError as error:
                raise ControlError(f"the node at {self._path} hung up: {error.strerror}") from None
            if not data:
                return
            self._buffer += data


def _unreachable(path: Path, error: OSError) -> str:
    if isinstance(error, FileNotFoundError):
        return (
            f"no node is running here: there is no socket {path}; start one with"
            " 'twistd -n impfed --config FILE', or name its socket with --socket PATH or its"
            " configuration with --config FILE"
        )
    if isinstance(error, ConnectionRefusedError):
        return (
            f"no node is running here: the socket {path} was left behind by one that is gone;"
            " start it again with 'twistd -n impfed --config FILE'"
        )
    if isinstance(error, PermissionError):
        return (
            f"the system denies access to {path}; run impfedctl as the user that impfed runs as,"
            " for example with sudo -u impfed"
        )
    return f"cannot connect to {path}: {error.strerror or error}"
