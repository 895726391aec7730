"""The benchmarks, one entry each; a new one is an entry here.

Wordings are those of each project's own evaluation where it was public, and otherwise Nadir's (`vlm.prompts.WORDING`).
Grounding is worded by the notation that the model writes boxes in (`vlm.boxes.asking`), in the words of its project.
"""

from __future__ import annotations

import difflib
from typing import Any

from evals.benchmarks.layouts import LAYOUTS
from evals.benchmarks.spec import Benchmark, Source
from evals.benchmarks.temporal import TEMPORAL
from evals.scoring.captions import Captions
from evals.scoring.detecting.score import Detection
from evals.scoring.letters import Lettered
from evals.scoring.scores import Answers, Choice, Classes, Grounding
from vlm.common.errors import UserError

PHRASE = "{question}\nAnswer the question using a single word or phrase."
"""LLaVA-1.5's wording (arXiv 2310.03744), which GeoChat, VHM and VRSBench took over."""
LETTER = "{question}\n{options}\nAnswer with the letter of the right option."
LISTED = (
    "{question} The choices are listed below: \n{lines}\nSelect the best answer to the above multiple-choice question "
    "based on the image. Respond with only the letter (A, B, C, D, or E) of the correct option.\nThe best answer is:"
)
"""MME-RealWorld's (evaluation/model_vqa_mme_real_world.py at 9caa8b8)."""
XLRS = {
    "choice": "{question} The choices are listed below:\n{lines}\n\nSelect the best answer for the multiple-choice "
    "question based on the image. Only respond with the letter corresponding to the correct answer (A, B, C, D).\n"
    "The answer is:",
    "vqa": "{question} The choices are listed below:\n{lines}\n\nSelect the best answer(s) for the multiple-choice "
    "question based on the image. There may be more than one correct option. Only respond with the letter(s) "
    "corresponding to the correct answer(s) (A, B, C, D), with multiple choices separated by spaces."
    "The answer(s) is(are):",
}
"""XLRS-Bench's README, and its task in lmms-eval."""
SIZE_GROUPS = {
    "grounding/acc@0.5[published sizes]": "the groups of sizes that papers report (Min, Small …) have bounds that "
    "stand in no code that could be read, RSCoVLM's included; [S], [M], [L] are COCO's, by the true box's area"
}
LHRS_TYPES = {
    "1": "identity",
    "2": "color",
    "3": "orientation",
    "4": "shape",
    "5": "quantity",
    "6": "area",
    "7": "distance",
    "8": "resolution",
    "9": "modality",
    "10": "location",
    "11": "reasoning",
}


def _scenes(name: str, title: str, folder: str, classes: int) -> Benchmark:
    return Benchmark(
        name=name,
        title=f"{title}: scene classification, {classes} classes",
        sources=(Source(folder, "scenes"),),
        layout=f"  {folder}/CLASS/*.jpg (or .png, .tif), one folder for each of the {classes} classes",
        wording={"classification": "{question}\nAnswer with one of the class names."},
        scores=(Classes(),),
        headline="classification/accuracy",
        classes=classes,
    )


def _rsvqa(name: str, title: str, folder: str, split: str) -> Benchmark:
    return Benchmark(
        name=name,
        title=f"RSVQA, {title} (arXiv 2003.07333)",
        sources=(Source(f"{folder}/{split}_questions.json", "rsvqa"),),
        layout=f"  {folder}/{split}_questions.json and {split}_answers.json\n  {folder}/Images_LR or Data/*.tif",
        wording={"vqa": PHRASE},
        scores=(Answers(left_out=("count", "area")),),
        headline="vqa/mean_of_kinds:no_count_area",
    )


def _dior_rsvg(name: str, split: str) -> Benchmark:
    return Benchmark(
        name=name,
        title=f"DIOR-RSVG (arXiv 2210.12634), {split} objects",
        sources=(Source("DIOR-RSVG", "dior_rsvg", split=split),),
        layout=f"  DIOR-RSVG/Annotations/*.xml\n  DIOR-RSVG/JPEGImages/*.jpg\n  DIOR-RSVG/{split}.txt",
        scores=(
            Grounding(("plain", "rscovlm"), thresholds=(0.5, 0.6, 0.7, 0.8, 0.9), sizes=True, not_computed=SIZE_GROUPS),
        ),
        headline="grounding/acc@0.5",
    )


def _refgeo(name: str, title: str, file: str, folder: str) -> Benchmark:
    """A set of refGeo, in the layout in which RSCoVLM reads it (VisionXLab/RSCoVLM, rscovlm/eval/data/geoground.py at
    bfc2ff7); its evaluator (rscovlm/eval/metric/geoground.py) counts as `:rscovlm`, boxes along the axes alone."""
    return Benchmark(
        name=name,
        title=f"{title}, as refGeo holds it (arXiv 2411.11904)",
        sources=(Source(f"refGeo/metainfo/{file}.jsonl", "refgeo", images=f"refGeo/images/{folder}"),),
        layout=f"  refGeo/metainfo/{file}.jsonl\n  refGeo/images/{folder}/*.jpg (or .png)",
        scores=(Grounding(("plain", "rscovlm"), sizes=True, not_computed=SIZE_GROUPS),),
        headline="grounding/acc@0.5",
    )


