"""The base class of components: annotated fields are parameters, and their values are checked."""

from __future__ import annotations

import math
from dataclasses import MISSING, dataclass, field, fields
from typing import Any, ClassVar, dataclass_transform

from uebench.components.errors import UserError


def parameter(
    *,
    default: Any = MISSING,
    doc: str = "",
    unit: str = "",
    low: float | None = None,
    above: float | None = None,
    high: float | None = None,
    neutral: float | None = None,
    identity: bool = True,
    later: bool = False,
) -> Any:
    """Declare a parameter of a component: its default, what it means, its unit and its allowed range.

    `low` and `high` are inclusive, `above` is exclusive. `neutral` is the value at which a breaker does nothing; a
    curve over the parameter shows the result without that breaker there. `identity=False`: the value changes no number
    (a path, a title) and is not part of the content key. `later=True`: the parameter was added after results were
    published, and at its default it is not part of the key either, so that their keys hold. A field annotated with a
    component class holds a component of that kind, one annotated `tuple[Class, ...]` several, written with slashes
    between them; the default may be given as text, which the registry resolves.
    """
    meaning = {"doc": doc, "unit": unit, "neutral": neutral, "identity": identity, "later": later}
    return field(default=default, metadata={**meaning, "low": low, "above": above, "high": high})


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(field, parameter))
class Component:
    """A noise, breaker, target or data source; its annotated fields make it a frozen, keyword-only dataclass.

    Field types are `int`, `float`, `bool`, `str`, `Literal[...]` of strings, a component class, or a tuple of one.
    """

    name: ClassVar[str]
    """Its name on the command line: lower-case letters, digits and hyphens."""
    version: ClassVar[int] = 1
    """Raised when the same parameters would give other numbers."""
    paper: ClassVar[str] = ""
    """Where the method is published: authors, title, venue, section."""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        text = cls.__doc__ or ""
        dataclass(frozen=True, kw_only=True)(cls)
        cls.__doc__ = text  # else dataclass() writes a signature

    def __post_init__(self) -> None:
        """Refuse a value outside its declared range; raises `UserError`."""
        for declared in fields(self):  # type: ignore[arg-type]
            value, meta = getattr(self, declared.name), declared.metadata
            if isinstance(value, bool) or not isinstance(value, int | float):
                continue
            if not math.isfinite(value):
                raise UserError(f"{self.name}: {declared.name} must be a finite number, not {value}")
            low, above, high = meta.get("low"), meta.get("above"), meta.get("high")
            if low is not None and value < low:
                raise UserError(f"{self.name}: {declared.name} must be at least {low:g}, not {value:g}")
            if above is not None and value <= above:
                raise UserError(f"{self.name}: {declared.name} must be above {above:g}, not {value:g}")
            if high is not None and value > high:
                raise UserError(f"{self.name}: {declared.name} must be at most {high:g}, not {value:g}")

    def alias(self) -> str:
        """Return the name in labels; a data source that wraps many sets names the one it holds."""
        return self.name
