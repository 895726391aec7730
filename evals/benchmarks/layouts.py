"""More benchmarks that are read in their published layouts: captions, CHOICE, grounded descriptions, scenes in levels
and in bands. `evals.benchmarks.catalogue` joins them in.

Splits are the files' own. Where a project's words or numbers could not be read, the entry says whose stand in.
"""

from __future__ import annotations

from typing import Any

from evals.benchmarks.spec import Benchmark, Source
from evals.scoring.captions import Captions
from evals.scoring.choices import LEVELS
from evals.scoring.choices import Levels as ChoiceLevels
from evals.scoring.masks import Masks
from evals.scoring.scores import Answers, Classes, Grounding

PHRASE = "{question}\nAnswer the question using a single word or phrase."
"""As in the catalogue: LLaVA-1.5's."""
CHOICE_LETTER = (
    "Please select the most appropriate answer for the following single-choice question from the given options. Only "
    "respond with the corresponding letter. Do not include any additional text.\n{question}\n{lines}"
)
"""CHOICE's system sentence (ms-swift/infer_vlm/infer_choice.py at 32cbf41), which stands before the question there,
too; it counts up the letters, and its options stand as `A.dam`."""
REFLECTANCE = {"raster": {"bands": [4, 3, 2], "stretch": {"range": [0.0, 3000.0]}}}
"""Sentinel-2's red, green and blue, reflectance × 10,000, as bright as torchgeo plots EuroSAT."""


def _captions(name: str, title: str, file: str, images: str, pictures: str) -> Benchmark:
    folder = file.split("/")[0]
    return Benchmark(
        name=name,
        title=f"{title}, test: captions, all references of a picture",
        sources=(Source(file, "captions", images=images, split="test"),),
        layout=f"  {file}\n  {folder}/{pictures}",
        scores=(Captions(),),
        headline="caption/cider",
    )


def _scenes(name: str, title: str, source: Source, layout: str, classes: int, **more: Any) -> Benchmark:
    return Benchmark(
        name=name,
        title=f"{title}: scene classification, {classes} classes",
        sources=(source,),
        layout=layout,
        wording={"classification": "{question}\nAnswer with one of the class names."},
        scores=(Classes(),),
        headline="classification/accuracy",
        classes=classes,
        **more,
    )


def _choice() -> Benchmark:
    paths = [
        f"{first}/{second}/{task}" for first, inner in LEVELS.items() for second in inner for task in inner[second]
    ]
    return Benchmark(
        name="choice",
        title="CHOICE (arXiv 2411.18145), 23 tasks in two levels",
        sources=tuple(
            Source(f"CHOICE/{path}/{path.rpartition('/')[2]}.json", "choice", images="CHOICE") for path in paths
        ),
        layout="  CHOICE/LEVEL1/LEVEL2/TASK/TASK.json and images/*.png beside it, as in its CHOICE_subset\n"
        "  masks/*.png beside the images of referring_expression_segmentation",
        wording={"choice": CHOICE_LETTER},
        scores=(ChoiceLevels(), Grounding(("plain",), thresholds=(0.3, 0.5), rotated=True), Masks(kinds=False)),
        headline="choice/mean_of_tasks:choice",
    )


LAYOUTS = (
    _choice(),
    _captions("rsicd", "RSICD (arXiv 1712.07835)", "RSICD/dataset_rsicd.json", "RSICD/RSICD_images",
              "RSICD_images/*.jpg"),
    _captions("ucm-captions", "UCM-captions (Qu et al. 2016)", "UCM_captions/dataset.json", "UCM_captions/imgs",
              "imgs/*.tif"),
    _captions("sydney-captions", "Sydney-captions (Qu et al. 2016)", "Sydney_captions/dataset.json",
              "Sydney_captions/imgs", "imgs/*.tif"),
    _captions("rsitmd", "RSITMD (arXiv 2204.09868)", "RSITMD/dataset_RSITMD.json", "RSITMD/images", "images/*.tif"),
    _captions("nwpu-captions", "NWPU-Captions (Cheng et al. 2022)", "NWPU-Captions/dataset_nwpu.json",
              "NWPU-Captions/NWPU_images", "NWPU_images/CLASS/*.jpg"),
    Benchmark(
        name="rsieval",
        title="RSIEval (RSGPT, arXiv 2307.15266): captions, and questions by type",
        sources=(Source("RSIEval/annotations.json", "rsgpt", images="RSIEval/images"),),
        layout="  RSIEval/annotations.json\n  RSIEval/images/*.png",
        wording={"vqa": PHRASE},
        scores=(
            Captions(),
            Answers(
                not_computed={
                    "vqa/published": "how RSGPT judges an answer stands in no code that could be read; vqa/exact, "
                    "by exact match, is strict"
                }
            ),
        ),
        headline="caption/cider",
    ),
    Benchmark(
        name="geochat-description",
        title="GeoChat-Bench's grounded descriptions (arXiv 2311.15826), by their words",
        sources=(Source("GeoChat-Bench/grounding_description.jsonl", "geochat_bench", images="GeoChat-Bench/images"),),
        layout="  GeoChat-Bench/grounding_description.jsonl\n  GeoChat-Bench/images/*.png",
        scores=(Captions(),),
        headline="caption/meteor",
    ),
    _scenes("million-aid", "Million-AID (arXiv 2006.12485), its training pictures",
            Source("Million-AID", "million_aid", split="train"),
            "  Million-AID/train/LEVEL1/[LEVEL2/]CLASS/*.jpg; those of test are published without labels", 51),
    _scenes("eurosat", "EuroSAT (arXiv 1709.00029), test, in colour", Source("EuroSAT", "eurosat", split="test"),
            "  EuroSAT/eurosat-test.txt (arXiv 1911.06721)\n"
            "  EuroSAT/2750/CLASS/*.jpg, or EuroSAT/EuroSAT_RGB/CLASS/*.jpg",
            10),
    _scenes("eurosat-ms", "EuroSAT (arXiv 1709.00029), test, red, green and blue of 13 bands",
            Source("EuroSAT-MS", "eurosat", split="test"),
            "  EuroSAT-MS/eurosat-test.txt (arXiv 1911.06721)\n"
            "  EuroSAT-MS/ds/images/remote_sensing/otherDatasets/sentinel_2/tif/CLASS/*.tif",
            10, images=REFLECTANCE),
)  # fmt: skip
