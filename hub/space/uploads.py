"""What visitors hand in: read if it is a photograph of a bearable size, and never kept."""

import atexit
import os
import shutil
import tempfile
import threading
import time
from pathlib import Path

from PIL import Image

from dcn_backbones.analysis import read_image

LARGEST_FILE = 20 * 1000**2  # bytes
LARGEST_IMAGE = 40 * 1000**2  # pixels
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")  # none that runs another program, as EPS does
SHOWN_SIDE = 1280  # pixels; more than a screen shows of it and than any of the networks reads
ABANDONED_AFTER = 60  # seconds

FILE_TOO_LARGE = f"This file has more than {LARGEST_FILE / 1e6:.0f} MB; please choose a smaller one."
IMAGE_TOO_LARGE = (
    f"This image has more than {LARGEST_IMAGE / 1e6:.0f} megapixels; please choose a smaller one."
)
NO_IMAGE = "This file is no image that this page can read; please choose a JPEG, PNG, WebP, GIF, BMP or TIFF."
DAMAGED = "This image is damaged and cannot be read; please choose another one."


def read_upload(path: str | Path) -> Image.Image:
    """The photograph in a file, upright, in RGB and shrunk to at most `SHOWN_SIDE` a side.

    Raises:
        ValueError: With a sentence for the visitor, when the file is too large, is no image or holds one with
            too many pixels. The pixels are counted before they are decoded.
    """
    path = Path(path)
    if path.stat().st_size > LARGEST_FILE:
        raise ValueError(FILE_TOO_LARGE)
    _check_pixels(path)
    try:
        photograph = read_image(path)
    except OSError as error:
        raise ValueError(DAMAGED) from error
    photograph.thumbnail((SHOWN_SIDE, SHOWN_SIDE))
    return photograph


def _check_pixels(path: Path) -> None:
    try:
        with Image.open(path, formats=FORMATS) as image:
            pixels = image.width * image.height
    except Image.DecompressionBombError as error:  # Pillow's own limit, several times this page's
        raise ValueError(IMAGE_TOO_LARGE) from error
    except Exception as error:  # decoders raise OSError, SyntaxError, struct.error and others
        raise ValueError(NO_IMAGE) from error
    if pixels > LARGEST_IMAGE:
        raise ValueError(IMAGE_TOO_LARGE)


def forget(path: str | Path) -> None:
    """Remove an uploaded file, and the folder that Gradio made for it alone."""
    path = Path(path)
    path.unlink(missing_ok=True)
    if not any(path.parent.iterdir()):
        path.parent.rmdir()


def private_folder() -> Path:
    """The folder that Gradio receives files in, made for this process and removed with it.

    To be called before a page is made. A folder that ``GRADIO_TEMP_DIR`` names is taken as it is.
    """
    if "GRADIO_TEMP_DIR" not in os.environ:
        os.environ["GRADIO_TEMP_DIR"] = tempfile.mkdtemp(prefix="dcn-space-")
        atexit.register(shutil.rmtree, os.environ["GRADIO_TEMP_DIR"], ignore_errors=True)
    return Path(os.environ["GRADIO_TEMP_DIR"])


def remove_abandoned(folder: Path, older_than: float = ABANDONED_AFTER) -> None:
    """Remove files that nobody asked to look at: uploads that broke off, or whose page was closed."""
    for path in sorted(folder.rglob("*"), reverse=True):  # files before the folders they are in
        try:
            if time.time() - path.stat().st_mtime > older_than:
                path.rmdir() if path.is_dir() else path.unlink()
        except OSError:  # gone meanwhile, or a folder that has something younger in it
            continue


def keep_removing_abandoned(folder: Path) -> None:
    """Do that for as long as the process lives."""

    def run() -> None:
        while True:
            time.sleep(ABANDONED_AFTER / 2)
            remove_abandoned(folder)

    threading.Thread(target=run, daemon=True).start()
