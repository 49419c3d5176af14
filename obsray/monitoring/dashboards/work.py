"""Dashboards about what users run: tasks and functions, actors, scheduler, jobs."""

from __future__ import annotations

from obsray.monitoring.grafana import Dashboard, Panel

_AT = "tasks:submitted_at_ns"


def quantiles(metric: str, by: str = "fn", labels: str = "$F") -> tuple[tuple[str, str], ...]:
    """Median and 99th percentile of a histogram."""
    return tuple(
        (f"histogram_quantile({q}, sum by ({by}, le) (rate({metric}_bucket{{{labels}}}[$R])))", f"{{{{{by}}}}} p{name}")
        for q, name in ((0.5, "50"), (0.99, "99"))
    )


TASKS = Dashboard(
    "obsray-tasks",
    "Tasks and functions",
    "Rate, errors and duration of every function, where the time of tasks goes, and what failed.",
    (
        (
            "Rate",
            (
                Panel("Submitted", "Tasks accepted a second.", "ops",
                      (("sum by (fn) (rate(obsray_tasks_submitted_total{$F}[$R]))", "{{fn}}"),), _AT),
                Panel("Ended", "Tasks that are over, a second, by outcome.", "ops",
                      (("sum by (outcome) (rate(obsray_tasks_finished_total{$F}[$R]))", "{{outcome}}"),), _AT, stack=True),
                Panel("Running", "Tasks running now.", "short",
                      (("sum by (instance) (obsray_tasks_running{$C})", "{{instance}}"),), "tasks", stack=True),
                Panel("Not over", "Tasks submitted and not over, the ten functions that have most.", "short",
                      (("topk(10, sum by (fn) (obsray_tasks_unfinished{$F}))", "{{fn}}"),), "tasks"),
            ),
        ),
        (
            "Errors",
            (
                Panel("Failure ratio", "Share of tasks that end in an error, cancelled ones left out.", "percentunit",
                      (('sum by (fn) (rate(obsray_tasks_finished_total{$F, outcome!~"ok|cancelled"}[$R]))'
                        " / sum by (fn) (rate(obsray_tasks_finished_total{$F}[$R]))", "{{fn}}"),), _AT),
                Panel("Failures by outcome", "Whose fault it was: app_error is the function's.", "ops",
                      (('sum by (outcome) (rate(obsray_task_outcomes_total{$C, outcome!="ok"}[$R]))', "{{outcome}}"),), _AT,
                      stack=True),
                Panel("Retries", "Attempts that failed and were followed by another.", "ops",
                      (("sum by (fn, cause) (rate(obsray_task_retries_total{$F}[$R]))", "{{fn}} {{cause}}"),), _AT),
            ),
        ),
        (
            "Duration",
            (
                Panel("Run time", "Time inside the function. Points are single tasks: they lead to their trace.", "s",
                      quantiles("obsray_task_duration_seconds"), _AT),
                Panel("Waiting for a worker", "From submission or the last argument to dispatch.", "s",
                      quantiles("obsray_task_queue_seconds"), _AT),
                Panel("Run time of all tasks", "How many tasks took how long.", "s",
                      (("sum by (le) (increase(obsray_task_duration_seconds_bucket{$F}[$R]))", "{{le}}"),), _AT, "heatmap"),
                Panel("Mean run time by node", "The same function on different nodes: what sticks out is a straggler.", "s",
                      (("instance_fn:obsray_task_duration_seconds:mean5m{$F}", "{{fn}} {{instance}}"),), _AT),
                Panel("Mean run time", "Of five minutes.", "s",
                      (("fn:obsray_task_duration_seconds:mean5m{$F}", "{{fn}}"),), _AT),
                Panel("Slowest functions", "Seconds inside each function a second: the ten that take most.", "s",
                      (("topk(10, sum by (fn) (rate(obsray_task_duration_seconds_sum{$F}[$R])))", "{{fn}}"),), _AT, "bargauge"),
            ),
        ),
        (
            "Where the time goes",
            (
                Panel("Time of workers by phase", "Seconds a second that workers fetch, deserialise, run and store.", "s",
                      (("sum(rate(obsray_task_fetch_seconds_sum{$F}[$R]))", "fetch"),
                       ("sum(rate(obsray_task_deserialize_seconds_sum{$F}[$R]))", "deserialise"),
                       ("sum(rate(obsray_task_duration_seconds_sum{$F}[$R]))", "run"),
                       ("sum(rate(obsray_task_store_seconds_sum{$F}[$R]))", "store")), _AT, stack=True),
                Panel("CPU", "CPUs used by each function.", "short",
                      (("sum by (fn) (rate(obsray_task_cpu_seconds_total{$F}[$R]))", "{{fn}}"),), _AT, stack=True),
                Panel("Blocked", "Tasks that wait inside get, wait or put.", "short",
                      (("sum by (fn) (rate(obsray_task_blocked_seconds_total{$F}[$R]))", "{{fn}}"),), _AT),
            ),
        ),
        (
            "Collective operations",
            (
                Panel("Duration", "As each member saw them.", "s",
                      quantiles("obsray_collective_seconds", "operation", "$C"), "tasks"),
                Panel("Waiting for others", "Share of it that members waited for others to begin.", "percentunit",
                      (("sum by (operation) (rate(obsray_collective_wait_seconds_total{$C}[$R]))"
                        " / sum by (operation) (rate(obsray_collective_seconds_sum{$C}[$R]))", "{{operation}}"),), "tasks"),
                Panel("Sent, and failures", "Bytes between members; failures a second.", "Bps",
                      (("sum by (operation) (rate(obsray_collective_sent_bytes_total{$C}[$R]))", "{{operation}}"),
                       ("sum by (operation) (rate(obsray_collective_failures_total{$C}[$R]))", "{{operation}} failures")),
                      "tasks"),
            ),
        ),
    ),
    ("fn",),
)  # fmt: skip

