"""``obsray start``: a node that outlives this command."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import obsray
from obsray.autoscaler.files import load
from obsray.autoscaler.provider import provider_class
from obsray.autoscaler.settings import NODE_GROUP, parse
from obsray.cli.cluster_options import PORT
from obsray.cli.sessions import Problem
from obsray.config import Config
from obsray.core import options as opts
from obsray.core import parameters
from obsray.core.protocol import addresses
from obsray.core.protocol.labels import check_value
from obsray.core.runtime import joining
from obsray.core.runtime.node_process import NodeProcess, new_session_directory, start_node
from obsray.core.transport.connection import TOKEN_BYTES
from obsray.dashboard import plain_json
from obsray.telemetry import session_file

TOKEN_VARIABLE = "OBSRAY_TOKEN"
STARTED_BY = "obsray start"


def run_start(options: argparse.Namespace) -> int:
    """Start a node and say how to go on; with ``--block`` stay until it ends."""
    wanted = _wanted(options)
    token = _token(options)
    if not addresses.is_loopback(options.node_ip_address):
        print(
            f"obsray: WARNING: this node listens at {options.node_ip_address}; what is said there is not encrypted: "
            "whoever can read this network can take part in the cluster",
            file=sys.stderr,
        )
    try:
        directory = new_session_directory(options.temp_dir, token)
        node = start_node(directory, wanted, lifeline=options.block)
    except (RuntimeError, OSError) as error:
        advice = "With --token-file FILE, or OBSRAY_TOKEN: 64 hex digits." if "'s token" in str(error) else ""
        raise Problem(str(error), advice) from None
    session_file.update(directory, started_by=STARTED_BY, storage=options.storage)
    joining.announce(directory, head=options.head)
    if options.json:
        print(plain_json.dumps(_facts(node)), flush=True)
    else:
        print(_text(node, options), flush=True)
    return _block(node) if options.block else 0


def _wanted(options: argparse.Namespace) -> dict[str, Any]:
    """What the node is started with. Raises Problem for what contradicts itself or cannot be."""
    try:
        _check(options)
        settings = _json(options.system_config, "--system-config", dict) or {}
        if options.unsafe_network:
            settings["unsafe_network"] = "1"
        if options.metrics_export_port is not None:
            settings["metrics_address"] = addresses.join(options.node_ip_address, options.metrics_export_port)
            addresses.parse(settings["metrics_address"], "--metrics-export-port")
        Config.from_environment(**settings)
        resources = _json(options.resources, "--resources", dict) or {}
        names = ("num_cpus", "num_gpus", "memory", "object_store_memory")
        amounts = {name: getattr(options, name) for name in names}
        opts.check({**amounts, "resources": resources}, frozenset((*amounts, "resources")), "obsray start")
        parameters.check_gpus(options.num_gpus)
        parameters.check_dashboard(options.dashboard_host, options.dashboard_port)
        labels = parameters.labels_of({**_labels_file(options.labels_file), **_labels(options.labels)})
        if options.node_group:
            labels[NODE_GROUP] = check_value(options.node_group, "--node-group")
        host = options.node_ip_address
        wanted: dict[str, Any] = {
            "config": settings,
            "resources": {
                "CPU": options.num_cpus,
                "GPU": options.num_gpus,
                "memory": options.memory,
                "object_store_memory": options.object_store_memory,
                "custom": resources,
            },
            "labels": labels,
            "node_name": options.node_name,
            "node_id": options.node_id,
            "listen": addresses.join(host, options.node_manager_port),
            "standby": options.standby,
            "storage": options.storage,
            "settings": {"version": obsray.__version__},
        }
        if options.head:
            wanted["control_listen"] = addresses.join(host, PORT if options.port is None else options.port)
            wanted["include_dashboard"] = options.include_dashboard is not False
            wanted["dashboard_port"] = options.dashboard_port
            if options.autoscaling_config is not None:
                wanted["autoscaling"] = load(options.autoscaling_config)
                provider_class(parse(wanted["autoscaling"], options.autoscaling_config))
        else:
            wanted["control"] = addresses.normal(options.address, "--address")
            if options.standby:
                wanted["control_listen"] = addresses.join(host, 0)
                wanted["storage"] = options.storage or _storage_of(options.address, options.temp_dir)
        for name in ("listen", "control_listen"):
            if wanted.get(name):
                addresses.parse(wanted[name], name)
    except (TypeError, ValueError) as error:
        raise Problem(str(error), "See obsray start --help.") from None
    return wanted


def _storage_of(address: str, temp_dir: str | None) -> str:
    """The storage of a cluster whose head is on this machine. Raises ValueError if it is not."""
    try:
        head = joining.find(joining.Address(address, address), temp_dir)
    except ConnectionError:
        head = Path()
    facts = session_file.read(head)
    if not facts.get("head"):
        raise ValueError(
            "--standby needs --storage: the directory (on a disk that both machines share) or redis:// address that "
            "the head was started with"
        )
    return str(facts.get("storage") or head / "control")


def _check(options: argparse.Namespace) -> None:
    if options.head == bool(options.address):
        raise ValueError("say either --head, for a new cluster, or --address HOST:PORT, to join one")
    if options.head and options.standby:
        raise ValueError("--standby is for a node that joins: the head runs the control store it stands by for")
    if options.session:
        raise ValueError("--session is for commands about a session that is there")
    if options.address and options.storage and not options.standby:
        raise ValueError("--storage is for a node with a control store: the head, or one with --standby")
    if options.head and (options.node_id or options.node_group):
        raise ValueError("--node-id and --node-group are for nodes that an autoscaler's provider starts")
    for name in ("port", "include_dashboard", "dashboard_port", "autoscaling_config"):
        if options.address and getattr(options, name) is not None:
            raise ValueError(f"--{name.replace('_', '-')} is the head's: leave it out with --address")


def _json(text: str | None, name: str, kind: type) -> Any:
    if text is None:
        return None
    try:
        value = json.loads(text)
    except ValueError as error:
        raise ValueError(f"{name} {text!r} is not JSON: {error}") from None
    if not isinstance(value, kind):
        raise ValueError(f'{name} {text!r}: must be an object like {{"name": 1}}')
    return value


def _labels(text: str | None) -> dict[str, str]:
    if not text:
        return {}
    if text.lstrip().startswith("{"):
        found: dict[str, str] = _json(text, "--labels", dict)
        return found
    return dict(_pair(part, "--labels", "=") for part in text.split(",") if part.strip())


def _labels_file(path: str | None) -> dict[str, str]:
    if path is None:
        return {}
    try:
        text = Path(path).read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"--labels-file {path}: {error}") from None
    if text.lstrip().startswith("{"):
        found: dict[str, str] = _json(text, "--labels-file", dict)
        return found
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.strip().startswith("#")]
    return dict(_pair(line, "--labels-file", "=" if "=" in line else ":") for line in lines)


def _pair(text: str, name: str, between: str) -> tuple[str, str]:
    key, sign, value = text.partition(between)
    if not sign:
        raise ValueError(f"{name}: {text!r} is not KEY=VALUE")
    return key.strip(), value.strip().strip("\"'")


def _token(options: argparse.Namespace) -> bytes | None:
    """The token to start with, None for a new one. Raises Problem if a cluster's is nowhere to be found."""
    if options.token_file:
        try:
            return token_of(Path(options.token_file).read_bytes(), options.token_file)
        except OSError as error:
            raise Problem(f"--token-file {options.token_file}: {error.strerror}") from None
    if os.environ.get(TOKEN_VARIABLE):
        return token_of(os.environ[TOKEN_VARIABLE].encode(), TOKEN_VARIABLE)
    if options.head:
        return None
    try:
        found = joining.find(joining.Address(options.address, options.address), options.temp_dir)
        return (found / "token").read_bytes()
    except ConnectionError as error:
        from obsray.core.node.joining import CannotJoin, check_reachable

        try:
            check_reachable(addresses.normal(options.address))
        except CannotJoin as refusal:
            raise Problem(str(refusal)) from None
        raise Problem(
            f"the token of the cluster at {options.address} is not on this machine",
            f"Copy the file 'token' from the session directory of its head and give it with --token-file, or set "
            f"{TOKEN_VARIABLE} to its 64 hex digits.",
        ) from error


