"""Damaged data: every layout, with bytes flipped, cut off, fields dropped, swapped for odd values, gives samples and
counted faults or one DataError; never another exception, a hang, or a row that is neither."""

import json
import random
import shutil

import pytest

import samples
from samples import Faults
from tests.support.layouts import build
from vlm.common.errors import DataError

ODD = [
    None, True, False, 0, -1, 3, 10**400, 1e308, float("nan"), float("inf"), "", " ", "\ud800", "\x00", "<image>",
    "a" * 5000, "[1,2,3,4]", "{<1><2><3><4>|<-5>}", "{<1><2><3>", "[[]]", "../a.png", [], [[]], [None], [1, 2, 3, 4],
    [[1, 2, 3, 4]], [[[1, 2], [3, 4], [5, 6], [7, 8]]], {}, {"a": 1}, {"from": "gpt"}, [{"from": "human", "value": 1}],
    [{}], ["a", "a"],
]  # fmt: skip
"""Values put in the place of others."""
ROWS = {
    "VRSBench/VRSBench_EVAL_Cap.json": "vrsbench",
    "VRSBench/VRSBench_EVAL_referring.json": "vrsbench",
    "VRSBench/VRSBench_EVAL_vqa.json": "vrsbench",
    "VRSBench/VRSBench_train.json": "vrsbench",
    "LHRS-Bench/LHRS-Bench_ScoreRS.json": "lhrs_bench",
    "GeoChat-Instruct/GeoChat_Instruct.json": "geochat",
    "GeoChat-Bench/aid.jsonl": "geochat_bench",
    "GeoChat-Bench/lrben.jsonl": "geochat_bench",
    "GeoChat-Bench/referring.jsonl": "geochat_bench",
    "GeoChat-Bench/region_captioning.jsonl": "geochat_bench",
    "refGeo/rsvg_test.jsonl": "refgeo",
    "RS-GPT4V/train.json": "conversations",
    "LRS_VQA/LRS_VQA_merged.jsonl": "lrs_vqa",
    "VG-DIOR/VG_DOIR_RSVG_test.json": "vg_dior",
    "ScoreRS-SFT/traces.json": "sharegpt",
    "TRL/prompts.jsonl": "trl",
    "CHOICE/object_presence.json": "choice",
    "CHOICE/visual_grounding.json": "choice",
    "CHOICE/referring_expression_segmentation.json": "choice",
    "GeoChat-Bench/grounding_description.jsonl": "geochat_bench",
    "refGeo-seg/metainfo_v2/rsvg_train_v2.jsonl": "refgeo_seg",
    "LRS-GRO/rl.jsonl": "lrs_gro",
    "LRS-GRO/sft.jsonl": "lrs_gro_sft",
    "LRS_VQA/annotations/train/gpt4v.json": "lrs_vqa_zoom",
    "LRS_VQA/annotations/train/mcq.json": "lrs_vqa_zoom",
    "APEX-GRO/apex_gro.jsonl": "apex_gro",
    "MME-RealWorld/MME_RealWorld.json": "mme_realworld",
    "ScoreRS-RL/rows.jsonl": "scorers_rl_pixel",
    "TEOChatlas/eval/xBD_Change_Detection_Localization.json": "teochatlas",
    "TEOChatlas/eval/S2Looking_SRE_QA.json": "teochatlas",
}
"""Files of one row an item: as many rows must be accounted for as there are."""
FILES = [
    *((path, {"format": name}) for path, name in ROWS.items()),
    ("RSVQA-LR/LR_split_test_questions.json", {}),
    ("RSVQA-LR/LR_split_test_answers.json", {"at": "RSVQA-LR", "split": "test"}),
    ("LHRS-Bench/LHRS-Bench.json", {}),
    ("GEOBench-VLM/Temporal/qa.json", {"format": "geobench_vlm"}),
    ("Dubai_CC/description_jsontr_te_val/Test.json", {"format": "dubai_cc"}),
    ("CDVQA/Test_questions.json", {"format": "cdvqa"}),
    *(
        (f"CDVQA/Test_{name}.json", {"at": "CDVQA/Test_questions.json", "format": "cdvqa"})
        for name in ("answers", "images")
    ),
    ("VRSBench/Annotations_val/P0001_0001.json", {"at": "VRSBench/Annotations_val"}),
    ("DIOR-RSVG/Annotations/00001.xml", {"at": "DIOR-RSVG", "split": "all"}),
    ("DIOR-RSVG/test.txt", {}),
    ("DOTA/labelTxt/P0001.txt", {"at": "DOTA"}),
    ("DIOR/Annotations/Horizontal Bounding Boxes/00001.xml", {"at": "DIOR", "format": "dior_hbb", "split": "all"}),
    ("DIOR/Annotations/Oriented Bounding Boxes/00001.xml", {"at": "DIOR", "format": "dior_obb", "split": "all"}),
    ("DIOR/ImageSets/Main/train.txt", {"at": "DIOR", "format": "dior_hbb", "split": "train"}),
    ("FAIR1M/train/part1/labelXml/1.xml", {"at": "FAIR1M", "split": "train"}),
    ("VHR-10/NWPU VHR-10 dataset/ground truth/001.txt", {"at": "VHR-10"}),
    ("VHR-10/NWPU VHR-10 dataset/annotations.json", {"format": "coco_obb"}),
    ("COCO/dota.json", {"format": "coco_obb"}),
    ("COCO/boxes.json", {"format": "coco"}),
    ("YOLO-OBB/data.yaml", {"split": "train"}),
    ("YOLO-OBB/labels/train/P0001.txt", {"at": "YOLO-OBB", "split": "train"}),
    ("UCM_captions/dataset.json", {"split": "test"}),
    ("NWPU-Captions/dataset_nwpu.json", {}),
    ("LEVIR-CC/LevirCCcaptions.json", {}),
    ("RSGPT/RSIEval/annotations.json", {}),
    ("LHRS_Data/LHRS-Bench/qa.json", {"at": "LHRS_Data/LHRS-Bench"}),
    ("ScoreRS-RL/bytes.parquet", {}),
    ("ScoreRS-RL/structs.parquet", {"format": "scorers_rl_unit"}),
    ("TRL/prompts.parquet", {}),
    ("AID/Airport/airport_1.jpg", {"at": "AID"}),
    ("Million-AID/train/water_area/beach/P1.jpg", {"at": "Million-AID"}),
    ("EuroSAT/eurosat-test.txt", {"at": "EuroSAT", "split": "test"}),
    ("refGeo-seg/masks/rsvg/00001_0.png", {"at": "refGeo-seg/metainfo_v2/rsvg_train_v2.jsonl", "format": "refgeo_seg"}),
    ("GeoPixelD/GeoPixelD.json", {}),
    ("GeoPixelD/train/P1.json", {"at": "GeoPixelD/train"}),
    ("GeoPixelD/train/P1.json", {"at": "GeoPixelD/GeoPixelD.json"}),
    ("RSVQA-LR/Images_LR/7.tif", {"at": "RSVQA-LR", "split": "test"}),
]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return build(tmp_path_factory.mktemp("layouts") / "data")


