"""Benchmarks about pairs and series of pictures. `evals.benchmarks.catalogue` joins them in.

What each reads: `samples.readers.temporal`; how each is counted: `evals.scoring.temporal` and, for masks of change,
`evals.scoring.masks`. Pictures are shown in the order of their dates; `prompt.pictures=several` names them in the text,
as TEOChat's ("Image 1: <image>") and GEOBench-VLM's ("This is the 'pre' image:") scripts do in words of their own.
"""

from __future__ import annotations

from collections.abc import Mapping

from evals.benchmarks.spec import Benchmark, Score, Source
from evals.scoring.captions import Captions
from evals.scoring.masks import ChangeMasks, Masks
from evals.scoring.scores import Answers, Classes
from evals.scoring.temporal import (
    DAMAGE,
    DEVELOPMENT,
    PLACES,
    STATUS,
    AreaF1,
    Changed,
    Paraphrases,
    Spelt,
    UnionF1,
)

PLAIN = {"vqa": "{question}", "classification": "{question}", "open_ended": "{question}"}
"""TEOChatlas' and CDVQA's questions say themselves how they are to be answered."""
OPTIONS = (
    "For the given the Multiple Choice Question Answer below, analyze the question and answer strictly from one of the "
    "options below. Strictly answer the choice only. No additional text. Provide only the letter (A., B., C., D. or "
    "E.) corresponding to the correct answer for the multiple-choice question given. {question}\nOptions: {options}"
)
"""GEOBench-VLM's (eval_geobenchvlm/qwen_cls_single.py at ddb201c); `cls_description` begins the question."""
NO_BOX = {
    "grounding/union_f1[with questions without a box]": "TEOChat counts questions whose true answer has no box with an "
    "empty mask; grounding has one at least here, so they are left out (`no_box`), and boxes said there cost nothing"
}
BACKGROUND = {
    "segmentation/miou:change_agent": "Change-Agent's mean of three classes, from one map of background, road and "
    "building; here roads and buildings are two questions: segmentation/ciou[road] and [building] are its IoU of each"
}


def _teochatlas(
    name: str, file: str, title: str, scores: tuple[Score, ...], headline: str, words: Mapping[str, str] = PLAIN
) -> Benchmark:
    return Benchmark(
        name=f"teochatlas-{name}",
        title=f"TEOChatlas (arXiv 2410.06234), evaluation: {title}",
        sources=(Source(f"TEOChatlas/eval/{file}.json", "teochatlas"),),
        layout=f"  TEOChatlas/eval/{file}.json and the pictures that it names, of the hub's jirvin16/TEOChatlas",
        wording=words,
        scores=scores,
        headline=headline,
    )


def _scenes(name: str, file: str, title: str) -> Benchmark:
    return _teochatlas(name, file, title, (Classes(), Spelt()), "classification/accuracy:teochat")


def _asked(name: str, file: str, title: str, *more: Score) -> Benchmark:
    return _teochatlas(name, file, title, (Answers(), *(more or (Spelt(),))), "vqa/accuracy:teochat")


def _boxes(name: str, file: str, title: str, *more: Score) -> Benchmark:
    return _teochatlas(name, file, title, (UnionF1(not_computed=NO_BOX), *more), "grounding/union_f1")


def _regions(name: str, file: str, title: str, areas: AreaF1) -> Benchmark:
    headline = f"classification/weighted_f1[{next(iter(areas.classes))}]"
    return _teochatlas(name, file, title, (areas, Spelt()), headline)


