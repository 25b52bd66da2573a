"""The classes of a photograph, in words."""

from dataclasses import dataclass

import timm
import torch
from PIL import Image
from timm.data import ImageNetInfo, infer_imagenet_subset
from timm.models import split_model_name_tag
from torch import nn

from .photograph import Preprocessing
from .running import evaluating


@dataclass(frozen=True)
class Prediction:
    """One class that a network sees in an image.

    Attributes:
        words: The class in words.
        probability: Between 0 and 1; the probabilities of all classes add up to 1.
    """

    words: str
    probability: float


def load_model(name: str) -> nn.Module:
    """The pretrained model of a name, in evaluation mode.

    Args:
        name: A registered ``<model>`` or ``<model>.<tag>``, or timm's ``local-dir:<folder>`` and
            ``hf-hub:<owner>/<name>``.

    Raises:
        ValueError: When there is no model of that name, or its weights cannot be had.
    """
    if ":" not in name and not timm.is_model(split_model_name_tag(name)[0]):
        raise ValueError(
            f"unknown model {name!r}; expected a model that timm knows, such as dcnv2_resnet18, "
            "local-dir:FOLDER or hf-hub:OWNER/NAME."
        )
    try:
        return timm.create_model(name, pretrained=True).eval()
    except Exception as error:  # on damaged files the readers raise whatever they run into
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ValueError(f"the weights of model {name!r} could not be loaded: {reason}") from error


def class_words(model: nn.Module) -> list[str]:
    """What a model's classes are called, in the order of its outputs.

    The labels that came with its weights, where they are; else ImageNet's, when the number of classes is one
    of ImageNet's; else ``class 0``, ``class 1`` and so on.
    """
    cfg = model.pretrained_cfg
    names, descriptions = cfg.get("label_names"), cfg.get("label_descriptions") or {}
    if names and len(names) == model.num_classes:
        return [descriptions.get(name, name) for name in names]
    subset = infer_imagenet_subset(model)
    if subset:
        return ImageNetInfo(subset).label_descriptions()
    return [f"class {index}" for index in range(model.num_classes)]


@torch.no_grad()
def classify(model: nn.Module, image: Image.Image, top: int = 5) -> list[Prediction]:
    """The most probable classes of an image, the best first.

    Args:
        model: A timm classifier, on any device. It runs in evaluation mode and is left as it was.
        image: A photograph of any size, mode RGB.
        top: How many classes; all of them when the model has fewer.
    """
    with evaluating(model):
        logits = model(Preprocessing(model)(image))  # (1, num_classes)
    probabilities, classes = logits[0].float().softmax(0).topk(min(top, model.num_classes))
    words = class_words(model)
    return [
        Prediction(words[index], probability)
        for index, probability in zip(classes.tolist(), probabilities.tolist(), strict=True)
    ]