SCHEDULER = Dashboard(
    "obsray-scheduler",
    "Scheduler and decisions",
    "What waits and why, what the schedulers decided, how late they are, how workers come and go.",
    (
        (
            "What waits",
            (
                Panel("Pending tasks by reason", "What tasks that do not run wait for.", "short",
                      (("sum by (reason) (obsray_tasks_pending{$C})", "{{reason}}"),), "tasks", stack=True),
                Panel("Pending tasks by shape", "The same by what they ask for.", "short",
                      (("sum by (shape) (obsray_tasks_pending{$C})", "{{shape}}"),), "tasks", stack=True),
                Panel("Demands that wait", "Demands for workers in the queues of the nodes; infeasible ones fit no node.", "short",
                      (("sum by (node) (obsray_scheduler_queue_depth{$N})", "{{node}}"),
                       ("sum by (node) (obsray_scheduler_demands_infeasible{$N})", "{{node}} infeasible")), "tasks"),
                Panel("99th percentile of waiting", "From submission to dispatch, over five minutes.", "s",
                      (("cluster:obsray_task_queue_seconds:p99_5m{$C}", "{{cluster}}"),), _AT),
            ),
        ),
        (
            "Decisions",
            (
                Panel("Decisions by outcome", "Answers to demands: granted here, queued, sent elsewhere, infeasible.", "ops",
                      (("sum by (outcome) (rate(obsray_scheduler_decisions_total{$N}[$R]))", "{{outcome}}"),), "tasks", stack=True),
                Panel("Decisions by reason", "Why they were answered so.", "ops",
                      (("sum by (reason) (rate(obsray_scheduler_decisions_total{$N}[$R]))", "{{reason}}"),), "tasks", stack=True),
                Panel("From demand to worker", "How long a demand waited for its worker.", "s",
                      quantiles("obsray_scheduler_lease_wait_seconds", "node", "$N"), "workers"),
                Panel("Lateness of the node's loop", "The thread that decides: late means overloaded.", "s",
                      quantiles("obsray_scheduler_loop_lag_seconds", "node", "$N"), "nodes"),
            ),
        ),
        (
            "Workers",
            (
                Panel("Workers by state", "Processes of all nodes.", "short",
                      (("sum by (state) (obsray_workers{$N})", "{{state}}"),), "workers", stack=True),
                Panel("Starting a worker", "From asking for a process to its hello.", "s",
                      quantiles("obsray_worker_start_seconds", "node", "$N"), "workers"),
                Panel("Ends of processes", "By cause.", "ops",
                      (("sum by (cause) (rate(obsray_worker_deaths_total{$N}[$R]))", "{{cause}}"),), "workers"),
                Panel("Environments", "Time to make one, and failures a second.", "s",
                      (*quantiles("obsray_environment_setup_seconds", "node", "$N"),
                       ("sum by (node) (rate(obsray_environment_failures_total{$N}[$R]))", "{{node}} failures")), "environments"),
                Panel("Output not passed on", "What workers print and drivers of other nodes did not get.", "Bps",
                      (("sum by (node) (rate(obsray_logs_dropped_bytes_total{$N}[$R]))", "{{node}}"),
                       ("sum by (node) (rate(obsray_output_dropped_bytes_total{$N}[$R]))", "{{node}} not kept"),
                       ("sum by (node) (rate(obsray_job_output_dropped_bytes_total{$N}[$R]))", "{{node}} of jobs")),
                       "workers"),
            ),
        ),
        (
            "Placement groups",
            (
                Panel("Placement groups", "By state.", "short",
                      (("sum by (state) (obsray_placement_groups{$C})", "{{state}}"),), "placement_groups"),
                Panel("Waiting for a placement group", "From asking for it to its being there.", "s",
                      (("histogram_quantile(0.5, sum by (le) (rate(obsray_placement_group_pending_seconds_bucket{$C}[$R])))", "p50"),
                       ("histogram_quantile(0.99, sum by (le) (rate(obsray_placement_group_pending_seconds_bucket{$C}[$R])))", "p99")),
                      "placement_groups"),
            ),
        ),
    ),
    ("node",),
)  # fmt: skip

