"""Classifies photographs that ship inside scikit-image, and draws where the network samples the first one."""

import sys
from pathlib import Path

import skimage

from dcn_backbones.predict import main

PHOTOGRAPHS = ("chelsea.png", "coffee.png", "rocket.jpg")
DRAWING = Path("demo/sampling.png")


if __name__ == "__main__":
    folder = Path(skimage.__file__).parent / "data"
    DRAWING.parent.mkdir(exist_ok=True)
    sys.exit(main([*(str(folder / name) for name in PHOTOGRAPHS), "--sampling", str(DRAWING)]))
