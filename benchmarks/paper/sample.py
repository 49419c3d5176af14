"""One experiment in a process of its own: what it measured goes to a file as JSON."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path

import obsray
from benchmarks.paper.experiment import EXPERIMENTS, Run


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("experiment", choices=EXPERIMENTS)
    parser.add_argument("--output", required=True)
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    run = Run(options.quick, lambda line: print(line, file=sys.stderr, flush=True))
    load, began = os.getloadavg()[0], time.monotonic()
    result = EXPERIMENTS[options.experiment].body()(run)
    facts = {
        "experiment": options.experiment,
        "quick": options.quick,
        "version": obsray.__version__,
        "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "load_before": load,
        "load_after": os.getloadavg()[0],
        "seconds": time.monotonic() - began,
        **result.to_json(),
    }
    Path(options.output).write_text(json.dumps(facts, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