ACTORS = Dashboard(
    "obsray-actors",
    "Actors",
    "Actors by class and state, the calls that wait for them, restarts, deaths, and what saving their state costs.",
    (
        (
            "Actors",
            (
                Panel("Actors by state", "Those that are not dead.", "short",
                      (("sum by (state) (obsray_actors{$C})", "{{state}}"),), "actors", stack=True),
                Panel("Actors by class", "Those that are not dead.", "short",
                      (("sum by (actor_class) (obsray_actors{$C})", "{{actor_class}}"),), "actors", stack=True),
                Panel("Starting", "How long constructors take.", "s",
                      (("histogram_quantile(0.5, sum by (le) (rate(obsray_actor_start_seconds_bucket{$C}[$R])))", "p50"),
                       ("histogram_quantile(0.99, sum by (le) (rate(obsray_actor_start_seconds_bucket{$C}[$R])))", "p99")),
                      "actors:created_at_ns"),
            ),
        ),
        (
            "Calls",
            (
                Panel("Calls that are not done", "Of the ten methods that have most: queues in front of actors.", "short",
                      (('topk(10, sum by (fn) (obsray_tasks_unfinished{$C, fn=~".+[.].+"}))', "{{fn}}"),), "tasks"),
                Panel("Calls", "Calls that ended a second, by method.", "ops",
                      (('sum by (fn) (rate(obsray_tasks_finished_total{$C, fn=~".+[.].+"}[$R]))', "{{fn}}"),), _AT),
                Panel("Time of a call", "Inside the method.", "s",
                      (('histogram_quantile(0.99, sum by (fn, le) (rate(obsray_task_duration_seconds_bucket{$C, fn=~".+[.].+"}[$R])))',
                        "{{fn}} p99"),), _AT),
            ),
        ),
        (
            "Restarts and deaths",
            (
                Panel("Restarts", "In the interval that is shown, by class and cause.", "short",
                      (("sum by (actor_class, cause) (increase(obsray_actor_restarts_total{$C}[$R]))", "{{actor_class}} {{cause}}"),),
                      "actors:created_at_ns"),
                Panel("Deaths", "Actors that are gone for good, by class and cause.", "short",
                      (("sum by (actor_class, cause) (increase(obsray_actor_deaths_total{$C}[$R]))", "{{actor_class}} {{cause}}"),),
                      "actors:died_at_ns"),
                Panel("Restarts in all", "Since the head started.", "short",
                      (("sum by (actor_class, cause) (obsray_actor_restarts_total{$C})", "restarts"),), "actors", "table"),
            ),
        ),
        (
            "State",
            (
                Panel("Checkpoints", "States saved a second, and calls repeated by restored actors.", "ops",
                      (("sum(rate(obsray_actor_checkpoints_total{$C}[$R]))", "saved"),
                       ("sum(rate(obsray_actor_calls_replayed_total{$C}[$R]))", "calls repeated")), "actors"),
                Panel("Size of checkpoints", "Bytes written a second.", "Bps",
                      (("sum(rate(obsray_actor_checkpoint_bytes_total{$C}[$R]))", "written"),), "actors"),
                Panel("Time for checkpoints", "Seconds a second that actors spend saving.", "s",
                      (("sum(rate(obsray_actor_checkpoint_seconds_total{$C}[$R]))", "saving"),), "actors"),
            ),
        ),
    ),
)  # fmt: skip

