"""Deformable ResNets: timm's ResNet with its 3x3 convolutions made deformable.

Sources: Dai et al., "Deformable Convolutional Networks", 2017 (DCNv1); Zhu et al., "Deformable ConvNets v2:
More Deformable, Better Results", 2019 (DCNv2).

The names stand for the papers' placements, and every other one is a keyword away:

    timm.create_model("dcnv2_resnet50", deform_stages=(5,))      # conv5 only
    timm.create_model("dcnv1_resnet50", deform_stages=(3, 4, 5)) # conv3-conv5 without modulation
    timm.create_model("dcnv1_resnet50", deform_last=6)           # the last six 3x3 convolutions
    timm.create_model("dcnv2_resnet50", offset_groups=4)         # dg=4
"""

from collections.abc import Sequence
from functools import partial

from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.resnet import BasicBlock, Bottleneck, ResNet
from torch import nn

from ..layers import DeformConv2d, ModulatedDeformConv2d
from .checkpoints import checkpoint_filter_fn
from .deform_blocks import Block, StageBlocks, plan_placement
from .pretrained_cfgs import zoo_cfgs

__all__ = ["DeformResNet"]


class DeformResNet(ResNet):
    """timm's ResNet with deformable 3x3 convolutions in its residual blocks.

    The stem and the shortcuts stay plain. Every other argument and method is `timm.models.resnet.ResNet`'s.

    Args:
        block: timm's ``BasicBlock``, whose two 3x3 convolutions can be deformable, or ``Bottleneck`` (one).
        layers: Number of blocks of each stage.
        deform_stages: Stages that are deformable throughout, by the papers' names: 2 (conv2) to 5 (conv5).
        deform_last: Instead of stages, how many of the network's last 3x3 convolutions are deformable.
        modulated: Modulated deformable convolution (DCNv2) instead of DCNv1's.
        offset_groups: Groups of input channels that have their own offsets (``dg`` in the papers).
        **kwargs: Arguments of timm's ResNet.

    Raises:
        ValueError: When the placement is contradictory or outside the network, or ``offset_groups`` does not
            divide the channels of a deformable convolution.
    """

    def __init__(
        self,
        block: Block,
        layers: Sequence[int],
        deform_stages: Sequence[int] | None = None,
        deform_last: int | None = None,
        modulated: bool = True,
        offset_groups: int = 1,
        **kwargs,
    ) -> None:
        layer_class = ModulatedDeformConv2d if modulated else DeformConv2d
        make_layer = partial(layer_class.from_conv2d, offset_groups=offset_groups)
        placement = plan_placement(block, layers, deform_stages, deform_last)
        stages = tuple(StageBlocks(block, stage, make_layer) for stage in placement)
        super().__init__(stages, layers, **kwargs)

    def init_weights(self, zero_init_last: bool = True) -> None:
        """Initialise every parameter and buffer, also of a network that comes from the meta device.

        timm's own method gives ``nn.Conv2d`` its Kaiming fan-out and leaves all other modules as their
        constructors did. Here the deformable weights get the same and the offset branches start at zero.

        Args:
            zero_init_last: Zero the last batch norm of every residual branch.
        """
        for module in self.modules():
            if hasattr(module, "reset_parameters") and not isinstance(module, nn.Conv2d):
                module.reset_parameters()
        super().init_weights(zero_init_last)
        for module in self.modules():
            if isinstance(module, DeformConv2d):
                module.reset_offset_branch()  # timm has just initialised it as any other convolution


default_cfgs = generate_default_cfgs(zoo_cfgs())

_RESNET18 = {"block": BasicBlock, "layers": (2, 2, 2, 2)}
_RESNET50 = {"block": Bottleneck, "layers": (3, 4, 6, 3)}
_RESNET101 = {"block": Bottleneck, "layers": (3, 4, 23, 3)}
_RESNEXT101_32X4D = {**_RESNET101, "cardinality": 32, "base_width": 4}

_DCNV1 = {"modulated": False, "deform_stages": (5,)}
_DCNV2 = {"modulated": True, "deform_stages": (3, 4, 5)}


def _create_dcn_resnet(variant: str, pretrained: bool, defaults: dict, kwargs: dict) -> DeformResNet:
    if kwargs.get("deform_last") is not None:
        defaults = {**defaults, "deform_stages": None}
    return build_model_with_cfg(
        DeformResNet,
        variant,
        pretrained,
        pretrained_filter_fn=checkpoint_filter_fn,
        **{**defaults, **kwargs},
    )


@register_model
def dcnv1_resnet18(pretrained: bool = False, **kwargs) -> DeformResNet:
    """DCNv1 ResNet-18: both 3x3 convolutions of both conv5 blocks are deformable (4 layers).

    The paper has no ResNet-18; as in its deeper networks, the last stage is deformable as a whole.
    """
    return _create_dcn_resnet("dcnv1_resnet18", pretrained, {**_RESNET18, **_DCNV1}, kwargs)


@register_model
def dcnv1_resnet50(pretrained: bool = False, **kwargs) -> DeformResNet:
    """DCNv1 ResNet-50: deformable 3x3 convolutions in conv5 (3 layers)."""
    return _create_dcn_resnet("dcnv1_resnet50", pretrained, {**_RESNET50, **_DCNV1}, kwargs)


@register_model
def dcnv1_resnet101(pretrained: bool = False, **kwargs) -> DeformResNet:
    """DCNv1 ResNet-101: deformable 3x3 convolutions in conv5 (3 layers)."""
    return _create_dcn_resnet("dcnv1_resnet101", pretrained, {**_RESNET101, **_DCNV1}, kwargs)


@register_model
def dcnv1_resnext101_32x4d(pretrained: bool = False, **kwargs) -> DeformResNet:
    """DCNv1 ResNeXt-101 32x4d: deformable 3x3 convolutions in conv5 (3 layers)."""
    return _create_dcn_resnet("dcnv1_resnext101_32x4d", pretrained, {**_RESNEXT101_32X4D, **_DCNV1}, kwargs)


@register_model
def dcnv2_resnet18(pretrained: bool = False, **kwargs) -> DeformResNet:
    """DCNv2 ResNet-18: modulated deformable convolutions in conv3-conv5, both 3x3s of a block (12 layers).

    Its default weights come with this package and tell 100 classes apart, so that it has 100 classes unless
    ``num_classes`` says otherwise.
    """
    return _create_dcn_resnet("dcnv2_resnet18", pretrained, {**_RESNET18, **_DCNV2}, kwargs)


@register_model
def dcnv2_resnet50(pretrained: bool = False, **kwargs) -> DeformResNet:
    """DCNv2 ResNet-50: modulated deformable 3x3 convolutions in conv3-conv5 (13 layers)."""
    return _create_dcn_resnet("dcnv2_resnet50", pretrained, {**_RESNET50, **_DCNV2}, kwargs)


@register_model
def dcnv2_resnet101(pretrained: bool = False, **kwargs) -> DeformResNet:
    """DCNv2 ResNet-101: modulated deformable 3x3 convolutions in conv3-conv5 (30 layers)."""
    return _create_dcn_resnet("dcnv2_resnet101", pretrained, {**_RESNET101, **_DCNV2}, kwargs)


@register_model
def dcnv2_resnext101_32x4d(pretrained: bool = False, **kwargs) -> DeformResNet:
    """DCNv2 ResNeXt-101 32x4d: modulated deformable 3x3 convolutions in conv3-conv5 (30 layers)."""
    return _create_dcn_resnet("dcnv2_resnext101_32x4d", pretrained, {**_RESNEXT101_32X4D, **_DCNV2}, kwargs)
