import pytest
import torch
from torch import nn

from train.data import create_eval_loader, eval_data_config, open_dataset
from train.distribution import World
from train.evaluate import evaluate

CPU = torch.device("cpu")


class Marker(nn.Module):
    """Predicts class 0 always and remembers the images it saw."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.seen = []

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.seen.extend(image.sum().item() for image in images)
        logits = torch.zeros(len(images), self.num_classes)
        logits[:, 0] = 2.0
        return logits


def loader_of(recipe, batch_size):
    dataset = open_dataset(recipe.data_dir, recipe.val_split)
    return create_eval_loader(dataset, eval_data_config(recipe), batch_size, workers=0, device=CPU)


def test_each_image_counts_once_when_the_last_batch_is_short(small_recipe):
    model = Marker(3)
    result = evaluate(model, loader_of(small_recipe(), batch_size=3), World())
    assert result["images"] == len(model.seen) == len(set(model.seen)) == 7
    assert result["top1"] == pytest.approx(100 * 3 / 7)  # the files 0, 3 and 6 are cats
    assert result["top5"] == 100.0


def test_loss_is_the_mean_over_images_whatever_the_batch_size(small_recipe):
    probability = torch.tensor([2.0, 0.0, 0.0]).softmax(0)
    expected = -(3 * probability[0].log() + 4 * probability[1].log()) / 7
    for batch_size in (3, 7):
        result = evaluate(Marker(3), loader_of(small_recipe(), batch_size), World())
        assert result["loss"] == pytest.approx(expected.item())


def test_label_that_the_model_lacks_is_an_error(small_recipe):
    with pytest.raises(ValueError, match="labels from 0 to 2 .* expected 0 to 1"):
        evaluate(Marker(2), loader_of(small_recipe(), batch_size=7), World())


def test_empty_loader_is_an_error():
    with pytest.raises(ValueError, match="no images"):
        evaluate(Marker(2), [], World())