def _vrsbench(task: str, file: str, title: str, **more: Any) -> Benchmark:
    return Benchmark(
        name=f"vrsbench-{task}",
        title=f"VRSBench {title} (arXiv 2406.12384)",
        sources=(Source(f"VRSBench/{file}", "vrsbench"),),
        layout=f"  VRSBench/{file}\n  VRSBench/Images_val/*.png",
        **more,
    )


_ALL = (
    Benchmark(
        name="vg-dior",
        title="VG-DIOR, the grounding test of VHM (arXiv 2403.20213)",
        sources=(Source("VG-DIOR/VG_DOIR_RSVG_test.json", "vg_dior"),),
        layout="  VG-DIOR/VG_DOIR_RSVG_test.json (that spelling)\n"
        "  VG-DIOR/VG_DOIR_RSVG_test/*.jpg, or the folder that the rows name",
        scores=(Grounding(("plain", "rscovlm"), sizes=True),),
        headline="grounding/acc@0.5",
    ),
    _dior_rsvg("dior-rsvg", "test"),
    _dior_rsvg("dior-rsvg-val", "val"),
    _refgeo("rsvg", "RSVG (Sun et al. 2022), test", "rsvg_test", "rsvg"),
    _refgeo("rsvg-val", "RSVG (Sun et al. 2022), val", "rsvg_val", "rsvg"),
    _refgeo("vrs-vg", "VRS-VG, VRSBench's referring", "vrsbench_test", "vrsbench"),
    _refgeo("avvg", "AVVG, vehicles seen from drones", "avvg_test", "avvg"),
    _refgeo("geo-vg", "Geo-VG, GeoChat's referring", "geochat_test", "geochat_test"),
    _vrsbench(
        "refer",
        "VRSBench_EVAL_referring.json",
        "referring",
        scores=(Grounding(("vrsbench", "plain", "rscovlm"), kinds=True),),
        headline="grounding/acc@0.5",
    ),
    _vrsbench(
        "vqa",
        "VRSBench_EVAL_vqa.json",
        "VQA",
        wording={"vqa": PHRASE},
        scores=(
            Answers(
                not_computed={
                    "vqa/gpt4": "VRSBench's own number asks GPT-4 whether an answer matches; vqa/exact, by exact "
                    "match, is stricter"
                }
            ),
        ),
        headline="vqa/exact",
    ),
    _vrsbench("caption", "VRSBench_EVAL_Cap.json", "captions", scores=(Captions(),), headline="caption/cider"),
    _rsvqa("rsvqa-lr", "low resolution", "RSVQA-LR", "LR_split_test"),
    _rsvqa("rsvqa-hr", "high resolution", "RSVQA-HR", "USGS_split_test"),
    _rsvqa("rsvqa-hr-phili", "high resolution, Philadelphia", "RSVQA-HR", "USGS_split_test_phili"),
    Benchmark(
        name="lhrs-bench",
        title="LHRS-Bench (arXiv 2402.02544), 690 questions of 11 types",
        sources=(Source("LHRS-Bench/LHRS-Bench.json", "lhrs_bench", images="LHRS-Bench/images"),),
        layout="  LHRS-Bench/LHRS-Bench.json\n  LHRS-Bench/images/*.png",
        wording={"choice": LETTER},
        scores=(Choice(LHRS_TYPES),),
        headline="choice/accuracy",
    ),
    Benchmark(
        name="lrs-vqa",
        title="LRS-VQA (arXiv 2503.07588)",
        sources=(Source("LRS_VQA/LRS_VQA_merged.jsonl", "lrs_vqa", images="LRS_VQA"),),
        layout="  LRS_VQA/LRS_VQA_merged.jsonl\n  LRS_VQA/image/*.tif and *.png",
        # 152 of its 1,228 pictures are beyond the default, the largest known is 26,176 x 24,832
        images={"limit": 800_000_000},
        wording={"vqa": PHRASE},
        scores=(Answers(sources={"FAIR": "FAIR", "GLH": "Bridge", "STAR": "STAR"}, synonyms=True),),
        headline="vqa/mean_of_sources",
        unzoomed=("count",),  # RSCoVLM, rscovlm/eval/data/large_image_bench.py at bfc2ff7
    ),
    Benchmark(
        name="lrs-gro",
        title="LRS-GRO, the test questions of ZoomEarth (arXiv 2511.12267)",
        sources=(Source("LRS-GRO/test.jsonl", "lrs_gro"),),
        layout="  LRS-GRO/test.jsonl (of the hub's HappyBug/LRS-GRO)\n"
        "  LRS-GRO/image/*.tif and *.png, out of its images.tar.part-*",
        images={"limit": 800_000_000},  # LRS-VQA's pictures
        wording={"vqa": PHRASE},
        scores=(Answers(synonyms=True, lemmas=True, leading=True),),
        headline="vqa/exact",
    ),
    Benchmark(
        name="xlrs-bench",
        title="XLRS-Bench-lite (arXiv 2503.23771), 3,080 questions of 13 types",
        sources=(Source("XLRS-Bench-lite", "xlrs_bench"),),
        layout="  XLRS-Bench-lite/dataset_dict.json and XLRS-Bench-lite/train/*.arrow, as\n"
        "  `hf download initiacms/XLRS-Bench-lite --repo-type dataset --local-dir XLRS-Bench-lite` leaves them",
        images={"limit": 1_000_000_000},  # as its task in lmms-eval; 840 pictures are 10,000 x 10,000
        wording=XLRS,
        scores=(Lettered(("xlrs_bench",)),),
        headline="choice/mean_of_kinds:xlrs_bench",
    ),
    Benchmark(
        name="mme-realworld-rs",
        title="MME-RealWorld, remote sensing (arXiv 2408.13257), 3,738 questions of 3 types",
        sources=(
            Source("MME-RealWorld/MME_RealWorld.json", "mme_realworld", images="MME-RealWorld", split="Remote Sensing"),
        ),
        layout="  MME-RealWorld/MME_RealWorld.json\n  MME-RealWorld/remote_sensing/*.png",
        # twice Pillow's bound, beyond which Pillow, as its scripts use it, opens nothing
        images={"limit": 178_956_970},
        wording={"choice": LISTED},
        scores=(Lettered(("mme_realworld", "rscovlm"), not_shown=True, tasks=("choice",)),),
        headline="choice/accuracy:mme_realworld",
        unzoomed=("count", "position"),  # RSCoVLM, as above
    ),
    Benchmark(
        name="geochat-bench",
        title="GeoChat-Bench (arXiv 2311.15826): scenes, VQA, referring, region captions",
        sources=tuple(
            Source(f"GeoChat-Bench/{file}.jsonl", "geochat_bench", images="GeoChat-Bench/images", task=task)
            for file, task in (
                ("aid", "classification"),
                ("UCmerced", "classification"),
                ("lrben", "vqa"),
                ("hrben", "vqa"),
                ("referring", "grounding"),
                ("region_captioning", "caption"),
            )
        ),
        layout="  GeoChat-Bench/{aid,UCmerced,lrben,hrben,referring,region_captioning}.jsonl\n"
        "  GeoChat-Bench/{lrben,hrben}_answers.json, or RSVQA's own answers\n  GeoChat-Bench/images/*",
        wording={"vqa": PHRASE, "classification": "{question}"},
        scores=(Classes(), Answers(), Grounding(rotated=True, every=True, kinds=True), Captions()),
        headline="grounding/every@0.5",
    ),
    _scenes("aid", "AID (arXiv 1608.05167)", "AID", 30),
    _scenes("nwpu", "NWPU-RESISC45 (arXiv 1703.00121)", "NWPU-RESISC45", 45),
    _scenes("ucmerced", "UC Merced Land Use (Yang and Newsam 2010)", "UCMerced_LandUse/Images", 21),
    _scenes("meter-ml", "METER-ML (arXiv 2207.11166)", "METER-ML", 7),
    _scenes("whu-rs19", "WHU-RS19 (Xia et al. 2010)", "WHU-RS19", 19),
    _scenes("siri-whu", "SIRI-WHU (Zhao et al. 2016)", "SIRI-WHU", 12),
    Benchmark(
        name="dota",
        title="DOTA (arXiv 1711.10398), oriented detection on tiles with their labels",
        sources=(Source("DOTA/labelTxt", "dota", images="DOTA/images"),),
        layout="  DOTA/labelTxt/*.txt, of tiles a model can read (RSCoVLM: 512 and 1024 pixels)\n  DOTA/images/*.png",
        scores=(Detection(rotated=True),),
        headline="detection/ap_nc@0.5",
    ),
)
BENCHMARKS: dict[str, Benchmark] = {one.name: one for one in (*_ALL, *LAYOUTS, *TEMPORAL)}


def find(name: str) -> Benchmark:
    """A benchmark by name. Raises: UserError naming the nearest, and all of them."""
    if name not in BENCHMARKS:
        near = difflib.get_close_matches(name, BENCHMARKS, 1)
        raise UserError(
            f"found the benchmark {name!r}{f' (did you mean {near[0]}?)' if near else ''}; there are "
            f"{', '.join(BENCHMARKS)}"
        )
    return BENCHMARKS[name]
