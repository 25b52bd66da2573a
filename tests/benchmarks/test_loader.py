import json
import sys
import time

import torch
from torchvision.transforms.functional import to_pil_image

from benchmarks.loader import main, measure
from train.data.finish import BatchFinisher
from train.recipe import Recipe, save_recipe


def small_recipe(folder):
    for number in range(12):
        file = folder / "data" / "train" / str(number % 3) / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        to_pil_image(torch.rand(3, 32, 32)).save(file)
    data = {"num_classes": 3, "data_dir": str(folder / "data"), "img_size": 32, "batch_size": 4}
    return Recipe(model="test_resnet", workers=0, **data)


def test_slow_loader_is_seen_as_waiting(tmp_path, monkeypatch):
    recipe = small_recipe(tmp_path)
    delay = 5 * recipe.batch_size / measure(recipe, steps=6)["training"]  # seconds; five times a step
    finish = BatchFinisher.__call__

    def slow(self, batch):
        time.sleep(delay)
        return finish(self, batch)

    monkeypatch.setattr(BatchFinisher, "__call__", slow)
    figures = measure(recipe, steps=4)
    assert 0 < figures["loader"] < recipe.batch_size / delay
    assert figures["loader_over_training"] < 1 and figures["waiting"] > 0.3


def test_command_writes_what_it_prints(tmp_path, monkeypatch, capsys):
    save_recipe(small_recipe(tmp_path), tmp_path / "recipe.yaml")
    arguments = [
        "loader",
        str(tmp_path / "recipe.yaml"),
        "--steps",
        "2",
        "--output",
        str(tmp_path / "out.json"),
    ]
    monkeypatch.setattr(sys, "argv", arguments)
    main()
    figures = json.loads((tmp_path / "out.json").read_text())["images_per_second"]
    assert f"{figures['loader']:8.0f} images/s" in capsys.readouterr().out
