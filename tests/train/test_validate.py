import csv
import json
import sys

import pytest
import timm
import torch
from safetensors.torch import save_file

from train import validate
from train.train import run


def run_command(monkeypatch, capsys, *arguments: str) -> str:
    monkeypatch.setattr(sys, "argv", ["validate.py", "--workers", "0", "--batch-size", "3", *arguments])
    validate.main()
    return capsys.readouterr().out


def test_model_list_from_a_file_gives_one_table_and_json(image_folder, tmp_path, monkeypatch, capsys):
    (tmp_path / "models.txt").write_text("test_resnet  # the small one\n\ndcnv1_resnet18\n")
    results_file = tmp_path / "results.json"
    table = run_command(
        monkeypatch,
        capsys,
        *("--data-dir", str(image_folder), "--model-list", str(tmp_path / "models.txt")),
        *("--num-classes", "3", "--img-size", "32", "--results-file", str(results_file)),
    )
    results = json.loads(results_file.read_text())
    assert [result["model"] for result in results] == ["test_resnet", "dcnv1_resnet18"]
    assert [line.split()[0] for line in table.splitlines()] == ["model", "test_resnet", "dcnv1_resnet18"]
    for result, line in zip(results, table.splitlines()[1:], strict=True):
        assert result["images"] == 7 and result["img_size"] == 32
        assert float(line.split()[1]) == pytest.approx(result["top1"], abs=0.01)


def test_checkpoint_decides_the_predictions_and_csv_holds_them(image_folder, tmp_path, monkeypatch, capsys):
    model = timm.create_model("test_resnet", num_classes=3)
    with torch.no_grad():
        model.get_classifier().weight.zero_()
        model.get_classifier().bias.copy_(torch.tensor([0.0, 5.0, 0.0]))  # always the dog: files 1 and 4
    save_file(model.state_dict(), tmp_path / "dog.safetensors")
    run_command(
        monkeypatch,
        capsys,
        *("--data-dir", str(image_folder), "--model", "test_resnet", "--num-classes", "3"),
        *("--checkpoint", str(tmp_path / "dog.safetensors"), "--img-size", "32", "--amp", "--channels-last"),
        *("--results-file", str(tmp_path / "results.csv")),
    )
    with (tmp_path / "results.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert float(row["top1"]) == pytest.approx(100 * 2 / 7)


def test_results_file_of_another_kind_is_refused_before_the_work(image_folder, monkeypatch, capsys):
    with pytest.raises(ValueError, match=r"expected \.json or \.csv"):
        run_command(
            monkeypatch,
            capsys,
            *("--data-dir", str(image_folder), "--model", "no_such_model", "--results-file", "x.txt"),
        )


def test_model_names_of_an_empty_list_are_an_error():
    with pytest.raises(ValueError, match="names no model"):
        validate.model_names(None, " , ")
    assert validate.model_names(None, "a, b,") == ["a", "b"]


def test_each_kind_of_images_has_a_line_of_its_own(image_folder, monkeypatch, capsys):
    table = run_command(
        monkeypatch,
        capsys,
        *("--data-dir", str(image_folder), "--model", "test_resnet", "--num-classes", "3"),
        *("--img-size", "32", "--perturb", "none", "rotated"),
    )
    lines = table.splitlines()[1:]
    assert [line.split("  ")[0] for line in lines] == ["test_resnet", "test_resnet, rotated"]
    unchanged, rotated = (line.split()[-3] for line in lines)  # losses
    assert unchanged != rotated


def test_offsets_are_told_by_layer_for_each_kind_of_images(image_folder, tmp_path, monkeypatch, capsys):
    model = timm.create_model("dcnv2_resnet18", num_classes=3)
    with torch.no_grad():
        model.layer3[1].conv1.conv_offset.bias[:18] = 2.0
    save_file(model.state_dict(), tmp_path / "moved.safetensors")
    output = run_command(
        monkeypatch,
        capsys,
        *("--data-dir", str(image_folder), "--model", "dcnv2_resnet18", "--num-classes", "3", "--offsets"),
        *("--checkpoint", str(tmp_path / "moved.safetensors"), "--img-size", "32"),
        *("--perturb", "none", "rotated"),
    )
    assert "dcnv2_resnet18, 3 images\n" in output and "dcnv2_resnet18, rotated, 3 images\n" in output
    sizes = [line.split()[:2] for line in output.splitlines() if line.startswith("layer") and "." in line]
    assert len(sizes) == 2 * 12
    assert {name for name, size in sizes if size == "2.00"} == {"layer3.1.conv1"}
    assert {size for _, size in sizes} == {"0.00", "2.00"}


def test_run_is_evaluated_as_its_recipe_says(small_recipe, tmp_path, monkeypatch, capsys):
    expected = run(small_recipe(amp=False, eval_crop_pct=0.8, mean=[0.1, 0.2, 0.3]), tmp_path / "run")
    arguments = ["--run", str(tmp_path / "run"), "--results-file", str(tmp_path / "results.json")]
    run_command(monkeypatch, capsys, *arguments)
    (found,) = json.loads((tmp_path / "results.json").read_text())
    assert (found["model"], found["images"], found["crop_pct"]) == (str(tmp_path / "run"), 7, 0.8)
    assert found["loss"] == pytest.approx(expected["loss"], rel=1e-5)


def test_run_that_held_images_out_is_evaluated_on_them(small_recipe, tmp_path, monkeypatch, capsys):
    expected = run(small_recipe(amp=False, holdout=0.34), tmp_path / "run")
    arguments = ["--run", str(tmp_path / "run"), "--results-file", str(tmp_path / "results.json")]
    run_command(monkeypatch, capsys, *arguments)
    (found,) = json.loads((tmp_path / "results.json").read_text())
    assert found["images"] == expected["images"] != 7
    assert found["loss"] == pytest.approx(expected["loss"], rel=1e-5)
    run_command(monkeypatch, capsys, *arguments, "--split", "validation")
    assert json.loads((tmp_path / "results.json").read_text())[0]["images"] == 7


def test_model_options_are_not_for_a_run(monkeypatch, capsys):
    with pytest.raises(SystemExit) as error:
        run_command(monkeypatch, capsys, "--run", "runs/some", "--pretrained")
    assert (
        error.value.code == 2 and "--pretrained and --num-classes are of --model" in capsys.readouterr().err
    )


def test_model_without_images_is_a_wrong_command(monkeypatch, capsys):
    with pytest.raises(SystemExit) as error:
        run_command(monkeypatch, capsys, "--model", "test_resnet")
    assert error.value.code == 2 and "no --data-dir is given" in capsys.readouterr().err
