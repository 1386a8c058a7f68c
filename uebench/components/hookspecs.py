"""The four hooks by which components enter; each returns classes. Mark yours with `@uebench.hookimpl`."""

from __future__ import annotations

import pluggy

from uebench.components.interfaces import Breaker, Noise, Source, Target

INTERFACE_VERSION = 1
"""The version of the plug-in interface; it is raised when a plug-in that worked would work no more."""
OLDEST_INTERFACE = 1
"""The oldest version whose plug-ins still work."""
hookspec = pluggy.HookspecMarker("uebench")
hookimpl = pluggy.HookimplMarker("uebench")


@hookspec
def register_noises() -> list[type[Noise]]:  # type: ignore[empty-body]
    """Return the noises this plug-in brings."""


@hookspec
def register_breakers() -> list[type[Breaker]]:  # type: ignore[empty-body]
    """Return the breakers this plug-in brings."""


@hookspec
def register_targets() -> list[type[Target]]:  # type: ignore[empty-body]
    """Return the target networks this plug-in brings."""


@hookspec
def register_datasets() -> list[type[Source]]:  # type: ignore[empty-body]
    """Return the data sources this plug-in brings."""
