"""Records a function of a network and batches of one shape as a CUDA graph, and replays it: one launch for all kernels.

The kernels of a small network run faster than they can be launched one by one. A replay runs the recorded kernels, so
it changes no number. A function that cannot be recorded is called directly.
"""

from __future__ import annotations

import os
import warnings
import weakref
from collections.abc import Callable, Hashable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import torch

DISABLE_VARIABLE = "UEBENCH_NO_GRAPHS"
"""The environment variable that turns recording off if it is set."""
CALLS_BEFORE = 2
"""Direct calls before a recording: it costs as much as several calls, and an incomplete last batch comes only once."""
WARM_UP = 3
"""Warm-up calls before a recording, in which libraries choose their kernels and allocate their memory."""
MOST_RECORDINGS = 8
"""The largest number of recordings per network."""
AGREEMENT = 1e-3
"""The L2 difference between a replay and a direct call that is always allowed, relative to each result: some kernels
add in no fixed order."""
ROUNDING = {"bf16": 2.0**-8, "tf32": 2.0**-11, "fp32": 2.0**-24}
"""The relative rounding error of one value in each precision.

A network multiplies such errors: in bf16, one of them in a hundredth of one layer's gradient moves the image gradient
of a ResNet-18 by up to 7e-3. A replay may therefore differ from a direct call by twice as much as a direct call does
from another one whose images are moved by one rounding error.
"""
NEGLIGIBLE = 1e-3
"""The norm used for a smaller result, relative to the largest result: the gradient of a bias before batch norm is only
rounding error, so its relative difference means nothing."""

WorkResults = tuple["torch.Tensor | None", ...]
RecordableWork = Callable[..., WorkResults]


class RecordingError(RuntimeError):
    """A recording broke off, and this process cannot use the GPU any more."""


@dataclass(frozen=True)
class Recording:
    """The tensors that a recorded call reads and writes, and the function that replays it."""

    inputs: tuple[torch.Tensor, ...]
    results: WorkResults
    replay: Callable[[], object]

    def __call__(self, *inputs: torch.Tensor) -> WorkResults:
        """Replay on other inputs; returns copies, which the next replay does not overwrite."""
        for recorded_input, new_input in zip(self.inputs, inputs, strict=True):
            recorded_input.copy_(new_input)
        self.replay()
        return tuple(None if result is None else result.clone() for result in self.results)


_recordings: weakref.WeakKeyDictionary[torch.nn.Module, dict[Hashable, Recording | int | None]] = (
    weakref.WeakKeyDictionary()
)


def allow_recording(network: torch.nn.Module) -> None:
    """Allow recording for a network, whose forward pass must run the same operations for all values and all calls."""
    _recordings[network] = {}


def run_recorded(work: RecordableWork, network: torch.nn.Module, *inputs: torch.Tensor) -> WorkResults:
    """Return `work(network, *inputs)`, by a replay if recording is allowed for the network and its device supports it.

    `work` may change buffers of the network, tensors that it returns and tensors that it created, but no others.
    """
    entries = _recordings.get(network)
    if entries is None or not can_record(network) or _has_hooks(network):
        return work(network, *inputs)
    key = (work, *((tensor.shape, tensor.dtype, tensor.stride()) for tensor in inputs), *_network_state(network))
    entry = entries.get(key, 0)  # a recording, the number of calls so far, or None if recording failed
    if isinstance(entry, Recording):
        return entry(*inputs)
    if entry is None or entry < CALLS_BEFORE:
        entries[key] = None if entry is None else entry + 1
        return work(network, *inputs)
    while sum(isinstance(value, Recording) for value in entries.values()) >= MOST_RECORDINGS:
        entries.pop(next(old for old, value in entries.items() if isinstance(value, Recording)))
    entries[key], results = _try_recording(work, network, inputs)
    return results


def can_record(network: torch.nn.Module) -> bool:
    """Tell whether the network's device supports recording and the user has not turned it off."""
    return next(network.parameters()).is_cuda and DISABLE_VARIABLE not in os.environ


def _has_hooks(network: torch.nn.Module) -> bool:
    """Tell whether a module has hooks, which a replay does not call."""
    return any(
        module._forward_hooks or module._forward_pre_hooks or module._backward_hooks for module in network.modules()
    )


def _network_state(network: torch.nn.Module) -> Iterator[Hashable]:
    """Yield what a recording depends on: each module's mode, and each tensor's address, dtype and requires_grad."""
    for module in network.modules():
        yield module.training
        for tensor in (*module._parameters.values(), *module._buffers.values()):
            yield None if tensor is None else (tensor.data_ptr(), tensor.dtype, tensor.requires_grad)


