"""The layouts of tests/data with what is no text: tiny pictures, GeoTIFFs, and parquet tables.

`build(folder)` copies tests/data there and draws what its files name. Pictures are 40 x 20 pixels unless said.
"""

from __future__ import annotations

import io
import json
import shutil
import struct
from pathlib import Path

from PIL import Image

from samples.readers.large import OPTIONS

DATA = Path(__file__).parents[1] / "data"
SIZE = (40, 20)
PICTURES = [
    *(f"DIOR-RSVG/JPEGImages/{name}.jpg" for name in ("00001", "00002", "00010")),
    *(f"VRSBench/Images_val/{name}.png" for name in ("P0001_0001", "P0002_0001", "00044")),
    "VRSBench/Images_train/P0001_0001.png",
    *(f"LHRS-Bench/images/{name}.png" for name in "ab"),
    "GeoChat-Instruct/images/P0001.png",
    *(f"GeoChat-Bench/images/{name}" for name in ("airport_1.jpg", "7.tif", "8.tif", "P0001.png")),
    "refGeo/images/rsvg/00001.jpg",
    "RS-GPT4V/a.png",
    "LRS_VQA/image/15565.tif",
    "LRS_VQA/images/train/P0001.png",
    *(f"APEX-GRO/images/{name}.png" for name in ("a", "a_1", "a_2")),
    *(f"DOTA/images/{name}.png" for name in ("P0001", "P0002")),
    "VG-DIOR/VG_DOIR_RSVG_test/00001.jpg",
    "VG-DIOR/images/00001.jpg",
    "ScoreRS-SFT/images/a.png",
    "TRL/images/a.png",
    "AID/Airport/airport_1.jpg",
    "AID/Airport/airport_2.jpg",
    "AID/DenseResidential/denseresidential_1.jpg",
    *(f"UCMerced_LandUse/Images/{name}.tif" for name in ("harbor/harbor11", "golfcourse/golfcourse01")),
    *(f"NWPU-RESISC45/{name}.jpg" for name in ("train/ship/ship_125", "train/sea_ice/sea_ice_001", "test/ship/ship_1")),
    "NWPU-RESISC45/test/sea_ice/sea_ice_002.jpg",
    "CHOICE/perception/single_instance_identification/object_presence/images/3.png",
    "CHOICE/perception/single_instance_identification/visual_grounding/images/4.png",
    *(f"UCM_captions/imgs/{name}.tif" for name in "12"),
    "NWPU-Captions/NWPU_images/airport/airport_1.jpg",
    "NWPU-Captions/NWPU_images/sea_ice_2.jpg",
    *(f"LEVIR-CC/images/train/{side}/train_{name}.png" for side in "AB" for name in "12"),
    *(f"RSGPT/{name}/images/P1.png" for name in ("RSICap", "RSIEval")),
    *(f"LHRS_Data/LHRS-Bench/imgs_png/{name}.png" for name in "ab"),
    "LRS-GRO/images/13464.tif",
    "MME-RealWorld/remote_sensing/03553_Toronto.png",
    "MME-RealWorld/AutonomousDriving/n008.jpg",
    *(f"DIOR/JPEGImages-{name}.jpg" for name in ("trainval/00001", "trainval/00002", "test/00003")),
    *(f"FAIR1M/{name}.tif" for name in ("train/part1/images/1", "train/part1/images/2", "validation/images/1")),
    *(
        f"VHR-10/NWPU VHR-10 dataset/{name}.jpg"
        for name in ("positive image set/001", "positive image set/002", "negative image set/001")
    ),
    *(f"COCO/images/{name}.png" for name in ("P0001", "P0002")),
    *(f"YOLO-OBB/images/{name}.png" for name in ("train/P0001", "train/P0002", "val/P0003")),
    "CHOICE/perception/cross_instance_discerment/referring_expression_segmentation/images/10.png",
    *(f"refGeo-seg/images/rsvg/{name}.jpg" for name in ("00001.v2", "00002")),
    "GeoPixelD/train/P1.png",
    *(f"RSICD/RSICD_images/airport_{number}.jpg" for number in (1, 2)),
    "RSITMD/images/boat_1.tif",
    *(f"Sydney_captions/imgs/{number}.tif" for number in (1, 2)),
    *(f"EuroSAT/2750/{name}.jpg" for name in ("Forest/Forest_1", "Forest/Forest_3", "SeaLake/SeaLake_2")),
    "Million-AID/train/water_area/beach/P1.jpg",
    *(f"Million-AID/train/agriculture_land/{name}.jpg" for name in ("arable_land/dry_field/P2", "grassland/meadow/P1")),
    *(f"DOTA-tiles/images/{name}.png" for name in ("P0001__1__0___0", "P0001__1__0___1024", "P0002__1__0___0")),
    *(f"TEOChatlas/eval/External_images/xBD/a_{name}.png" for name in ("pre", "post")),
    *(f"TEOChatlas/eval/External_images/fMoW/{name}.png" for name in "1234"),
    "GEOBench-VLM/Single/images/1.jpg",
    *(f"GEOBench-VLM/Temporal/images/a_{name}.jpg" for name in "123"),
    *(f"CDVQA/second_dataset/{side}/00003.png" for side in ("im1", "im2")),
    *(f"Dubai_CC/RGB/500_{year}/{name}.tif" for year in ("2000", "2010") for name in ("11x37", "2x5")),
    *(f"LEVIR-MCI/images/test/{side}/test_1.png" for side in "AB"),
    *(f"LEVIR-CD/{split}/{side}/{split}_1.png" for split in ("train", "test") for side in "AB"),
]
LABELS = {
    "LEVIR-MCI/images/test/label/test_1.png": {128: (0, 0, 10, 20), 255: (20, 5, 40, 10)},
    "LEVIR-CD/train/label/train_1.png": {},
    "LEVIR-CD/test/label/test_1.png": {255: (0, 0, 20, 10)},
}
"""Labels of change: value → the box [x1, y1, x2, y2) that has it; 0 elsewhere."""


