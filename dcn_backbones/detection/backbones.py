"""timm's networks as backbones of torchvision's detectors: under a pyramid, or with the papers' conv5."""

from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm
from timm.layers import convert_sync_batchnorm, freeze_batch_norm_2d
from torch import Tensor, nn
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from ..models.checkpoints import read_checkpoint
from .settings import DetectorSettings

OUT_CHANNELS = 256

# Of each neck: the maps it takes, counted from the network's end, and pixels of the image for one of theirs.
_OUT_INDICES = {"fpn": (-4, -3, -2, -1), "c5": (-2, -1)}
_TAKEN = ("features_only", "out_indices")  # arguments of timm.create_model that the neck decides
_REDUCTIONS = {"fpn": [4, 8, 16, 32], "c5": [16, 16]}


class PyramidBackbone(nn.Module):
    """A network under a feature pyramid: torchvision's ``BackboneWithFPN`` for a network of timm.

    Source: Lin et al., "Feature Pyramid Networks", 2017. As there, the coarsest map is one more subsampling.

    Args:
        body: A ``features_only`` network of four maps, at strides 4 to 32.

    Shapes:
        - input: ``(N, 3, H, W)``
        - output: ``(N, 256, H / s, W / s)`` by name: ``0`` to ``3`` and ``pool``, ``s`` from 4 to 64
    """

    out_channels = OUT_CHANNELS
    box_levels = ("0", "1", "2", "3")

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body
        self.fpn = FeaturePyramidNetwork(body.feature_info.channels(), OUT_CHANNELS, LastLevelMaxPool())

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return self.fpn(OrderedDict(zip(self.box_levels, self.body(images), strict=True)))


class DilatedBackbone(nn.Module):
    """A network with conv5 at stride 16, which the regions are pooled from, and conv4, for the proposals.

    Source: Dai et al., "Deformable Convolutional Networks", 2017, section 3: "all the convolution filters in
    this block (with kernel size > 1)" are dilated, that of the first residual block too, which timm and
    torchvision leave as it was; and a 1x1 convolution, randomly initialised, reduces it to 256 channels.

    Args:
        body: A ``features_only`` network of two maps, both at stride 16.

    Shapes:
        - input: ``(N, 3, H, W)``
        - output ``conv4``: ``(N, proposal_channels, H / 16, W / 16)``
        - output ``conv5``: ``(N, 256, H / 16, W / 16)``
    """

    out_channels = OUT_CHANNELS
    box_levels = ("conv5",)
    proposal_level = "conv4"

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.proposal_channels, channels = body.feature_info.channels()
        self.body = body
        for name, module in body.named_modules():
            if _flat(name) == _flat(body.feature_info.module_name()[-1]):
                _dilate(module)
        self.reduction = nn.Conv2d(channels, OUT_CHANNELS, 1)
        nn.init.kaiming_uniform_(self.reduction.weight, a=1)  # as torchvision's pyramid
        nn.init.zeros_(self.reduction.bias)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        conv4, conv5 = self.body(images)
        return OrderedDict(conv4=conv4, conv5=self.reduction(conv5))


Backbone = PyramidBackbone | DilatedBackbone


def make_backbone(settings: DetectorSettings) -> Backbone:
    """The network, its batch norm and its frozen stages, under the neck of the settings.

    Raises:
        ValueError: When timm has no such network, or it has other strides than the neck needs or fewer stages
            than are trained, or the file of its weights is damaged or another network's.
        FileNotFoundError: When there is no such file.
    """
    body = _make_body(settings)
    if body.feature_info.reduction() != _REDUCTIONS[settings.neck]:
        raise ValueError(
            f"backbone {settings.backbone!r} has its last maps at strides {body.feature_info.reduction()}; "
            f"expected {_REDUCTIONS[settings.neck]} for neck={settings.neck!r}."
        )
    body = _with_norm(body, settings.norm)
    freeze_stages(body, settings.trainable_backbone_layers)
    return PyramidBackbone(body) if settings.neck == "fpn" else DilatedBackbone(body)


