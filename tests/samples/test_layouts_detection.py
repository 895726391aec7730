"""Annotations of detection: classes that are asked for, objects that are none, what a format does with odd shapes."""

import json
import shutil

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pydantic import ValidationError

import samples
from samples import Faults, Sample
from samples.readers import json_list
from samples.readers.detection import coco
from samples.readers.detection import dior as dior_reader
from samples.readers.formats import detect
from samples.readers.look import Look
from samples.sections import SourceSection
from tests.support.layouts import build
from vlm.common.errors import DataError

SIDE = 64


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return build(tmp_path_factory.mktemp("layouts") / "data")


def draw(path, size=(SIDE, SIDE)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size).save(path)


def reported(path, *args, **options):
    faults = Faults()
    return list(samples.read(path, *args, on_fault="skip", faults=faults, **options)), faults


# --- classes


def test_stated_classes_are_all_that_is_asked_for(root):
    found, faults = reported(root / "DOTA", classes=["Small-Vehicle", "ship"])
    assert [(one.classes, one.messages[0]["content"]) for one in found] == [
        (["ship", "small vehicle"], "ship, small vehicle")
    ] * 2
    assert [(one.labels, one.quads, one.boxes, one.difficult) for one in found] == [
        (["small vehicle"], [[20, 4, 30, 8, 28, 14, 18, 10]], [[18, 4, 30, 14]], None),
        ([], [], [], None),
    ]
    assert dict(faults.objects) == {"other_class": 2}
    (said,) = [text for _, text in faults.notes if "no object" in text]
    assert said.endswith("no object of the rows read is of the classes ship; others that were left out: plane (2)")


def test_of_difficult_objects_those_that_are_asked_for_stay_difficult(root):
    (first, _), _ = reported(root / "DOTA", classes=["plane"])
    assert (first.labels, first.difficult) == (["plane", "plane"], [False, True])


def test_classes_of_a_split_are_those_of_the_data(root):
    """Of DIOR's test split, no picture has a field; it is asked for nevertheless."""
    (found,), _ = reported(root / "DIOR", "dior_hbb", split="test")
    assert found.classes == ["expressway service area", "ground track field", "ship"]


def test_rows_of_our_own_are_restricted_and_others_pass(tmp_path):
    draw(tmp_path / "a.png")
    rows = [
        {"images": ["a.png"], "task": "detection", "question": "plane, ship", "classes": ["plane", "ship"],
         "labels": ["ship", "plane"], "boxes": [[1, 1, 9, 9], [2, 2, 8, 8]], "difficult": [True, False]},
        {"images": ["a.png"], "task": "vqa", "question": "How many?", "answer": "2"},
    ]  # fmt: skip
    path = tmp_path / "mine.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    (first, second), faults = reported(path, classes=["plane"])
    assert (first.labels, first.boxes, first.difficult, first.classes) == (["plane"], [[2, 2, 8, 8]], None, ["plane"])
    assert first.messages == [{"role": "user", "content": "plane"}] and second.answer == "2"
    assert dict(faults.objects) == {"other_class": 1} and not faults.notes
    rows[0]["messages"] = [{"role": "user", "content": "plane, ship"}, {"role": "assistant", "content": "1,1,9,9 ship"}]
    path.write_text("\n".join(map(json.dumps, rows)))
    assert dict(reported(path, classes=["plane"])[1].kinds) == {"conversation": 1}


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ([], "expected names"), (["plane", ""], "expected names"), (["plane, ship"], "without commas"),
        (["Ship", "ship"], "'ship' stands twice"), (["3d printer"], "expected names"),
    ],
)  # fmt: skip
def test_classes_that_are_none(root, classes, message):
    with pytest.raises(DataError, match=message):
        samples.read(root / "DOTA", classes=classes)
    with pytest.raises(ValidationError, match=message):
        SourceSection(path=str(root / "DOTA"), classes=classes)


