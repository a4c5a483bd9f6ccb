"""The ``twistd impfed`` command: options, configuration errors in words, the log's form."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from twisted.application.service import IService, MultiService
from twisted.internet import reactor
from twisted.logger import ILogObserver
from twisted.python import usage
from twisted.python.components import Componentized
from twisted.python.logfile import LogFile

from impfed.config.load import load
from impfed.config.model import Config
from impfed.config.problems import ConfigErrors
from impfed.core.logformat import log_observer
from impfed.edge_service import Edge
from impfed.routing.plugins import PluginError
from impfed.service import Node


class Options(usage.Options):
    """Options of ``twistd impfed``."""

    optParameters = [
        ["config", "c", "/etc/impfed/impfed.toml", "Configuration file (TOML)"],
    ]


class _Application(MultiService):
    """A node or an edge that brings its own log observer, unless twistd was told to use another."""

    config: Config
    log_file: str | None = None

    def setServiceParent(self, parent: Any) -> None:
        if isinstance(parent, Componentized):
            stream = LogFile.fromFullPath(self.log_file) if self.log_file else sys.stdout
            node = self.config.node
            parent.setComponent(ILogObserver, log_observer(stream, node.log_format, node.log_level))
        super().setServiceParent(parent)  # type: ignore[no-untyped-call]  # Twisted's


class _NodeApplication(_Application, Node):
    """A node as a program."""


class _EdgeApplication(_Application, Edge):
    """An edge as a program."""


def makeService(options: Options) -> IService:
    """Make the node's service from the command line.

    :raises SystemExit: listing every problem of the configuration.
    """
    path = Path(options["config"])
    try:
        config = load(path)
    except ConfigErrors as errors:
        raise SystemExit(f"{path} cannot be used:\n{errors}") from errors
    try:
        kind = _NodeApplication if config.edge is None else _EdgeApplication
        node = kind(reactor, config)
    except PluginError as error:
        raise SystemExit(f"{path} cannot be used:\n{error}") from error
    twistd = options.parent
    logfile = twistd.get("logfile") if twistd is not None else None
    if logfile and logfile != "-":
        node.log_file = logfile
    elif twistd is not None and not twistd.get("nodaemon"):
        node.log_file = "twistd.log"
    return node
