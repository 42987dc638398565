"""Batch normalisation with fixed statistics, folded into the convolution in front of it."""

from torch import fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval


def fold_batch_norms(network: nn.Module) -> None:
    """Fold each BatchNorm2d that alone reads a convolution's output into it, in place.

    The network must be in eval mode. Its function is the same up to rounding, without the passes
    over memory of the normalisation. Which layers are a pair is read from the traced graph; a
    network that torch.fx cannot trace stays as it is.
    """
    modules = dict(network.named_modules())
    if not any(isinstance(module, nn.BatchNorm2d) for module in modules.values()):
        return
    try:
        graph = _Tracer().trace(network)
    except Exception:  # any statement of the network's forward can fail with a proxy
        return
    calls = [node for node in graph.nodes if node.op == "call_module"]
    for node in calls:
        norm = modules[node.target]
        if not isinstance(norm, nn.BatchNorm2d) or node.args[0] not in calls:
            continue
        source = node.args[0]
        conv = modules[source.target]
        used_once = all(
            sum(modules[other.target] is module for other in calls) == 1 for module in (conv, norm)
        )
        if isinstance(conv, nn.Conv2d) and used_once and len(source.users) == 1:
            # In float64, so that the products are rounded once.
            folded = fuse_conv_bn_eval(conv.double(), norm.double()).float()
            _replace(network, source.target, folded)
            _replace(network, node.target, _activation(norm))


class _Tracer(fx.Tracer):
    """Convolutions and normalisations (also timm's subclasses of them) are single nodes."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        single = isinstance(m, nn.Conv2d | nn.BatchNorm2d)
        return single or super().is_leaf_module(m, module_qualified_name)


def _activation(norm: nn.BatchNorm2d) -> nn.Module:
    """What timm's BatchNormAct2d does after the normalisation; Identity for torch's BatchNorm2d."""
    parts = [getattr(norm, name) for name in ("drop", "act") if hasattr(norm, name)]
    parts = [part for part in parts if not isinstance(part, nn.Identity)]
    return parts[0] if len(parts) == 1 else nn.Sequential(*parts)


def _replace(network: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(network.get_submodule(parent), child, module)
