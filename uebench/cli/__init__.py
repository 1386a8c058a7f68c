"""The command line: arguments in, text out; nothing else prints."""

from uebench.cli.main import main, script

__all__ = ["main", "script"]
