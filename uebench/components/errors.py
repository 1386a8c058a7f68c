"""Errors that the command line shows as one line: a mistake of the user, an unwritable store, a broken contract."""

from __future__ import annotations


class UserError(Exception):
    """A mistake of the user; the command line shows it as one line."""

    status = 2
    """The exit status of the command line."""
    trace = ""
    """The traceback of foreign code, where an unexpected error of it is the reason; shown before the line."""


class StoreError(UserError):
    """The store or the board cannot be written."""

    status = 1


class ContractError(UserError):
    """A component broke its contract; the message says which component, and how."""
