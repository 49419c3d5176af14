"""``python -m obsray.demo``, the same as ``obsray demo``."""

import sys

from obsray.demo import main

if __name__ == "__main__":
    sys.exit(main())
