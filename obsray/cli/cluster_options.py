"""The options of ``obsray start``, ``stop`` and ``drain``, and what is said to those of Ray that have nothing to do
here.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

Verb = Callable[[str, str, Callable[[argparse.Namespace], int], str], argparse.ArgumentParser]
PORT = 6379

_START_EXAMPLES = """one terminal (or machine) starts the head, others start nodes that join it. Nodes live until
'obsray stop'. examples:
  obsray start --head                                      the head of a new cluster, at 127.0.0.1:6379
  obsray start --head --port 0 --num-cpus 4 --block        at any free port; ends with Ctrl-C
  obsray start --address 127.0.0.1:6379 --num-cpus 2       a node that joins
  obsray start --head --autoscaling-config nodes.json      starts further nodes when something waits for them
  obsray start --address 127.0.0.1:6379 --resources '{"disk": 2}' --labels zone=a,kind=fast
programs join with obsray.init(address="auto"), or with the address.
"""
_STOP_EXAMPLES = """examples:
  obsray stop              end this user's nodes on this machine that 'obsray start' has started
  obsray stop --force      at once, with kill -9
"""
_DRAIN_EXAMPLES = """examples:
  obsray drain left                          by name
  obsray drain 5c43070a --deadline 600       by (part of) its id; leaves after ten minutes whatever still runs
  obsray drain left --wait                   shows what still holds it until it has left
"""

#: Options of Ray that are refused -> why, and what to do.
REFUSED: dict[str, str] = {
    "--object-manager-port": "objects move over the node's one port: --node-manager-port",
    "--min-worker-port": "workers share the node's one port: --node-manager-port",
    "--max-worker-port": "workers share the node's one port: --node-manager-port",
    "--worker-port-list": "workers share the node's one port: --node-manager-port",
    "--ray-client-server-port": "there is no client server; programs run on a machine with a node",
    "--dashboard-agent-listen-port": "there is no agent",
    "--dashboard-agent-grpc-port": "there is no agent",
    "--runtime-env-agent-port": "the node makes environments itself",
    "--plasma-directory": "objects lie in anonymous shared memory",
    "--object-spilling-directory": "spilled objects lie in the session directory: --temp-dir",
    "--tracing-startup-hook": "every task is recorded with its trace already",
    "--system-reserved-cpu": "give --num-cpus what tasks may use",
    "--system-reserved-memory": "give --memory what tasks may use",
    "--cgroup-path": "start the node in that cgroup; its limits are respected",
    "--proxy-server-url": "the dashboard reads ended sessions itself: obsray dashboard",
    "--redis-password": "the cluster's token is used: --token-file, OBSRAY_TOKEN",
}  # fmt: skip
REFUSED_FLAGS = {
    "--enable-resource-isolation": "start the node in a container or systemd scope with the limits you want",
    "--ray-debugger-external": "obsray debug attaches on the machine of the worker",
    "--no-redirect-output": "output of a node goes to its session's logs: obsray logs node",
}
#: Options of Ray that say what is so anyway.
GRANTED_FLAGS = ("--disable-usage-stats", "--include-log-monitor")


class Refuse(argparse.Action):
    """An option that ends the command with what to do instead."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: object, values: object, option: str | None = None):  # type: ignore[no-untyped-def]
        name = str(option)
        parser.error(f"{name} is not offered: {(REFUSED | REFUSED_FLAGS)[name]}")


def add(verb: Verb, start: Callable[..., int], stop: Callable[..., int], drain: Callable[..., int]) -> None:
    """Add the three commands."""
    _add_start(verb("start", "Start a node: the head of a new cluster, or one that joins.", start, _START_EXAMPLES))
    made = verb("stop", "End the nodes that 'obsray start' has started.", stop, _STOP_EXAMPLES)
    made.add_argument("-f", "--force", action="store_true", help="kill -9 instead of an orderly end")
    made.add_argument(
        "-g", "--grace-period", type=float, default=16.0, metavar="SECONDS",
        help="how long an orderly end may take before the node is killed (default 16)",
    )  # fmt: skip
    made = verb(
        "drain", "Have a node take no more work and leave when what runs there has ended.", drain, _DRAIN_EXAMPLES
    )
    made.add_argument("node", help="id (or part of it), name or address of the node")
    made.add_argument("--reason", "--reason-message", default="", metavar="TEXT", help="why, for people")
    made.add_argument(
        "--deadline", "--deadline-remaining-seconds", type=float, metavar="SECONDS",
        help="leave then, whatever still runs (default: wait as long as it takes)",
    )  # fmt: skip
    made.add_argument("--wait", action="store_true", help="show what still holds it, and return when it has left")


