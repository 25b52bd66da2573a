import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from matplotlib.figure import Figure

from train.compare import (
    comparison_table,
    describe,
    find_runs,
    paired_differences,
    pairs_table,
    read_logs,
    read_measurements,
)
from train.plots import save_compared_curves

ROOT = Path(__file__).parents[2]


def write_run(folder, model, seed, top1, share=1.0, perturbed=None, **settings):
    """A run of two epochs, whose log has the same top-1 after the second as the results."""
    run = folder / f"{model}_{share}_{seed}_{top1}"
    run.mkdir(parents=True)
    recipe = {"model": model, "seed": seed, "train_share": share, "offset_lr_scale": 0.1, **settings}
    (run / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    (run / "results.json").write_text(json.dumps({"top1": top1}))
    log = [{"epoch": 0, "val_top1": 1.0}, {"epoch": 1, "train_loss": 4.0}]
    log.append({"epoch": 2, "train_loss": 3.0, "val_top1": top1})
    (run / "log.jsonl").write_text("".join(json.dumps(record) + "\n" for record in log))
    if perturbed:
        records = [{"perturbation": "none", "top1": top1}]
        records += [{"perturbation": name, "top1": value} for name, value in perturbed.items()]
        (run / "perturbed.json").write_text(json.dumps(records))


@pytest.fixture
def runs(tmp_path):
    for seed, plain, deformable in ((0, 70.0, 72.0), (1, 75.0, 76.0), (2, 60.0, 63.0)):
        write_run(tmp_path, "resnet18", seed, plain, perturbed={"rotated": plain - 30})
        write_run(tmp_path, "dcnv2_resnet18", seed, deformable, perturbed={"rotated": deformable - 25})
    write_run(tmp_path, "resnet18", 0, 50.0, share=0.25)
    write_run(tmp_path, "dcnv2_resnet18", 1, 55.0, share=0.25)
    return tmp_path


def test_differences_are_paired_by_seed(runs):
    measured = read_measurements(find_runs([runs]))
    found = paired_differences(measured, "dcnv2_resnet18", "resnet18", 1.0, "none")
    assert found == {0: 2.0, 1: 1.0, 2: 3.0}
    assert paired_differences(measured, "dcnv2_resnet18", "resnet18", 0.25, "none") == {}


def test_table_has_means_spreads_and_numbers(runs):
    lines = comparison_table(read_measurements(find_runs([runs])), "resnet18").splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert cells[0] == ["trained on", "tested on", "resnet18", "dcnv2_resnet18", "dcnv2_resnet18 - resnet18"]
    assert cells[2] == ["100%", "unchanged", "68.33 ± 7.64 (3)", "70.33 ± 6.66 (3)", "+2.00 ± 1.00 (3)"]
    assert cells[3] == ["100%", "rotated", "38.33 ± 7.64 (3)", "45.33 ± 6.66 (3)", "+7.00 ± 1.00 (3)"]
    assert cells[4] == ["25%", "unchanged", "50.00 (1)", "55.00 (1)", "-"]


def test_pairs_have_their_differences_by_seed_and_p(runs):
    for seed, top1 in ((0, 71.0), (1, 76.5), (2, 60.0)):
        write_run(runs, "dcnv1_resnet18", seed, top1)
    table = pairs_table(read_measurements(find_runs([runs])), "resnet18")
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]
    # t = 2 / (1 / sqrt(3)) with two degrees of freedom, whose p is 1 - t / sqrt(2 + t^2)
    difference = ["dcnv2_resnet18 - resnet18", "0: +2.00, 1: +1.00, 2: +3.00", "+2.00 ± 1.00 (3)", "0.074"]
    assert lines[3] == ["100%", "unchanged", *difference]
    assert [line[2] for line in lines[2:5]] == [
        "dcnv1_resnet18 - resnet18",
        "dcnv2_resnet18 - resnet18",
        "dcnv2_resnet18 - dcnv1_resnet18",
    ]
    assert [line[:2] for line in lines[5:]] == [["100%", "rotated"]]  # a quarter has no pairs


