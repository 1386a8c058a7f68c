"""The commands for authors of plug-ins."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import click

from uebench.cli.options import PATH, plugin_option


@click.command()
@click.argument("name", required=False)
@plugin_option
def plugins_command(name: str | None) -> None:
    """List every component and what was left out and why, or all about the components called NAME."""
    from uebench.cli.catalogue import print_components, print_overview
    from uebench.cli.console import make_console

    console = make_console()
    if name:
        print_components(console, name)
    else:
        print_overview(console)


@click.command()
@click.argument("name")
@click.option("--suite", default="demo", show_default=True, help="The suite whose defaults the check uses.")
@plugin_option
def check_command(name: str, suite: str) -> None:
    """Check that the components called NAME (or NAME:key=value) keep the contract; exit status 1 where one does not."""
    from uebench.authoring.check import check_component, find_components
    from uebench.cli.catalogue import show_findings
    from uebench.cli.console import make_console
    from uebench.planning.suite_file import read_suite

    broken = False
    for kind, component in find_components(name, read_suite(suite)):
        findings = check_component(kind, component)
        show_findings(make_console(), kind, component, findings)
        broken = broken or not all(finding.kept for finding in findings)
    sys.exit(int(broken))


@click.command()
@click.argument("kind", type=click.Choice(["noise", "breaker", "target", "dataset"]))
@click.argument("name")
@click.option("--into", type=PATH, default=Path(), help="Folder to write into; default the current one.")
def new_command(kind: str, name: str, into: Path) -> None:
    """Write a plug-in of your own, a package in the folder NAME that works as it is.

    \b
    uebench new noise mine
    """
    from uebench.authoring.scaffold import create_plugin

    folder = create_plugin(kind, name, into)
    click.echo(
        f"{folder} has a {kind} that works; README.md there says what to edit. Next:\n\n"
        f'cd {shlex.quote(str(folder))}\npip install -e ".[test]"\npytest\n'
        f"uebench check {name}\nuebench run demo --{kind} {name}"
    )


PLUGIN_COMMANDS = (plugins_command, check_command, new_command)