_REGION, _WHEN = "region_based_question_answering", "region_based_temporal_question_answering"
_TEOCHATLAS = (
    _scenes("fmow-high", "fMoW_High_Res", "scenes of fMoW, high resolution"),
    _scenes("fmow-low", "fMoW_Low_Res", "scenes of fMoW, low resolution"),
    _scenes("abcd", "ABCD", "whether a building was damaged (ABCD)"),
    _asked("cdvqa", "CDVQA", "questions about change (CDVQA)"),
    _boxes("xbd-loc", "xBD_Change_Detection_Localization", "buildings of xBD, by pixels"),
    _regions(
        "xbd-damage",
        "xBD_Change_Detection_Classification",
        "damage of xBD's buildings, by pixels",
        AreaF1({"change_detection_classification": DAMAGE}, inverse=True, left_out=("unclassified",)),
    ),
    _boxes(
        "xbd-sre-qa",
        "xBD_SRE_QA_RQA",
        "referring to, and questions about, xBD's buildings",
        Answers(),
        Spelt({"question_answering": PLACES}),
    ),
    _boxes("s2looking-det", "S2Looking_Change_Detection", "changed buildings of S2Looking, by pixels"),
    _boxes("s2looking-sre-qa", "S2Looking_SRE_QA", "referring and questions (S2Looking)", Answers(), Spelt()),
    _asked("s2looking-rqa", "S2Looking_RQA", "questions about regions (S2Looking)"),
    _regions("qfabric-rqa2", "QFabric_RQA2", "kinds of development, two dates", AreaF1({_REGION: DEVELOPMENT})),
    _regions(
        "qfabric-rqa5",
        "QFabric_RQA5_RTQA5",
        "kinds and status of development, five dates",
        AreaF1({_REGION: DEVELOPMENT, _WHEN: STATUS}),
    ),
    _asked("qfabric-tre", "QFabric_TRE_RTQA", "in which picture something happened (QFabric)"),
    _scenes("aid", "AID", "scenes of AID, one picture"),
    _scenes("ucmerced", "UCMerced", "scenes of UC Merced, one picture"),
    _asked("lrben", "LRBEN", "RSVQA, low resolution, one picture"),
    _asked("hrben", "HRBEN", "RSVQA, high resolution, one picture"),
)


def _geobench(name: str, folder: str, title: str, frames: int | None = None) -> Benchmark:
    return Benchmark(
        name=name,
        title=f"GEOBench-VLM (arXiv 2411.19325): {title}, every paraphrase",
        sources=(Source(f"GEOBench-VLM/{folder}/qa.json", "geobench_vlm", frames=frames),),
        layout=f"  GEOBench-VLM/{folder}/qa.json and the pictures that it names, from GEOBench-VLM/",
        wording={"choice": OPTIONS},
        scores=(Paraphrases(),),
        headline="choice/accuracy:paraphrases",
    )


TEMPORAL = (
    Benchmark(
        name="levir-cc",
        title="LEVIR-CC (Liu et al. 2022, IEEE TGRS), test: captions of change, five references",
        sources=(Source("LEVIR-CC/LevirCCcaptions.json", "captions", split="test"),),
        layout="  LEVIR-CC/LevirCCcaptions.json\n  LEVIR-CC/images/test/{A,B}/*.png",
        scores=(Changed(),),
        headline="caption/cider",
    ),
    Benchmark(
        name="levir-mci",
        title="LEVIR-MCI (arXiv 2403.19646), test: masks of changed roads and buildings",
        sources=(Source("LEVIR-MCI", "levir_mci", split="test"),),
        layout="  LEVIR-MCI/LevirCCcaptions.json\n  LEVIR-MCI/images/test/{A,B,label}/*.png",
        scores=(Masks(not_computed=BACKGROUND),),
        headline="segmentation/ciou",
    ),
    Benchmark(
        name="levir-cd",
        title="LEVIR-CD (Chen and Shi 2020, Remote Sensing 12), test: masks of change",
        sources=(Source("LEVIR-CD", "levir_cd", split="test"),),
        layout="  LEVIR-CD/test/{A,B,label}/*.png, 1,024 x 1,024 pixels, or tiles with LEVIR-CD/list/test.txt",
        scores=(ChangeMasks(), Masks()),
        headline="change/f1",
    ),
    Benchmark(
        name="dubai-cc",
        title="Dubai-CC (Hoxha et al. 2022, IEEE TGRS), test: captions of change, five references",
        sources=(Source("Dubai_CC/description_jsontr_te_val/Test.json", "dubai_cc", images="Dubai_CC/RGB"),),
        layout="  Dubai_CC/description_jsontr_te_val/Test.json (the file that begins so, renamed)\n"
        "  Dubai_CC/RGB/500_2000/*.tif and 500_2010/*.tif",
        scores=(Captions(),),
        headline="caption/cider",
    ),
    Benchmark(
        name="cdvqa",
        title="CDVQA (Yuan et al. 2022, IEEE TGRS), test: questions about change",
        sources=(Source("CDVQA/Test_questions.json", "cdvqa"),),
        layout="  CDVQA/Test_{questions,answers,images}.json\n  CDVQA/second_dataset/{im1,im2}/*.png",
        wording=PLAIN,
        scores=(Answers(), Spelt()),
        headline="vqa/exact",
    ),
    _geobench("geobench-vlm-single", "Single", "one picture"),
    _geobench("geobench-vlm-temporal", "Temporal", "first and last picture, as its scripts send them", frames=2),
    *_TEOCHATLAS,
)
