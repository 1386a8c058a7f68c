"""Batch norm in eval mode, folded into the convolution before it while a network is held fixed: fewer, equal steps."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from weakref import WeakKeyDictionary

import torch

from uebench.compute.cuda_graphs import run_recorded


class FoldablePair:
    """A convolution and the batch norm after it, and the weights that do the work of both, kept in one place."""

    def __init__(self, conv: torch.nn.Conv2d, norm: torch.nn.BatchNorm2d, kind: torch.dtype | None) -> None:
        self.conv, self.norm, self.kind = conv, norm, kind
        self.weights: dict[str, torch.nn.Parameter] = {}

    def may(self) -> bool:
        """Tell whether they can be folded now: nobody watches, and the batch norm does not use the batch's values."""
        both = (self.conv, self.norm)
        if any(one._forward_hooks or one._forward_pre_hooks or one._backward_hooks for one in both):
            return False
        known = self.norm.running_mean is not None and self.norm.running_var is not None
        return known and not self.norm.training and "forward" not in vars(self.norm)

    def fuse(self) -> None:
        """Work the weights out, in the place where they lay before: a recording reads them there."""
        conv, norm = self.conv, self.norm
        assert norm.running_mean is not None
        assert norm.running_var is not None
        with torch.no_grad():
            fused = torch.nn.utils.fuse_conv_bn_weights(
                conv.weight, conv.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
            )
            for name, own in zip(("weight", "bias"), fused, strict=True):
                value = own.detach().to(self.kind or own.dtype)
                held = self.weights.get(name)
                if held is None or (held.dtype, held.device) != (value.dtype, value.device):
                    self.weights[name] = torch.nn.Parameter(value, requires_grad=False)
                else:
                    held.copy_(value)


_known: WeakKeyDictionary[torch.nn.Module, tuple[FoldablePair, ...]] = WeakKeyDictionary()


def prepare_folding(network: torch.nn.Module, kind: torch.dtype | None = None) -> bool:
    """Find what can be folded in a network: each convolution whose output goes to one batch norm and nowhere else.

    `kind` is the arithmetic that convolutions run in, where that is not their weights'. Returns whether the network can
    be traced, and so does the same at every call; one that cannot, or was not prepared, runs as it is.
    """
    tracer = torch.fx.Tracer()
    try:
        graph = tracer.trace(network)
    except Exception:  # whatever a stranger's forward does with something that is no tensor
        return False
    finally:
        vars(tracer).pop("root", None)  # it lies in a cycle, and would keep the network until garbage is looked for
    layers = [node for node in graph.nodes if node.op == "call_module"]
    calls = Counter(node.target for node in layers)
    found = []
    for node in layers:
        after = list(node.users)
        if len(after) == 1 and after[0] in layers and calls[node.target] == calls[after[0].target] == 1:
            one, other = (network.get_submodule(str(step.target)) for step in (node, after[0]))
            if type(one) is torch.nn.Conv2d and type(other) is torch.nn.BatchNorm2d:
                found.append(FoldablePair(one, other, kind))
    _known[network] = tuple(found)
    return True


@contextmanager
def batchnorm_folded(network: torch.nn.Module) -> Iterator[None]:
    """Fold each batch norm of a prepared network that is in eval mode; on leaving, all is what it was.

    A layer that somebody watches by a hook stays as it is, and so does one that is folded already.
    """
    able = [one for one in _known.get(network, ()) if one.may()]
    before = [dict(one.conv._parameters) for one in able]
    try:
        if able:
            run_recorded(_fuse, network)
        for one in able:
            one.conv._parameters.update(one.weights)
            vars(one.norm)["forward"] = _unchanged
        yield
    finally:
        for one, weights in zip(able, before, strict=True):
            one.conv._parameters.update(weights)
            vars(one.norm).pop("forward", None)


def _fuse(network: torch.nn.Module) -> tuple[()]:
    for one in _known[network]:
        if one.may():
            one.fuse()
    return ()


def _unchanged(features: torch.Tensor) -> torch.Tensor:
    return features
