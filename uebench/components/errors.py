"""The errors that are one line to a person: a user's mistake, a store that cannot be written, a broken contract."""

from __future__ import annotations


class UserError(Exception):
    """A mistake of the person at the keyboard; shown as one line, never with a traceback."""

    status = 2
    """The exit status of the command line."""


class StoreError(UserError):
    """The store or the board cannot be written."""

    status = 1


class ContractError(UserError):
    """A component broke the contract it is written against; says which, and how."""
