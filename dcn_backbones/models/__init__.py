"""The zoo: importing this package registers its models with timm."""

from .dcn_resnet import DeformResNet

__all__ = ["DeformResNet"]
