"""The commands for authors of plug-ins."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import click

from uebench.options import place, plugin_option


@click.command()
@click.argument("name", required=False)
@plugin_option
def plugins(name: str | None) -> None:
    """List every component and what was left out and why, or all about the components called NAME."""
    from uebench import catalogue, display

    console = display.console()
    if name:
        catalogue.describe(console, name)
    else:
        catalogue.overview(console)


@click.command()
@click.argument("name")
@click.option("--suite", default="demo", show_default=True, help="The suite whose defaults the check uses.")
@plugin_option
def check(name: str, suite: str) -> None:
    """Check that the components called NAME (or NAME:key=value) keep the contract; exit status 1 where one does not."""
    from uebench import catalogue, display
    from uebench import check as checking
    from uebench.suite import read

    broken = False
    for kind, component in checking.find(name, read(suite)):
        findings = checking.check(kind, component)
        catalogue.show_findings(display.console(), kind, component, findings)
        broken = broken or not all(finding.kept for finding in findings)
    sys.exit(int(broken))


@click.command()
@click.argument("kind", type=click.Choice(["noise", "breaker", "target", "dataset"]))
@click.argument("name")
@click.option("--into", type=place, default=Path(), help="Folder to write into; default the current one.")
def new(kind: str, name: str, into: Path) -> None:
    """Write a plug-in of your own, a package in the folder NAME that works as it is.

    \b
    uebench new noise mine
    """
    from uebench import scaffold

    folder = scaffold.create(kind, name, into)
    click.echo(
        f"{folder} has a {kind} that works; README.md there says what to edit. Next:\n\n"
        f'cd {shlex.quote(str(folder))}\npip install -e ".[test]"\npytest\n'
        f"uebench check {name}\nuebench run demo --{kind} {name}"
    )


COMMANDS = (plugins, check, new)
