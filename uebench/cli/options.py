"""Options that several commands share, and how their values are read."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click


def parse_seeds(context: click.Context, option: click.Parameter, values: Sequence[str]) -> list[int]:
    """Read `0,1,2`, given once or more."""
    try:
        seeds = [int(part) for value in values for part in value.split(",")]
    except ValueError:
        raise click.BadParameter(f"expected whole numbers separated by commas, not {','.join(values)!r}") from None
    if any(seed < 0 or seed >= 2**32 for seed in seeds):
        raise click.BadParameter(f"a seed must lie in 0 .. 2^32 - 1, not {','.join(values)}")
    if len(set(seeds)) < len(seeds):
        raise click.BadParameter(f"a seed is given twice in {','.join(values)}")
    return seeds


def parse_shares(context: click.Context, option: click.Parameter, values: Sequence[str]) -> list[float]:
    """Read `0.2,0.4`, given once or more."""
    from uebench.planning.suite_file import parse_share

    return [parse_share(part) for value in values for part in value.split(",")]


def add_plugins(context: click.Context, option: click.Parameter, values: Sequence[Path]) -> None:
    """Load plug-in files, so that all else on the command line may name what they bring."""
    if values:
        from uebench.components.plugin_file import read_plugin_file
        from uebench.components.registry import registry

        for value in values:
            registry().add(read_plugin_file(value))


def find_default_boards(context: click.Context, option: click.Parameter, value: Path | None) -> Path:
    """Return the folder of published boards that is given, the one here, or that of the package."""
    from uebench.board.records import find_boards

    return value or find_boards()


def combine_options(*decorators: Callable[..., Any]) -> Callable[..., Any]:
    """Bundle options that several commands share."""

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        for decorator in reversed(decorators):
            command = decorator(command)
        return command

    return decorate


PATH = click.Path(path_type=Path)
boards_option = click.option(
    "--boards", type=PATH, default=Path("leaderboards"), show_default=True, help="Folder of published boards."
)
read_boards_option = click.option(
    "--boards",
    type=PATH,
    callback=find_default_boards,
    help="Folder of published boards; default leaderboards, else those of the package.",
)
"""For commands that leave the published boards as they are."""
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
verbosity_options = combine_options(
    click.option("-q", "--quiet", is_flag=True, help="No progress, only results and what failed."),
    click.option("-v", "--verbose", is_flag=True, help="In a log, a line about each running job every second."),
)
seed_option = click.option(
    "--seed", "seeds", multiple=True, callback=parse_seeds, metavar="N,N", help="Seeds in place of the suite's."
)
store_option = click.option("--store", type=PATH, default=Path(".uebench"), show_default=True, help="Work folder.")
record_option = click.option(
    "--record",
    type=click.Choice(["published", "own", "both"]),
    help="Published results, your own (in the store), or both; default published, or own where nothing is published.",
)
workers_option = click.option(
    "--workers", type=click.IntRange(min=1), help="Processes per device; default 1 a GPU, on a CPU 1 a core."
)
pool_options = combine_options(
    workers_option,
    click.option(
        "--executor",
        type=click.Choice(["local", "ray"]),
        default="local",
        show_default=True,
        help="This machine, or a Ray cluster.",
    ),
    click.option("--ray-address", metavar="HOST:PORT", help="The cluster, or auto; default one on this machine."),
    click.option(
        "--patience",
        type=click.FloatRange(min=0, min_open=True),
        metavar="SECONDS",
        help="End a job that reports nothing for so long, and a data set that takes so long; default never.",
    ),
)
plugin_option = click.option(
    "--plugin",
    multiple=True,
    type=PATH,
    expose_value=False,
    callback=add_plugins,
    metavar="FILE",
    help="A Python file with hooks that takes part without a package; repeatable.",
)
execution_options = combine_options(
    click.option("--threads", type=click.IntRange(min=1), default=1, show_default=True, help="CPU threads a process."),
    click.option(
        "--device",
        envvar="UEBENCH_DEVICE",
        show_envvar=True,
        help="Devices, as cuda:0,cuda:1 or cpu; default every GPU, else the CPU.",
    ),
    store_option,
    click.option(
        "--keep-every", type=click.FloatRange(min=0), default=60.0, show_default=True, help="Seconds between states."
    ),
)


def _draw(context: click.Context, option: click.Parameter, value: int | None) -> int:
    """Draw a seed that nobody knew before, unless one is given."""
    return secrets.randbelow(2**32) if value is None else value


verification_options = combine_options(
    click.argument("bundle", type=PATH),
    click.option("--rerun", type=click.IntRange(min=0), default=0, show_default=True, help="Cells to run again."),
    click.option(
        "--verification-seed", "seed", type=click.IntRange(min=0), callback=_draw, help="Which cells; default drawn."
    ),
    click.option("--suite", help="The suite, where the bundle's is a TOML file here."),
    click.option("--noise", "noises", multiple=True, metavar="SPEC", help="A noise to run again that needs a path."),
    click.option("--target", "targets", multiple=True, metavar="SPEC", help="A target that needs a path."),
    click.option("--dataset", "datasets", multiple=True, metavar="SPEC", help="The data set, where it needs a path."),
    pool_options,
    execution_options,
    boards_option,
)
