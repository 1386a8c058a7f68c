"""The commands for authors of plug-ins."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import click

from uebench.cli.completion import complete_components
from uebench.cli.options import PATH, json_option, plugin_option


@click.command(short_help="List components, or describe one.")
@click.argument("name", required=False, shell_complete=complete_components(""))
@json_option
@plugin_option
def plugins_command(name: str | None, as_json: bool) -> None:
    """List every component and what was left out and why, or all about the components called NAME."""
    from uebench.cli.catalogue import components_document, print_components, print_overview
    from uebench.cli.console import make_console, print_json

    console = make_console()
    if as_json:
        print_json(components_document(name))
    elif name:
        print_components(console, name)
    else:
        print_overview(console)


@click.command(short_help="List suites: what each compares, and its size.")
@json_option
def suites_command(as_json: bool) -> None:
    """List every suite, with the number of networks that a whole run trains.

    A suite names data sets, noises, breakers and targets; `uebench run SUITE` runs it, or a part of it.
    """
    from uebench.cli.catalogue import print_suites, suites_document
    from uebench.cli.console import make_console, print_json

    if as_json:
        print_json(suites_document())
    else:
        print_suites(make_console())


@click.command(short_help="Check that a component keeps the contract.")
@click.argument("name", shell_complete=complete_components(""))
@click.option("--suite", default="demo", show_default=True, help="The suite whose defaults the check uses.")
@json_option
@plugin_option
def check_command(name: str, suite: str, as_json: bool) -> None:
    """Check that the components called NAME (or NAME:key=value) keep the contract; exit status 1 where one does not."""
    from uebench.authoring.check import check_component, find_components
    from uebench.cli.catalogue import show_findings
    from uebench.cli.console import make_console, print_json
    from uebench.components.spec import component_label
    from uebench.planning.suite_file import read_suite

    checked, broken = [], False
    for kind, component in find_components(name, read_suite(suite)):
        findings = check_component(kind, component)
        checked.append({"kind": kind, "component": component_label(component), "findings": findings})
        broken = broken or not all(finding.kept for finding in findings)
        if not as_json:
            show_findings(make_console(), kind, component, findings)
    if as_json:
        print_json(checked)
    sys.exit(int(broken))


@click.command(short_help="Write a plug-in of your own.")
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


PLUGIN_COMMANDS = (plugins_command, suites_command, check_command, new_command)
