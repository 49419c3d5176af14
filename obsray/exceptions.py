"""The errors of the runtime by their familiar names; see ``obsray/errors.py`` for the tree."""

from obsray.errors import *  # noqa: F403
