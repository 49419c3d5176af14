"""Shell: what the machine wants done (``step.py``), done, and what came of it told to the machine."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from obsray.core.node import step as s
from obsray.core.protocol.messages import ActorChanged
from obsray.core.system.checkpoints import keep, kept

if TYPE_CHECKING:
    from obsray.core.node.shell import Node


class Deeds:
    """``table`` says for each kind of effect how this node does it."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.table: dict[type, Callable[[Any], None]] = {
            s.Send: self._send,
            s.SendNode: lambda effect: node.neighbours.send(effect.node, effect.message),
            s.Broadcast: self._broadcast,
            s.ConnectPeer: lambda effect: node.neighbours.connect(effect.node, effect.address),
            s.DisconnectPeer: lambda effect: node.neighbours.disconnect(effect.node),
            s.StartWorker: self._start_worker,
            s.MakeEnvironment: lambda effect: node.environments.make(effect),
            s.RemoveEnvironment: lambda effect: node.environments.remove(effect.environment),
            s.EndProcess: lambda effect: node.forks.signal(effect.worker, effect.signal),
            s.ReserveArena: lambda effect: node.disk.reserve(effect),
            s.SpillObject: lambda effect: node.disk.spill(effect),
            s.MakeFile: lambda effect: node.disk.make_file(effect),
            s.RestoreObject: lambda effect: node.disk.restore(effect),
            s.PullObject: lambda effect: node.transfers.pull(effect),
            s.CancelPull: lambda effect: node.transfers.cancel(effect.token),
            s.ServeObject: lambda effect: node.transfers.serve(effect),
            s.RefuseTransfer: lambda effect: node.transfers.serve(effect),
            s.CutTransfers: lambda effect: node.transfers.cut(effect.node),
            s.RemoveFile: lambda effect: node.disk.remove(effect.path),
            s.RemoveCheckpoints: lambda effect: node.disk.remove_directory(self._checkpoints(effect.actor)),
            s.KeepCheckpoint: self._keep_checkpoint,
            s.ReadCheckpoint: self._read_checkpoint,
            s.Report: self._report,
            s.ReportJob: self._report_job,
            s.ReserveName: lambda effect: node.naming.ask(effect),
            s.RegisterGroup: lambda effect: node.naming.register_group(effect),
            s.ReportGroup: self._report_group,
            s.FindName: lambda effect: node.naming.ask(effect),
            s.ListNames: lambda effect: node.naming.ask(effect),
            s.Shutdown: self._shut_down,
        }

    def _send(self, effect: s.Send) -> None:
        node = self.node
        link = node.links.get(effect.client)
        if link is not None:
            link.send(effect.message)
        elif node.neighbours.links:
            node.neighbours.send_client(effect.client, effect.message)

    def _broadcast(self, effect: s.Broadcast) -> None:
        node = self.node
        for link in node.links.values():
            link.send(effect.message)
        if effect.abroad:
            node.neighbours.send_all(effect.message)

    def _start_worker(self, effect: s.StartWorker) -> None:
        node = self.node
        if not node.forks.fork(effect.worker, effect.environment, effect.place):
            why = "the process that forks workers does not run; see logs/zygote.log"
            node.reactor.post(lambda: node.do(node.machine.worker_not_forked, effect.worker, why))

    def _shut_down(self, effect: s.Shutdown) -> None:
        self.node.ending = self.node.ending or effect.reason

    # --- the control store -----------------------------------------------------------------------------------

    def _report(self, effect: s.Report) -> None:
        news, reporter = effect.news, self.node.reporter
        if isinstance(news, ActorChanged):
            reporter.actor_changed(
                news.actor, news.state, news.incarnation, news.worker, news.path, news.cause, news.detail
            )
        else:
            reporter.actor_created(news)

    def _report_job(self, effect: s.ReportJob) -> None:
        self.node.reporter.start_job(effect.job, effect.driver, effect.pid, effect.entrypoint, effect.namespace)

    def _report_group(self, effect: s.ReportGroup) -> None:
        self.node.reporter.update_group(effect.group, int(effect.state), effect.nodes, effect.detail)

    # --- files -----------------------------------------------------------------------------------------------

    def _checkpoints(self, actor: bytes) -> Path:
        return self.node.session / "checkpoints" / actor.hex()

    def _keep_checkpoint(self, effect: s.KeepCheckpoint) -> None:
        node = self.node
        done = partial(node.do, node.machine.requests.checkpoint_done, effect)
        directory = self._checkpoints(effect.actor)
        node.disk.do(partial(keep, directory, effect.file, effect.data, effect.append, effect.gone), done)

    def _read_checkpoint(self, effect: s.ReadCheckpoint) -> None:
        node = self.node
        done = partial(node.do, node.machine.requests.checkpoint_done, effect)
        node.disk.do(partial(kept, self._checkpoints(effect.actor), effect.file), done)

    # --- what threads have done ------------------------------------------------------------------------------

    def reserved(self, end: int, error: str) -> None:
        """Answers ReserveArena."""
        if error:
            self.node.log(f"object store: no memory up to {end} bytes: {error}")
        self.node.do(self.node.machine.arena_reserved, end, error)

    def spilled(self, token: int, path: str, seconds: float, error: str) -> None:
        """Answers SpillObject."""
        if error:
            self.node.log(f"object store: spilling failed: {error}")
        self.node.do(self.node.machine.object_spilled, token, path, seconds, error)

    def file_made(self, number: int, path: str, error: str) -> None:
        """Answers MakeFile."""
        if error:
            self.node.log(f"object store: a file instead of room cannot be made: {error}")
        self.node.do(self.node.machine.object_file_made, number, path, error)

    def restored(self, token: int, seconds: float, error: str) -> None:
        """Answers RestoreObject."""
        if error:
            self.node.log(f"object store: an object is lost: {error}")
        self.node.do(self.node.machine.object_restored, token, seconds, error)

    def environment_made(self, environment: bytes, place: dict[str, Any], size_bytes: int, error: str) -> None:
        """Answers MakeEnvironment."""
        if error:
            self.node.log(f"environment {environment.hex()} cannot be made: {error}")
        self.node.do(self.node.machine.environment_made, environment, place, size_bytes, error)
