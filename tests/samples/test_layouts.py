"""Every published layout of tests/data, and what each of its rows becomes: expected values are worked out by hand.

Pictures are 40 x 20 pixels. Faults, splits and detection: test_layouts_faults.py.
"""

import os

import pytest

import samples
from samples import Faults
from tests.support.layouts import build
from vlm.pictures import images


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return build(tmp_path_factory.mktemp("layouts") / "data")


def asked(question, image, task, answer=None, **more):
    """The fields of a Sample that differ from its defaults, as `fields` gives them."""
    turns = [("user", question)] + ([] if answer is None else [("assistant", answer)])
    return (
        {"turns": turns, "images": [image], "task": task, "size": (40, 20)}
        | ({} if answer is None else {"answer": answer})
        | more
    )


def found(image, id, classes, labels, **more):
    """Of a row of detection, likewise."""
    return asked(", ".join(classes), image, "detection", id=id, classes=classes, labels=labels, **more)


def fields(sample, root):
    names = ("task", "answer", "boxes", "quads", "size", "choices", "id", "kind", "references", "regions")
    names += ("labels", "difficult", "classes")
    found = {name: getattr(sample, name) for name in names}
    found["images"] = [image if isinstance(image, bytes) else os.path.relpath(image, root) for image in sample.images]
    found["images"] = ["bytes" if isinstance(image, bytes) else image for image in found["images"]]
    found["images"] = ["embedded" if "/embedded/" in image else image for image in found["images"]]
    found["turns"] = [
        (turn["role"], turn["content"], *([pytest.approx(turn["zoom"])] if "zoom" in turn else []))
        for turn in sample.messages
    ]
    for name in ("boxes", "quads", "regions"):
        found[name] = found[name] and [pytest.approx(shape) for shape in found[name]]
    return {name: value for name, value in found.items() if value is not None}


DIOR, VRS, PIER = "DIOR-RSVG/JPEGImages", "VRSBench/Images_val/P0001_0001.png", "GeoChat-Instruct/images/P0001.png"
SHOWN = "Which class of scene does the image show:"
BENCH = "GeoChat-Bench/images"
TRAINED, OVER = "LRS_VQA/images/train/P0001.png", "Is the bridge over a river?"
WORD = "Answer the question using a single word or phrase."
LRS, PHRASE = "LRS_VQA/image/15565.tif", "Answer the question using a single word or phrase."
TORONTO = "MME-RealWorld/remote_sensing/03553_Toronto.png"
LAND = "Land use classification/Overall Land use classification"
TILTED, UPRIGHT = [20, 4, 30, 8, 28, 14, 18, 10], [4, 2, 12, 2, 12, 10, 4, 10]
DIORS = ["expressway service area", "ground track field", "ship"]
FAIRS = ["boeing737", "dry cargo ship", "other ship"]
VHR = "VHR-10/NWPU VHR-10 dataset"
VHRS = ["airplane", "baseball diamond", "basketball court", "bridge", "ground track field", "harbor", "ship",
        "storage tank", "tennis court", "vehicle"]  # fmt: skip
