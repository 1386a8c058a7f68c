"""Batch norm in eval mode, folded into the convolution before it while a network is held fixed: fewer, equal steps."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, fx
from torch.nn import BatchNorm2d, Conv2d, Module, Parameter
from torch.nn.utils.fusion import fuse_conv_bn_weights

Pair = tuple[Conv2d, BatchNorm2d]
_known: WeakKeyDictionary[Module, tuple[Pair, ...]] = WeakKeyDictionary()


def prepare(network: Module) -> None:
    """Find what can be folded in a network: each convolution whose output goes to one batch norm and nowhere else.

    Nothing where the network cannot be traced: it then runs as it is, as does one that was not prepared.
    """
    try:
        graph = fx.Tracer().trace(network)
    except Exception:  # whatever a stranger's forward does with something that is no tensor
        graph = fx.Graph()
    layers = [node for node in graph.nodes if node.op == "call_module"]
    calls = Counter(node.target for node in layers)
    found = []
    for node in layers:
        after = list(node.users)
        if len(after) == 1 and after[0] in layers and calls[node.target] == calls[after[0].target] == 1:
            one, other = (network.get_submodule(str(step.target)) for step in (node, after[0]))
            if type(one) is Conv2d and type(other) is BatchNorm2d:
                found.append((one, other))
    _known[network] = tuple(found)


@contextmanager
def folded(network: Module) -> Iterator[None]:
    """Fold each batch norm of a prepared network that is in eval mode; on leaving, all is what it was.

    A layer that somebody watches by a hook stays as it is, and so does one that is folded already.
    """
    changed: list[tuple[Conv2d, BatchNorm2d, dict[str, Parameter | None]]] = []
    try:
        for conv, norm in _known.get(network, ()):
            if _may_fold(conv, norm):
                changed.append((conv, norm, dict(conv._parameters)))
                conv._parameters.update(_fused(conv, norm))
                vars(norm)["forward"] = _unchanged
        yield
    finally:
        for conv, norm, weights in changed:
            conv._parameters.update(weights)
            del vars(norm)["forward"]


def _may_fold(conv: Conv2d, norm: BatchNorm2d) -> bool:
    watched = any(one._forward_hooks or one._forward_pre_hooks or one._backward_hooks for one in (conv, norm))
    return not norm.training and norm.running_var is not None and "forward" not in vars(norm) and not watched


def _fused(conv: Conv2d, norm: BatchNorm2d) -> dict[str, Parameter | None]:
    mean, variance = norm.running_mean, norm.running_var
    assert mean is not None
    assert variance is not None
    with torch.no_grad():
        weight, bias = fuse_conv_bn_weights(conv.weight, conv.bias, mean, variance, norm.eps, norm.weight, norm.bias)
    return {"weight": weight, "bias": bias}


def _unchanged(features: Tensor) -> Tensor:
    return features
