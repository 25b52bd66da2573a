import json

import pytest
from PIL import Image

from train.detection.annotations import check_categories, read_annotations


def first(content, **values):
    content["annotations"][0] |= values


WRONG = {
    "no JSON": (lambda content: "{images", r"annotation file .*train.json is no JSON: "),
    "a list": (lambda content: "[]", r"train.json has no list of images, expected COCO JSON"),
    "no annotations": (
        lambda content: content.pop("annotations") and None,
        r"train.json has no list of annotations",
    ),
    "no categories": (lambda content: content.update(categories=[]), "has no categories, expected at least"),
    "no file name": (
        lambda content: content["images"][2].pop("file_name") and None,
        r"images of .*train.json have the record .* without file_name",
    ),
    "an image twice": (
        lambda content: content["images"][1].update(id=10),
        r"images of .*train.json have the id 10 twice",
    ),
    "an annotation twice": (lambda content: first(content, id=2), r"annotations of .* have the id 2 twice"),
    "a category twice": (
        lambda content: content["categories"][0].update(id=7),
        r"categories of .*train.json have the id 7 twice",
    ),
    "a name as an id": (lambda content: first(content, id="a"), "have the id 'a', expected a whole number"),
    "a number as a file name": (
        lambda content: content["images"][2].update(file_name=5),
        r"images of .*train.json have the file_name 5 in the record of id 12, expected a text",
    ),
    "a list as an image's id": (
        lambda content: first(content, image_id=[11]),
        r"annotations of .*train.json have the image_id \[11\] in the record of id 1, expected a whole num",
    ),
    "no word on crowds": (
        lambda content: first(content, iscrowd=None),
        r"annotation 1 of .*train.json has iscrowd None, expected 0 or 1",
    ),
    "an unknown image": (
        lambda content: first(content, image_id=999),
        r"annotation 1 of .*train.json is of image 999, which is not among its images",
    ),
    "an unknown category": (
        lambda content: first(content, category_id=5),
        r"annotation 1 of .*train.json is of category 5, which is not among its categories",
    ),
    "three numbers": (
        lambda content: first(content, bbox=[1, 2, 3]),
        r"annotation 1 of .*train.json \(image 11\) has the box \[1, 2, 3\], expected \[x, y, width",
    ),
    "no width": (
        lambda content: first(content, bbox=[5, 5, 0, 9]),
        r"annotation 1 of .*train.json \(image 11\) has the box .* of width 0 and height 9, expected more",
    ),
    "negative height": (lambda content: first(content, bbox=[5, 5, 3, -9]), "of width 3 and height -9"),
    "no place": (
        lambda content: first(content, bbox=[5, float("nan"), 3, 9]),
        r"annotation 1 of .*train.json \(image 11\) has the box \[5, nan, 3, 9\], expected \[x, y, width",
    ),
    "a hair": (
        lambda content: first(content, bbox=[5, 5, 1e-6, 9]),
        "narrower in its image than .* 0.01 pix",
    ),
    "outside": (
        lambda content: first(content, bbox=[50, 5, 20, 9]),
        r"annotation 1 of .* \(image 11\) has the box .*, which reaches outside of its image of 64x64 pixels",
    ),
    "another size": (
        lambda content: content["images"][3].update(width=65),
        r"image 13 of .*train.json is 64x64 pixels \(.*3.png\), expected 65x64 as the file says",
    ),
}


@pytest.mark.parametrize(("edit", "message"), WRONG.values(), ids=WRONG)
def test_wrong_annotations_are_a_sentence_with_the_file_and_the_id(edit, message, annotations_file):
    file = annotations_file(edit)
    with pytest.raises(ValueError, match=message) as error:
        read_annotations(file, file.with_suffix(""))
    assert "\n" not in str(error.value)


def test_mask_detector_needs_segmentations(annotations_file):
    file = annotations_file(lambda content: first(content, segmentation=[]))
    read_annotations(file, file.with_suffix(""))
    with pytest.raises(ValueError, match=r"annotation 1 of .*train.json has no segmentation, expected one"):
        read_annotations(file, file.with_suffix(""), masks=True)


@pytest.mark.parametrize(
    "segmentation",
    [
        [[1, 2, 3, 4]],
        [1, 2, 3, 4, 5, 6],
        [[1, 2, 3, 4, 5, 6, 7]],
        [["a", 2, 3, 4, 5, 6]],
        {"size": [64, 64]},
        {"size": [64, 64], "counts": [3, 4]},
        {"size": [32, 128], "counts": [4096]},
        {"size": [64, 63], "counts": "PPZ1"},
        "everything",
    ],
)
def test_segmentation_that_is_none_is_refused(segmentation, annotations_file):
    file = annotations_file(lambda content: first(content, segmentation=segmentation))
    with pytest.raises(
        ValueError, match=r"annotation 1 of .*train.json \(image 11\) has the segmentation .*, expec"
    ):
        read_annotations(file, file.with_suffix(""), masks=True)