def survives(path, count=None, **options):
    """Reads it and checks the account; returns how many rows there were, None for a file that is refused."""
    faults, found = Faults(), []
    try:
        for sample in samples.read(path, **options, on_fault="skip", faults=faults):
            found.append(sample)
    except DataError as error:
        assert str(error).strip()
        return None
    finally:
        assert faults.kept == len(found)
        assert faults.rows == faults.kept + faults.skipped + faults.left_out.total()
    assert count is None or faults.rows == count
    for sample in found:
        assert sample.task in samples.TASKS and all(turn["content"].encode() is not None for turn in sample.messages)
        for x1, y1, x2, y2 in sample.boxes or []:
            assert -1e-3 <= x1 < x2 <= sample.size[0] + 1e-3 and -1e-3 <= y1 < y2 <= sample.size[1] + 1e-3
    return faults.rows


def damaged(data, rng):
    """The bytes with one to four kinds of harm."""
    data = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        place = rng.randrange(len(data)) if data else 0
        match rng.randrange(6):
            case 0 if data:
                data[place] ^= 1 << rng.randrange(8)
            case 1 if data:
                data[place] = rng.choice(b'{}[]",:\\<>\n\x00\xff0-.e')
            case 2:
                del data[place:]
            case 3:
                del data[place : place + rng.randint(1, 30)]
            case 4:
                data[place:place] = bytes(data[: rng.randint(1, 40)])
            case _:
                data[place:place] = rng.choice([b"NaN", b"1e999", b"9" * 5000, b"[" * 3000, b"\xed\xa0\x80", b"&x;"])
    return bytes(data)


