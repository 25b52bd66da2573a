"""Deformable ConvNets (DCNv1, DCNv2) as ImageNet backbones for timm; importing it registers the models."""

from . import models as models

__version__ = "0.1.0"
