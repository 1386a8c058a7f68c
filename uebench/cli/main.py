"""The command line: collects the commands and turns errors into exit statuses; loads torch only where needed."""

from __future__ import annotations

import sys
from typing import Any

import click

from uebench.cli.boards import BOARD_COMMANDS
from uebench.cli.lazy_imports import import_lazily
from uebench.cli.plugins import PLUGIN_COMMANDS
from uebench.cli.run import COMPUTING_COMMANDS
from uebench.cli.submissions import SUBMISSION_COMMANDS
from uebench.components.errors import UserError


class CommandGroup(click.Group):
    """A group of commands that shows a mistake of the user as one line; exit status 2, or 1 for an unwritable store."""

    def invoke(self, context: click.Context) -> Any:
        """Run a command."""
        try:
            return super().invoke(context)
        except click.UsageError as error:
            click.echo(f"Error: {error.format_message()}", err=True)
            sys.exit(2)
        except UserError as error:
            if error.trace:
                click.echo(error.trace, err=True)
            click.echo(f"Error: {error}", err=True)
            sys.exit(error.status)


@click.group(cls=CommandGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="uebench")
def main() -> None:
    """Pit noises that make images unlearnable against breakers that learn from them all the same."""


for command in (*COMPUTING_COMMANDS, *PLUGIN_COMMANDS, *BOARD_COMMANDS, *SUBMISSION_COMMANDS):
    main.add_command(command)


def script() -> None:
    """Run the command line as a process; PyTorch, which takes seconds to load, is loaded when first used."""
    import_lazily("torch", "safetensors.torch")
    main()


if __name__ == "__main__":
    script()
