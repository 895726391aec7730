"""What a recipe for preference data holds (`recipes/prefer.yaml`)."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, Literal

from samples.readers.checks import TASKS
from vlm.boxes import check_notation
from vlm.common.errors import RecipeError

OWNED = ("model", "messages", "max_tokens", "max_completion_tokens", "stream", "n")
"""Fields of a request that are not for `judge.request` to set."""


@dataclass
class CandidateSource:
    """One file of rows with candidates."""

    path: str = field(metadata={"path": True})
    "JSONL or a JSON list; what a row holds: `rewards/prefer/rows.py`."
    images: str | None = field(default=None, metadata={"path": True})
    "Folder that the rows' image paths start from; without it, the file's own."
    outside: bool = False
    "Rows may name images outside that folder (absolute paths, `..`); our own JSONL may name absolute ones anyhow."
    task: str | None = None
    "Task of every row, whatever the row says."
    limit: int | None = None
    "Use only the first so many rows."

    def check(self) -> None:
        if not self.path:
            raise RecipeError("path is empty; expected a data file")
        if self.limit is not None and self.limit < 1:
            raise RecipeError(f"limit = {self.limit}; expected at least 1, or null for all rows")
        if self.task is not None and self.task not in TASKS:
            raise RecipeError(f"task: found {self.task!r}, expected one of {', '.join(TASKS)}")


@dataclass
class JudgeSection:
    """The vision-language model that rates open questions, behind any OpenAI-compatible address."""

    address: str
    "Base address, up to the version: https://host/v1; requests go to {address}/chat/completions."
    model: str
    "The model's name there."
    key: str | None = None
    "NAME of the environment variable that holds the API key; null where none is asked for. Never the key itself."
    rating: Literal["together", "alone"] = "together"
    "All candidates of a row in one request, in shuffled order, or each in a request of its own."
    max_pixels: int = 1048576
    "Larger images are reduced to this many pixels (1024²) before they are sent."
    max_tokens: int = 1024
    "Longest reply."
    limit_field: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    "The request's field for it; reasoning models of OpenAI want the second."
    request: dict[str, Any] = field(default_factory=lambda: {"temperature": 0})
    "Further fields of each request, e.g. {temperature: 0, response_format: {type: json_object}}."
    concurrency: int = 8
    "Requests under way at a time."
    timeout: float = 120.0
    "Seconds to wait for a reply."
    retries: int = 5
    "Repetitions of a request after time-outs, refused connections and the statuses 408, 409, 429 and 5xx."
    longest_wait: float = 120.0
    "Longest wait before a repetition, in seconds; an endpoint that asks for more (Retry-After) ends the run."
    stop_after: int = 20
    "So many failed rows in succession end the run: then it is not the rows."

    def check(self) -> None:
        if not re.fullmatch(r"https?://[^\s/]+(/[^\s?#]*)?", self.address):
            raise RecipeError(f"address = {self.address!r}; expected a base address such as https://host/v1")
        if "@" in self.address:  # it would be saved with the run; the message must not repeat it either
            raise RecipeError("address holds a user name or password; name an environment variable in `key` instead")
        if not self.model:
            raise RecipeError("model is empty; expected the name that the endpoint knows the judge by")
        if self.key is not None and not re.fullmatch(r"[A-Z_][A-Z0-9_]*", self.key):
            raise RecipeError(
                "key is not the name of an environment variable (capitals, digits, _); a key itself never stands in a "
                "recipe: export it, e.g. as JUDGE_API_KEY, and write key: JUDGE_API_KEY"
            )
        least = {"max_pixels": 1, "max_tokens": 1, "concurrency": 1, "retries": 0, "stop_after": 1}
        for name, smallest in least.items():
            if getattr(self, name) < smallest:
                raise RecipeError(f"{name} = {getattr(self, name)}; expected at least {smallest}")
        if self.timeout <= 0 or self.longest_wait <= 0:
            raise RecipeError(f"timeout = {self.timeout} and longest_wait = {self.longest_wait}; expected seconds > 0")
        if owned := sorted(set(self.request) & set(OWNED)):
            raise RecipeError(f"request sets {', '.join(owned)}, which Nadir sets; leave it out")


@dataclass
class CostSection:
    """What the judge is estimated to cost, printed before anything is sent."""

    input: float = 0.0
    "Price of a million input tokens, in any currency."
    output: float = 0.0
    "Price of a million output tokens."
    max_cost: float | None = None
    "Refuse to start where the estimate is above it, and stop where the reported use reaches it."
    pixels_per_token: int = 784
    "Pixels of an image that the judge turns into one token: 28×28 for Qwen2-VL."
    characters_per_token: float = 4.0
    "Characters of English text to a token."

    def check(self) -> None:
        if min(self.input, self.output) < 0:
            raise RecipeError(f"input = {self.input}, output = {self.output}; expected prices of at least 0")
        if self.pixels_per_token < 1 or self.characters_per_token <= 0:
            raise RecipeError("pixels_per_token must be at least 1, and characters_per_token above 0")
        if self.max_cost is not None and not self.input + self.output:
            raise RecipeError("max_cost without prices limits nothing; state input and output, the prices of 1M tokens")
        if self.max_cost is not None and self.max_cost <= 0:
            raise RecipeError(f"max_cost = {self.max_cost}; expected more than 0, or null for no limit")


@dataclass
class ClosedSection:
    """Closed questions: candidates are compared with the truth, and nobody is asked."""

    rewards: dict[str, str] = field(
        default_factory=lambda: {
            "vqa": "exact_match",
            "classification": "exact_match",
            "choice": "choice",
            "grounding": "iou",
        }
    )
    "Task → what compares a candidate with the truth: a built-in reward, pkg.module:function, or file.py:function."
    inside: Literal["answer", "text"] = "text"
    "The answer is what stands inside the candidate's <answer> … </answer>, or the whole candidate."
    notation: str = "qwen2_vl"
    "How candidates write boxes."
    min_gap: float = 0.1
    "Least difference of two candidates' values (such as IoU) for one to be preferred."

    def check(self) -> None:
        for task in self.rewards:
            if task not in TASKS:
                raise RecipeError(f"rewards: found the task {task!r}, expected one of {', '.join(TASKS)}")
        check_notation(self.notation, seen=False)
        if self.min_gap < 0:
            raise RecipeError(f"min_gap = {self.min_gap}; expected at least 0")


@dataclass
class SimilaritySection:
    clip: str | None = field(default=None, metadata={"path": True})
    "CLIP checkpoint (folder or hub id) whose embeddings are compared; null: perceptual hashes, or character n-grams."
    threshold: float | None = None
    "Least cosine similarity of two duplicates (of which duplicates are duplicates too); null: 0.9, not for CLIP."

    def check(self) -> None:
        if self.threshold is None and self.clip is not None:
            raise RecipeError(
                "clip needs a threshold: CLIPs differ in how near they put different images; look at some pairs, and "
                "write e.g. threshold: 0.97"
            )
        if self.threshold is not None and not 0 < self.threshold <= 1:
            raise RecipeError(f"threshold = {self.threshold}; expected 0 < threshold ≤ 1")

    @property
    def least(self) -> float:
        """The similarity from which on two are duplicates.

        0.9: of 100 scenes of the demo, copies (half the side, JPEG of quality 80 or 90) had 0.906 or more with their
        originals, different scenes 0.29 at most.
        """
        return 0.9 if self.threshold is None else self.threshold


@dataclass
class DedupSection:
    """Rows left out because an earlier row looks or reads the same."""

    images: SimilaritySection | None = None
    "Compare images; `{}` takes the defaults. Rows about the very same file are not duplicates of each other."
    texts: SimilaritySection | None = None
    "Compare texts: a row's question together with its candidates."


@dataclass
class PreferRecipe:
    """Preference pairs from rows with several candidates.

    What the judge has rated stays in the run folder: the same command goes on where it was stopped, asks failed rows
    again, and with another `lists` or `min_gap` makes other pairs of the same ratings without asking anybody.
    """

    data: list[CandidateSource]
    "Files of rows with candidates."
    output: str
    "Run folder: judged.jsonl, failures.jsonl, preferences.jsonl, report.json."
    stage: Literal["prefer"] = "prefer"
    "Which launcher the recipe is for."
    judge: JudgeSection | None = None
    "Who rates open questions; null where all questions are closed."
    cost: CostSection = field(default_factory=CostSection)
    "Prices and limit."
    closed: ClosedSection = field(default_factory=ClosedSection)
    "How closed questions are compared with the truth."
    dedup: DedupSection = field(default_factory=DedupSection)
    "Duplicates to be left out before anybody is asked."
    lists: Literal["ranked", "pairs", "extremes"] = "ranked"
    "One list a row, best first, with the gap between neighbours; every pair with the gap; or best against worst."
    min_gap: float = 0.4
    "Least difference of two candidates' five-dimension means (1 to 5) for one to be preferred."
    on_fault: Literal["error", "skip"] = "error"
    "A faulty row (missing image, no candidates, …) ends the run, or is left out and counted."
    seed: int = 0
    "Seed of the order in which the judge sees candidates."
    overwrite: bool = False
    "Throw away what an earlier run left in `output`, ratings included."

    def check(self) -> None:
        if not self.data:
            raise RecipeError("data is empty; name at least one file, e.g. `data: [{path: candidates.jsonl}]`")
        if not 0 <= self.min_gap <= 4:
            raise RecipeError(f"min_gap = {self.min_gap}; expected 0 to 4: means lie between 1 and 5")
        if not self.output:
            raise RecipeError("output is empty; expected a run folder")
