"""What a command says when it cannot do what was asked."""

from __future__ import annotations


class Problem(Exception):
    """Something the user can do something about: the message says what, ``advice`` says what to do next."""

    def __init__(self, message: str, advice: str = "") -> None:
        super().__init__(message)
        self.advice = advice
