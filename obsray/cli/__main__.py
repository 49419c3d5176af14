"""``python -m obsray.cli``."""

import sys

from obsray.cli.command import main

sys.exit(main())
