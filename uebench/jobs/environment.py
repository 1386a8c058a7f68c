"""Records what a number was made with: versions, device, and the code of its components."""

from __future__ import annotations

import platform
import sys
from collections.abc import Iterator
from dataclasses import fields
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

import uebench
from uebench.components.component import Component
from uebench.components.registry import registry
from uebench.compute.precision import CPUINFO, has_bf16
from uebench.storage.atomic_files import sha256_hex


def made_with(device: torch.device, *components: Component) -> dict[str, Any]:
    """Return the versions and the device that a number was made with."""
    return {
        "uebench": uebench.__version__,
        "torch": str(torch.__version__),
        "torchvision": version("torchvision"),
        "python": platform.python_version(),
        "device": device_name(device),
        "bf16": has_bf16(device),
        "threads": None if device.type == "cuda" else torch.get_num_threads(),
        "plugins": dict(sorted({registry().origin(component) for component in components})),
    }


def hash_component_code(*components: Component) -> str:
    """Return a hash of the files that define components, the components in their parameters, and their base classes."""
    modules = {
        cls.__module__ for component in components for part in _with_parameters(component) for cls in type(part).__mro__
    }
    return sha256_hex("".join(_hash_module(module) for module in sorted(modules)).encode())


def _with_parameters(component: Component) -> Iterator[Component]:
    yield component
    for field in fields(component):  # type: ignore[arg-type]
        value = getattr(component, field.name)
        for inner in value if isinstance(value, tuple) else (value,):
            if isinstance(inner, Component):
                yield from _with_parameters(inner)


@cache
def _hash_module(module: str) -> str:
    """Return a hash of a module's file at the first call; of a plug-in file, as it was loaded."""
    loaded = {file.module: file.content for file in registry().files}
    path = getattr(sys.modules.get(module), "__file__", None)
    content = loaded.get(module) or (Path(path).read_bytes() if path and Path(path).is_file() else b"")
    return sha256_hex(content)


def current_time() -> str:
    """Return the time in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def device_name(device: torch.device) -> str:
    """Return a GPU's name, or the processor's and its vector instructions: bits differ between processors."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        lines = CPUINFO.read_text().splitlines()
        name = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        name = platform.processor() or platform.machine()
    return f"{name} ({torch.backends.cpu.get_cpu_capability()})"
