import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            ["train/validate.py", "--model", "dcnv2_resnet18", "--data-dir", "absent"],
            "error: data source 'absent' does not exist, expected a folder, a tar file or hfds/NAME",
        ),
        (
            ["train/train.py", "--config", "train/recipes/resnet18_tiny100_64px.yaml", "epoch=1"],
            "error: unknown recipe key 'epoch', the known ones are:",
        ),
        (
            ["train/detect.py", "--config", "train/recipes/detection/resnet18_voc07.yaml", "data_dir=absent"],
            "error: annotation file absent/instances_train.json does not exist, expected COCO JSON",
        ),
    ],
)
def test_wrong_input_ends_in_a_sentence(arguments, sentence):
    run = subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 1
    assert sentence in run.stderr and "Traceback" not in run.stderr


@pytest.mark.parametrize(
    "script", ["train", "detect", "validate", "validate_detector", "run_queue", "export_weights"]
)
def test_bad_usage_is_one_sentence_and_exit_status_2(script):
    command = [sys.executable, f"train/{script}.py", "--nonsense"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 2
    assert run.stderr.startswith("error: ") and run.stderr.count("\n") == 1