def tiff(bands: int, value: int, size: tuple[int, int] = SIZE, bits: int = 8) -> bytes:
    """An uncompressed TIFF of `bits` bits a band with GeoTIFF's tags; all samples have the value `value`.

    Tags (TIFF 6.0; GeoTIFF 1.1): 256 width, 257 height, 258 bits, 259 compression, 262 colour, 273 and 279 the strip's
    place and bytes, 277 bands, 338 what bands beyond three are (nothing in particular), 33550 pixel scale, 33922 tie
    point, 34735 keys.
    """
    width, height = size
    pixels = struct.pack("<H" if bits == 16 else "<B", value) * (width * height * bands)
    long, short, double = ("L", 4), ("H", 3), ("d", 12)
    tags = {
        256: (long, [width]),
        257: (long, [height]),
        258: (short, [bits] * bands),
        259: (short, [1]),
        262: (short, [2 if bands > 1 else 1]),
        273: (long, [0]),
        277: (short, [bands]),
        279: (long, [len(pixels)]),
        338: (short, [0] * (bands - 3)),
        33550: (double, [10.0, 10.0, 0.0]),
        33922: (double, [0.0, 0.0, 0.0, 500000.0, 5400000.0, 0.0]),
        34735: (short, [1, 1, 0, 1, 1024, 0, 1, 1]),
    }
    tags = {tag: entry for tag, entry in tags.items() if entry[1]}
    behind = 8 + 2 + 12 * len(tags) + 4
    table, values = b"", b""
    for tag, ((code, kind), numbers) in tags.items():
        if tag == 273:
            numbers = [1 << 16]  # the pixels stand there
        packed = struct.pack(f"<{len(numbers)}{code}", *numbers)
        if len(packed) > 4:
            place, values = behind + len(values), values + packed
            packed = struct.pack("<L", place)
        table += struct.pack("<HHL", tag, kind, len(numbers)) + packed.ljust(4, b"\0")
    head = b"II*\0" + struct.pack("<L", 8) + struct.pack("<H", len(tags)) + table + struct.pack("<L", 0) + values
    return head.ljust(1 << 16, b"\0") + pixels


def encoded(size: tuple[int, int] = SIZE) -> bytes:
    """A PNG."""
    buffer = io.BytesIO()
    Image.new("RGB", size, (40, 90, 60)).save(buffer, "PNG")
    return buffer.getvalue()


MASKS = {
    "CHOICE/perception/cross_instance_discerment/referring_expression_segmentation/masks/10.png": (4, 2, 12, 10),
    "refGeo-seg/masks/rsvg/00001_0.png": (4, 2, 12, 10),
    "refGeo-seg/masks/rsvg/00002_8.png": (18, 4, 30, 14),
}
"""Mask pictures of SIZE, 0 and 255 → the x1, y1, x2, y2 of what is 255."""
SENTINEL = "EuroSAT-MS/ds/images/remote_sensing/otherDatasets/sentinel_2/tif"


def masks(folder: Path) -> None:
    for name, box in MASKS.items():
        drawn = Image.new("L", SIZE)
        drawn.paste(255, box)
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        drawn.save(folder / name)


XLRS = (
    ("Counting/Regional counting", "How many ships are in the box?", ["(A) 3", "(B) 5", "(C) 7", "(D) 9"], "B", 1),
    ("Land use classification/Overall Land use classification", "Which land uses?",
     ["(A) port", "(B) farmland", "(C) housing", "(D) forest"], "AC", 1),
    ("Counting/Counting with changing detection", "How many are new?", ["(A) 1", "(B) 2", "(C) 3", "(D) 4"], "A", 2),
    ("Land use classification/Overall Land use classification", "Which land use is there?",
     ["(A) port", "(B) farmland", "(C) housing", "(D) forest"], "D", 1),
)  # fmt: skip
"""category, question, options, answer, pictures."""


