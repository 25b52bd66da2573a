"""Operators and the choice of the backend that runs them."""

from .deform_conv2d import deform_conv2d
from .dispatch import available_backends, use_backend

__all__ = ["available_backends", "deform_conv2d", "use_backend"]
