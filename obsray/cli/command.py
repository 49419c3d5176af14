"""``obsray``: the commands, their options, and what an error looks like.

Exit codes: 0 answered, 1 could not be answered (no such session, id or page), 2 wrong arguments.
Everything heavy is imported by the command that needs it, so that ``--help`` and mistakes answer at once.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence

NOUNS = (
    "tasks", "actors", "placement-groups", "objects", "workers", "environments", "nodes", "instances", "jobs",
    "functions", "collectives", "gpus", "kernels", "cluster-events", "runtime-envs",
)  # fmt: skip

_EXAMPLES = """examples:
  obsray start --head                            a cluster that outlives programs (obsray stop ends it)
  obsray demo                                    run real work and watch it
  obsray job submit -- python train.py           run a command there as a job
  obsray dashboard                               the link to the session's dashboard
  obsray status                                  how the session is
  obsray list tasks --filter state=FAILED        what failed
  obsray list tasks --sort -run_seconds          what took longest
  obsray story 3fa2c1d0:42                       everything that happened to one task
  obsray why 3fa2c1d0:42                         why it waits, is slow or failed
  obsray books                                   where the workers' time went; would more of them help?
  obsray critical-path                           what a job's duration consists of
  obsray what-if                                 what would make it shorter
  obsray stragglers                              what took unusually long, and why
  obsray different state=FAILED                  what they have in common
  obsray memory                                  what fills the object store
  obsray gpu                                     every GPU: who has it, and why it idles
  obsray profile --function load                 where its code spends its time
  obsray stack                                   what all threads do now
  obsray hangs                                   what waits for itself or makes no progress
  obsray post-mortem 3fa2c1d0:42                 what is left of the process that it died with
  obsray timeline                                what ran when, for ui.perfetto.dev
  obsray sql "FROM tasks LIMIT 10"               anything, in SQL
  obsray sim --scenario attrition --seed 7       the scheduler and its friends against dying workers
"""
_LIST_EXAMPLES = """a filter is 'column op value'; op: = != < <= > >= contains in. Several filters must all hold.
examples:
  obsray list tasks --filter 'state in FAILED,CANCELLED'
  obsray list tasks --filter 'run_seconds > 250ms' --filter 'name contains load' --sort -run_seconds
  obsray list objects --filter 'object_bytes >= 10MB' --limit 200 --json
  obsray list functions
"""
_GET_EXAMPLES = """an id may be cut short as long as it is unique, or be given as lists print it.
examples:
  obsray get task 3fa2c1d0:42
  obsray get task 3fa2c1d0aa00bb11000000000000002a --json
  obsray get placement-group 3fa2c1d0:g1
"""
_WHY_EXAMPLES = """an id may be cut short as long as it is unique, or be given as lists print it.
examples:
  obsray why 3fa2c1d0:42            a task: why it waits, is slow, failed; where its time went
  obsray why 3fa2c1d0:a1            an actor
  obsray why 3fa2c1d0:g1 --json     a placement group, for programs
  obsray why gpu:0                  a GPU (gpu:NODE/0 of several nodes): why it idles
"""
_GPU_EXAMPLES = """examples:
  obsray gpu                   the GPUs of the session
  obsray gpu --json            for programs
  obsray list gpus             one line each
  obsray list kernels          what they ran, by function and kernel
  obsray why gpu:0             one GPU in a sentence, and what would help
  obsray get task 3fa2c1d0:42  what one task had its GPU do
"""
_BOOKS_EXAMPLES = """examples:
  obsray books                 the whole session
  obsray books 00000001        one job (see obsray list jobs)
  obsray books --over-time     also how busy each worker was, piece of time by piece of time
  obsray books --json          for programs
"""
_CRITICAL_EXAMPLES = """examples:
  obsray critical-path                the job with most tasks
  obsray critical-path 00000001       one job (see obsray list jobs)
  obsray critical-path --json         for programs, with every piece of the path
"""
_WHAT_IF_EXAMPLES = """examples:
  obsray what-if                               the usual changes, ranked: what to mend first
  obsray what-if --workers 2                   twice the workers (inf: as many as wanted)
  obsray what-if --function load=4 --driver 2  two changes together