def xlrs(folder: Path) -> None:
    """XLRS-Bench-lite's folder, as `datasets` saves it: one split, pictures as {bytes, path} in lists."""
    import datasets

    pictures = datasets.List(datasets.Image(decode=False))
    rows = [
        {"index": number, "image": [{"bytes": encoded(), "path": f"{number}.png"}] * count, "question": asked,
         OPTIONS: options, "answer": answer, "category": category, "l2-category": "", "path": f"{number}.png"}
        for number, (category, asked, options, answer, count) in enumerate(XLRS)
    ]  # fmt: skip
    made = datasets.Dataset.from_list(rows).cast_column("image", pictures)
    datasets.DatasetDict({"train": made}).save_to_disk(folder / "XLRS-Bench-lite")


def tables(folder: Path) -> None:
    """ScoreRS's parquet with bytes and with {bytes, path}, TRL's parquet, and a folder that `datasets` reads."""
    import pyarrow as pa
    from pyarrow import parquet

    rows = [
        {"problem": "<image>What is it?", "answer": "dam", "type": "em"},
        {"problem": "Describe the image.", "answer": "A dam in a valley.", "type": "open_ended"},
        {"problem": "1 + 1 = ?", "answer": "2", "type": "math"},
    ]
    boxed = [*rows, {"problem": "the dam", "answer": "[[250, 500, 750, 1000]]", "type": "iou"}]
    plain = pa.Table.from_pylist([row | {"image": encoded()} for row in rows])
    parquet.write_table(plain, folder / "ScoreRS-RL" / "bytes.parquet")
    structs = [row | {"image": {"bytes": encoded(), "path": "a.png"}} for row in boxed]
    structs[0]["image"] = {"bytes": None, "path": "a.png"}
    parquet.write_table(pa.Table.from_pylist(structs), folder / "ScoreRS-RL" / "structs.parquet")
    (folder / "ScoreRS-RL" / "a.png").write_bytes(encoded())
    asked = [{"role": "user", "content": "How many ships?"}]
    trl = [{"prompt": asked, "images": [{"bytes": encoded(), "path": None}], "task": "vqa", "answer": "2"}]
    parquet.write_table(pa.Table.from_pylist(trl), folder / "TRL" / "prompts.parquet")
    for split, part in (("train", rows), ("test", boxed)):
        (folder / "hub" / "data").mkdir(parents=True, exist_ok=True)
        made = [row | {"image": {"bytes": encoded(), "path": None}} for row in part]
        parquet.write_table(pa.Table.from_pylist(made), folder / "hub" / "data" / f"{split}-00000-of-00001.parquet")
    xlrs(folder)


def label(path: Path, boxes: dict[int, tuple[int, int, int, int]], size: tuple[int, int] = SIZE) -> Path:
    """A picture of one channel in which each box has its value."""
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.new("L", size, 0)
    for value, box in boxes.items():
        picture.paste(value, box)
    picture.save(path)
    return path


def shards(folder: Path) -> None:
    """EarthDial's tables: pairs as they are trained on, and pairs with captions as they are asked."""
    import datasets

    said = {"from": "human", "value": "[changedet] [hr_rgb_temp_0.5] <image> <image> \\n What has changed?"}
    turns = json.dumps([said, {"from": "gpt", "value": "A road was built."}])
    picture = {"bytes": encoded(), "path": None}
    trained = [{"jpg_A": picture, "jpg_B": picture, "conversations": turns}]
    asked = " [changedet] [hr_rgb_temp_0.5] <image> <image> \\n are there any changes?"
    captions = {f"groundtruth{number}": text for number, text in enumerate(('"A road."', '"A street."'))}
    tested = [{"jpg_A": picture, "jpg_B": picture, "question": asked, **captions}]
    for name, rows in (("train", trained), ("test", tested)):
        made = datasets.Dataset.from_list(rows)
        for column in ("jpg_A", "jpg_B"):
            made = made.cast_column(column, datasets.Image(decode=False))
        made.save_to_disk(folder / "EarthDial" / name)


def build(folder: Path) -> Path:
    """All layouts below `folder`, which must not exist."""
    shutil.copytree(DATA, folder)
    for name in PICTURES:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", SIZE, (40, 90, 60)).save(path)
    masks(folder)
    for name in ("Forest/Forest_1", "Forest/Forest_3", "SeaLake/SeaLake_2"):
        path = folder / SENTINEL / f"{name}.tif"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(tiff(13, 1500, bits=16))
    for name, bands in (("RSVQA-LR/Images_LR/7", 3), ("RSVQA-LR/Images_LR/8", 1), ("RSVQA-HR/Data/3", 3)):
        path = folder / f"{name}.tif"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(tiff(bands, 0x5A))
    (folder / "AID" / "Airport" / "Thumbs.db").write_bytes(b"no image")
    for name, boxes in LABELS.items():
        label(folder / name, boxes)
    shards(folder)
    tables(folder)
    return folder
