"""Modules around the operators: convolution and RoI pooling, with the branch that predicts their offsets."""

from .deform_conv import DeformConv2d, ModulatedDeformConv2d
from .deform_roi_pool import DeformPSRoIPool, DeformRoIPool, ModulatedDeformRoIPool
from .multi_scale_roi_pool import MultiScaleDeformRoIPool
from .offset_branch import offset_lr_scales

__all__ = [
    "DeformConv2d",
    "DeformPSRoIPool",
    "DeformRoIPool",
    "ModulatedDeformConv2d",
    "ModulatedDeformRoIPool",
    "MultiScaleDeformRoIPool",
    "offset_lr_scales",
]
