"""A simulated second device: detects tensors that a component creates on the wrong device, without a GPU."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map, tree_map_only

DEVICE = torch.device("meta")
"""Name of the simulated device; torch has no memory for it, so no operation can run on it unnoticed."""
CPU = torch.device("cpu")
_aten = torch.ops.aten
_MOVES = {_aten.copy_.default, _aten._to_copy.default}
_INDEXES = {
    _aten.index.Tensor,
    _aten.index_put.default,
    _aten.index_put_.default,
    _aten._index_put_impl_.default,
    _aten._unsafe_index.Tensor,
}
"""Operations that accept an index on the host; all others need their tensors on one device."""

_FROM_NUMBERS = (torch.tensor, torch.as_tensor, torch.asarray, torch.scalar_tensor, Tensor.new_tensor)
_BY_INDEX = (Tensor.__getitem__, Tensor.__setitem__)


class _DeviceTensor(Tensor):
    """A tensor that reports the simulated device and wraps the tensor on the host that holds its values."""

    host_tensor: Tensor

    @staticmethod
    def __new__(cls, host_tensor: Tensor) -> _DeviceTensor:
        wrapper: _DeviceTensor = Tensor._make_wrapper_subclass(
            cls,
            host_tensor.size(),
            strides=host_tensor.stride(),
            storage_offset=host_tensor.storage_offset(),
            dtype=host_tensor.dtype,
            device=DEVICE,
        )
        wrapper.host_tensor = host_tensor
        return wrapper

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @classmethod
    def __torch_dispatch__(cls, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        return _perform(operation, args, kwargs or {})

    def tolist(self) -> Any:
        """Return the values as Python numbers; torch refuses that for a class of tensors."""
        return self.host_tensor.tolist()


class _Operations(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _perform(operation, args, kwargs or {})


class _Numbers(TorchFunctionMode):
    """Creates a tensor of Python numbers on the host and moves it; torch itself would lose the numbers."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if function in _BY_INDEX:
            index = tree_map(
                lambda entry: torch.as_tensor(entry) if _is_host_index(entry) else entry,
                args[1],
                is_leaf=_is_host_index,
            )
            return function(args[0], index, *args[2:])
        if function not in _FROM_NUMBERS:
            return function(*args, **kwargs)
        like = args[0].device if args and isinstance(args[0], Tensor) else None
        device = kwargs.pop("device", None) or like
        tensor = function(*_host_values(args), **kwargs)
        return tensor if device is None else tensor.to(device)


def _perform(operation: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """Run an operation on the host tensors; the result is on the device where torch would put it."""
    device = kwargs.get("device")
    on_device = _refuse_mixed(operation, args, kwargs) if device is None else torch.device(device) == DEVICE
    inner = {**kwargs, "device": CPU} if on_device and device is not None else kwargs
    result = operation(*_host_values(args), **_host_values(inner))
    if not on_device:
        return result
    wrapped = tree_map_only(Tensor, _DeviceTensor, result)
    return return_and_correct_aliasing(operation, args, kwargs, wrapped)  # type: ignore[no-untyped-call]


def _is_host_index(index: Any) -> bool:
    """Return whether an index consists of Python or NumPy numbers, which must be moved to the device."""
    if isinstance(index, list):
        return bool(index) and all(isinstance(entry, int) for entry in index)
    return isinstance(index, np.ndarray)


def _host_values(values: Any) -> Any:
    return tree_map_only(_DeviceTensor, lambda wrapper: wrapper.host_tensor, values)


def _refuse_mixed(operation: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    """Return whether an operation runs on the device; raises `RuntimeError` for tensors on two devices.

    As on a GPU, single numbers may be on the host, and so may the index of a tensor on the device.
    """
    if operation in _MOVES:
        return isinstance(args[0], _DeviceTensor)
    if operation in _INDEXES and isinstance(args[0], _DeviceTensor):
        args, kwargs = [args[0], *args[2:]], {}
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    on_device = any(isinstance(tensor, _DeviceTensor) for tensor in tensors)
    if on_device and any(tensor.dim() and not isinstance(tensor, _DeviceTensor) for tensor in tensors):
        raise RuntimeError(f"{operation} takes tensors on two devices")
    return on_device


@contextmanager
def simulated_device() -> Iterator[torch.device]:
    """Provide the simulated device: tensors on it give the usual results, but only with tensors on it, too."""
    enter = torch.autocast.__init__

    def autocast(self: torch.autocast, device_type: str, *args: Any, **options: Any) -> None:
        enter(self, CPU.type if device_type == DEVICE.type else device_type, *args, **options)

    patched = mock.patch.object(torch.autocast, "__init__", autocast)
    with warnings.catch_warnings(), patched, _Operations(), _Numbers():  # type: ignore[no-untyped-call]
        warnings.filterwarnings("ignore", message=".*copying from a non-meta parameter.*")
        yield DEVICE