def test_classes_are_for_detection(root):
    with pytest.raises(DataError, match=r"found classes: \['dam'\], but rows of dior_rsvg are not of detection"):
        samples.read(root / "DIOR-RSVG", split="train", classes=["dam"])
    with pytest.raises(
        ValidationError, match="rows of dior_rsvg are not of detection.*it is for nadir, dota, dior_hbb"
    ):
        SourceSection(path="x", format="dior_rsvg", classes=["dam"])
    with pytest.raises(DataError, match="field 'task': found 'grounding', expected none, or detection"):
        list(samples.read(root / "DOTA-tiles", task="grounding"))


def test_data_without_any_object_needs_its_classes(tmp_path):
    (tmp_path / "labelTxt").mkdir()
    (tmp_path / "labelTxt" / "a.txt").write_text("")
    draw(tmp_path / "images" / "a.png")
    with pytest.raises(DataError, match="found no object, so that no class is known to ask for.*`classes"):
        list(samples.read(tmp_path, "dota"))
    (one,) = samples.read(tmp_path, "dota", classes=["plane"])
    assert (one.labels, one.boxes, one.classes, one.size) == ([], [], ["plane"], (SIDE, SIDE))


def test_a_picture_of_whose_objects_none_is_one_is_no_row(tmp_path):
    """It would look empty."""
    (tmp_path / "labelTxt").mkdir()
    (tmp_path / "labelTxt" / "a.txt").write_text("1 1 2 2 plane 0\n")
    (tmp_path / "labelTxt" / "b.txt").write_text("1 1 9 1 9 9 1 9 plane 0\n")
    draw(tmp_path / "images" / "a.png")
    draw(tmp_path / "images" / "b.png")
    found, faults = reported(tmp_path, "dota")
    assert [one.id for one in found] == ["b"] and dict(faults.kinds) == {"wrong_type": 1}


# --- XML


def test_an_annotation_that_is_no_xml_is_a_fault_of_its_picture(root, tmp_path):
    shutil.copytree(root / "DIOR", tmp_path / "x")
    (tmp_path / "x/Annotations/Oriented Bounding Boxes/00002.xml").write_text("<annotation><object>")
    found, faults = reported(tmp_path / "x", "dior_obb", split="all")
    assert [one.id for one in found] == ["00001"] and dict(faults.kinds) == {"wrong_type": 1}
    assert "file 00002.xml, field '(whole file)': found text that is no XML" in faults.examples["wrong_type"]


def test_a_size_that_is_not_the_pictures_is_a_fault(root, tmp_path):
    shutil.copytree(root / "DIOR", tmp_path / "x")
    draw(tmp_path / "x/JPEGImages-trainval/00002.jpg", (41, 20))
    assert dict(reported(tmp_path / "x", "dior_hbb", split="train")[1].kinds) == {"box_inverted": 1, "size_mismatch": 1}


def test_dior_with_annotations_in_one_folder_is_not_dior_rsvg(root, tmp_path):
    shutil.copytree(root / "DIOR/Annotations/Horizontal Bounding Boxes", tmp_path / "x/Annotations")
    assert detect(Look(tmp_path / "x")).name == "dior_hbb"
    shutil.copytree(root / "DIOR-RSVG", tmp_path / "y")
    assert detect(Look(tmp_path / "y")).name == "dior_rsvg"


def test_fair1m_pictures_of_one_name_are_told_apart(root):
    found, faults = reported(root / "FAIR1M", split="all")
    assert [one.id for one in found] == ["train/part1/1", "train/part1/2", "validation/1"]
    with pytest.raises(DataError, match="has the splits train, validation; name one by"):
        list(samples.read(root / "FAIR1M"))
    with pytest.raises(DataError, match="found the split 'test', expected one of train, validation"):
        list(samples.read(root / "FAIR1M", split="test"))


# --- COCO


def put_coco(folder, annotations, images=None, order=("images", "annotations", "categories"), **more):
    lists = {
        "images": images or [{"id": 1, "file_name": "a.png", "width": SIDE, "height": SIDE}],
        "categories": [{"id": 3, "name": "storage-tank"}, {"id": 1, "name": "plane"}],
        "annotations": [{"image_id": 1, "category_id": 1} | one for one in annotations],
    }
    draw(folder / "a.png")
    path = folder / "truth.json"
    path.write_text(json.dumps({name: lists[name] for name in order} | more))
    return path


