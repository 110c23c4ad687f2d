"""The one exception that a user is meant to read."""

from __future__ import annotations


class UserError(Exception):
    """Something the user can mend: says what was seen, what was expected, and the command that mends it.

    Attributes:
        message: key, value seen, value expected.
        mend: the command or edit that mends it; may be empty.
    """

    def __init__(self, message: str, mend: str = ""):
        super().__init__(message if not mend else f"{message}\n{mend}")
        self.message = message
        self.mend = mend