"""
_STRAGGLERS_EXAMPLES = """examples:
  obsray stragglers                 the whole session
  obsray stragglers 00000001        one job (see obsray list jobs)
"""
_DIFFERENT_EXAMPLES = """a condition is 'column op value' as for obsray list tasks --filter; all of them must hold.
examples:
  obsray different 'run_seconds > 1s'                          what slow tasks have in common
  obsray different state=FAILED --among name=load              failed ones against other tasks of load
  obsray different 'submitted_at_ns > 1795767110000000000'     later ones against earlier ones
"""
_COMPARE_EXAMPLES = """exit codes: 0 nothing got worse, 3 something did, 1 and 2 as for all commands.
examples:
  obsray compare s_1127_085 s_1127_090        two sessions by (part of) their names or directories
  obsray compare main/ branch/ --threshold 20 || echo "slower"
"""
_MEMORY_EXAMPLES = """examples:
  obsray memory                  by call site, function, job, owner and age; what looks leaked
  obsray memory --json           for programs
"""
_SIM_EXAMPLES = """a run is decided by its scenario and its seed alone; the digest of two equal runs is equal.
examples:
  obsray sim                                          the scenarios there are
  obsray sim --seed 7 --scenario attrition            one run, and what its decisions cost
  obsray sim --seed 1 --runs 200 --scenario actors    seeds 1 to 200; the first that fails is told
  obsray sim --runs 100 --scenario 'small_*' --twice  100 seeds of each of these, twice with equal logs
  obsray sim --scenario founded_1000                  a thousand full nodes (half a minute)
  obsray sim --seed 7 --scenario mine.toml --thorough look at everything after each step
  obsray sim --seed 7 --scenario cluster_links --log  all that happened, line by line
  obsray sim --scale                                  what decisions cost with 10 to 10,000 nodes