@settings(max_examples=40, deadline=None)
@given(st.permutations(["images", "annotations", "categories"]), st.integers(1, 9))
def test_the_lists_stand_in_any_order_and_are_read_in_blocks(tmp_path_factory, order, block):
    folder = tmp_path_factory.mktemp("coco")
    boxes = [{"bbox": [n, n, 5, 6], "category_id": 3} for n in range(20)]
    path = put_coco(folder, boxes, order=order, info={"a": ["}", "]"]})
    before, json_list.BLOCK = json_list.BLOCK, block
    try:
        (one,) = samples.read(path)
    finally:
        json_list.BLOCK = before
    assert one.boxes == [[n, n, n + 5, n + 6] for n in range(20)] and one.labels == ["storage tank"] * 20
    assert one.classes == ["plane", "storage tank"] and one.id == "a.png"


def test_what_stands_in_the_way_of_a_coco_file_is_said(tmp_path):
    path = put_coco(tmp_path, [{"bbox": [1, 1, 5, 5]}])
    whole = path.read_text()
    for text, message in (
        (whole[:-1], "no JSON behind row 4"),
        (whole.replace('"categories"', '"images"'), "the key 'images' stands twice"),
        (whole.replace('"categories"', '"kinds"'), "no list under the key 'categories'"),
        (whole + "x", "after the list"),
        (json.dumps({"images": [], "annotations": [], "categories": []}), "found no object.*no class is known"),
    ):
        path.write_text(text)
        with pytest.raises(DataError, match=message):
            list(samples.read(path, "coco", on_fault="skip"))


def test_faults_of_a_coco_file_name_list_and_item(tmp_path):
    objects = [
        {"bbox": [1, 1, 5, 5]}, {"bbox": [1, 1, 0, 5]}, {"bbox": [1, 1, 5]}, {"bbox": [1, 1, 5, "5"]},
        {"bbox": [1, 1, 5, 5], "category_id": [1]}, {"bbox": [1, 1, 1e12, 5]},
    ]  # fmt: skip
    images = [{"id": 1, "file_name": "a.png"}, {"id": 1, "file_name": "b.png"}, {"id": 2}, {"id": None}, 5]
    found, faults = reported(put_coco(tmp_path, objects, images), "coco")
    assert [one.boxes for one in found] == [[[1, 1, 6, 6]]]
    assert dict(faults.kinds) == {"box_inverted": 1, "wrong_type": 4, "missing_field": 3, "twice": 1}
    assert "images, item 2, field 'id': found 1" in faults.examples["twice"]
    assert "annotations, item 2, field 'bbox': found [1, 1, 0, 5]" in faults.examples["box_inverted"]


def test_a_picture_that_a_coco_file_has_twice_is_no_picture_without_objects(tmp_path):
    """As files merged by hand have it: of the second id nothing is annotated, which would be an empty picture."""
    images = [{"id": 1, "file_name": "a.png"}, {"id": 2, "file_name": "a.png"}, {"id": 3, "file_name": "b.png"}]
    draw(tmp_path / "images" / "b.png")
    found, faults = reported(put_coco(tmp_path, [{"bbox": [1, 1, 5, 5]}], images), "coco")
    assert [(one.id, one.boxes) for one in found] == [("b.png", [])] and dict(faults.kinds) == {"twice": 2}
    assert "images, item 1, field 'file_name': found 'a.png', 2 times" in faults.examples["twice"]


def test_a_key_twice_in_an_object_is_a_fault(tmp_path):
    path = put_coco(tmp_path, [{"bbox": [1, 1, 5, 5]}, {"bbox": [2, 2, 5, 5]}])
    path.write_text(path.read_text().replace('"bbox": [2', '"bbox": [9, 9, 1, 1], "bbox": [2'))
    found, faults = reported(path)
    assert [one.boxes for one in found] == [[[1, 1, 6, 6]]] and dict(faults.kinds) == {"twice": 1}


