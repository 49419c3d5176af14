"""What the command of a job is before it is the command: ``python -m obsray.job_submission.entry PARENT COMMAND``.

The shell that it becomes dies with the actor of the job; what the shell has started is then the zygote's to end.
"""

from __future__ import annotations

import os
import sys

from obsray.core.system.fate import die_with_parent


def main() -> None:
    """Tie this process to its parent, then become a shell that runs the command."""
    die_with_parent(int(sys.argv[1]))
    os.execv("/bin/sh", ["sh", "-c", sys.argv[2]])


if __name__ == "__main__":
    main()