COCOS, YOLOS = ["helicopter", "plane", "storage tank"], ["plane", "ship", "storage tank"]
CHOICE = "CHOICE/perception/single_instance_identification"
LAYOUTS = {
    "DIOR-RSVG train": [
        asked("A dam on the left", f"{DIOR}/00001.jpg", "grounding", boxes=[[1, 2, 11, 12]], id="0", kind="dam"),
        asked("A stadium", f"{DIOR}/00010.jpg", "grounding", boxes=[[5, 5, 15, 10]], id="3", kind="stadium"),
    ],
    "DIOR-RSVG/val.txt": [  # the box ends at x = 42: a sixth of it is cut off
        asked(
            "An airport at the right edge", f"{DIOR}/00002.jpg", "grounding", boxes=[[30, 10, 40, 20]], id="2",
            kind="airport",
        )
    ],
    "RSVQA-LR test": [
        asked("Is a road present?", "RSVQA-LR/Images_LR/7.tif", "vqa", "yes", id="1", kind="presence"),
        asked("How many buildings are there?", "RSVQA-LR/Images_LR/7.tif", "vqa", "12", id="2", kind="count"),
        asked("Is it a rural or an urban area", "RSVQA-LR/Images_LR/8.tif", "vqa", "rural", id="4", kind="rural_urban"),
    ],
    "RSVQA-LR/LR_split_val_questions.json": [
        asked("Are there more roads than buildings?", "RSVQA-LR/Images_LR/8.tif", "vqa", "no", id="0", kind="comp")
    ],
    "RSVQA-HR": [
        asked("What is the area covered by buildings?", "RSVQA-HR/Data/3.tif", "vqa", "0m2", id="555", kind="area")
    ],
    "VRSBench/VRSBench_EVAL_Cap.json": [
        asked("Describe the image in detail", VRS, "caption", "The image shows a harbor.", id="0", kind="caption")
    ],
    "VRSBench/VRSBench_EVAL_referring.json": [
        asked("The ship near the pier", VRS, "grounding", boxes=[[10, 8, 14, 12]], id="0", kind="ref,unique")
    ],
    "VRSBench/VRSBench_EVAL_vqa.json": [
        asked("How many ships are there?", VRS, "vqa", "2", id="0", kind="object quantity"),
        asked("Is this a rural area?", "VRSBench/Images_val/00044.png", "vqa", "Yes", id="1", kind="rural or urban"),
    ],
    "VRSBench/VRSBench_train.json": [
        asked("Describe the image in detail.", "VRSBench/Images_train/P0001_0001.png", "caption",
              "The image shows a harbor.", id="0"),
        asked("The small ship", "VRSBench/Images_train/P0001_0001.png", "grounding", boxes=[[4, 4, 16, 10]], id="1"),
        asked("How many ships are there?", "VRSBench/Images_train/P0001_0001.png", "vqa", "2", id="2"),
    ],
    "VRSBench/Annotations_val": [
        asked("Describe the image in detail.", VRS, "caption", "The image shows a harbor with two ships.",
              id="P0001_0001"),
        asked("The upper ship", VRS, "grounding", quads=[[8, 4, 12, 8, 8, 12, 4, 8]], boxes=[[4, 4, 12, 12]],
              id="P0001_0001/object0", kind="ship"),
        asked("The ship at the right edge", VRS, "grounding", quads=[[36, 10, 44, 10, 44, 16, 36, 16]],
              boxes=[[36, 10, 40, 16]], id="P0001_0001/object1", kind="ship"),
        asked("How many ships are visible?", VRS, "vqa", "2", id="P0001_0001/1", kind="object quantity"),
        asked("Describe the image in detail.", "VRSBench/Images_val/P0002_0001.png", "caption", "Nothing but water.",
              id="P0002_0001"),
    ],
    "LHRS-Bench/LHRS-Bench.json": [
        asked("What is in the image?", "LHRS-Bench/images/a.png", "choice", "A", id="1/1", kind="1",
              choices=["harbor", "airport", "U.S. base"]),
        asked("Which colour is it, and why?", "LHRS-Bench/images/a.png", "choice", "B", id="1/2", kind="2,11",
              choices=["red", "blue"]),
    ],
    "LHRS-Bench/LHRS-Bench_ScoreRS.json": [
        asked("What is in the image?", "LHRS-Bench/images/a.png", "choice", "A", id="#1", kind="1,11",
              choices=["harbor", "airport"])
    ],
    "GeoChat-Instruct/GeoChat_Instruct.json": [
        # 10 to 30 and 5 to 15 pixels, turned by 90° about (20, 10)
        asked("the tilted ship", PIER, "grounding", quads=[[25, 0, 25, 20, 15, 20, 15, 0]], boxes=[[15, 0, 25, 20]],
              id="s1"),
        asked("the ships", PIER, "grounding", boxes=[[4, 4, 12, 12], [20, 4, 36, 8]], id="s2",
              quads=[[4, 12, 4, 4, 12, 4, 12, 12], [20, 4, 36, 4, 36, 8, 20, 8]]),
        asked("What is the object present at {<10><20><30><60>|<0>}", PIER, "open_ended", "ship", id="s4"),
        asked("", PIER, "open_ended", "At the pier.", id="s5") | {"turns": [
            ("user", "How many ships are there?\nAnswer the question using a single word or phrase."),
            ("assistant", "2"), ("user", "Where do they lie?"), ("assistant", "At the pier.")]},
    ],
    "GeoChat-Bench/aid.jsonl": [
        asked("Classify the image within one of the given classes: Airport, Beach.\nAnswer with one word or short "
              "phrase.", f"{BENCH}/airport_1.jpg", "classification", "Airport", id="Airport/airport_1")
    ],
    "GeoChat-Bench/lrben.jsonl": [
        asked("Is it a rural or an urban area?", f"{BENCH}/8.tif", "vqa", "rural", id="4", kind="rural_urban"),
        asked("Is a road present?", f"{BENCH}/7.tif", "vqa", "yes", id="1", kind="presence"),
    ],
    "GeoChat-Bench/referring.jsonl": [
        asked("the ships at the pier", f"{BENCH}/P0001.png", "grounding", id="q0", kind="ref,small",
              quads=[[4, 2, 12, 2, 12, 10, 4, 10], [20, 4, 30, 8, 28, 14, 18, 10]],
              boxes=[[4, 2, 12, 10], [18, 4, 30, 14]])
    ],
    "GeoChat-Bench/region_captioning.jsonl": [
        asked("What is the object present at {<10><20><30><60>|<-15>}?", f"{BENCH}/P0001.png", "open_ended",
              "a white ship", id="q1", kind="region")
    ],
    "refGeo/rsvg_test.jsonl": [
        asked("the dam", "refGeo/images/rsvg/00001.jpg", "grounding", id="0", kind="rsvg",
              quads=[[1, 2, 11, 2, 11, 12, 1, 12]], boxes=[[1, 2, 11, 12]]),
        asked("the tilted ship", "refGeo/images/rsvg/00001.jpg", "grounding", id="1", kind="rsvg",
              quads=[[20, 4, 30, 8, 28, 14, 18, 10]], boxes=[[18, 4, 30, 14]]),
        asked("the airport at the edge", "refGeo/images/rsvg/00001.jpg", "grounding", id="2", kind="rsvg",
              boxes=[[30, 10, 40, 20]]),
    ],
    "RS-GPT4V/train.json task=caption": [
        asked("Describe the image.", "RS-GPT4V/a.png", "caption", "A river runs through fields.", id="0")
    ],
    "LRS_VQA/LRS_VQA_merged.jsonl": [
        asked(f"How many planes stand on the apron? \n{PHRASE}", LRS, "vqa", "4", id="STAR_3929", kind="count"),
        asked(f"Is the bottom-most bridge crossing a river?\n {PHRASE}", LRS, "vqa", "yes", id="FAIR_1",
              kind="reasoning", regions=[[30, 10, 40, 20]]),  # it overhangs two sides
        asked("What grows below the largest bridge?", LRS, "vqa", "trees", id="GLH-Bridge_460",
              kind="object background"),  # its box begins at the right edge
        asked("What colour is the plane?", LRS, "vqa", "white", id="FAIR_2", kind="object color"),  # of another picture
    ],
    "LRS_VQA/annotations/train/gpt4v.json": [
        asked(f"{OVER}\n {WORD}", TRAINED, "vqa", "yes", id="#1", regions=[[4, 2, 16, 10]])
        | {"turns": [("user", f"{OVER}\n {WORD}"), ("assistant", "", [4, 2, 16, 10]), ("assistant", "yes")]},
        # the region ends at 48, 24
        asked("What colour is the roof?", TRAINED, "vqa", "red", id="#2", regions=[[30, 10, 40, 20]]) | {"turns": [
            ("user", "What colour is the roof?"), ("assistant", "", [30, 10, 40, 20]), ("assistant", "red")]},
        asked("How many ships are there?", TRAINED, "vqa", "2", id="#3", regions=[[4, 2, 16, 10], [20, 4, 30, 14]]),
        asked("Is it a port?", TRAINED, "vqa", "no", id="#4", regions=[[0, 0, 40, 19]]),  # 95% of the picture
        asked("Is it rural?", TRAINED, "vqa", "no", id="#5"),
    ],
    "LRS_VQA/annotations/train/mcq.json": [
        asked("", TRAINED, "choice", "B", id="#1", regions=[[4, 2, 16, 10]],
              choices=["plane", "the left one", "neither"]) | {"turns": [
            ("user", "Which ship of the two is in the rest?"), ("assistant", "", [4, 2, 16, 10]), ("assistant", "B")]},
        asked("Which is larger?", TRAINED, "choice", "A", id="#2", choices=["left", "right"],
              regions=[[4, 2, 16, 10], [20, 4, 30, 14]]),
    ],
    "LRS-GRO/sft.jsonl": [  # 256, 128, 512, 384 of 1024 for a long side of 40
        asked("", "LRS-GRO/images/13464.tif", "vqa", "red", id="LRS-GRO-1", kind="object,Object color / pattern",
              regions=[[10, 5, 20, 15]]) | {"turns": [
            ("user", "What colour is the crane?"),
            ("assistant", "<think>The image shows a port.\nThe crane stands at the pier.\nI need to pay attention to "
             "the reference object at</think>", [10, 5, 20, 15]),
            ("assistant", "<think>Its boom is bright.</think>\n<answer>red</answer>")]},
        asked("", "LRS-GRO/images/13464.tif", "vqa", "yes", id="LRS-GRO-2", kind="global,Urban-Rural") | {"turns": [
            ("user", "Is it urban?"), ("assistant", "<think>Houses.\nI look at all of it.\nThey stand close.</think>\n"
             "<answer>yes</answer>")]},
    ],
    "APEX-GRO/apex_gro.jsonl": [  # 100, 200, 400, 500 per mille of 40 x 20; and 500, 400, 1000, 900
        asked("", "APEX-GRO/images/a.png", "open_ended", "4", id="#1") | {"turns": [
            ("user", "How many planes are there?\n\n[System Observation]\nCurrent View: a (Global View)"),
            ("assistant", "<think>[PLAN] the two aprons.</think>", [4, 4, 16, 10]),
            ("assistant", "<think>Three here.</think>", [20, 8, 40, 18]),
            ("assistant", "<think>One more.</think>\n<answer>4</answer>")]},
        asked("", "APEX-GRO/images/a.png", "open_ended", "yes", id="#2") | {"turns": [
            ("system", "Be brief."), ("user", "Is it a port?"),
            ("assistant", "<think>Ships.</think>\n<answer>yes</answer>")]},
    ],
    "DOTA": [  # of P0001, one line is no object; P0002 has none
        found("DOTA/images/P0001.png", "P0001", ["plane", "small vehicle"], ["plane", "small vehicle", "plane"],
              quads=[UPRIGHT, TILTED, [30, -2, 44, -2, 44, 6, 30, 6]], difficult=[False, False, True],
              boxes=[[4, 2, 12, 10], [18, 4, 30, 14], [30, 0, 40, 6]]),
        found("DOTA/images/P0002.png", "P0002", ["plane", "small vehicle"], [], quads=[], boxes=[]),
    ],
    "DOTA/labelTxt/P0002.txt format=dota": [  # its classes are those of its folder
        found("DOTA/images/P0002.png", "P0002", ["plane", "small vehicle"], [], quads=[], boxes=[])
    ],
    "AID": [
        asked(f"{SHOWN} airport, dense residential?", f"AID/{folder}/{name}.jpg", "classification", word, id=name)
        for folder, name, word in (
            ("Airport", "airport_1", "airport"),
            ("Airport", "airport_2", "airport"),
            ("DenseResidential", "denseresidential_1", "dense residential"),
        )
    ],
    "UCMerced_LandUse": [
        asked(f"{SHOWN} golfcourse, harbor?", f"UCMerced_LandUse/Images/{word}/{name}.tif", "classification", word,
              id=name)
        for word, name in (("golfcourse", "golfcourse01"), ("harbor", "harbor11"))
    ],
    "NWPU-RESISC45 train": [
        asked(f"{SHOWN} sea ice, ship?", f"NWPU-RESISC45/train/{name}.jpg", "classification", word,
              id=name.split("/")[1])
        for word, name in (("sea ice", "sea_ice/sea_ice_001"), ("ship", "ship/ship_125"))
    ],
    "CHOICE/object_presence.json": [
        asked("Is a/an dam present in this image?", f"{CHOICE}/object_presence/images/3.png", "choice", "C", id="6a-1",
              kind="object_presence", choices=["No", "can't judge", "Yes"]),
        asked("Which is it?", f"{CHOICE}/object_presence/images/3.png", "choice", "B", id="6a-2",
              kind="object_presence", choices=["left", "right", "left", "U.S. base"]),
    ],
    "CHOICE/visual_grounding.json": [  # corners in any order: 0.1 and 0.5 of 40, 0.2 and 0.6 of 20
        asked("the storage-tank", f"{CHOICE}/visual_grounding/images/4.png", "grounding", id="7b-1",
              kind="visual_grounding", quads=[[4, 4, 20, 4, 20, 12, 4, 12]], boxes=[[4, 4, 20, 12]])
    ],
    "UCM_captions/dataset.json test": [
        asked("Describe the image in one sentence.", "UCM_captions/imgs/2.tif", "caption", "There is a dam .",
              id="2.tif", references=["There is a dam .", "A dam lies in a valley .", "It is a dam .",
                                      "There is a dam .", "A river and a dam ."])
    ],
    "NWPU-Captions/dataset_nwpu.json": [
        asked("Describe the image in one sentence.", "NWPU-Captions/NWPU_images/airport/airport_1.jpg", "caption",
              "An airport .", id="airport_1.jpg", kind="airport",
              references=["An airport .", "Two runways .", "An airport ."]),
        asked("Describe the image in one sentence.", "NWPU-Captions/NWPU_images/sea_ice_2.jpg", "caption", "Ice .",
              id="sea_ice_2.jpg", kind="sea_ice", references=["Ice .", "Ice on the sea ."]),
    ],
    "LEVIR-CC/LevirCCcaptions.json": [
        asked("Describe in one sentence what has changed from the first image to the second.", "", "caption", said[0],
              id=f"train/{name}", kind=kind, references=said)
        | {"images": [f"LEVIR-CC/images/train/{side}/{name}" for side in "AB"]}
        for name, kind, said in (
            ("train_1.png", "change", ["a house appears .", "a road and a house are built ."]),
            ("train_2.png", "no change", ["nothing has changed ."]),
        )
    ],
    "RSGPT/RSICap/captions.json": [
        asked("Describe this image in detail.", "RSGPT/RSICap/images/P1.png", "caption", "A dam in a valley.",
              id="P1.png")
    ],
    "RSGPT/RSIEval/annotations.json": [
        asked("Describe the image in detail.", "RSGPT/RSIEval/images/P1.png", "caption", "Two planes.", id="P1.png"),
        asked("How many planes?", "RSGPT/RSIEval/images/P1.png", "vqa", "2", id="P1.png/1", kind="quantity"),
        asked("Is it a port?", "RSGPT/RSIEval/images/P1.png", "vqa", "No", id="P1.png/2", kind="presence"),
    ],
    "LHRS_Data/LHRS-Bench": [
        asked("What is it?", "LHRS_Data/LHRS-Bench/imgs_png/a.png", "choice", "A", id="1/1", kind="1",
              choices=["harbor", "airport"]),
        asked("Is it red?", "LHRS_Data/LHRS-Bench/imgs_png/b.png", "choice", "B", id="2/1", kind="2",
              choices=["No", "Yes"]),
    ],
    "LRS-GRO/rl.jsonl": [
        asked("How many piers?", "LRS-GRO/images/13464.tif", "vqa", "3", id="LRS-GRO-1", kind="global,Counting"),
        asked("What colour is the breakwater?", "LRS-GRO/images/13464.tif", "vqa", "light grey", id="LRS-GRO-2",
              kind="object,Object color / pattern",  # 40 of 1024; the picture ends at 512 of them
              regions=[[6.3671875, 3.046875, 7.65625, 20]]),
    ],
    "MME-RealWorld/MME_RealWorld.json split=Remote_Sensing": [
        asked("What color is the roof in the lower right?", TORONTO, "choice", "D", kind="color",
              id="perception/remote_sensing/color/0001",
              choices=["Yellow", "Blue", "Gray", "White", "The image does not feature the color."]),
        asked("Where is the pool?", TORONTO, "choice", "B", kind="position",
              id="perception/remote_sensing/position/0002",
              choices=["", "In the upper left area", "At the top", "At the bottom",
                       "This image doesn't feature the position."]),
    ],
    "XLRS-Bench-lite": [
        asked("How many ships are in the box?", "embedded", "choice", "B", id="0", kind="Counting/Regional counting",
              choices=["3", "5", "7", "9"]),
        asked("Which land uses?", "embedded", "vqa", "A C", id="1", kind=LAND,
              choices=["port", "farmland", "housing", "forest"]),
        asked("How many are new?", "", "choice", "A", id="2", kind="Counting/Counting with changing detection",
              choices=["1", "2", "3", "4"]) | {"images": ["embedded", "embedded"]},
        asked("Which land use is there?", "embedded", "vqa", "D", id="3", kind=LAND,
              choices=["port", "farmland", "housing", "forest"]),
    ],
    **{
        folder: [
            *(found(f"DOTA-tiles/images/P0001__1__0___{y}.png", f"P0001__1__0___{y}", ["plane"], [], quads=[], boxes=[])
              for y in (0, 1024)),
            found("DOTA-tiles/images/P0002__1__0___0.png", "P0002__1__0___0", ["plane"], ["plane"], quads=[UPRIGHT],
                  boxes=[[4, 2, 12, 10]]),
        ]
        for folder in ("DOTA-tiles", "DOTA-tiles/annfiles")
    },
    "DIOR all format=dior_hbb": [  # of 00001, an object without area; of 00003, one outside
        found("DIOR/JPEGImages-trainval/00001.jpg", "00001", DIORS, ["ground track field", "expressway service area"],
              boxes=[[4, 2, 12, 10], [30, 10, 40, 20]]),
        found("DIOR/JPEGImages-trainval/00002.jpg", "00002", DIORS, [], boxes=[]),
        found("DIOR/JPEGImages-test/00003.jpg", "00003", DIORS, ["ship"], boxes=[[1, 1, 5, 5]]),
    ],
    "DIOR train format=dior_obb": [
        found("DIOR/JPEGImages-trainval/00001.jpg", "00001", ["ground track field", "ship"],
              ["ground track field", "ship"], difficult=[False, True], quads=[TILTED, UPRIGHT],
              boxes=[[18, 4, 30, 14], [4, 2, 12, 10]]),
        found("DIOR/JPEGImages-trainval/00002.jpg", "00002", ["ground track field", "ship"], [], quads=[], boxes=[]),
    ],
    "FAIR1M train": [  # of 1.xml, five points that do not close
        found("FAIR1M/train/part1/images/1.tif", "train/part1/1", FAIRS, ["boeing737"], quads=[TILTED],
              boxes=[[18, 4, 30, 14]]),
        found("FAIR1M/train/part1/images/2.tif", "train/part1/2", FAIRS, [], quads=[], boxes=[]),
    ],
    "FAIR1M val": [
        found("FAIR1M/validation/images/1.tif", "validation/1", FAIRS, ["dry cargo ship"], quads=[UPRIGHT],
              boxes=[[4, 2, 12, 10]])
    ],
    "FAIR1M/validation/labelXml": [
        found("FAIR1M/validation/images/1.tif", "1", ["dry cargo ship"], ["dry cargo ship"], quads=[UPRIGHT],
              boxes=[[4, 2, 12, 10]])
    ],
    "VHR-10": [
        found(f"{VHR}/positive image set/001.jpg", "positive/001", VHRS, ["airplane", "vehicle"],
              boxes=[[4, 2, 12, 10], [20, 4, 30, 14]]),
        found(f"{VHR}/positive image set/002.jpg", "positive/002", VHRS, ["storage tank"], boxes=[[1, 1, 5, 5]]),
        found(f"{VHR}/negative image set/001.jpg", "negative/001", VHRS, [], boxes=[]),
    ],
    "COCO/dota.json": [
        found("COCO/images/P0001.png", "P0001.png", COCOS, ["plane", "storage tank"], difficult=[False, True],
              quads=[TILTED, [30, -2, 44, -2, 44, 6, 30, 6]], boxes=[[18, 4, 30, 14], [30, 0, 40, 6]]),
        found("COCO/images/P0002.png", "P0002.png", COCOS, [], quads=[], boxes=[]),
    ],
    "COCO/dota.json format=coco": [  # a box that ends outside is cut
        found("COCO/images/P0001.png", "P0001.png", COCOS, ["plane", "storage tank"], difficult=[False, True],
              boxes=[[18, 4, 30, 14], [30, 0, 40, 6]]),
        found("COCO/images/P0002.png", "P0002.png", COCOS, [], boxes=[]),
    ],
    "COCO/boxes.json": [
        found("COCO/images/P0001.png", "P0001.png", ["plane"], ["plane"], boxes=[[30, 0, 40, 6]])
    ],
    **{
        path: [
            found("YOLO-OBB/images/train/P0001.png", "images/train/P0001", YOLOS, ["plane", "ship"],
                  quads=[TILTED, UPRIGHT], boxes=[[18, 4, 30, 14], [4, 2, 12, 10]]),
            found("YOLO-OBB/images/train/P0002.png", "images/train/P0002", YOLOS, [], quads=[], boxes=[]),
        ]
        for path in ("YOLO-OBB train", "YOLO-OBB/data.yaml train")
    },
    "VG-DIOR/VG_DOIR_RSVG_test.json format=vg_dior": [
        asked("the dam", "VG-DIOR/VG_DOIR_RSVG_test/00001.jpg", "grounding", boxes=[[1, 2, 11, 12]], id="#1"),
        asked("the ship", "VG-DIOR/images/00001.jpg", "grounding", boxes=[[20, 5, 30, 15]], id="#2"),
    ],
    "ScoreRS-SFT/traces.json": [
        asked("What is it?", "ScoreRS-SFT/images/a.png", "open_ended", id="#1", answer="dam") | {"turns": [
            ("user", "What is it?"), ("assistant", "<think>Water.</think>\n<answer>dam</answer>")]}
    ],
    "ScoreRS-RL/bytes.parquet": [
        asked("What is it?", "bytes", "vqa", "dam", id="#1"),
        asked("Describe the image.", "bytes", "open_ended", "A dam in a valley.", id="#2"),
    ],
    "ScoreRS-RL/structs.parquet format=scorers_rl_per_mille": [
        asked("What is it?", "ScoreRS-RL/a.png", "vqa", "dam", id="#1"),
        asked("Describe the image.", "bytes", "open_ended", "A dam in a valley.", id="#2"),
        asked("the dam", "bytes", "grounding", boxes=[[10, 10, 30, 20]], id="#4"),
    ],
    "ScoreRS-RL/rows.jsonl format=scorers_rl_pixel": [
        asked("the dam", "ScoreRS-RL/a.png", "grounding", boxes=[[1, 2, 11, 12]], id="#1"),
        {"turns": [("user", "How many dams?"), ("assistant", "1")], "images": [], "task": "vqa", "answer": "1",
         "id": "#2"},
    ],
    "TRL/prompts.jsonl": [
        asked("How many ships?", "TRL/images/a.png", "vqa", answer="2", id="#1")
        | {"turns": [("system", "Answer briefly."), ("user", "How many ships?")]},
        asked("the ship", "TRL/images/a.png", "grounding", boxes=[[1, 2, 11, 12]], id="#2"),
    ],
    "TRL/prompts.parquet": [
        asked("How many ships?", "bytes", "vqa", answer="2", id="#1") | {"turns": [("user", "How many ships?")]}
    ],
}  # fmt: skip


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_layout_becomes_samples(root, name):
    path, *options = name.split(" ")
    options = dict(option.split("=") if "=" in option else ("split", option) for option in options)
    options |= {"split": options["split"].replace("_", " ")} if "split" in options else {}
    faults = Faults()
    found = list(samples.read(root / path, **options, on_fault="skip", faults=faults))
    assert [fields(sample, root) for sample in found] == LAYOUTS[name]
    assert faults.rows == faults.kept + faults.skipped + faults.left_out.total() and faults.kept == len(found)
    for image in (image for sample in found for image in sample.images):
        assert images.load(image).size == (40, 20)
    unverified = list(samples.read(root / path, **options, on_fault="skip", verify_images=False))
    assert [(s.messages, s.boxes, s.id) for s in unverified] == [(s.messages, s.boxes, s.id) for s in found]


def test_geotiffs_are_read(root):
    for name in ("RSVQA-LR/Images_LR/7", "RSVQA-LR/Images_LR/8", "RSVQA-HR/Data/3"):
        assert images.load(str(root / f"{name}.tif")).getpixel((39, 19)) == (0x5A,) * 3
