"""What holds for all tests."""

from __future__ import annotations

import signal

# Whoever runs the tests in the background of a shell without job control has them ignore Ctrl-C, and every program that
# they start would, too.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
