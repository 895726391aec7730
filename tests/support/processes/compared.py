"""A reward for two processes under ZeRO-3: a score model split over them against a whole one in each (test_sharded.py).

It stands in a recipe as any reward does, and is called by TRL in a run that trains. Each process writes what it found,
a JSON file `process<rank>.json`; what is collective is called by both at the same place.
"""

from __future__ import annotations

import json
from pathlib import Path

from PIL import Image

import rewards
from rewards.score.model.exchange import Exchange
from rewards.score.reward.faults import attempt
from rewards.score.reward.score import Score
from stage.parallel import agreement
from tests.support.scores.score_fakes import BLUE, RED, bare, batch
from tests.support.tiny_checkpoints import picture

TASKS = (("open_ended", "vqa"), ("open_ended", "open_ended"), ("vqa", "open_ended"))
"""Of each process's rows, by call."""
UNEVEN = {0: ["a ship", "two tanks", "a plane", "", "a court"], 1: ["a long answer about the harbor and its ships"]}


class Compared:
    collective = True

    def __init__(self, model: str, folder: str, other: str) -> None:
        """other: a score model of another family."""
        self.__name__ = "compared"
        self.path = Path(folder)
        self.whole = self._gated(model, sharded=False, share_prefix=False)
        self.split = self._gated(model, sharded=True)
        self.found: dict = {"calls": []}
        self.model, self.other = model, other

    def _gated(self, model, **options):
        score = {"use": "score", "model": model, "inside": "text", "beta": 5.0, "batch_size": 2, **options}
        return rewards.resolve("gated", tasks={"open_ended": score, "vqa": None}, format_share=0.0)

    def __call__(self, completions, log_metric, **columns):
        """Rows of TRL, with tasks so uneven that one process has nothing to score; the extra cases at the first."""
        every_parameter_is_split()
        call = len(self.found["calls"])
        columns["task"] = [TASKS[call][agreement.rank()]] * len(completions)
        call = {"tasks": columns["task"]}
        for name in ("whole", "split"):
            reward = getattr(self, name).task_rewards["open_ended"]
            logged = {}
            reward.probes.every = 1
            rows = {"completions": completions, "log_metric": logged.setdefault, **columns}
            # what `gated` makes of them, format failed or not, without its own gate
            call[name] = getattr(self, name)._task_rewards(columns["task"], rows)
            call[f"{name}_probes"] = logged.get("score/probe_mean")
        self.found["calls"].append(call)
        if len(self.found["calls"]) == 1:
            self._cases()
        file = self.path / f"process{agreement.rank()}.json"
        file.write_text(json.dumps(self.found))
        return [float(len(turns[0]["content"]) % 7) for turns in completions]

    def _cases(self):
        score = {name: getattr(self, name).task_rewards["open_ended"].scorer for name in ("whole", "split")}
        engine, rank = score["split"]._engine, agreement.rank()
        parameters = list(engine.module.parameters())
        self.found["stage"] = engine.zero_optimization_stage()
        self.found["held"] = sum(p.ds_tensor.ds_numel if p.data.numel() == 0 else p.ds_numel for p in parameters)
        self.found["all"] = sum(p.ds_numel for p in parameters)
        for case, images in {"mixed": True, "text only": False, "image in one": rank == 1, "nothing": None}.items():
            rows = [] if images is None else exchanges(UNEVEN[rank], images)
            self.found[case] = {name: scorer.score(rows) for name, scorer in score.items()}
        missing = [Exchange.of("?", "a ship", ["no/such/file.png"])] if rank == 1 else exchanges(["a ship"], True)
        try:
            score["split"].score(missing)
        except Exception as error:
            self.found["missing"] = [type(error).__name__, str(error)]
        closed = Image.new("RGB", (8, 8))
        closed.close()
        bad = [Exchange.of("?", "a ship", [closed])] if rank == 0 else exchanges(["a ship"], True)
        tried = attempt(score["split"], bad)
        self.found["closed"] = [tried.scores, tried.cause]
        self.found["after"] = {name: scorer.score(exchanges(["a ship"], True)) for name, scorer in score.items()}
        self.found["fingerprints"] = [scorer.fingerprint() for scorer in score.values()]
        self._cache()
        self._group()
        self._family()

    def _cache(self):
        """A file of reference scores needs the fingerprint, which all processes must ask for; only one has a row."""
        reward = Score(
            model=self.model, sharded=True, cache=str(self.path / "cache.jsonl"), probe_every=0, inside="text"
        )
        rows = batch((RED, "?", "a ship", [bare("two tanks")])) if agreement.rank() == 0 else {"completions": []}
        self.found["cached"] = reward(**rows)
        if agreement.rank() == 0:
            lines = (self.path / "cache.jsonl").read_text().splitlines()
            self.found["cache"] = [json.loads(line)["model"] for line in lines]

    def _family(self):
        """Pictures in both processes, unevenly; then in one alone, so that the other shows a blank one."""
        rank = agreement.rank()
        both = [Score(model=self.other, sharded=split, batch_size=2, inside="text").scorer for split in (False, True)]
        rows = [exchanges(UNEVEN[rank], True), exchanges(UNEVEN[rank], rank == 1)]
        self.found["family"] = [[scorer.score(found) for found in rows] for scorer in both]

    def _group(self):
        """Ranks of one group, two rows in each process; then one of them fails, in the other process."""
        table = {"a": 4.0, "b": 3.0, "c": 2.0, "d": 1.0}
        mine = ["a", "d"] if agreement.rank() == 0 else ["b", "c"]
        rows = batch((BLUE, "?", "reference", [bare(answer) for answer in mine]))
        for name, broken in (("ranks", {}), ("masked", {"b": float("nan")})):
            fake = type(
                "Fake",
                (),
                {
                    "score": lambda self, asked, known=table | broken: [
                        known[exchange.messages[-1]["content"]] for exchange in asked
                    ]
                },
            )()
            self.found[name] = Score(scorer=fake, variant="rank", inside="text", probe_every=0)(**rows)


def exchanges(answers, images):
    """About two pictures and none, in turn; without images where `images` is false."""
    shown = [[], [picture(112, 112, seed=3)], [picture(56, 84, seed=4)], [picture(112, 112, seed=3)] * 2]
    return [
        Exchange.of("What is there?", answer, shown[(number + 1) % 4] if images else [])
        for number, answer in enumerate(answers)
    ]


def every_parameter_is_split():
    """DeepSpeed keeps small tensors whole, which are all but a few of a tiny model's: here it may keep none."""
    from accelerate.state import AcceleratorState

    zero = AcceleratorState().deepspeed_plugin.deepspeed_config["zero_optimization"]
    zero["stage3_param_persistence_threshold"] = 0
