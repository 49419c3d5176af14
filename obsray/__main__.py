"""``python -m obsray``: the command line, where its script is not on the path."""

import sys

from obsray.cli.command import main

sys.exit(main())