def _try_recording(
    work: RecordableWork, network: torch.nn.Module, inputs: tuple[torch.Tensor, ...]
) -> tuple[Recording | None, WorkResults]:
    """Record `work`, compare a replay with a direct call, and return the recording and the results of the call.

    The recording is None, with a warning, if `work` cannot be recorded or its results differ. Buffers and random
    generators end in the state that the direct call alone leaves. Raises `RecordingError` if the recording breaks off.
    """
    buffers = list(network.buffers())
    before = [buffer.clone() for buffer in buffers]

    def run_and_undo(call: Callable[..., WorkResults], *values: torch.Tensor) -> WorkResults:
        with _preserve_generators(network):
            results = (*call(*values), *(buffer.clone() for buffer in buffers))
        _restore_values(buffers, before)
        return results

    recording: Recording | None = None
    replayed: WorkResults = ()
    moved: WorkResults = ()
    reason = "a replay gives other numbers than the direct call"
    try:
        with _preserve_generators(network):
            recording = record_graph(work, network, inputs)
        _restore_values(buffers, before)
        replayed = run_and_undo(recording, *inputs)
        moved = run_and_undo(partial(work, network), *(_move_by_rounding(tensor, network) for tensor in inputs))
    except (RecordingError, torch.OutOfMemoryError):
        raise
    except RuntimeError as error:
        reason, recording = str(error).strip().partition("\n")[0], None
    _restore_values(buffers, before)
    results = work(network, *inputs)
    if recording and not _results_agree((*results, *buffers), replayed, moved):
        recording = None
    if not recording:
        warnings.warn(f"not recorded as a CUDA graph, therefore slower: {reason}", RuntimeWarning, stacklevel=3)
    return recording, results


def _preserve_generators(network: torch.nn.Module) -> AbstractContextManager[None]:
    """Return a context that restores the default random generators, so that dropout draws the same values again."""
    device = next(network.parameters()).device
    return torch.random.fork_rng([device] if device.type == "cuda" else [])


def _restore_values(tensors: list[torch.Tensor], values: list[torch.Tensor]) -> None:
    with torch.no_grad():
        for tensor, value in zip(tensors, values, strict=True):
            tensor.copy_(value)


def _move_by_rounding(tensor: torch.Tensor, network: torch.nn.Module) -> torch.Tensor:
    """Return images whose values are moved up and down by turns, each by one rounding error; labels stay."""
    if not tensor.is_floating_point():
        return tensor
    signs = torch.ones_like(tensor).flatten()
    signs[::2] = -1
    return tensor * (1 + ROUNDING[getattr(network, "precision", "fp32")] * signs.view_as(tensor))


def _results_agree(expected: WorkResults, actual: WorkResults, moved: WorkResults) -> bool:
    """Tell whether results differ by no more than rounding does; `moved` are results for moved images."""
    norms = [float(tensor.double().norm()) for tensor in expected if tensor is not None]
    smallest = NEGLIGIBLE * max(norms, default=0)

    def close(
        expected_tensor: torch.Tensor | None, actual_tensor: torch.Tensor | None, moved_tensor: torch.Tensor | None
    ) -> bool:
        if expected_tensor is None or actual_tensor is None or moved_tensor is None:
            return expected_tensor is actual_tensor
        exact = expected_tensor.double()
        difference, rounding = (float((exact - tensor.double()).norm()) for tensor in (actual_tensor, moved_tensor))
        return difference <= max(AGREEMENT * max(float(exact.norm()), smallest), 2 * rounding)  # False for NaN

    return all(close(*three) for three in zip(expected, actual, moved, strict=True))


@lru_cache
def _shared_resources(device: int) -> tuple[Any, torch.cuda.Stream, torch.cuda.CUDAGraph]:
    """Return what all recordings of a device share: the memory pool, the stream for warm-ups, and an empty graph.

    Recordings can share the pool because no recording uses the memory of another's inputs and results. The empty graph
    keeps the pool alive: a pool whose last graph is gone cannot be used for a recording again. There is one stream
    because libraries allocate memory for each stream that they see.
    """
    pool, graph = torch.cuda.graph_pool_handle(), torch.cuda.CUDAGraph()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns that the graph is empty
        with torch.cuda.graph(graph, pool=pool):
            pass
    return pool, torch.cuda.Stream(), graph  # type: ignore[no-untyped-call]


def record_graph(work: RecordableWork, network: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> Recording:
    """Record a call as a CUDA graph; raises `RuntimeError` if `work` waits for the device or memory could run out.

    Both are found before the recording starts, by warm-up calls and by a look at the free memory. A recording that
    breaks off leaves torch on the stream of the recording, so it raises `RecordingError`, after which the process must
    not be used any more.
    """
    device = torch.cuda.current_device()
    free, needed = torch.cuda.mem_get_info(device)[0], torch.cuda.max_memory_allocated(device)
    if free < needed:
        raise RuntimeError(f"{free >> 20} MiB of GPU memory are free, and a recording may need {needed >> 20}")
    recorded_inputs = tuple(tensor.detach().clone() for tensor in inputs)
    pool, warm_up_stream, _ = _shared_resources(device)
    warm_up_stream.wait_stream(torch.cuda.current_stream())
    try:
        with _forbid_waiting(), torch.cuda.stream(warm_up_stream):
            for _ in range(WARM_UP):
                work(network, *recorded_inputs)
    finally:
        torch.cuda.current_stream().wait_stream(warm_up_stream)
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph, pool=pool):
            results = work(network, *recorded_inputs)
    except RuntimeError as error:
        line = str(error).strip().partition("\n")[0]
        raise RecordingError(
            f"the recording of a CUDA graph broke off; {DISABLE_VARIABLE}=1 avoids it ({line})"
        ) from error
    return Recording(recorded_inputs, results, graph.replay)


@contextmanager
def _forbid_waiting() -> Iterator[None]:
    """Make each operation that waits for the device raise `RuntimeError`, as far as torch detects it."""
    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*prototype feature")
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)
