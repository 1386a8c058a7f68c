"""Finds the command that runs recorded cells again, and checks that it plans exactly those cells."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import MISSING, fields
from typing import Any, cast

from uebench.components.errors import UserError
from uebench.components.interfaces import Breaker, Noise
from uebench.components.registry import registry
from uebench.components.spec import canonical_text
from uebench.planning.plan import plan_selection
from uebench.planning.selection import resolve_recipe, select_components
from uebench.planning.suite import Suite
from uebench.planning.suite_file import available_suites
from uebench.storage.result import Result


def find_rerun_command(suite: Suite, records: Sequence[Result]) -> str:
    """Return the command for comparable cells of one noise, with all seeds; raises `UserError` where there is none.

    A value that a data set needs and no record holds, such as a path, is written in capitals.
    """
    result = records[0]
    content = result.parameters["content"]
    part = suite.part(result.parameters["dataset"].partition("@")[0])
    lists: dict[str, Any] = {
        "datasets": [_dataset(result)],
        "noises": [result.noise],
        "breakers": sorted({result.breaker for result in records}),
        "targets": sorted({result.target for result in records}),
        "seeds": sorted({result.seed for result in records}),
        "protected": [result.protected],
    }
    recipe = f"paper{result.recipe.removeprefix(result.recipe.partition(':')[0])}"
    if canonical_text(resolve_recipe(part)) == result.parameters["recipe"]:
        recipe = ""
    nothing, plain = registry().build("noise", "none"), registry().build("breaker", "none")
    planned = {
        cell.key
        for selection in select_components(suite, **lists, kind=cast(Any, result.kind), recipe=recipe or None)
        for cell in plan_selection(selection, cast(Noise, nothing), (cast(Breaker, plain),), [content]).cells
    }
    if unplanned := sorted({result.key for result in records} - planned):
        raise UserError(f"this version plans other cells than {unplanned[0]}")
    words = [suite.name if suite.name in available_suites() else f"{suite.name}.toml"]
    for key, value in lists.items():
        if list(value) != list(getattr(part, key)) or key in ("noises", "breakers", "seeds"):
            option = {"seeds": "seed", "protected": "protect"}.get(key, key.removesuffix("s"))
            given = [",".join(map(str, value))] if key in ("seeds", "protected") else value
            words += [word for text in given for word in (f"--{option}", text)]
    words += ["--kind", result.kind] if result.kind != part.kind else []
    return shlex.join(["uebench", "run", *words, *(["--recipe", recipe] if recipe else [])])


def _dataset(result: Result) -> str:
    """Return a data set's specification: its name, required parameters, and the parameters in its label."""
    name = result.parameters["dataset"].partition("@")[0]
    needed = [
        f"{part.name}={part.name.upper()}"
        for part in fields(registry().find("dataset", name).cls)  # type: ignore[arg-type]
        if part.default is MISSING
    ]
    rest = ",".join(filter(None, [*needed, result.dataset.partition(":")[2]]))
    return f"{name}:{rest}" if rest else name
