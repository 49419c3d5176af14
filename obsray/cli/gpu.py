"""``obsray gpu``: who has which GPU, what its time went into and why it idles, and what took most."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from obsray.cli import output, sessions
from obsray.dashboard import plain_json, units

_BAR_CELLS = 24
_KERNELS_SHOWN = 10
_NAME_SHOWN = 90


def run(options: argparse.Namespace) -> int:
    """Answer ``obsray gpu``."""
    view = sessions.answers(sessions.find(options.session))
    gpus = view.gpus(refresh=False)
    kernels = view.kernels(refresh=False)
    summary = view.gpu_summary()
    if options.json:
        print(plain_json.dumps({"gpus": gpus, "kernels": kernels, "summary": summary}))
        return 0
    print("\n".join(text(gpus, kernels, summary, output.is_coloured(sys.stdout))))
    return 0


def text(
    gpus: list[dict[str, Any]], kernels: list[dict[str, Any]], summary: dict[str, Any], coloured: bool
) -> list[str]:
    """The answer as lines."""
    lines: list[str] = []
    for row in gpus:
        state = output.paint(row["state"], output.tone_of(row["state"]), coloured)
        lines += [f"{output.bold('gpu:' + row['node_id'][:8] + '/' + str(row['gpu']), coloured)}  {state}"]
        lines += [f"  {units.plain(row['why'])}"]
        if row["hardware"]:
            lines += [f"  {output.paint(units.plain(row['hardware']), 'bad' if row['trouble'] else '', coloured)}"]
        lines += activity_lines(row["activities"], "  ")
        lines += [""]
    if not gpus:
        lines += ["no GPUs: this session's nodes have none ('num_gpus=N' in init() says that there are some)", ""]
    lines += _kernel_lines(kernels, coloured)
    if summary["kernels"]:
        share = f"{summary['unattributed_share']:.1%} of {units.count(summary['kernels'])} kernels have no known task"
        lost = f"; {units.count(summary['records_lost'])} records lost" if summary["records_lost"] else ""
        lines += ["", share + lost]
    for notice in dict.fromkeys(notice["text"] for notice in summary["notices"]):
        lines += ["", f"{output.paint('not captured', 'bad', coloured)}: {units.plain(notice)}"]
    return lines[:-1] if lines and not lines[-1] else lines


def activity_lines(activities: list[dict[str, Any]], indent: str) -> list[str]:
    """What a GPU's time went into: seconds, share, a bar and what it means."""
    width = max([len(row["activity"]) for row in activities], default=0)
    return [
        f"{indent}{row['activity'].ljust(width)}  {units.seconds(row['seconds']):>10}  {row['share']:>6.1%}  "
        f"{output.bar(row['share'], _BAR_CELLS)}  {row['what']}"
        for row in activities
    ]


def _kernel_lines(kernels: list[dict[str, Any]], coloured: bool) -> list[str]:
    if not kernels:
        return ["no kernel was recorded"]
    lines = [output.bold("kernels that took most", coloured)]
    for row in kernels[:_KERNELS_SHOWN]:
        delay = row["launch_delay_seconds"]
        begun = f", begun {units.seconds(delay)} after launch" if delay is not None else ""
        lines.append(
            f"  {units.seconds(row['kernel_seconds']):>10}  {row['share']:>6.1%}  {units.count(row['launches']):>9} of "
            f"{units.seconds(row['mean_seconds'])}{begun}  {units.plain(row['function'])}: "
            f"{units.shortened(units.plain(row['kernel']), _NAME_SHOWN)}"
        )
    if len(kernels) > _KERNELS_SHOWN:
        lines.append(f"  and {len(kernels) - _KERNELS_SHOWN} more: 'obsray list kernels'")
    return lines
