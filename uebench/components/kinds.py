"""The kinds of components, the hooks that bring them, and what disqualifies a class from being one."""

from __future__ import annotations

import inspect
from functools import cache
from typing import Any, get_args, get_origin

from uebench.components.component import Component
from uebench.components.grammar import NAME_PATTERN, nearest_match
from uebench.components.hookspecs import INTERFACE_VERSION, OLDEST_INTERFACE
from uebench.components.interfaces import THREATS, Breaker, Noise, Source, Target
from uebench.components.spec import parameter_types

KINDS: dict[str, type[Component]] = {"noise": Noise, "breaker": Breaker, "target": Target, "dataset": Source}
HOOKS = {"register_noises": "noise", "register_breakers": "breaker", "register_targets": "target"}
HOOKS["register_datasets"] = "dataset"


@cache
def component_kind(annotation: Any) -> str | None:
    """Return the kind of component that a parameter of this type holds, one or several; None for a plain value."""
    if get_origin(annotation) is tuple and get_args(annotation)[1:] == (...,):
        annotation = get_args(annotation)[0]
    if inspect.isclass(annotation):
        for kind, basis in KINDS.items():
            if issubclass(annotation, basis):
                return kind
    return None


def find_flaw(cls: Any, kind: str) -> str:
    """Return what disqualifies a class from being registered as this kind, or an empty text."""
    basis = KINDS[kind]
    if not (inspect.isclass(cls) and issubclass(cls, basis) and cls is not basis):
        return f"{cls!r} is not a subclass of uebench.{basis.__name__}"
    if not NAME_PATTERN.fullmatch(str(getattr(cls, "name", ""))):
        return f"{cls.__name__} needs a name of lower-case letters, digits and hyphens"
    try:
        types = parameter_types(cls)
    except (NameError, TypeError) as error:
        return f"{cls.__name__} has a parameter whose type cannot be read: {error}"
    if issubclass(cls, Breaker) and "threat" in types:
        return f"{cls.__name__}.threat must not be a parameter; write it without a type: threat = {THREATS[0]!r}"
    if issubclass(cls, Breaker) and cls.threat not in THREATS:
        return f"{cls.__name__}.threat cannot be {cls.threat!r}{nearest_match(str(cls.threat), THREATS)}"
    return ""


def interface_problem(module: object) -> str:
    """Return why a plug-in that asks for a version of the interface cannot be used here, or nothing.

    A plug-in asks by `uebench_interface = 1` in its module; without it every version is tried.
    """
    interface = getattr(module, "uebench_interface", INTERFACE_VERSION)
    if isinstance(interface, int) and OLDEST_INTERFACE <= interface <= INTERFACE_VERSION:
        return ""
    versions = sorted({str(OLDEST_INTERFACE), str(INTERFACE_VERSION)})
    return f"it asks for version {interface!r} of the plug-in interface; this uebench has {' to '.join(versions)}"


def advise_plugin(module: object) -> str:
    """Return what a plug-in without hooks is to do about the components it defines."""
    for hook, kind in HOOKS.items():
        for cls in vars(module).values():
            if getattr(cls, "__module__", "") == getattr(module, "__name__", None) and not find_flaw(cls, kind):
                return f" for {cls.__name__}: let {hook}, marked with @uebench.hookimpl, return [{cls.__name__}]"
    return f": mark one of {', '.join(HOOKS)} with @uebench.hookimpl"
