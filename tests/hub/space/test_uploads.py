"""What the page takes from visitors, what it refuses, and that it keeps nothing."""

import os
import time
import zlib

import pytest
from PIL import Image


@pytest.fixture(scope="module")
def uploads():
    import uploads

    return uploads


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.webp", "a.gif", "a.bmp", "a.tiff"])
def test_formats_that_are_promised_are_read(uploads, tmp_path, name):
    Image.new("RGB", (64, 48), (200, 60, 20)).save(tmp_path / name)
    photograph = uploads.read_upload(tmp_path / name)
    assert photograph.size == (64, 48) and photograph.mode == "RGB"
    red, green, blue = photograph.getpixel((30, 20))
    assert abs(red - 200) < 12 and abs(green - 60) < 12 and abs(blue - 20) < 12


def test_a_cameras_two_pictures_in_one_file_are_read(uploads, tmp_path):
    frame = Image.new("RGB", (64, 48))
    frame.save(tmp_path / "a.jpg", format="MPO", save_all=True, append_images=[frame])
    assert uploads.read_upload(tmp_path / "a.jpg").size == (64, 48)


def test_a_large_photograph_is_shrunk_and_turned_upright(uploads, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held sideways
    Image.new("RGB", (2000, 1000)).save(tmp_path / "a.jpg", exif=exif)
    assert uploads.read_upload(tmp_path / "a.jpg").size == (640, 1280)


def png_header(width: int, height: int) -> bytes:
    """A PNG file that claims a size and holds next to nothing."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4) + name + data + zlib.crc32(name + data).to_bytes(4)

    header = width.to_bytes(4) + height.to_bytes(4) + bytes([8, 2, 0, 0, 0])
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b""))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(
    "content, sentence",
    [
        (b"", "NO_IMAGE"),
        (b"words", "NO_IMAGE"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n", "NO_IMAGE"),
        (png_header(8000, 5001), "IMAGE_TOO_LARGE"),
        (png_header(100_000, 100_000), "IMAGE_TOO_LARGE"),  # more than Pillow itself takes
        (png_header(8000, 5000), "DAMAGED"),  # 40 megapixels are allowed
        (bytes(20_000_001), "FILE_TOO_LARGE"),
        (bytes(20_000_000), "NO_IMAGE"),  # 20 MB are allowed
    ],
)
def test_each_refusal_has_its_sentence(uploads, tmp_path, content, sentence):
    path = tmp_path / "a.png"
    path.write_bytes(content)
    with pytest.raises(ValueError) as refusal:
        uploads.read_upload(path)
    assert str(refusal.value) == getattr(uploads, sentence)
    assert str(refusal.value).count(".") == 1 and "please choose" in str(refusal.value)


def test_too_many_pixels_are_not_decoded(uploads, tmp_path, monkeypatch):
    (tmp_path / "a.png").write_bytes(png_header(8000, 5001))
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("pixels were decoded"))
    with pytest.raises(ValueError):
        uploads.read_upload(tmp_path / "a.png")


def test_an_upload_goes_with_its_folder_and_nothing_else(uploads, tmp_path):
    for name in ("mine/a.png", "shared/b.png", "shared/c.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    uploads.forget(tmp_path / "mine" / "a.png")
    uploads.forget(tmp_path / "shared" / "b.png")
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["c.png", "shared"]


def test_abandoned_uploads_are_removed_and_fresh_ones_stay(uploads, tmp_path):
    long_ago = time.time() - 1000
    for name in ("old/a.png", "mixed/b.png", "mixed/fresh.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    for name in ("old/a.png", "mixed/b.png"):
        os.utime(tmp_path / name, (long_ago, long_ago))
    os.utime(tmp_path / "mixed", (long_ago, long_ago))
    uploads.remove_abandoned(tmp_path)
    assert sorted(p.name for p in tmp_path.rglob("*.png")) == ["fresh.png"]
    uploads.remove_abandoned(tmp_path, older_than=-1)
    uploads.remove_abandoned(tmp_path, older_than=-1)
    assert not list(tmp_path.iterdir())
