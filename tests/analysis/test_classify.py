"""Predictions in words: whose words, how many, and what is said when there is no model."""

import math

import pytest
import timm
import torch
from PIL import Image
from timm.models import save_for_hf

from dcn_backbones.analysis import classify, load_model
from dcn_backbones.analysis.classify import class_words

IMAGE = Image.new("RGB", (40, 30), (200, 100, 50))


def make_model(logits: list[float], **labels) -> torch.nn.Module:
    """A network that gives every image the same logits."""
    overlay = {"input_size": (3, 32, 32), "num_classes": len(logits), **labels}
    model = timm.create_model(
        "dcnv2_resnet18", pretrained_cfg_overlay=overlay, num_classes=len(logits)
    ).eval()
    with torch.no_grad():
        model.fc.weight.zero_()
        model.fc.bias.copy_(torch.tensor(logits))
    return model.eval()


def test_the_best_classes_first_with_their_probabilities():
    labels = {"label_names": ["n1", "n2", "n3"], "label_descriptions": {"n1": "a cat", "n3": "a dog"}}
    predictions = classify(make_model([1.0, 0.0, 3.0], **labels), IMAGE, top=2)
    total = math.exp(1) + math.exp(0) + math.exp(3)
    assert [prediction.words for prediction in predictions] == ["a dog", "a cat"]
    probabilities = [prediction.probability for prediction in predictions]
    assert probabilities == pytest.approx([math.exp(3) / total, math.exp(1) / total])


def test_no_more_classes_than_there_are():
    predictions = classify(make_model([1.0, 2.0]), IMAGE, top=5)
    assert [prediction.words for prediction in predictions] == ["class 1", "class 0"]


def test_a_thousand_classes_are_imagenets():
    logits = [0.0] * 1000
    logits[281] = 9.0
    assert classify(make_model(logits), IMAGE)[0].words == "tabby, tabby cat"


def test_labels_of_another_number_of_classes_are_not_used():
    assert class_words(make_model([0.0, 1.0], label_names=["cat"])) == ["class 0", "class 1"]


def test_models_that_cannot_be_had(tmp_path):
    with pytest.raises(ValueError, match="unknown model 'dcnv9_resnet18'; expected a model that timm knows"):
        load_model("dcnv9_resnet18")
    for name in ("dcnv2_resnet18.no_such_tag", f"local-dir:{tmp_path}/absent", "test_resnet:thing"):
        with pytest.raises(ValueError, match="model .* could not be loaded: .+"):
            load_model(name)


@pytest.mark.parametrize(
    ("file", "content"),
    [("model.safetensors", b"no weights"), ("config.json", b"[]"), ("config.json", b'{"architecture": 3}')],
)
def test_damaged_files_are_one_sentence(tmp_path, file, content):
    save_for_hf(timm.create_model("dcnv2_resnet18", num_classes=2), tmp_path, safe_serialization=True)
    (tmp_path / file).write_bytes(content)
    with pytest.raises(ValueError, match=r"model 'local-dir:.*' could not be loaded: .+"):
        load_model(f"local-dir:{tmp_path}")
