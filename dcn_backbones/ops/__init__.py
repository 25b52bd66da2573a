"""Operators and the choice of the backend that runs them."""

from .deform_conv2d import deform_conv2d
from .deform_roi_pool import deform_ps_roi_pool, deform_roi_pool
from .dispatch import available_backends, use_backend

__all__ = ["available_backends", "deform_conv2d", "deform_ps_roi_pool", "deform_roi_pool", "use_backend"]
