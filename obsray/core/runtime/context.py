"""Where code runs: the answers of ``obsray.get_runtime_context()``."""

from __future__ import annotations

from typing import Any

from obsray.core import options as opts
from obsray.core.runtime.running import Running
from obsray.core.runtime.session import Session
from obsray.runtime_env import RuntimeEnv
from obsray.telemetry import span_ids
from obsray.typed_ids import ActorID, JobID, NodeID, TaskID, WorkerID


class RuntimeContext:
    """Job, node, worker, task and actor of the code that asks. Ids are hex strings."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def __repr__(self) -> str:
        return f"RuntimeContext({', '.join(f'{name}={value!r}' for name, value in self.get().items())})"

    @property
    def _running(self) -> Running | None:
        return self._session.running()

    @property
    def _actor_spec(self) -> dict[str, Any] | None:
        executor = self._session.executor
        return executor.actor.spec if executor is not None and executor.actor is not None else None

    def get_job_id(self) -> str:
        """The job: one run of one driver program."""
        running = self._running
        job = running.context.get("job", self._session.job) if running is not None else self._session.job
        return int(job).to_bytes(4, "big").hex()

    def get_node_id(self) -> str:
        """The node this process runs on."""
        return self._session.node_id.hex()

    def get(self) -> dict[str, Any]:
        """Ids of what runs here: job, node, namespace; task and actor where there is one."""
        found: dict[str, Any] = {"job_id": self.job_id, "node_id": self.node_id, "namespace": self.namespace}
        if self.task_id is not None:
            found["task_id"] = self.task_id
        if self.actor_id is not None:
            found["actor_id"] = self.actor_id
        return found

    @property
    def job_id(self) -> JobID:
        """The job as an id."""
        return JobID(bytes.fromhex(self.get_job_id()))

    @property
    def node_id(self) -> NodeID:
        """The node as an id."""
        return NodeID(self._session.node_id)

    @property
    def worker_id(self) -> WorkerID:
        """This process as an id."""
        return WorkerID(self._session.worker)

    @property
    def task_id(self) -> TaskID | None:
        """The task or call that runs, None in a driver."""
        running = self._running
        return TaskID(running.task) if running is not None else None

    @property
    def actor_id(self) -> ActorID | None:
        """The actor this process is, None if it is none."""
        spec = self._actor_spec
        return ActorID(spec["actor"]) if spec is not None else None

    def get_session_name(self) -> str:
        """The name of the session: of its directory."""
        return self._session.directory.name

    def get_temp_dir(self) -> str:
        """Where session directories are."""
        return str(self._session.directory.parent)

    @property
    def runtime_env(self) -> RuntimeEnv:
        """What this code runs in; in a driver, what its tasks run in. Empty for nothing special."""
        return RuntimeEnv(_validate=False, **self._session.environments.shown())

    def get_runtime_env_string(self) -> str:
        """The same as JSON."""
        return self.runtime_env.serialize()

    def get_worker_id(self) -> str:
        """This process."""
        return self._session.worker.hex()

    def get_task_id(self) -> str | None:
        """The task or call that runs, None in a driver."""
        running = self._running
        return running.task.hex() if running is not None else None

    def get_task_name(self) -> str | None:
        """Its name: ``options(name=...)`` or the function's."""
        running = self._running
        if running is None:
            return None
        return str((running.options or {}).get("name") or running.loaded.name)

    def get_task_function_name(self) -> str | None:
        """The function that runs, with the module it is from; of an actor also its class: ``module.Class.method``."""
        running = self._running
        if running is None:
            return None
        actor = self._session.executor.actor if self._session.executor is not None else None
        owner = running.loaded.function if actor is None or actor.instance is None else type(actor.instance)
        module = getattr(owner, "__module__", None)
        return f"{module}.{running.loaded.name}" if module else running.loaded.name

    def get_actor_id(self) -> str | None:
        """The actor this process is, None if it is none."""
        spec = self._actor_spec
        return spec["actor"].hex() if spec is not None else None

    def get_actor_name(self) -> str | None:
        """The actor's name, "" if it has none, None outside actors."""
        spec = self._actor_spec
        return spec["name"] if spec is not None else None

    def get_assigned_resources(self) -> dict[str, float]:
        """What the scheduler set aside for this task or actor. Raises AssertionError in a driver, which has nothing."""
        running = self._running
        if running is None and self._session.executor is None:
            raise AssertionError("get_assigned_resources() is only available inside tasks and actors")
        resources = running.context.get("resources", {}) if running is not None else {}
        return {name: opts.floating(name, amount) for name, amount in resources.items()}

    def get_accelerator_ids(self) -> dict[str, list[str]]:
        """The devices set aside for this task or actor, by kind; ids are strings, as CUDA_VISIBLE_DEVICES has them."""
        return {"GPU": [str(device) for device in self.assigned_gpus()]}

    def assigned_gpus(self) -> list[Any]:
        """The GPUs set aside for what runs here: numbers, or the names of devices that go by those."""
        running = self._running
        devices = running.context.get("devices", {}) if running is not None else {}
        numbers = list(devices.get("GPU", ()))
        executor = self._session.executor
        # Devices that CUDA_VISIBLE_DEVICES knows by other names than numbers go by those.
        return executor.gpus_named(numbers) if numbers and executor is not None else numbers

    def get_placement_group_id(self) -> str | None:
        """The placement group this task or actor runs in, None outside of groups."""
        running = self._running
        group = running.context.get("group") if running is not None else None
        return group.hex() if group else None

    @property
    def should_capture_child_tasks_in_placement_group(self) -> bool:
        """Whether what is submitted from here goes to the same placement group unless it says otherwise."""
        running = self._running
        return running is not None and bool(running.context.get("capture"))

    def get_node_labels(self) -> dict[str, str]:
        """The labels of the node this process runs on."""
        for node in self._session.request("nodes"):
            if node["node"] == self._session.node_id:
                return dict(node["labels"])
        return {}

    def get_trace_id(self) -> str | None:
        """The trace of this task: 32 hex digits; None in a driver."""
        running = self._running
        return running.trace.hex() if running is not None else None

    def get_span_id(self) -> str | None:
        """The span of this attempt in its trace: 16 hex digits; None in a driver."""
        running = self._running
        return f"{span_ids.of_task(running.task, running.attempt):016x}" if running is not None else None

    def is_canceled(self) -> bool:
        """Whether somebody cancelled the call that asks. Raises RuntimeError in async actors: theirs is cancelled."""
        executor = self._session.executor
        if executor is not None and executor.actor is not None and executor.actor.loops:
            raise RuntimeError("is_canceled() is not for async actors: their coroutine gets asyncio.CancelledError")
        running = self._running
        return running is not None and running.cancelled

    @property
    def namespace(self) -> str:
        """The namespace in which this job's actors are named."""
        spec = self._actor_spec
        return str(spec["namespace"] if spec is not None else self._session.namespace)

    @property
    def gcs_address(self) -> str:
        """What others pass to ``init(address=...)``: ``host:port`` of the cluster, else the session directory."""
        return self._session.address

    @property
    def current_actor(self) -> Any:
        """A handle of the actor this code runs in. Raises RuntimeError outside actors."""
        import pickle

        from obsray.core.handles import ActorHandle

        spec = self._actor_spec
        if spec is None:
            raise RuntimeError("current_actor is only known inside an actor")
        return ActorHandle(spec["actor"], pickle.loads(spec["meta"]), self._session, None)

    @property
    def was_current_actor_reconstructed(self) -> bool:
        """Whether the actor's process is not its first. Raises AssertionError outside actors."""
        executor = self._session.executor
        if executor is None or executor.actor is None:
            raise AssertionError("was_current_actor_reconstructed is only known inside an actor")
        return bool(executor.actor.incarnation > 0)