def _add_start(made: argparse.ArgumentParser) -> None:
    what = made.add_argument_group("which cluster")
    what.add_argument("--head", action="store_true", help="start a new cluster with this node as its head")
    what.add_argument("--address", metavar="HOST:PORT", help="join the cluster there")
    what.add_argument("--token-file", metavar="FILE", help="the cluster's token (else OBSRAY_TOKEN, else found here)")
    what.add_argument("--port", type=int, metavar="N", help=f"where the head listens (default {PORT}; 0: any)")
    what.add_argument("--storage", metavar="WHERE", help="state of the control store: directory or redis://")
    what.add_argument("--standby", action="store_true", help="also run a control store that takes over from the head's")
    what.add_argument(
        "--autoscaling-config", metavar="FILE",
        help="of the head: which nodes are started for what waits, as JSON, TOML or YAML (docs/autoscaling.md)",
    )  # fmt: skip
    where = made.add_argument_group("where it listens")
    where.add_argument(
        "--node-ip-address", "--host", metavar="HOST", default="127.0.0.1", help="interface (default 127.0.0.1)"
    )
    where.add_argument("--node-manager-port", type=int, default=0, metavar="N", help="the node's own port (0: any)")
    where.add_argument(
        "--metrics-export-port",
        type=int,
        metavar="N",
        help="where its /metrics listens (default: any free port)",
    )
    where.add_argument(
        "--unsafe-network", action="store_true",
        help="allow an interface that other machines reach; traffic is not encrypted (docs/security.md)",
    )  # fmt: skip
    has = made.add_argument_group("what it has")
    has.add_argument("--num-cpus", type=float, metavar="N", help="default: what the container allows")
    has.add_argument("--num-gpus", type=float, metavar="N", help="default: those that are visible")
    has.add_argument("--memory", type=int, metavar="BYTES", help="for tasks that ask for memory")
    has.add_argument("--object-store-memory", type=int, metavar="BYTES", help="default: 30 %% of memory")
    has.add_argument("--resources", metavar="JSON", help="custom ones: '{\"disk\": 2}'")
    has.add_argument("--labels", metavar="KEY=VALUE,...", help="for label selectors; JSON works too")
    has.add_argument("--labels-file", metavar="FILE", help="labels as JSON, or one KEY=VALUE or KEY: VALUE a line")
    has.add_argument("--node-name", metavar="NAME", help="what people call it; one living node may have a name")
    has.add_argument("--node-id", metavar="HEX", help="its id, if an autoscaler's provider starts it")
    has.add_argument("--node-group", metavar="TYPE", help="its node type, likewise")
    how = made.add_argument_group("how it runs")
    how.add_argument("--block", action="store_true", help="stay until the node ends; Ctrl-C ends it")
    how.add_argument("--temp-dir", metavar="DIR", help="where its session directory lies")
    how.add_argument("--system-config", metavar="JSON", help="settings (docs/configuration.md)")
    how.add_argument("--include-dashboard", type=_yes, metavar="BOOL", help="of the head (default true)")
    how.add_argument("--dashboard-host", default="127.0.0.1", metavar="HOST", help="127.0.0.1 and no other")
    how.add_argument("--dashboard-port", type=int, metavar="N", help="first port to try (default 8265)")
    for name in REFUSED:
        made.add_argument(name, action=Refuse, help=argparse.SUPPRESS)
    for name in REFUSED_FLAGS:
        made.add_argument(name, action=Refuse, nargs=0, help=argparse.SUPPRESS)
    for name in GRANTED_FLAGS:
        made.add_argument(name, action="store_true", help=argparse.SUPPRESS)


def _yes(text: str) -> bool:
    if text.lower() in ("1", "true", "yes"):
        return True
    if text.lower() in ("0", "false", "no"):
        return False
    raise argparse.ArgumentTypeError(f"{text!r} is neither true nor false")
