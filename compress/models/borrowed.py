"""Networks of other packages by name, untrained: torchvision's, timm's, and the user's own."""

from __future__ import annotations

import importlib
import os
from typing import Any

import torch
from torch import nn

from compress.core.lineage import BUILDERS
from compress.core.registry import UnknownName

#: The environment variable that lets `import_path` import the user's code.
ALLOW_IMPORT = "SECATEUR_ALLOW_IMPORT"


@BUILDERS.register("torchvision", suffix="arch")
def torchvision_model(shape: tuple[int, int, int], num_classes: int, *, arch: str = "resnet18") -> nn.Module:
    """A classification network of torchvision, with random weights.

    Args:
        shape: (channels, height, width) of one input. With other than 3 channels the first convolution is replaced.
        num_classes: Number of outputs.
        arch: Name as in `torchvision.models.list_models`; also behind a colon: `torchvision:resnet18`.

    Returns:
        A module from (B, channels, height, width) to logits (B, num_classes).

    Differs from the paper: no paper. Auxiliary classifiers are left out; nothing is downloaded.

    Cost: that of the network; one forward pass of a single input checks that it takes the shape.

    Reference: torchvision.models.

    >>> torchvision_model((1, 32, 32), 5, arch="squeezenet1_1").features[0].in_channels
    1
    """
    models = _package("torchvision.models", "torchvision")
    known = models.list_models(module=models)
    if arch not in known:
        raise UnknownName.among("torchvision network", arch, known)
    module = models.get_model(arch, weights=None, num_classes=num_classes, **_torchvision_options(arch, shape))
    if shape[0] != 3:
        _replace_first_convolution(module, shape[0], f"torchvision:{arch}")
    return _checked(module, shape, num_classes, f"torchvision:{arch}")


def _torchvision_options(arch: str, shape: tuple[int, int, int]) -> dict[str, Any]:
    if arch in ("googlenet", "inception_v3"):
        return {"aux_logits": False, "init_weights": True}
    if arch.startswith("vit_"):
        return {"image_size": shape[1]}
    return {"input_size": shape[1:]} if arch.startswith("maxvit_") else {}


@BUILDERS.register("timm", suffix="arch")
def timm_model(shape: tuple[int, int, int], num_classes: int, *, arch: str = "resnet18") -> nn.Module:
    """A classification network of timm, with random weights.

    Args:
        shape: (channels, height, width) of one input.
        num_classes: Number of outputs.
        arch: Name as in `timm.list_models`; also behind a colon: `timm:resnet18`. Hub addresses are refused.

    Returns:
        A module from (B, channels, height, width) to logits (B, num_classes).

    Differs from the paper: no paper. Nothing is downloaded.

    Cost: that of the network; one forward pass of a single input checks that it takes the shape.

    Reference: timm.create_model.

    >>> timm_model((1, 32, 32), 5, arch="resnet10t").conv1[0].in_channels
    1
    """
    timm = _package("timm", "timm")
    known = timm.list_models()
    if arch.partition(".")[0] not in known:
        raise UnknownName.among("timm network", arch, known)
    config = timm.get_pretrained_cfg(arch)
    options = {"img_size": shape[1:]} if config is not None and config.fixed_input_size else {}
    module: nn.Module = timm.create_model(arch, pretrained=False, in_chans=shape[0], num_classes=num_classes, **options)
    return _checked(module, shape, num_classes, f"timm:{arch}")


@BUILDERS.register("import_path", suffix="path")
def import_path(shape: tuple[int, int, int], num_classes: int, *, path: str = "") -> nn.Module:
    """A network that the user's own function makes; refused unless SECATEUR_ALLOW_IMPORT=1 is set.

    Importing a module runs its code, so a model's record alone must never be able to ask for it.

    Args:
        shape: (channels, height, width) of one input; handed to the function.
        num_classes: Number of outputs; handed to the function.
        path: "package.module:function"; also behind a colon: `import_path:package.module:function`.

    Returns:
        What function(shape, num_classes) returned: a module from (B, channels, height, width) to (B, num_classes).

    Differs from the paper: no paper.

    Cost: that of the function; one forward pass of a single input checks the result.

    Reference: importlib.import_module.

    >>> import os
    >>> _ = os.environ.pop("SECATEUR_ALLOW_IMPORT", None)
    >>> import_path((1, 8, 8), 3, path="mine:net")
    Traceback (most recent call last):
    ValueError: import_path: importing 'mine:net' would run its code; set SECATEUR_ALLOW_IMPORT=1 if you trust it.
    """
    if os.environ.get(ALLOW_IMPORT) != "1":
        raise ValueError(f"import_path: importing {path!r} would run its code; set {ALLOW_IMPORT}=1 if you trust it.")
    name, colon, attribute = path.partition(":")
    if not (name and colon and attribute):
        raise ValueError(f"import_path: path={path!r}; write package.module:function.")
    try:
        function = getattr(importlib.import_module(name), attribute)
    except (ImportError, AttributeError) as error:
        raise ValueError(
            f"import_path: {path!r} cannot be imported ({error}); check PYTHONPATH and the name."
        ) from error
    module = function(shape, num_classes)
    if not isinstance(module, nn.Module):
        raise ValueError(f"import_path: {path} returned a {type(module).__name__}; it must return an nn.Module.")
    return _checked(module, shape, num_classes, path)


def _package(name: str, extra: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise ValueError(f"{extra} is not installed: install secateur[vision].") from error


def _replace_first_convolution(module: nn.Module, channels: int, name: str) -> None:
    """Let the first convolution, which takes 3 channels, take `channels`; its weights start anew."""
    convolutions = ((path, part) for path, part in module.named_modules() if isinstance(part, nn.Conv2d))
    path, old = next(convolutions, ("", None))
    if old is None or old.in_channels != 3 or old.groups != 1:
        raise ValueError(
            f"{name} does not start with a plain convolution of 3 channels, so it cannot take {channels}: "
            f"choose another network, or one of timm's."
        )
    same: dict[str, Any] = {
        option: getattr(old, option) for option in ("kernel_size", "stride", "padding", "dilation", "padding_mode")
    }
    parent, _, leaf = path.rpartition(".")
    new = nn.Conv2d(channels, old.out_channels, bias=old.bias is not None, **same)
    setattr(module.get_submodule(parent), leaf, new)


def _checked(module: nn.Module, shape: tuple[int, int, int], num_classes: int, name: str) -> nn.Module:
    """Return `module` if it turns one input of `shape` into `num_classes` logits, else raise ValueError."""
    try:
        with torch.no_grad():
            logits_BC = module.eval()(torch.zeros(1, *shape))
    except (RuntimeError, ValueError, AssertionError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(
            f"{name} cannot take {shape} inputs ({reason}); choose larger inputs or another network."
        ) from error
    found = tuple(getattr(logits_BC, "shape", ()))
    if found != (1, num_classes):
        raise ValueError(f"{name} gives outputs of shape {found} for one input, expected (1, {num_classes}).")
    return module.train()
