"""Hosts for tests: network namespaces on one bridge, so that single cables and single directions can be cut."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import psutil

from tests.integration.programs import gone

ROOT = Path(__file__).resolve().parents[2]
PORT = 6379
COMMAND = "import sys; from obsray.cli.command import main; sys.exit(main())"


def ip(*arguments: str) -> str:
    """Run ``ip``. Needs root; a machine where that is not to be had cannot say that obsray works between hosts."""
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, timeout=20)
    assert done.returncode == 0, f"ip {' '.join(arguments)}: {done.stderr.strip()} (these tests need root and iproute2)"
    return done.stdout


class Host:
    """One network namespace, and what runs in it."""

    def __init__(self, name: str, address: str, root: Path) -> None:
        self.name, self.address, self.root = name, address, root
        root.mkdir()
        ip("netns", "add", name)
        ip("-n", name, "link", "set", "lo", "up")

    def command(self, *command: str) -> list[str]:
        return ["ip", "netns", "exec", self.name, sys.executable, *command]

    @property
    def environment(self) -> dict[str, str]:
        # What is cut off is noticed after two silent seconds and not fifteen.
        return {
            **os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(self.root), "OBSRAY_TRANSFER_STALL_SECONDS": "2",
        }  # fmt: skip

    def run(self, *command: str, seconds: float = 60.0) -> subprocess.CompletedProcess[str]:
        """A command there, to its end."""
        return subprocess.run(
            self.command(*command), capture_output=True, text=True, timeout=seconds, env=self.environment, cwd=ROOT
        )

    def try_node(self, *options: str, seconds: float = 60.0) -> subprocess.CompletedProcess[str]:
        """Start a node there, which may be refused."""
        here = ("--node-ip-address", self.address, "--unsafe-network", "--num-cpus", "1")
        return self.run("-c", COMMAND, "start", "--temp-dir", str(self.root), *here, *options, seconds=seconds)

    def start_node(self, *options: str) -> str:
        """Start a node there; its id."""
        done = self.try_node(*options)
        assert done.returncode == 0, done
        return str(json.loads((self.session / "session.json").read_text())["node"])

    @property
    def session(self) -> Path:
        return max(self.root.glob("obsray-*/s_*"), key=lambda path: path.stat().st_mtime)

    def remove(self) -> None:
        pids = [int(pid) for pid in ip("netns", "pids", self.name).split()]
        processes = [psutil.Process(pid) for pid in pids if psutil.pid_exists(pid)]
        for pid in pids:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        # Who has ended and is not reaped yet keeps nothing of its network.
        gone(processes)
        ip("netns", "del", self.name)


class Bridge:
    """A head with a bridge, and hosts with a cable each to it."""

    def __init__(self, others: int) -> None:
        # Not pytest's: a unix socket's path may not be longer than about a hundred characters.
        self.base = Path(tempfile.mkdtemp(prefix="h"))
        self.hosts: list[Host] = []
        for index in range(others + 1):
            name = f"obsray{os.getpid()}{'abcdefgh'[index]}"
            self.hosts.append(Host(name, f"10.78.0.{index + 1}", self.base / "abcdefgh"[index]))
        head, *rest = self.hosts
        ip("-n", head.name, "link", "add", "cable", "type", "bridge")
        for host in rest:
            port = self.port_of(host)
            ip("link", "add", port, "netns", head.name, "type", "veth", "peer", "name", "cable", "netns", host.name)
            ip("-n", head.name, "link", "set", port, "master", "cable")
            ip("-n", head.name, "link", "set", port, "up")
        for host in self.hosts:
            ip("-n", host.name, "address", "add", f"{host.address}/24", "dev", "cable")
            ip("-n", host.name, "link", "set", "cable", "up")

    def port_of(self, host: Host) -> str:
        return f"port{host.name[-1]}"

    def start(self) -> list[str]:
        """Start a node at each host; their ids. Each but the head has a resource of its letter."""
        head, *rest = self.hosts
        nodes = [head.start_node("--head", "--port", str(PORT), "--include-dashboard", "false")]
        return [*nodes, *(self.join(host) for host in rest)]

    def join(self, host: Host) -> str:
        """Start a node at a host; its id."""
        head, token = self.hosts[0], self.base / "token"
        if not token.exists():
            token.write_bytes((head.session / "token").read_bytes())
            token.chmod(0o600)
        resources = json.dumps({host.name[-1]: 100})
        joining = ("--address", f"{head.address}:{PORT}", "--token-file", str(token), "--resources", resources)
        return host.start_node(*joining)

    def remove(self) -> None:
        for host in self.hosts:
            host.remove()
        shutil.rmtree(self.base)