def token_of(data: bytes, where: str) -> bytes:
    if len(data) == TOKEN_BYTES:
        return data
    try:
        token = bytes.fromhex(data.decode().strip())
    except ValueError:
        token = b""
    if len(token) != TOKEN_BYTES:
        raise Problem(f"{where} holds no token: a token is {TOKEN_BYTES} bytes, or {2 * TOKEN_BYTES} hex digits")
    return token


def _facts(node: NodeProcess) -> dict[str, Any]:
    return {
        "address": node.facts["control_address_tcp"],
        "node_address": node.facts["node_address"],
        "node_id": node.facts["node"],
        "head": node.facts["head"],
        "pid": node.pid,
        "session_dir": str(node.directory),
        "token_file": str(node.directory / "token"),
    }


def _text(node: NodeProcess, options: argparse.Namespace) -> str:
    address, directory = node.facts["control_address_tcp"], node.directory
    local = addresses.is_loopback(options.node_ip_address)
    role = "the head of a cluster" if node.facts["head"] else "a node of the cluster"
    lines = [f"{role} at {address}: node {node.facts['node']}, pid {node.pid}", f"  session    {directory}"]
    if options.head:
        if options.include_dashboard is not False:
            lines.append("  dashboard  the command 'obsray dashboard' prints its link")
        lines += ["", "another node, on this machine:", f"  obsray start --address={address}"]
        if not local:
            lines += [
                "another node, on another machine (copy the token there first, and keep it secret):",
                f"  obsray start --address={address} --token-file=TOKEN    TOKEN: a copy of {directory}/token",
            ]
    lines += ["", "a program on this machine:", f'  obsray.init(address={address!r})    or address="auto"']
    lines += ["", "what it does:  obsray status", "its end:       " + ("Ctrl-C" if options.block else "obsray stop")]
    return "\n".join(lines)


def _block(node: NodeProcess) -> int:
    """Stay until the node ends, or a signal asks for its end."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        code = node.process.wait()
    except KeyboardInterrupt:
        print("obsray: ending the node", file=sys.stderr)
        node.stop(Config.from_environment().shutdown_grace_seconds)
        return 0
    node.release()
    print(f"obsray: the node has ended; its log is {node.directory}/logs/node.log", file=sys.stderr)
    return 1 if code else 0
