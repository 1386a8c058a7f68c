"""What a shell completes: suites, and components with their parameters."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields

import click
from click.shell_completion import CompletionItem

Complete = Callable[[click.Context, click.Parameter, str], list[CompletionItem]]


def complete_suites(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Return the suites whose names begin like this, and files."""
    from uebench.planning.suite_file import available_suites

    names = [CompletionItem(name) for name in sorted(available_suites()) if name.startswith(incomplete)]
    return names or click.Path().shell_complete(context, parameter, incomplete)


def complete_components(kind: str) -> Complete:
    """Return a function that completes `name:key=value+name` for components of a kind, or of every kind."""

    def complete(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
        from uebench.components.registry import registry

        before, plus, last = incomplete.rpartition("+") if kind == "breaker" else ("", "", incomplete)
        name, colon, parameters = last.partition(":")
        kinds = [kind] if kind else list(registry().entries)
        entries = {name: entry for part in kinds for name, entry in registry().entries[part].items()}
        if not colon:
            matches = sorted(entry for entry in entries if entry.startswith(name))
            return [CompletionItem(f"{before}{plus}{entry}") for entry in matches]
        if name not in entries:
            return []
        earlier, comma, key = parameters.rpartition(",")
        names = [field.name for field in fields(entries[name].cls)]  # type: ignore[arg-type]  # every one is a dataclass
        start = f"{before}{plus}{name}:{earlier}{comma}"
        return [CompletionItem(f"{start}{field}=") for field in names if field.startswith(key)]

    return complete