def _make_body(settings: DetectorSettings) -> nn.Module:
    arguments = _loadable(settings.backbone_args)
    if settings.neck == "c5":
        arguments.setdefault("output_stride", 16)
    arguments |= {"features_only": True, "out_indices": _OUT_INDICES[settings.neck]}
    try:
        return timm.create_model(settings.backbone, **arguments)
    except (RuntimeError, TypeError, AssertionError) as error:  # no such network, or argument of it
        raise ValueError(f"backbone {settings.backbone!r} cannot be built: {reason(error)}.") from error


def reason(error: Exception) -> str:
    """What an error of torch or timm says, without the list that follows."""
    return " ".join(line.strip() for line in str(error).splitlines()[:2]).rstrip(".")


def _loadable(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """A ``checkpoint_path`` as pretrained weights: timm converts those, and leaves their classifier out."""
    arguments = dict(arguments)
    path = arguments.pop("checkpoint_path", None)
    if path:
        _check_weights(Path(path))
        overlay = {**arguments.get("pretrained_cfg_overlay", {}), "file": str(path)}
        arguments |= {"pretrained": True, "pretrained_cfg_overlay": overlay}
    return arguments


def _check_weights(path: Path) -> None:
    """Read the file before timm does, whose own errors do not name it."""
    if not path.is_file():
        raise FileNotFoundError(f"checkpoint_path {str(path)!r} is not a file; expected a network's weights.")
    read_checkpoint(path)


def freeze_stages(body: nn.Module, trainable: int) -> None:
    """Take the gradient from the parameters of all stages but the last ones.

    Args:
        body: A ``features_only`` network.
        trainable: Stages that keep it. The stem of a ResNet is a stage.

    Raises:
        ValueError: When the network has fewer stages.
    """
    stages = _stages(body)
    if not 0 <= trainable <= len(stages):
        raise ValueError(
            f"trainable_backbone_layers={trainable}, but the backbone has {len(stages)} stages; "
            f"expected 0 to {len(stages)}."
        )
    for module in (module for stage in stages[: len(stages) - trainable] for module in stage):
        for parameter in module.parameters(recurse=False):
            parameter.requires_grad_(False)


def _stages(body: nn.Module) -> list[list[nn.Module]]:
    """The modules up to the end of each feature map that the network has, in order."""
    ends = [_flat(info["module"]) for info in body.feature_info.info]
    stages, inside = [[]], False
    for name, module in body.named_modules():
        at_end = f"{_flat(name)}_".startswith(f"{ends[len(stages) - 1]}_")
        if inside and not at_end and len(stages) < len(ends):
            stages.append([])
            at_end = f"{_flat(name)}_".startswith(f"{ends[len(stages) - 1]}_")
        inside = at_end
        stages[-1].append(module)
    return stages


def _flat(name: str) -> str:
    """The name of a module as `features_only` writes it, whichever of timm's wrappers the network is in."""
    return name.removeprefix("model.").removeprefix("body.").replace(".", "_")


def _with_norm(body: nn.Module, norm: str) -> nn.Module:
    if norm == "frozen":
        return freeze_batch_norm_2d(body)
    return convert_sync_batchnorm(body) if norm == "sync" else body


def _dilate(stage: nn.Module) -> None:
    """Dilation 2 for the kernels of a stage that have none; deformable layers and their offsets alike."""
    for module in stage.modules():
        kernel = getattr(module, "kernel_size", None)
        centred = isinstance(kernel, tuple) and module.padding == tuple(size // 2 for size in kernel)
        if centred and max(kernel) > 1 and module.dilation == (1, 1):
            module.dilation = (2, 2)
            module.padding = tuple(2 * (size // 2) for size in kernel)


def architecture(body: nn.Module) -> dict[str, Any]:
    """``backbone`` and ``backbone_args`` of a network, without the weights that it started from."""
    arguments = {name: value for name, value in body._model_args.items() if name not in _TAKEN}
    return {"backbone": body.pretrained_cfg["architecture"], "backbone_args": arguments}


def pixel_statistics(body: nn.Module) -> dict[str, list[float]]:
    """``image_mean`` and ``image_std`` that a network was trained with, of pixels in 0 to 1."""
    config = body.pretrained_cfg
    return {"image_mean": [*config["mean"]], "image_std": [*config["std"]]}


def keep_level(name: str, module: nn.Module, inputs: tuple) -> tuple:
    """A forward pre-hook of torchvision's region proposal network: it sees one of the feature maps only."""
    images, features, *targets = inputs
    return images, OrderedDict({name: features[name]}), *targets