@pytest.mark.parametrize(
    ("segmentations", "name"),
    [
        ([[[1, 1, 9, 1, 9, 9, 1, 9]]], "coco_obb"), ([[[1, 1, 9, 1, 9, 9]]], "coco"), ([None], "coco"),
        ([[[1, 1, 9, 1, 9, 9, 1, 9]], [[1, 1, 9, 1, 9, 9, 5, 12, 1, 9]]], "coco"), ([[]], "coco"),
        ([[[1, 1, 9, 1, 9, 9, 1, 9], [2, 2, 3, 2, 3, 3, 2, 3]]], "coco"), ([{"size": [1, 1], "counts": "0"}], "coco"),
    ],
)  # fmt: skip
def test_which_format_a_coco_file_is(tmp_path, segmentations, name):
    path = put_coco(tmp_path, [{"bbox": [1, 1, 8, 8], "segmentation": one} for one in segmentations])
    assert detect(Look(path)).name == name


def test_shapes_of_other_corners_become_rectangles_and_are_counted(tmp_path):
    octagon = [20, 10, 30, 10, 40, 20, 40, 30, 30, 40, 20, 40, 10, 30, 10, 20]
    objects = [
        {"bbox": [10, 10, 30, 30], "segmentation": [octagon]},
        {"bbox": [1, 2, 3, 4], "segmentation": {"size": [SIDE, SIDE], "counts": [0]}, "iscrowd": 1},
        {"bbox": [1, 1, 9, 9], "segmentation": [[1, 1, 4, 1, 4, 4], [10, 10, 8, 10, 10, 8]]},
        {"bbox": [1, 1, 9, 9], "segmentation": [[1, 1, 5, 5, 9, 9]]},
        {"bbox": [1, 1, 9, 9], "segmentation": [[1, 1, 9, 9, 9, 1, 1, 9]]},
        {"bbox": [1, 1, 9, 9], "segmentation": [1, 1, 9, 1, 9, 9, 1, 9]},
    ]
    (one,), faults = reported(put_coco(tmp_path, objects), "coco_obb")
    # along its diagonals, x + y and x - y, it is 40 / √2 wide; along x and y 30
    assert shapely.Polygon(np.reshape(one.quads[0], (4, 2))).area == pytest.approx(800)
    assert one.quads[1] == [1, 2, 4, 2, 4, 6, 1, 6] and one.difficult == [False, True, False, False]
    assert one.quads[3] == [1, 1, 9, 1, 9, 9, 1, 9]
    assert dict(faults.kinds) == {"box_inverted": 2}
    assert sorted(text.split("truth.json: ")[1] for _, text in faults.notes if "became" in text) == [
        "1 masks became the corners of their boxes",
        "2 polygons of other than four corners became their smallest rectangle",
    ]


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.integers(-50, 50), st.integers(-50, 50)), min_size=3, max_size=12))
def test_the_rectangle_around_points_is_the_smallest_that_holds_them(points):
    found = coco._around([float(x) for point in points for x in point])
    hull = shapely.MultiPoint(points).convex_hull
    if hull.geom_type != "Polygon":
        assert found is None
        return
    rectangle = shapely.Polygon(np.reshape(found, (4, 2)))
    assert rectangle.is_valid and all(rectangle.distance(shapely.Point(point)) < 1e-6 for point in points)
    assert rectangle.area == pytest.approx(hull.minimum_rotated_rectangle.area, rel=1e-6)
    corners = np.reshape(found, (4, 2))
    (ax, ay), (bx, by) = [(np.roll(corners, -n - 1, 0) - np.roll(corners, -n, 0)).T for n in (0, 1)]
    turns = ax * by - ay * bx
    assert (turns > 0).all()  # clockwise on a screen, as a box's corners


def test_rows_that_have_all_three_lists_are_rows(tmp_path):
    draw(tmp_path / "a.png")
    row = {"images": ["a.png"], "annotations": [], "categories": [], "task": "vqa", "question": "?", "answer": "a"}
    (tmp_path / "mine.json").write_text("\n".join(map(json.dumps, [row, row | {"id": "2"}])))
    assert [one.task for one in samples.read(tmp_path / "mine.json", "nadir")] == ["vqa"] * 2
    assert detect(Look(tmp_path / "mine.json")).name == "nadir"


