"""The tables that SQL sees: what each is, and what each of its columns means. ``docs/sql.md`` is made from this.

A relation is filled either by ``rows.py`` (``select`` is None) out of the folded tables of a session, or by ``select``
out of other relations and of ``event.<kind>``, which hold the records themselves (``docs/events.md``).
"""

from __future__ import annotations

from dataclasses import dataclass

#: What a column holds -> its type in SQL. "id" is lower-case hex, "time" is UTC.
SQL_TYPES = {
    "id": "VARCHAR",
    "text": "VARCHAR",
    "int": "BIGINT",
    "float": "DOUBLE",
    "bool": "BOOLEAN",
    "time": "TIMESTAMP",
    "json": "JSON",
}

#: The names that may stand at the end of a column -> the unit they say.
UNITS = {"_seconds": "seconds", "_bytes": "bytes", "_at": "UTC", "time": "UTC"}


@dataclass(frozen=True, slots=True)
class Column:
    """One column: its name, what it holds (a key of ``SQL_TYPES``) and what that means."""

    name: str
    kind: str
    text: str
    counted_in: str = ""

    @property
    def unit(self) -> str:
        """What its numbers count, if they count something."""
        return self.counted_in or next((unit for end, unit in UNITS.items() if self.name.endswith(end)), "")


@dataclass(frozen=True, slots=True)
class Relation:
    """One table: its name, what one row of it is, its columns in order."""

    name: str
    text: str
    columns: tuple[Column, ...]
    select: str | None = None


def _id(name: str, text: str) -> Column:
    return Column(name, "id", text)


def _text(name: str, text: str) -> Column:
    return Column(name, "text", text)


def _int(name: str, text: str, unit: str = "") -> Column:
    return Column(name, "int", text, unit)


def _float(name: str, text: str, unit: str = "") -> Column:
    return Column(name, "float", text, unit)


def _time(name: str, text: str) -> Column:
    return Column(name, "time", text)


def _bool(name: str, text: str) -> Column:
    return Column(name, "bool", text)


_TASK = _id("task_id", "The task.")
_NODE = _id("node_id", "The node it is about.")
_DURATIONS = (
    _float("fetch_seconds", "The attempt brought its stored arguments here."),
    _float("deserialize_seconds", "Arguments became values."),
    _float("run_seconds", "The function ran, without the time it was blocked."),
    _float("store_seconds", "Results were pickled and stored."),
    _float("cpu_seconds", "CPU time of the thread meanwhile."),
    _float("blocked_seconds", "It waited in get, wait or put."),
)