@pytest.mark.parametrize("segmentation", [{"size": [64, 64], "counts": [96, 4000]}, [[1, 2, 3, 4, 5.5, 9]]])
def test_segmentation_as_runs_or_polygons_passes(segmentation, annotations_file):
    file = annotations_file(lambda content: first(content, segmentation=segmentation))
    annotations = read_annotations(file, file.with_suffix(""), masks=True)
    assert annotations.boxes[11][0]["segmentation"] == segmentation


def test_images_that_are_missing_empty_or_damaged_are_named(rectangles):
    file, folder = rectangles / "train.json", rectangles / "train"
    (folder / "3.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"image 13 of .*train.json \(.*3.png\) cannot be decoded"):
        read_annotations(file, folder)
    (folder / "3.png").write_bytes(b"")
    with pytest.raises(ValueError, match="image 13 of .* cannot be decoded: the file is empty"):
        read_annotations(file, folder)
    (folder / "3.png").unlink()
    (folder / "5.png").unlink()
    with pytest.raises(
        ValueError, match=r"image 13 of .*train.json is missing: .*3.png does not exist \(2 of 9 images\)"
    ):
        read_annotations(file, folder)
    with pytest.raises(ValueError, match=r"image folder .*absent of .*train.json does not exist"):
        read_annotations(file, rectangles / "absent")
    with pytest.raises(ValueError, match=r"annotation file .*absent.json does not exist, expected COCO JSON"):
        read_annotations(rectangles / "absent.json", folder)


def test_allowed_bad_boxes_are_named_and_left_out(annotations_file, caplog):
    file = annotations_file(lambda content: first(content, bbox=[5, 5, 0, 9]))
    whole = len(json.loads(file.read_text())["annotations"])
    annotations = read_annotations(file, file.with_suffix(""), max_bad_boxes=1)
    assert sum(map(len, annotations.boxes.values())) == whole - 1
    assert "annotation 1 of" in caplog.text and "it is left out (1 of at most 1)" in caplog.text


def test_box_within_a_pixel_of_the_edge_is_clipped(annotations_file):
    file = annotations_file(lambda content: first(content, bbox=[-0.5, 60, 10, 4.5]))
    annotations = read_annotations(file, file.with_suffix(""))
    assert annotations.boxes[11][0]["bbox"] == [0, 60, 9.5, 4]


def test_labels_count_the_categories_from_one_in_the_order_of_their_ids(rectangles):
    annotations = read_annotations(rectangles / "train.json", rectangles / "train")
    assert annotations.categories == ["red", "blue"] and annotations.category_ids == [3, 7]
    assert (annotations.label(3), annotations.label(7)) == (1, 2)


def test_crowds_and_difficult_objects_are_not_trained_on_but_kept(annotations_file):
    def edit(content):
        content["annotations"][0]["iscrowd"] = 1
        content["annotations"][1]["ignore"] = 1

    file = annotations_file(edit)
    annotations = read_annotations(file, file.with_suffix(""))
    kept = [box["id"] for boxes in annotations.boxes.values() for box in boxes]
    trained = [box["id"] for image in annotations.boxes for box in annotations.training_boxes(image)]
    assert set(kept) - set(trained) == {1, 2}


def test_other_categories_are_refused_with_names(rectangles):
    with pytest.raises(
        ValueError,
        match=r"val.json has 2 categories, expected the 3 of runs/x in the same order: \['green'\] are "
        r"unknown there, \['blue', 'owl'\] missing here",
    ):
        check_categories(rectangles / "val.json", ["red", "green"], ["red", "blue", "owl"], "runs/x")
    check_categories(rectangles / "val.json", ["red"], ["red"], "runs/x")


@pytest.mark.parametrize(("name", "objects"), [("voc07-subset", 2456), ("coco-mini", 929)])
def test_real_annotations_pass(name, objects, shared_data):
    folder = shared_data(name)
    annotations = read_annotations(
        folder / "instances_train.json", folder / "train", masks=name == "coco-mini"
    )
    assert sum(map(len, annotations.boxes.values())) == objects
    assert Image.open(folder / "train" / annotations.images[0]["file_name"]).width > 0