# --- YOLO-OBB


def put_yolo(folder, labels, text="train: images\nnames: [Large-Vehicle, ship]\n"):
    draw(folder / "images" / "a.png", (100, 50))
    (folder / "labels").mkdir()
    (folder / "labels" / "a.txt").write_text(labels)
    (folder / "data.yaml").write_text(text)
    return folder


GOOD = "0 0.1 0.2 0.3 0.2 0.3 0.4 0.1 0.4\n"


def test_shares_become_pixels_by_the_yamls_order(tmp_path):
    (one,) = samples.read(put_yolo(tmp_path, GOOD + "1 -0.005 0 0.2 0 0.2 1.005 0 1\n"))
    assert one.labels == ["large vehicle", "ship"] and one.classes == ["large vehicle", "ship"]
    assert one.quads[0] == pytest.approx([10, 10, 30, 10, 30, 20, 10, 20])
    assert one.quads[1] == pytest.approx([-0.5, 0, 20, 0, 20, 50.25, 0, 50])
    assert one.boxes[1] == pytest.approx([0, 0, 20, 50])


def test_lines_that_are_no_object(tmp_path):
    lines = (
        GOOD, "0 0.5 0.5 0.1 0.1\n", "2 0.1 0.2 0.3 0.2 0.3 0.4 0.1 0.4\n", "0 10 20 30 20 30 40 10 40\n",
        "0 0.1 0.1 0.3 0.3 0.3 0.1 0.1 0.3\n", "0.0 0.1 0.2 0.3 0.2 0.3 0.4 0.1 0.4\n", "0 nan 0 1 0 1 1 0 1\n",
    )  # fmt: skip
    (one,), faults = reported(put_yolo(tmp_path, "".join(lines)))
    assert len(one.quads) == 1
    assert dict(faults.kinds) == {"wrong_type": 2, "missing_field": 1, "box_outside": 2, "box_inverted": 1}


def test_labels_without_their_yaml_are_refused(tmp_path):
    folder = put_yolo(tmp_path, GOOD)
    (folder / "data.yaml").unlink()
    message = "found labels of YOLO, whose classes are numbers, expected the dataset's YAML with `names`"
    for path in (folder, folder / "labels"):
        with pytest.raises(DataError, match=message):
            samples.read(path)
        with pytest.raises(DataError, match=message):
            list(samples.read(path, "yolo_obb"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train: images\nval: images\nnames: [a]\n", "has the splits train, val; name one by `split:`"),
        ("train: /etc\nnames: [a]\n", "found '/etc', expected a folder below .*put the YAML into the dataset's folder"),
        ("train: ../x/images\nnames: [a]\n", "found '../x/images', expected a folder below"),
        ("train: train.txt\nnames: [a]\n", "found 'train.txt', expected a folder .*lists of pictures are not read"),
        ("train: images\nnames: {0: a, 1: b, 0: c}\n", "data.yaml: found no YAML .*the key '0' stands twice"),
        ("train: images\nnames: [a\n", "data.yaml: found no YAML .*expected that of a dataset"),
        ("train: images\nnames: {a: 0}\n", "names: found a dict, expected a list of classes"),
        ("train: images\nnames: [[a]]\n", r"names\[0\]: found a list, expected a list of classes"),
        (
            "train: images\nnames: ['a,b']\n",
            "expected the name of a class, which begins with a letter and has no comma",
        ),
    ],
)
def test_a_yaml_that_does_not_say_it(tmp_path, text, message):
    folder = put_yolo(tmp_path, GOOD, text)
    with pytest.raises(DataError, match=message):
        list(samples.read(folder))


def test_which_yaml_is_meant(tmp_path):
    folder = put_yolo(tmp_path, GOOD)
    (folder / "other.yml").write_text("train: images\nnames: [ship, plane]\n")
    with pytest.raises(DataError, match="found the YAMLs data.yaml, other.yml, expected one: point `path` at it"):
        samples.read(folder)
    (one,) = samples.read(folder / "other.yml")
    assert one.labels == ["ship"]
    (folder / "other.yml").write_text("epochs: 3\n")  # of a training
    (one,) = samples.read(folder)
    assert one.labels == ["large vehicle"]
    (folder / "data.yaml").unlink()
    for path in (folder, folder / "other.yml"):
        with pytest.raises(DataError, match="(?:found|: found) other.yml without `names` and `train`"):
            list(samples.read(path, "yolo_obb"))


