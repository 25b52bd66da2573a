"""Modules around the operators: a deformable convolution with the branch that predicts its offsets."""

from .deform_conv import DeformConv2d, ModulatedDeformConv2d

__all__ = ["DeformConv2d", "ModulatedDeformConv2d"]