# As compact as it reads well.
# fmt: off
RELATIONS: tuple[Relation, ...] = (
    Relation("tasks", "One task, actor call or actor creation, with what its newest attempt did.", (
        _TASK, _text("name", "`options(name=...)` or the function's; of actor calls `Class.method`."),
        _text("type", "NORMAL_TASK, ACTOR_CREATION_TASK, ACTOR_TASK."),
        _text("state", "PENDING_ARGS_AVAIL, PENDING_NODE_ASSIGNMENT, SUBMITTED_TO_WORKER, RUNNING, "
              "RUNNING_IN_RAY_GET, FINISHED, FAILED, CANCELLED."),
        _text("outcome", "How it ended (ok, app_error, worker_died, ...); NULL before."),
        _int("attempt", "Number of its newest attempt, from 0."),
        _id("parent_task_id", "The task that submitted it; NULL for those of a driver."),
        _id("actor_id", "The actor whose call or creation it is."), _id("trace_id", "Its trace."),
        _id("owner_id", "The process that submitted it."), _text("job_id", "The job, in hex."),
        _id("worker_id", "The process that runs or ran it."), _int("worker_pid", "Its pid."),
        _id("node_id", "The node of that process."), _text("shape", "Resources it asks for, and its function."),
        _int("argument_count", "How many arguments are references."), _int("argument_bytes", "Pickled arguments."),
        _int("result_bytes", "Results."), _int("items", "Items handed out by a generator."),
        _int("retries_max", "Retries allowed; -1 for any number."),
        _time("submitted_at", "Its owner accepted the call."), _time("ready_at", "Its last missing argument came."),
        _time("dispatched_at", "It was pushed to a worker."), _time("started_at", "It began to run."),
        _time("ended_at", "It ended in its worker, or for its owner if it never ran."),
        _float("wait_arguments_seconds", "It waited for arguments to be made; NULL if all were there."),
        _float("queue_seconds", "From readiness to being pushed to a worker."),
        _float("dispatch_seconds", "From there to its start."), *_DURATIONS,
        _float("total_seconds", "From submission to its end, or to now."),
        _text("error", "Why it failed."), _text("labels", "What `_labels` says of it: `key=value,...`."),
    )),
    Relation("attempts", "One attempt of a task that reached a worker, or failed before.", (
        _TASK, _int("attempt", "Its number, from 0."), _text("name", "The function."),
        _id("actor_id", "The actor it ran in."), _id("worker_id", "Where it ran."), _id("node_id", "The node of that."),
        _int("lease", "The lease under which it was pushed; 0 for actor calls."),
        _text("outcome", "ok, app_error, ...; NULL while it runs."),
        _text("error", "Why it failed, if it was retried."),
        _time("dispatched_at", "It was pushed."), _time("arrived_at", "The worker had it."),
        _time("started_at", "It began to run."), _time("ended_at", "It ended."), *_DURATIONS,
        _int("result_bytes", "Results."),
    )),
    Relation("functions", "All tasks of one name.", (
        _text("name", "The function."), _int("tasks", "Tasks."), _int("finished", "Of those, FINISHED."),
        _int("failed", "Of those, FAILED."), _int("open", "Of those, not over yet."),
        _float("run_seconds_p50", "Median run time.", "seconds"),
        _float("run_seconds_p99", "99th percentile.", "seconds"),
        _float("run_seconds_max", "The longest.", "seconds"), _float("queue_seconds_p50", "Median wait for a worker.",
                                                                     "seconds"),
        _float("cpu_seconds", "CPU time in sum."), _int("result_bytes", "Results in sum."),
    ), """
        SELECT name, count(*) AS tasks, count(*) FILTER (state = 'FINISHED') AS finished,
            count(*) FILTER (state = 'FAILED') AS failed,
            count(*) FILTER (state NOT IN ('FINISHED', 'FAILED', 'CANCELLED')) AS open,
            quantile_cont(run_seconds, 0.5) AS run_seconds_p50, quantile_cont(run_seconds, 0.99) AS run_seconds_p99,
            max(run_seconds) AS run_seconds_max, quantile_cont(queue_seconds, 0.5) AS queue_seconds_p50,
            sum(cpu_seconds) AS cpu_seconds, sum(result_bytes)::BIGINT AS result_bytes
        FROM tasks GROUP BY name"""),
    Relation("actors", "One actor.", (
        _id("actor_id", "The actor."), _text("class_name", "Its class."), _text("name", "Its name, if it has one."),
        _text("namespace", "Where that name holds."),
        _text("repr_name", "What its class's __repr__ said when it was made, if it has one."),
        _text("state", "PENDING_CREATION, ALIVE, RESTARTING, DEAD."), _text("job_id", "The job, in hex."),
        _id("worker_id", "The process that is or was it."), _int("pid", "Its pid."), _id("node_id", "The node."),
        _text("shape", "Resources it holds."), _id("placement_group_id", "The group it runs in."),
        _bool("detached", "Whether it outlives its creator."), _int("calls", "Calls to it so far."),
        _int("restarts", "How often it was started again."), _int("restarts_max", "How often it may; -1: any number."),
        _time("created_at", "It was asked for."), _time("placed_at", "A worker was chosen."),
        _time("alive_at", "Its constructor returned."), _time("died_at", "It was gone for good."),
        _float("start_seconds", "Its constructor ran."), _text("died_cause", "Why it is gone."),
        _text("error", "The same in words."), _text("labels", "What `_labels` says of it: `key=value,...`."),
    )),
    Relation("objects", "One object that was put, or lies in the store (small results live in their owner).", (
        _id("object_id", "The object."), _id("task_id", "The task whose result it is, or the number of the put."),
        _id("owner_id", "The process that owns it."), _id("creator_id", "The process that wrote it."),
        _text("state", "CREATED, SEALED, SPILLED, FREED, LOST, IN_OWNER."),
        _text("kind", "put or result."), _text("producer", "The function that made it."),
        _text("call_site", "Where the program put it."), _int("object_bytes", "Its size."),
        _bool("inline", "Whether it lives in its owner."), _id("node_id", "Where the original lies or lay."),
        _int("pins", "How many processes' views of it there are now."),
        _int("reads", "How often it was mapped for reading."),
        _int("transfers", "How often it was copied to a node."),
        _time("put_at", "It was put."), _time("created_at", "Room was reserved."),
        _time("sealed_at", "It was complete."),
        _time("spilled_at", "It was last written to disk."), _time("restored_at", "It was last read back."),
        _time("freed_at", "Nothing referred to it any more."), _time("lost_at", "It could not be read any more."),
        _text("error", "Why it was lost."),
    )),
    Relation("transfers", "One object on its way from node to node.", (
        _id("object_id", "The object."), _id("source_id", "The node that gave it."),
        _id("node_id", "The node that took it."),
        _text("outcome", "done, failed, or running."), _int("object_bytes", "Its size."),
        _time("began_at", "Its bytes were asked for."), _time("ended_at", "The copy was complete, or given up."),
        _float("queue_seconds", "It waited for its turn."), _float("wire_seconds", "Its bytes were under way."),
        _int("sources", "Nodes that could have given it."), _int("attempts", "Tries."),
        _text("error", "Why it failed."),
    ), """
        SELECT object AS object_id, source AS source_id, destination AS node_id, 'done' AS outcome, object_bytes,
            make_timestamp(epoch_us(time) - (wire_seconds * 1e6)::BIGINT) AS began_at, time AS ended_at,
            queue_seconds, wire_seconds, sources, attempts, NULL::VARCHAR AS error FROM event.transfer_done
        UNION ALL
        SELECT object, source, destination, 'failed', object_bytes,
            make_timestamp(epoch_us(time) - (wire_seconds * 1e6)::BIGINT), time, queue_seconds, wire_seconds, NULL,
            attempts, error FROM event.transfer_failed
        UNION ALL
        SELECT b.object, b.source, b.destination, 'running', b.object_bytes, b.time, NULL, b.queue_seconds, NULL,
            b.sources, b.attempts, NULL
        FROM event.transfer_begun b WHERE NOT EXISTS (
            FROM event.transfer_done d WHERE d.object = b.object AND d.destination = b.destination AND d.time >= b.time
        ) AND NOT EXISTS (
            FROM event.transfer_failed f
            WHERE f.object = b.object AND f.destination = b.destination AND f.time >= b.time
        )"""),
    Relation("decisions", "One answer of a scheduler to a demand for workers.", (
        _time("time", "When."), _int("decision", "Its number at its node."), _id("node_id", "The node that decided."),
        _id("owner_id", "The process that asked."), _text("shape", "What it asked for."),
        _text("outcome", "granted, queued, infeasible, spilled (to another node), withdrawn."),
        _text("reason", "Why."), _id("chosen_node_id", "The node that was chosen."),
        _id("worker_id", "The worker that was leased."), _int("lease", "The number of the lease; 0 for none."),
        _int("wanted", "Workers asked for."), _int("queue_depth", "Demands that waited."),
        _float("queue_seconds", "How long this one had waited."), _int("candidates", "Nodes that were considered."),
        _text("deficit", "What was lacking."), _id("placement_group_id", "The group it was for."),
    ), """
        SELECT time, decision, process AS node_id, owner AS owner_id, shape, outcome, reason,
            chosen_node AS chosen_node_id, worker AS worker_id, lease, wanted, queue_depth, queue_seconds, candidates,
            nullif(deficit, '') AS deficit, "group" AS placement_group_id FROM event.lease_decided"""),
    Relation("candidates", "One node that a decision considered.", (
        _time("time", "When."), _int("decision", "The decision's number at the node that decided."),
        _id("node_id", "The node that decided."), _id("candidate_id", "The node that was considered."),
        _bool("feasible", "Whether it could have run the work."),
        _text("reject", "Why it was not taken; none if it was."),
        _float("wait_seconds", "Wait estimated there."), _int("queue_tasks", "Tasks that waited there."),
        _float("run_seconds_mean", "Mean run time there.", "seconds"), _int("remote_bytes", "Arguments to be brought."),
        _float("bandwidth_bytes", "Bytes a second between the two.", "bytes/second"),
        _text("missing", "What it lacked."),
    ), """
        SELECT time, decision, process AS node_id, node AS candidate_id, feasible <> 0 AS feasible, reject,
        wait_seconds,
            queue_tasks, run_seconds_mean, remote_bytes, bandwidth_bytes, nullif(missing, '') AS missing
        FROM event.lease_candidate"""),
    Relation("leases", "One worker leased to one owner.", (
        _id("node_id", "The node that granted it."), _int("lease", "Its number there."), _id("owner_id", "To whom."),
        _id("worker_id", "Which worker."), _text("shape", "For what."), _time("granted_at", "From when."),
        _time("returned_at", "Until when; NULL while it is held."), _float("held_seconds", "How long."),
        _int("tasks", "Tasks that ran under it."), _text("return_reason", "Why it ended."),
    ), """
        SELECT d.process AS node_id, d.lease, d.owner AS owner_id, d.worker AS worker_id, d.shape, d.time AS granted_at,
            r.time AS returned_at, r.held_seconds, r.tasks, r.reason AS return_reason
        FROM event.lease_decided d LEFT JOIN event.lease_returned r ON r.process = d.process AND r.lease = d.lease
        WHERE d.outcome = 'granted' AND d.lease <> 0"""),
    Relation("workers", "One process of the session: workers, drivers, nodes, services.", (
        _id("worker_id", "The process."), _text("kind", "worker, driver, node, control, dashboard, collector, ..."),
        _text("state", "STARTING, IDLE, LEASED, BUSY, BLOCKED, ACTOR, ALIVE, HALTED, DEAD."), _int("pid", "Its pid."),
        _id("node_id", "Its node."), _id("actor_id", "The actor it is."), _id("environment_id", "What it runs in."),
        _id("current_task_id", "What it runs now."), _int("tasks_done", "Attempts it ended."),
        _int("rss_bytes", "Resident memory, newest sample."), _int("unique_bytes", "Of that, shared with nobody."),
        _float("cpu_seconds", "CPU time so far."), _int("threads", "Threads."), _int("descriptors", "Open files."),
        _time("starting_at", "The node asked for it."), _time("registered_at", "It said hello."),
        _time("died_at", "It ended."), _float("start_seconds", "From one to the other."),
        _text("died_cause", "Why it ended."), _int("exit_code", "Its exit code."), _int("signal", "The signal."),
        _text("error", "The same in words."),
    )),
    Relation("nodes", "One node.", (
        _id("node_id", "The node."), _text("host", "Its host."), _int("pid", "Its pid."),
        _text("state", "ALIVE, SUSPECT, DEAD, ..."), _int("store_bytes", "Room for objects."),
        Column("resources", "json", "What it has and what of it is taken."),
        _time("started_at", "It was ready."), _time("stopped_at", "It ended."), _text("error", "Why."),
    )),
    Relation("jobs", "One run of a driver program.", (
        _text("job_id", "The job, in hex."), _text("state", "RUNNING, SUCCEEDED, FAILED, STOPPED."),
        _text("entrypoint", "The program."), _text("namespace", "Where its names hold."),
        _id("driver_id", "Its process."), _int("pid", "Its pid."), _int("tasks", "Tasks it and its tasks submitted."),
        Column("metadata", "json", "What the program said of itself."), _text("cause", "How its process ended."),
        _time("started_at", "It joined."), _time("ended_at", "It left."),
    )),
    Relation("placement_groups", "One placement group.", (
        _id("group_id", "The group."), _text("name", "Its name."), _text("namespace", "Where that holds."),
        _text("state", "PENDING, PREPARED, CREATED, RESCHEDULING, REMOVED."), _text("strategy", "PACK, SPREAD, ..."),
        _int("bundle_count", "Bundles."), _text("bundles", "What each reserves."), _text("job_id", "The job, in hex."),
        _bool("detached", "Whether it outlives its creator."), _int("attempts", "Tries to place it."),
        _time("requested_at", "It was asked for."), _time("created_at", "It was there."),
        _time("removed_at", "It ended."), _float("pending_seconds", "How long it waited."),
        _text("why", "Why it waits, or ended."),
    )),
    Relation("environments", "One environment of workers.", (
        _id("environment_id", "The environment."), _text("state", "PENDING, READY, FAILED, REMOVED."),
        Column("description", "json", "What it is."), _int("workers", "Processes in it now."),
        _time("asked_at", "Somebody needed it first."), _float("setup_seconds", "Making it took."),
        _int("environment_bytes", "Room on disk."), _text("error", "Why it failed."),
    )),
    Relation("gpu", "One piece of work of a GPU.", (
        _text("kind", "kernel, copy, memset, wait."), _TASK, _int("attempt", "The attempt."),
        _text("function", "The task's function."), _id("worker_id", "The process."),
        _text("attributed_by", "How the task is known; none if it is not."), _int("device", "The GPU's number."),
        _int("stream", "The stream."), _text("name", "The kernel; of copies the direction."),
        _time("launched_at", "The call that asked for it."), _time("began_at", "It began on the GPU."),
        _time("ended_at", "It ended."), _float("work_seconds", "How long."),
        _int("moved_bytes", "Bytes copied or set."),
    ), """
        SELECT 'kernel' AS kind, task AS task_id, attempt, function, worker AS worker_id, attributed_by, gpu AS device,
            stream, kernel AS name, make_timestamp(nullif(launched_at, 0)::BIGINT // 1000) AS launched_at,
            time AS began_at,
            make_timestamp(ended_at::BIGINT // 1000) AS ended_at, kernel_seconds AS work_seconds,
            NULL::BIGINT AS moved_bytes
        FROM event.gpu_kernel
        UNION ALL
        SELECT 'copy', task, attempt, function, worker, attributed_by, gpu, stream, direction,
            make_timestamp(nullif(launched_at, 0)::BIGINT // 1000), time, make_timestamp(ended_at::BIGINT // 1000),
            copy_seconds,
            copy_bytes FROM event.gpu_copy
        UNION ALL
        SELECT 'memset', task, attempt, function, worker, attributed_by, gpu, stream, destination,
            make_timestamp(nullif(launched_at, 0)::BIGINT // 1000), time, make_timestamp(ended_at::BIGINT // 1000),
            memset_seconds, memset_bytes FROM event.gpu_memset
        UNION ALL
        SELECT 'wait', task, attempt, function, worker, attributed_by, NULL, stream, waiting_for, NULL, time,
            make_timestamp(ended_at::BIGINT // 1000), wait_seconds, NULL FROM event.gpu_wait"""),
    Relation("samples", "One number that was sampled (about once a second).", (
        _time("time", "When."), _id("process_id", "Who sampled it: a node, a collector."),
        _text("metric", "What: resource_used, store_used_bytes, process_rss_bytes, node_loop_lag_seconds, ..."),
        _text("subject", "Of which resource or process."),
        _float("value", "The number, in the unit that ends its name."),
    ), """
        SELECT time, process AS process_id, unnest(['resource_total', 'resource_used']) AS metric, resource AS subject,
            unnest([total, used]) AS value FROM event.resource_sample
        UNION ALL
        SELECT time, process, unnest(['store_capacity_bytes', 'store_used_bytes', 'store_pinned_bytes',
            'store_spilled_bytes', 'store_fallback_bytes', 'store_objects', 'store_allocations_waiting']), NULL,
            unnest([capacity_bytes::DOUBLE, used_bytes, pinned_bytes, spilled_bytes, fallback_bytes, objects,
            allocations_waiting])
        FROM event.store_sample
        UNION ALL
        SELECT time, process, unnest(['process_rss_bytes', 'process_unique_bytes', 'process_cpu_seconds',
            'process_threads', 'process_descriptors']), worker,
            unnest([rss_bytes::DOUBLE, unique_bytes, cpu_seconds_total, threads, descriptors]) FROM event.process_sample
        UNION ALL
        SELECT time, process, unnest(['node_loop_lag_seconds', 'node_workers', 'node_workers_idle',
            'node_workers_leased', 'node_workers_blocked', 'node_demands_queued', 'node_demands_infeasible']), NULL,
            unnest([loop_lag_seconds::DOUBLE, workers, workers_idle, workers_leased, workers_blocked, demands_queued,
            demands_infeasible]) FROM event.node_sample
        UNION ALL
        SELECT time, process, unnest(['collector_events', 'collector_written_bytes', 'collector_cpu_seconds',
            'collector_lag_seconds']), NULL, unnest([events::DOUBLE, bytes_written, cpu_seconds, lag_seconds])
        FROM event.collector_sample"""),
    Relation("metrics", "One recorded value of a metric of user code.", (
        _time("time", "When."), _TASK, _id("worker_id", "Where."), _text("name", "The metric."),
        _text("tags", "Its tags."),
        _float("value", "The value."),
    ), """SELECT time, task AS task_id, process AS worker_id, name, nullif(tags, '') AS tags, value
        FROM event.user_metric"""),
    Relation("spans", "One span that user code made inside a task.", (
        _time("began_at", "It began."), _time("ended_at", "It ended."), _TASK, _id("worker_id", "Where."),
        _text("name", "Its name."), _float("span_seconds", "How long."),
        Column("attributes", "json", "Its attributes."),
        _id("trace_id", "Its trace."), _text("span_id", "Its id, 16 hex digits."),
        _text("parent_span_id", "The span around it, or that of its task."),
    ), """
        SELECT make_timestamp(epoch_us(time) - (span_seconds * 1e6)::BIGINT) AS began_at, time AS ended_at,
            task AS task_id, process AS worker_id, name, span_seconds, nullif(attributes, '') AS attributes,
            trace AS trace_id, printf('%016x', span) AS span_id,
            CASE WHEN parent_span = 0 THEN NULL ELSE printf('%016x', parent_span) END AS parent_span_id
        FROM event.user_span"""),
    Relation("events", "Every record of every kind, as it was told. `event.<kind>` has one kind with typed columns.", (
        _time("time", "When."), _text("event", "What: a kind of [events.md](events.md)."),
        _text("severity", "info, warning, error."), _id("process_id", "Who told it."),
        _int("sequence", "Its number among the records of that process, without gaps."),
        _id("task_id", "The task it mentions."),
        _id("object_id", "The object."), _id("actor_id", "The actor."), _id("worker_id", "The process."),
        Column("fields", "json", "All its fields."),
    )),
    Relation("rings", "One process as the loss ledger sees it: what it recorded, what is stored, what was lost.", (
        _id("process_id", "The process."), _text("kind", "What it is."), _int("pid", "Its pid."),
        _bool("closed", "Whether it ended in order."), _int("recorded", "Records it wrote."),
        _int("stored", "Of those, stored by the collector."), _int("gaps", "Of those, never seen."),
        _int("dropped", "Of those, dropped because the collector was too late."), _time("last_at", "The newest."),
    )),
    Relation("folded", "The attempts of one function whose records retention has deleted, in sum.", (
        _text("name", "The function."), _int("attempts", "Attempts."), _int("failed", "Of those, not ok."),
        _float("run_seconds", "Run time in sum."), _float("run_seconds_p50", "Median run time, to 9 %.", "seconds"),
        _float("run_seconds_p99", "99th percentile, to 9 %.", "seconds"),
        _float("run_seconds_max", "The longest.", "seconds"), _float("cpu_seconds", "CPU time in sum."),
        _int("result_bytes", "Results in sum."), _time("first_at", "The first of them ended."),
        _time("last_at", "The last of them ended."),
    )),
    Relation("logs", "One line of a log file of the session, of all nodes whose logs are here.", (
        _text("file", "The file; 'obsray logs' lists them."),
        _id("worker_id", "The process whose output it is."),
        _text("stream", "out, err, or system."), _int("line", "Its number in the file, from 1."),
        _text("text", "The line."), _int("offset", "Of its first byte in the file."),
        _time("time", "Whoever wrote it began to, or went on, then (within a second)."),
        _TASK, _int("attempt", "The attempt that wrote it."), _id("actor_id", "The actor."),
        _text("name", "The function."), _text("level", "Of a log record: how severe it is."),
        _text("logger", "Of a log record: who logged it."),
        _text("message", "Of a record logged as JSON: what it says."),
        _id("trace_id", "The trace of the task."), _text("job_id", "The job, in hex."), _id("node_id", "The node."),
    )),
)
# fmt: on

BY_NAME: dict[str, Relation] = {relation.name: relation for relation in RELATIONS}
