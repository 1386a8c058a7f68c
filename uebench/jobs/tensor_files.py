"""Tensors as safetensors bytes and files; nothing is pickled."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import safetensors
import safetensors.torch
import torch


def pack_tensors(tensors: Mapping[str, torch.Tensor]) -> bytes:
    """Return tensors by name as the bytes of a safetensors file."""
    return safetensors.torch.save(_without_shared_memory(tensors))


def unpack_tensors(content: bytes) -> dict[str, torch.Tensor]:
    """Return the tensors of a safetensors file, on the host."""
    return safetensors.torch.load(content)


def load_tensors(path: Path) -> dict[str, torch.Tensor]:
    """Return the tensors of a safetensors file, on the host; their values are read when they are used."""
    return safetensors.torch.load_file(path)


def tensor_writer(tensors: Mapping[str, torch.Tensor]) -> Callable[[Path], None]:
    """Return a function that writes tensors by name into a safetensors file; it raises `OSError`."""

    def write(path: Path) -> None:
        try:
            safetensors.torch.save_file(_without_shared_memory(tensors), path)
        except safetensors.SafetensorError as error:
            raise OSError(str(error)) from error

    return write


def _without_shared_memory(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return tensors on the host, none of which shares memory with another: tied weights are written twice."""
    separate, pointers = dict[str, torch.Tensor](), set[int]()
    for name, tensor in tensors.items():
        host = tensor.cpu().contiguous()
        pointer = host.untyped_storage().data_ptr()
        separate[name] = host.clone() if pointer in pointers else host
        pointers.add(pointer)
    return separate