@pytest.mark.parametrize(("name", "options"), FILES, ids=[name for name, _ in FILES])
def test_damaged_bytes(root, tmp_path, name, options):
    folder = tmp_path / "data"
    top = name.split("/")[0]
    shutil.copytree(root / top, folder / top)
    options = dict(options)
    path, at = folder / name, folder / options.pop("at", name)
    whole, rng = path.read_bytes(), random.Random(name)
    assert survives(at, **options) is not None or options.get("format") == "conversations"
    for _ in range(60):
        path.write_bytes(damaged(whole, rng))
        survives(at, **options, verify_images=rng.random() < 0.5)
        if rng.random() < 0.3:
            survives(at, split=options.get("split"))


def changed(value, rng):
    """The value with one field somewhere in it dropped, added or made odd."""
    if isinstance(value, dict) and value and rng.random() < 0.85:
        key = rng.choice(list(value))
        match rng.randrange(4):
            case 0:
                return {name: one for name, one in value.items() if name != key}
            case 1:
                return value | {key: rng.choice(ODD)}
            case _:
                return value | {key: changed(value[key], rng)}
    if isinstance(value, list) and value and rng.random() < 0.85:
        place = rng.randrange(len(value))
        return [*value[:place], changed(value[place], rng), *value[place + rng.choice([1, 1, 1, 0]) :]]
    return rng.choice(ODD)


@pytest.mark.parametrize("name", ROWS)
def test_rows_with_odd_values_are_all_accounted_for(root, name):
    path, rng, total = root / name, random.Random(name), 0
    text = path.read_text()
    rows = json.loads(text) if path.suffix == ".json" else list(map(json.loads, text.splitlines()))
    fuzzed = path.with_name(f"fuzzed{path.suffix}")
    if name == "GeoChat-Bench/lrben.jsonl":
        shutil.copy(path.with_name("LR_split_test_answers.json"), path.with_name("fuzzed_answers.json"))
    kept = 0
    for _ in range(40):
        made = [changed(row, rng) if rng.random() < 0.8 else row for row in rows * 2]
        fuzzed.write_text(json.dumps(made) if path.suffix == ".json" else "\n".join(map(json.dumps, made)))
        task = rng.choice([None, "vqa", "grounding", "caption", "choice"])
        options = {"format": ROWS[name], "task": task}
        if survives(fuzzed, count=len(made), **options) is not None:
            faults = Faults()
            kept += len(list(samples.read(fuzzed, **options, on_fault="skip", faults=faults)))
            total += faults.rows
    assert 0 < kept < total, "some rows are still good, and some are not"


def test_any_format_reads_any_rows(root):
    """A format that is named for the wrong file says so row by row, or refuses the file."""
    for number, (name, right) in enumerate(sorted(ROWS.items())):
        for wrong in list(samples.FORMATS)[number % 3 :: 3]:
            if wrong != right:
                survives(root / name, format=wrong)
    folders = (
        "GeoPixelD",
        "EuroSAT",
        "EuroSAT-MS",
        "Million-AID",
        "DIOR-RSVG",
        "RSVQA-LR",
        "DOTA",
        "DIOR",
        "FAIR1M",
        "VHR-10",
        "YOLO-OBB",
        "AID",
        "VRSBench",
        "hub",
    )
    for folder in folders:
        for name in samples.FORMATS:
            survives(root / folder, format=name)
