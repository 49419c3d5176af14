"""The browser of this machine. A test that needs one fails without it."""

from __future__ import annotations

import shutil

import pytest

_NAMES = ("chromium", "chromium-browser", "google-chrome")


def browser() -> str:
    """Where it is."""
    found = next((found for name in _NAMES if (found := shutil.which(name))), None)
    if found is None:
        pytest.fail("no Chromium on this machine (Debian: apt-get install chromium)")
    return found