def test_curves_have_every_seed_and_the_mean_of_seeds(runs, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, path, **_: drawn.append((figure, path)))
    save_compared_curves(read_logs(find_runs([runs]), "resnet18"), tmp_path / "curves.png")
    (figure, path) = drawn[0]
    assert path == tmp_path / "curves.png"
    titles = [axes.get_title() for axes in figure.axes]
    assert titles == [
        f"{what}, {share} of the images"
        for share in ("100%", "25%")
        for what in ("training loss", "top-1 % on test images")
    ]
    top1 = [[tuple(point) for point in line.get_xydata()] for line in figure.axes[1].lines]
    plain, deformable = top1[:4], top1[4:]  # three seeds and their mean
    assert plain == [[(0, 1.0), (2, value)] for value in (70.0, 75.0, 60.0, pytest.approx(205 / 3))]
    assert deformable[-1] == [(0, 1.0), (2, pytest.approx(211 / 3))]
    labels = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert labels == ["resnet18 (n=3)", "dcnv2_resnet18 (n=3)"]


def test_a_kind_has_one_color_in_all_rows_and_each_row_its_numbers(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, path, **_: drawn.append(figure))
    log = [{"epoch": 1, "train_loss": 1.0, "val_top1": 50.0}]
    rows = {"half": {"plain": [log], "b": [log]}, "all": {"b": [log, log]}}
    save_compared_curves(rows, tmp_path / "curves.png")
    half, _, all_images, _ = drawn[0].axes
    colors = [{line.get_label(): line.get_color() for line in axes.lines} for axes in (half, all_images)]
    assert colors[0]["b (n=1)"] == colors[1]["b (n=2)"] != colors[0]["plain (n=1)"]
    labels = [text.get_text() for text in all_images.get_legend().get_texts()]
    assert labels == ["b (n=2)"]


def test_one_value_has_no_spread():
    assert describe([71.5]) == "71.50 (1)" and describe([-0.5], "+") == "-0.50 (1)"


def test_two_runs_of_a_kind_are_an_error(runs):
    write_run(runs, "resnet18", 0, 71.0)
    with pytest.raises(ValueError, match="2 runs of kind 'resnet18', share 1.0 and seed 0, expected one"):
        find_runs([runs])


def test_a_recipe_key_tells_runs_of_one_model_apart(runs, tmp_path):
    for seed, top1 in ((0, 70.5), (1, 76.5)):
        write_run(tmp_path / "other", "dcnv2_resnet18", seed, top1, offset_lr_scale=0.02)
    table = comparison_table(read_measurements(find_runs([runs], "offset_lr_scale")), "resnet18")
    header, _, line, *_ = [[cell.strip() for cell in row.strip("|").split("|")] for row in table.splitlines()]
    assert header[2:5] == [
        "resnet18",
        "dcnv2_resnet18 offset_lr_scale=0.02",
        "dcnv2_resnet18 offset_lr_scale=0.1",
    ]
    assert line[-2:] == ["+1.00 ± 0.71 (2)", "+2.00 ± 1.00 (3)"]


def test_runs_come_from_several_folders(runs, tmp_path_factory):
    other = tmp_path_factory.mktemp("other")
    write_run(other, "dcnv1_resnet18", 1, 74.0)
    found = read_logs(find_runs([runs, other]), "resnet18")
    assert list(found) == ["100% of the images", "25% of the images"]
    assert list(found["100% of the images"]) == ["resnet18", "dcnv1_resnet18", "dcnv2_resnet18"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--baseline", "resnet50"], "holds no run of the baseline 'resnet50'"),
        (["--vary", "speed"], "has no key 'speed', expected one that all have"),
        ([], "holds no results.json, expected folders of finished runs"),
    ],
)
def test_command_tells_in_a_sentence_what_is_missing(arguments, message, runs, tmp_path):
    folder = runs if arguments else tmp_path / "empty"
    command = [sys.executable, "train/compare.py", str(folder), *arguments]
    finished = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert finished.returncode == 1 and message in finished.stderr and "Traceback" not in finished.stderr


def test_command_draws_the_curves(runs, tmp_path):
    command = [sys.executable, "train/compare.py", str(runs), "--curves", str(tmp_path / "curves.png")]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
