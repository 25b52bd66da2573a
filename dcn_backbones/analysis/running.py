"""How the methods run a network: in evaluation mode, a detector's backbone alone, one call at a time."""

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock, RLock
from weakref import WeakKeyDictionary

from torch import Tensor, nn

_locks: WeakKeyDictionary[nn.Module, RLock] = WeakKeyDictionary()
_locks_lock = Lock()


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """A context in which a model is in evaluation mode; after it, every module is as it was.

    Other threads wait at it for the same model: the methods hang hooks into its modules, which would note,
    and change, what another thread runs too.
    """
    with _locks_lock:
        lock = _locks.setdefault(model, RLock())
    with lock:
        modes = [(module, module.training) for module in model.modules()]
        model.eval()
        try:
            yield
        finally:
            for module, training in modes:
                module.training = training


def is_detector(model: nn.Module) -> bool:
    """Whether a model is built as `torchvision.models.detection.generalized_rcnn.GeneralizedRCNN` is."""
    return hasattr(model, "backbone") and hasattr(model, "roi_heads")


def run(model: nn.Module, images: Tensor) -> Tensor | dict[str, Tensor]:
    """Run a network on images, ``(N, C, H, W)``; of a detector its backbone, without resizing or boxes."""
    return model.backbone(images) if is_detector(model) else model(images)


def check_images(images: Tensor, one: bool = False) -> None:
    """Raise ValueError unless images are a batch ``(N, C, H, W)`` of at least one, or of exactly one."""
    if images.ndim != 4 or not len(images) or (one and len(images) != 1):
        expected = "one image, (1, C, H, W)" if one else "images, (N, C, H, W), at least one"
        raise ValueError(f"image has shape {tuple(images.shape)}; expected {expected}.")