JOBS = Dashboard(
    "obsray-jobs",
    "Job cost and closed books",
    "What each job cost, and where all time of all workers went: the parts add up to the whole.",
    (
        (
            "Cost of jobs",
            (
                Panel("Cost by job", "Since the head started: attempts, seconds of workers, of CPUs and of GPUs.", "short",
                      (("sum by (job_id) (obsray_job_attempts_total{$C})", "attempts"),
                       ("sum by (job_id) (obsray_job_task_seconds_total{$C})", "worker seconds"),
                       ("sum by (job_id) (obsray_job_cpu_seconds_total{$C})", "CPU seconds"),
                       ("sum by (job_id) (obsray_job_gpu_seconds_total{$C})", "GPU seconds")), "jobs", "table", width=12),
                Panel("Workers by job", "How many workers each job keeps busy.", "short",
                      (("sum by (job_id) (rate(obsray_job_task_seconds_total{$C}[$R]))", "{{job_id}}"),), "jobs", width=12, stack=True),
                Panel("CPUs by job", "CPU seconds a second.", "short",
                      (("sum by (job_id) (rate(obsray_job_cpu_seconds_total{$C}[$R]))", "{{job_id}}"),), "jobs", stack=True),
                Panel("GPUs by job", "Seconds a second in which kernels ran.", "short",
                      (("sum by (job_id) (rate(obsray_job_gpu_seconds_total{$C}[$R]))", "{{job_id}}"),), "jobs", stack=True),
                Panel("Drivers", "Joined and left, a second.", "ops",
                      (("sum(rate(obsray_jobs_started_total{$C}[$R]))", "joined"),
                       ("sum by (cause) (rate(obsray_jobs_ended_total{$C}[$R]))", "left: {{cause}}")), "jobs"),
            ),
        ),
        (
            "Closed books",
            (
                Panel("Time of workers by activity", "Workers by what they do; the sum is the number of workers.", "short",
                      (("sum by (activity) (rate(obsray_worker_seconds_total{$C}[$R]))", "{{activity}}"),), "workers", width=12, stack=True),
                Panel("Share of activities", "Of the time that is shown.", "percentunit",
                      (("sum by (activity) (increase(obsray_worker_seconds_total{$C}[$__range]))"
                        " / ignoring (activity) group_left () sum(increase(obsray_worker_seconds_total{$C}[$__range]))", "{{activity}}"),),
                      "workers", "piechart", width=6),
                Panel("Busy", "Share of workers' time in which a task ran.", "percentunit",
                      (('sum(rate(obsray_worker_seconds_total{$C, activity="busy"}[$R])) / sum(rate(obsray_worker_seconds_total{$C}[$R]))',
                        "busy"),), "workers", "gauge", width=6),
                Panel("By node", "Share of each activity on each node, over five minutes.", "percentunit",
                      (('node_activity:obsray_worker_seconds:ratio_rate5m{$C, activity!="idle"}', "{{node}} {{activity}}"),), "nodes", width=12),
                Panel("Does the book close?", "Busy time by samples against the time that tasks say they took.", "s",
                      (('sum(rate(obsray_worker_seconds_total{$C, activity=~"busy|blocked_in_get"}[$R]))', "sampled"),
                       ("sum(rate(obsray_job_task_seconds_total{$C}[$R]))", "said by tasks that ended")), "workers", width=12),
            ),
        ),
    ),
)  # fmt: skip