def test_a_yaml_of_aliases_ends_the_reading_with_one_line(tmp_path):
    """Shown as text it would be 10⁹ characters."""
    bomb = "a0: &a0 [x]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 10))
    folder = put_yolo(tmp_path, GOOD, bomb + "train: images\nnames: *a9\n")
    with pytest.raises(DataError) as caught:
        list(samples.read(folder))
    assert len(str(caught.value)) < 1000


# --- the same scenes in every layout of quadrilaterals

NAMES = ("plane", "storage tank", "ship")


def tilted(x, y, width, height, degrees):
    turn = np.array([[np.cos(np.radians(degrees)), np.sin(np.radians(degrees))], [-np.sin(np.radians(degrees)),
                    np.cos(np.radians(degrees))]])  # fmt: skip
    ends = np.array([[-width, -height], [width, -height], [width, height], [-width, height]]) / 2
    return (ends @ turn + (x, y)).ravel().round(3).tolist()


OBJECT = st.tuples(
    st.sampled_from(NAMES),
    st.builds(
        tilted, st.integers(12, 52), st.integers(12, 52), st.integers(4, 16), st.integers(4, 16), st.integers(0, 359)
    ),
)


def put_scenes(folder, scenes):
    """The scenes as DOTA, COCO, YOLO-OBB, DIOR-R and FAIR1M; returns the paths."""
    for name in ("dota/labelTxt", "yolo/labels", "dior/Annotations", "fair/labelXml"):
        (folder / name).mkdir(parents=True)
    images, annotations = [], []
    for number, scene in enumerate(scenes):
        name = f"{number:05}"
        for where in ("dota/images", "coco", "yolo/images", "dior/JPEGImages", "fair/images"):
            draw(folder / where / f"{name}.png")
        images.append({"id": number, "file_name": f"{name}.png"})
        dota, yolo, dior, fair = [], [], [], []
        for label, quad in scene:
            annotations.append({
                "image_id": number, "category_id": NAMES.index(label), "bbox": [0, 0, 1, 1], "segmentation": [quad]
            })  # fmt: skip
            dota.append(f"{' '.join(map(str, quad))} {label.replace(' ', '-')} 0")
            yolo.append(f"{NAMES.index(label)} {' '.join(str(x / SIDE) for x in quad)}")
            said = "".join(f"<{tag}>{x}</{tag}>" for tag, x in zip(dior_reader.CORNERS["robndbox"], quad, strict=True))
            dior.append(f"<object><name>{label.replace(' ', '')}</name><robndbox>{said}</robndbox></object>")
            points = [*np.reshape(quad, (4, 2)).tolist(), quad[:2]]
            said = "".join(f"<point>{x},{y}</point>" for x, y in points)
            fair.append(
                f"<object><possibleresult><name>{label}</name></possibleresult><points>{said}</points></object>"
            )
        (folder / "dota/labelTxt" / f"{name}.txt").write_text("\n".join(dota))
        (folder / "yolo/labels" / f"{name}.txt").write_text("\n".join(yolo))
        (folder / "dior/Annotations" / f"{name}.xml").write_text(f"<annotation>{''.join(dior)}</annotation>")
        said = f"<annotation><objects>{''.join(fair)}</objects></annotation>"
        (folder / "fair/labelXml" / f"{name}.xml").write_text(said)
    categories = [{"id": number, "name": name} for number, name in enumerate(NAMES)]
    lists = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "coco/truth.json").write_text(json.dumps(lists))
    (folder / "yolo/data.yaml").write_text(f"train: images\nnames: {list(NAMES)}\n")
    return {name: folder / name for name in ("dota", "yolo", "dior", "fair")} | {"coco": folder / "coco/truth.json"}


