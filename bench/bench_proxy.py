"""CPU per in-dialog MESSAGE that a routing node passes on, beside Kamailio with the same load.

Both relay between two TLS connections, by Via, Record-Route and transactions; the node also decides
for each request whether it may pass. One of them runs at a time, pinned to core 1.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from pathlib import Path

from bench.run import FOREIGN, LOCAL, TESTED, Bench, children, table
from demo.node import TWISTD
from demo.parts import ROOT, Part, PartFailed

CONFIGURATION = """\
[node]
state_directory = "{directory}/state"
control_socket = "{directory}/control.sock"

[tls]
ca = "{near.ca}"

[[tls.certificate]]
name = "federation"
certificate = "{near.certificate}"
key = "{near.key}"

[[listener]]
name = "edge"
transport = "tls"
bind = "127.0.0.1:{port}"

[[domain]]
name = "{foreign}"
next_hop = {{ address = "127.0.0.1:9", tls_name = "sip.{foreign}" }}

[[neighbour]]
name = "load"
domains = ["{local}"]
address = "127.0.0.1:{far_port}"
tls_name = "localhost"
peer_names = ["nobody.{local}"]  # both ends of the load show one certificate
"""


def start_node(bench: Bench) -> Part:
    """Start a node that has no users of its own."""
    directory = bench.directory / "node"
    (directory / "state").mkdir(parents=True)
    path = directory / "impfed.toml"
    values = {"near": bench.near, "port": bench.node_port, "far_port": bench.far_port}
    text = CONFIGURATION.format(directory=directory, foreign=FOREIGN, local=LOCAL, **values)
    path.write_text(text)
    command: list[str | Path] = [*TESTED, *TWISTD, "-n", "--pidfile=", "impfed", "--config", path]
    node = Part("node", command, directory)
    bench.parts.append(node.stop)
    node.await_port(bench.node_port)
    return node


def measure(bench: Bench, node: Part) -> None:
    """Measure one round of the node."""
    target = f"sip:u%d@{LOCAL}"
    uas = ("--uas", f"127.0.0.1:{bench.far_port}", "--ruri", target, "--to", target)
    result = bench.load(children(node.pid), *bench.caller(bench.node_port, *uas))
    bench.keep("impfed, proxied", result)


def main() -> int:
    """Measure and print; return the exit code."""
    parser = argparse.ArgumentParser(prog="bench_proxy", description=__doc__)
    parser.add_argument("--rate", type=float, default=600.0, help="messages a second")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--pairs", type=int, default=100, help="sessions")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    directory = ROOT / "run" / "bench" / f"proxy-{os.getpid()}"
    shutil.rmtree(directory, ignore_errors=True)
    bench = Bench(directory, options.rate, options.seconds, 4.0, options.pairs)
    try:
        bench.build()
        bench.start_kamailio()
        node = start_node(bench)
        for _ in range(options.rounds):
            bench.measure_kamailio()
            measure(bench, node)
        print(table(bench, None))
    except PartFailed as error:
        print(error, file=sys.stderr)
        return 1
    finally:
        bench.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
