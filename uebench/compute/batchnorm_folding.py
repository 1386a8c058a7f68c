"""Folds batch norm in eval mode into the convolution before it: fewer operations for a frozen network, same result."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from weakref import WeakKeyDictionary

import torch

from uebench.compute.cuda_graphs import run_recorded


class FoldablePair:
    """A convolution, the batch norm after it, and the weights of the convolution that replaces the two."""

    def __init__(self, conv: torch.nn.Conv2d, norm: torch.nn.BatchNorm2d, dtype: torch.dtype | None) -> None:
        self.conv, self.norm, self.dtype = conv, norm, dtype
        self.weights: dict[str, torch.nn.Parameter] = {}

    def can_fold(self) -> bool:
        """Tell whether the pair can be folded now: no hooks, running statistics in use, and not folded already."""
        layers = (self.conv, self.norm)
        if any(layer._forward_hooks or layer._forward_pre_hooks or layer._backward_hooks for layer in layers):
            return False
        has_statistics = self.norm.running_mean is not None and self.norm.running_var is not None
        return has_statistics and not self.norm.training and "forward" not in vars(self.norm)

    def fuse(self) -> None:
        """Compute the weights, in the same memory as before: a recorded CUDA graph reads them from there."""
        conv, norm = self.conv, self.norm
        assert norm.running_mean is not None
        assert norm.running_var is not None
        with torch.no_grad():
            fused = torch.nn.utils.fuse_conv_bn_weights(
                conv.weight, conv.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
            )
            for name, parameter in zip(("weight", "bias"), fused, strict=True):
                value = parameter.detach().to(self.dtype or parameter.dtype)
                previous = self.weights.get(name)
                if previous is None or (previous.dtype, previous.device) != (value.dtype, value.device):
                    self.weights[name] = torch.nn.Parameter(value, requires_grad=False)
                else:
                    previous.copy_(value)


_prepared: WeakKeyDictionary[torch.nn.Module, tuple[FoldablePair, ...]] = WeakKeyDictionary()


def prepare_folding(network: torch.nn.Module, dtype: torch.dtype | None = None) -> bool:
    """Find the pairs to fold in a network: each convolution whose output goes to one batch norm and nowhere else.

    `dtype` is the type in which convolutions compute, if it differs from the type of their weights. Returns whether the
    network can be traced, and therefore runs the same operations at every call. A network that cannot be traced, or was
    not prepared, runs unchanged.
    """
    tracer = torch.fx.Tracer()
    try:
        graph = tracer.trace(network)
    except Exception:  # the forward pass of a plug-in may raise anything when it gets a symbol instead of a tensor
        return False
    finally:
        vars(tracer).pop(
            "root", None
        )  # it is part of a reference cycle, which would keep the network until garbage collection
    layers = [node for node in graph.nodes if node.op == "call_module"]
    calls = Counter(node.target for node in layers)
    pairs = []
    for node in layers:
        users = list(node.users)
        if len(users) == 1 and users[0] in layers and calls[node.target] == calls[users[0].target] == 1:
            first, second = (network.get_submodule(str(call.target)) for call in (node, users[0]))
            if type(first) is torch.nn.Conv2d and type(second) is torch.nn.BatchNorm2d:
                pairs.append(FoldablePair(first, second, dtype))
    _prepared[network] = tuple(pairs)
    return True


@contextmanager
def batchnorm_folded(network: torch.nn.Module) -> Iterator[None]:
    """Fold each batch norm of a prepared network that is in eval mode, and restore the network on exit.

    Layers with hooks, and layers that are folded already, are left unchanged.
    """
    pairs = [pair for pair in _prepared.get(network, ()) if pair.can_fold()]
    before = [dict(pair.conv._parameters) for pair in pairs]
    try:
        if pairs:
            run_recorded(_fuse_pairs, network)
        for pair in pairs:
            pair.conv._parameters.update(pair.weights)
            vars(pair.norm)["forward"] = _return_unchanged
        yield
    finally:
        for pair, weights in zip(pairs, before, strict=True):
            pair.conv._parameters.update(weights)
            vars(pair.norm).pop("forward", None)


def _fuse_pairs(network: torch.nn.Module) -> tuple[()]:
    for pair in _prepared[network]:
        if pair.can_fold():
            pair.fuse()
    return ()


def _return_unchanged(features: torch.Tensor) -> torch.Tensor:
    return features