@settings(max_examples=25, deadline=None)
@given(st.lists(st.lists(OBJECT, max_size=5), min_size=1, max_size=4))
def test_every_layout_says_the_same(tmp_path_factory, scenes):
    paths = put_scenes(tmp_path_factory.mktemp("scenes"), scenes)
    formats = {"dior": "dior_obb", "fair": "fair1m", "dota": "dota", "coco": "coco_obb", "yolo": "yolo_obb"}
    for name, path in paths.items():
        found = list(samples.read(path, formats[name], classes=NAMES))
        assert [one.labels for one in found] == [[label for label, _ in scene] for scene in scenes], name
        assert all(one.classes == sorted(NAMES) and one.difficult is None for one in found)
        for one, scene in zip(found, scenes, strict=True):
            assert len(one.quads) == len(scene)
            for quad, (_, true) in zip(one.quads, scene, strict=True):
                assert quad == pytest.approx(true, abs=1e-9)


# --- written as our own rows and read again


@pytest.mark.parametrize(
    ("path", "options"),
    [
        ("DOTA", {}), ("DIOR", {"format": "dior_hbb", "split": "all"}), ("FAIR1M", {"split": "all"}), ("VHR-10", {}),
        ("COCO/dota.json", {}), ("YOLO-OBB", {"split": "train"}),
    ],
)  # fmt: skip
def test_rows_that_are_written_are_read_again(root, tmp_path, path, options):
    found, _ = reported(root / path, **options)
    samples.write(tmp_path / "rows.jsonl", found)
    again = list(samples.read(tmp_path / "rows.jsonl"))
    assert again == found and all(isinstance(one, Sample) for one in again)


@pytest.mark.parametrize("key", ["iscrowd", "ignore"])
def test_a_flag_that_is_no_number_is_a_fault(tmp_path, key):
    """The text "0" would be true, and every object difficult: reward and metrics would leave all of them out."""
    (one,), faults = reported(put_coco(tmp_path, [{"bbox": [1, 1, 8, 8], key: "0"}, {"bbox": [1, 1, 9, 9], key: 0}]))
    assert one.boxes == [[1, 1, 10, 10]] and one.difficult is None and dict(faults.kinds) == {"wrong_type": 1}


def test_objects_of_other_classes_are_not_said_to_be_cut(tmp_path):
    put_coco(tmp_path, [{"bbox": [1, 1, 8, 8]}, {"bbox": [1, 1, 9, 9], "category_id": 3}])
    faults = Faults()
    (one,) = samples.read(tmp_path / "truth.json", "coco", classes=["plane"], faults=faults)
    assert len(one.boxes) == 1 and faults.cut == 0 and faults.objects["other_class"] == 1


def coco_file(folder, annotations, image_id=1):
    draw(folder / "a.png", (100, 80))
    said = {"images": [{"id": image_id, "file_name": "a.png"}], "categories": [{"id": 1, "name": "ship"}]}
    path = folder / "found.json"
    path.write_text(json.dumps(said | {"annotations": annotations}))
    return path


@pytest.mark.parametrize("odd", ["1", 7, 1.0])
def test_objects_of_no_picture_do_not_leave_empty_pictures(tmp_path, odd):
    """Whatever is done with faults: a picture without its objects would teach that there are none."""
    path = coco_file(tmp_path, [{"image_id": odd, "category_id": 1, "bbox": [1, 1, 9, 9]}] * 2)
    with pytest.raises(DataError, match="2 of 2 annotations are of no picture of the file"):
        list(samples.read(path, "coco", on_fault="skip"))


def test_boxes_by_their_corners_are_doubted(tmp_path):
    """[60, 50, 90, 70] in a picture of 100 x 80 would be a box up to 150, 120."""
    path = coco_file(tmp_path, [{"image_id": 1, "category_id": 1, "bbox": [60, 50, 90, 70]}])
    _, faults = reported(path, "coco")
    assert any("boxes end beyond their picture" in text and "[x1, y1, x2, y2]" in text for _, text in faults.notes)
    _, faults = reported(coco_file(tmp_path, [{"image_id": 1, "category_id": 1, "bbox": [60, 50, 40, 30]}]), "coco")
    assert not any("beyond" in text for _, text in faults.notes)