"""
_LOGS_EXAMPLES = """examples:
  obsray logs                       the files there are
  obsray logs 7c01 -f               what a worker prints, as it comes (id, part of it, or pid)
  obsray logs --task 3fa2c1d0:42    the lines that a task wrote
  obsray logs node                  the node's own log
  obsray logs --grep 'loss=' --function train --since 10m    searched in the whole cluster
  obsray logs --level warning -f    what is logged from here on, by anybody
  obsray logs --actor 3fa2c1d0:a7 --json    a JSON object for each line
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given[:1] == ["demo"]:
        from obsray.demo import main as demo

        return int(demo(given[1:]) or 0)
    # argparse takes "-run_seconds" for an option; a descending order is asked for in just this way.
    for number in range(len(given) - 2, -1, -1):
        if given[number] == "--sort" and given[number + 1].startswith("-"):
            given[number : number + 2] = [f"--sort={given[number + 1]}"]
    parser = _parser()
    try:
        options = parser.parse_args(given)
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else 2
    if not hasattr(options, "run"):
        parser.print_help()
        return 0
    from obsray.cli.sessions import Problem

    try:
        run: Callable[[argparse.Namespace], int] = options.run
        code = run(options)
        # What was folded may still be being kept: nobody waits for that with an answer in a pipe.
        sys.stdout.flush()
        return code
    except Problem as problem:
        print(f"obsray: {problem}", file=sys.stderr)
        if problem.advice:
            print(f"        {problem.advice}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The reader (a pager, head) has seen enough; nothing may be flushed into the pipe at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _noun(text: str) -> str:
    return text.replace("-", "_")


def _thing(text: str) -> str:
    """One of several: ``get tasks ID`` is the same as ``get task ID``."""
    return _noun(text).removesuffix("s")


def _no_thing(text: str) -> str:
    """An id; a kind of thing alone is none."""
    if text.lower().replace("_", "-").removesuffix("s") in {noun.removesuffix("s") for noun in NOUNS}:
        raise argparse.ArgumentTypeError(f"which {text.removesuffix('s')}? Give its id: {text.removesuffix('s')} ID")
    return text


def _parser() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument(
        "--session", metavar="NAME", help="session name, part of it, or directory (default: the newest that runs)"
    )
    common.add_argument("--json", action="store_true", help="answer in JSON")
    parser = argparse.ArgumentParser(
        prog="obsray",
        description="See what an obsray session does and did.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verbs = parser.add_subparsers(title="commands", metavar="COMMAND", dest="command")

    def verb(
        name: str, text: str, run: Callable[[argparse.Namespace], int], examples: str = ""
    ) -> argparse.ArgumentParser:
        made = verbs.add_parser(
            name,
            help=text,
            description=text,
            epilog=examples,
            parents=[common],
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        made.set_defaults(run=run)
        return made

    verbs.add_parser("demo", help="run real work on this machine and watch it (see obsray demo --help)", add_help=False)
    from obsray.cli import cluster_options, history_options

    cluster_options.add(verb, _start, _stop, _drain)
    from obsray.cli import jobs

    jobs.add(verbs, jobs.run)
    history_options.add(verb)
    from obsray.cli import profiles

    profiles.add(verb)
    from obsray.cli import stacks

    stacks.add(verb)
    from obsray.cli import hangs

    hangs.add(verb)
    from obsray.cli import post_mortem

    post_mortem.add(verb)
    status = verb(
        "status",
        "How the session is: nodes, resources, workers, tasks, store, events and losses.",
        _status,
        "example:\n  obsray status\n",
    )
    status.add_argument(
        "--at", metavar="MOMENT", help="as it was then: 10m (ago), +5s (after the start), 12:03:05, ..."
    )

    lists = verb("list", "List what the session has or had.", _list, _LIST_EXAMPLES)
    plain = [noun.replace("-", "_") for noun in NOUNS]
    lists.add_argument("noun", type=_noun, choices=plain, metavar="NOUN", help=", ".join(NOUNS))
    lists.add_argument(
        "--filter", action="append", default=[], metavar="CONDITION", help="'column op value', repeatable"
    )
    lists.add_argument("--sort", metavar="COLUMN", help="column to sort by, -column for descending")
    lists.add_argument("--limit", type=int, default=50, metavar="N", help="rows at most (default 50)")
    lists.add_argument("--offset", type=int, default=0, metavar="N", help="rows to skip (default 0)")
    history_options.add_rows(lists)

    examples = _GET_EXAMPLES + "  obsray get 3fa2c1d0:42            whatever has that id\n"
    get = verb("get", "Everything known about one thing.", _get, examples)
    things = [noun.removesuffix("s") for noun in NOUNS[:6]]
    choices = [thing.replace("-", "_") for thing in things]
    get.add_argument(
        "noun", nargs="?", type=_thing, choices=choices, metavar="THING",
        help=", ".join(things) + "; without it whatever has that id",
    )  # fmt: skip
    get.add_argument("id", type=_no_thing)

    story = verb(
        "story",
        "What happened to one task, actor, placement group, object or worker, oldest first.",
        _story,
        _GET_EXAMPLES.replace("get task", "story").replace("get placement-group", "story"),
    )
    story.add_argument("id")

    reason = verb(
        "why", "Why a task, actor, placement group, object or GPU is as it is, in one sentence.", _why, _WHY_EXAMPLES
    )
    reason.add_argument("id")

    account = verb(
        "books",
        "Where every second of every worker slot went, and whether more workers would help.",
        _books,
        _BOOKS_EXAMPLES,
    )
    account.add_argument("job", nargs="?", help="a job's id (default: the whole session)")
    account.add_argument("--over-time", action="store_true", help="also each worker's, in equal pieces of the time")

    verb(
        "gpu", "Every GPU: who has it, what its time went into, and why it idles; the kernels that took most.", _gpu,
        _GPU_EXAMPLES,
    )  # fmt: skip

    path = verb(
        "critical-path", "What the duration of a job consists of, and which tasks have slack.", _critical_path,
        _CRITICAL_EXAMPLES,
    )  # fmt: skip
    path.add_argument("job", nargs="?", help="a job's id (default: the one with most tasks)")

    replayed = verb(
        "what-if", "How long a job would have taken with more workers or faster parts.", _what_if, _WHAT_IF_EXAMPLES
    )
    replayed.add_argument("job", nargs="?", help="a job's id (default: the one with most tasks)")
    replayed.add_argument("--workers", metavar="N", help="so many times the workers, inf for no limit")
    replayed.add_argument(
        "--function", action="append", default=[], metavar="NAME=N", help="a function N times faster, repeatable"
    )
    replayed.add_argument("--network", metavar="N", help="arguments fetched N times faster")
    replayed.add_argument("--driver", metavar="N", help="the driver N times faster")
    replayed.add_argument(
        "--no-stragglers", action="store_true", help="no run longer than the 95th percentile of its function"
    )
    replayed.add_argument("--rough", action="store_true", help="a number also where replays are known to be far off")

    slow = verb(
        "stragglers", "Tasks that took much longer than others of their function, and why.", _stragglers,
        _STRAGGLERS_EXAMPLES,
    )  # fmt: skip
    slow.add_argument("job", nargs="?", help="a job's id (default: the whole session)")

    differ = verb(
        "different", "What is different about some tasks: every label and measure, the most telling first.", _different,
        _DIFFERENT_EXAMPLES,
    )  # fmt: skip
    differ.add_argument("where", nargs="+", metavar="CONDITION", help="which tasks are asked about")
    differ.add_argument(
        "--among", action="append", default=[], metavar="CONDITION", help="look at these tasks only, repeatable"
    )

    compare = verb(
        "compare", "What became slower or fails in a session, against an earlier one.", _compare, _COMPARE_EXAMPLES
    )
    compare.add_argument("before", help="the earlier session: directory, name or part of one")
    compare.add_argument("after", help="the later session")
    compare.add_argument(
        "--threshold", metavar="PERCENT", default="10", help="medians so much longer count (default 10)"
    )

    verb("memory", "What fills the object store, and what looks leaked.", _memory, _MEMORY_EXAMPLES)

    logs = verb("logs", "What workers printed, and the logs of the runtime's own processes.", _logs, _LOGS_EXAMPLES)
    logs.add_argument("worker", nargs="?", help="(part of) the id of a worker, actor or task, pid, or a log file")
    history_options.add_log_options(logs)

    timeline = verb(
        "timeline",
        "Write what ran when as a trace for ui.perfetto.dev or chrome://tracing.",
        _timeline,
        "examples:\n  obsray timeline                        into timeline-<session>.json\n"
        "  obsray timeline -o - | gzip > t.json.gz\n",
    )
    timeline.add_argument("-o", "--output", metavar="FILE", help="where to write it (- for stdout)")

    debug = verb(
        "debug",
        "Attach to a task or actor that waits in the debugger (breakpoint() in a worker).",
        _debug,
        "examples:\n  obsray debug\n  obsray debug 4711\n",
    )
    debug.add_argument("pid", nargs="?", help="the process, if several wait")

    dashboard = verb(
        "dashboard",
        "Print the link to the session's dashboard; serve it if nobody does.",
        _dashboard,
        "examples:\n  obsray dashboard\n  obsray dashboard --session s_2026     look at a recorded session\n",
    )
    dashboard.add_argument("--port", type=int, default=8265, help="first port to try when serving (default 8265)")

    metrics = verb(
        "metrics",
        "Where Prometheus finds the metrics; files for Prometheus and Grafana.",
        _metrics,
        "examples:\n  obsray metrics\n  obsray metrics --prometheus monitoring --grafana monitoring/grafana\n",
    )
    metrics.add_argument("--prometheus", metavar="DIR", help="write prometheus.yml and the alert rules there")
    metrics.add_argument("--grafana", metavar="DIR", help="write dashboards and provisioning there")
    metrics.add_argument(
        "--credential-of",
        metavar="FILE",
        help="only print what a scraper may read with, made of the cluster's token in FILE",
    )
    metrics.add_argument("--output", metavar="FILE", help="write that credential there instead of printing it")
    metrics.add_argument(
        "--prometheus-url",
        metavar="URL",
        default="http://127.0.0.1:9090",
        help="where Grafana reaches Prometheus (default http://127.0.0.1:9090)",
    )

    simulation = verbs.add_parser(
        "sim",
        help="Simulate the runtime: workloads against faults, from a seed.",
        description="Simulate the runtime: workloads against faults, from a seed.",
        epilog=_SIM_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    simulation.add_argument(
        "--scenario", metavar="NAME", help="a scenario of the source tree, a pattern, or a TOML file"
    )
    simulation.add_argument("--seed", type=int, default=1, metavar="N", help="the (first) seed (default 1)")
    simulation.add_argument("--runs", type=int, default=1, metavar="N", help="how many seeds (of each scenario)")
    simulation.add_argument("--jobs", type=int, metavar="N", help="processes for many runs (default: one for each CPU)")
    simulation.add_argument("--twice", action="store_true", help="run each seed twice: both must be the same run")
    simulation.add_argument("--keep-going", action="store_true", help="do not stop at the first run that fails")
    simulation.add_argument("--thorough", action="store_true", help="check all invariants after each step")
    simulation.add_argument("--list", action="store_true", help="the scenarios there are")
    simulation.add_argument("--log", action="store_true", help="print what happened: when, who, what and why")
    simulation.add_argument("--about", metavar="ID", help="with --log: only what mentions this id (hex), and faults")
    simulation.add_argument("--scale", action="store_true", help="what decisions cost with 10 to 10,000 nodes")
    simulation.add_argument("--draw", metavar="DIR", help="with --scale: write the curves there, as SVG")
    simulation.add_argument("--json", action="store_true", help="answer in JSON")
    simulation.set_defaults(run=_simulation)
    return parser


def _start(options: argparse.Namespace) -> int:
    from obsray.cli import start

    return start.run_start(options)


def _stop(options: argparse.Namespace) -> int:
    from obsray.cli import stop

    return stop.run_stop(options)


def _drain(options: argparse.Namespace) -> int:
    from obsray.cli import stop

    return stop.run_drain(options)


def _simulation(options: argparse.Namespace) -> int:
    from obsray.cli import simulation

    return simulation.run(options)


def _status(options: argparse.Namespace) -> int:
    from obsray.cli import status

    return status.run(options)


def _list(options: argparse.Namespace) -> int:
    of_rows = (options.detail, options.format, options.cursor, options.since, options.until)
    if options.noun in ("cluster_events", "runtime_envs") or any(of_rows):
        from obsray.cli import state

        return state.run_list(options)
    from obsray.cli import lists

    return lists.run_list(options)


def _get(options: argparse.Namespace) -> int:
    from obsray.cli import things

    return things.run_get(options)


def _story(options: argparse.Namespace) -> int:
    from obsray.cli import things

    return things.run_story(options)


def _why(options: argparse.Namespace) -> int:
    from obsray.cli import answers

    return answers.run_why(options)


def _gpu(options: argparse.Namespace) -> int:
    from obsray.cli import gpu

    return gpu.run(options)


def _books(options: argparse.Namespace) -> int:
    from obsray.cli import answers

    return answers.run_books(options)


def _critical_path(options: argparse.Namespace) -> int:
    from obsray.cli import answers

    return answers.run_critical_path(options)


def _what_if(options: argparse.Namespace) -> int:
    from obsray.cli import answers

    return answers.run_what_if(options)


def _stragglers(options: argparse.Namespace) -> int:
    from obsray.cli import answers

    return answers.run_stragglers(options)


def _different(options: argparse.Namespace) -> int:
    from obsray.cli import answers

    return answers.run_different(options)


def _compare(options: argparse.Namespace) -> int:
    from obsray.cli import answers

    return answers.run_compare(options)


def _memory(options: argparse.Namespace) -> int:
    from obsray.cli import answers

    return answers.run_memory(options)


def _logs(options: argparse.Namespace) -> int:
    from obsray.cli import logs

    return logs.run(options)


def _timeline(options: argparse.Namespace) -> int:
    from obsray.cli import things

    return things.run_timeline(options)


def _debug(options: argparse.Namespace) -> int:
    from obsray.cli import debug

    return debug.run(options)


def _metrics(options: argparse.Namespace) -> int:
    from obsray.cli import metrics

    return metrics.run(options)


def _dashboard(options: argparse.Namespace) -> int:
    from obsray.cli import web

    return web.run(options)
