"""Size of the HTML report, and how fast it opens:  python -m benchmarks.data.report_size [--steps 10000] [--rows 500]

Makes runs of real size (every metric that a GRPO run with a learned reward logs; rows of samples each with a picture of
its own, 256², landscapes as hard to compress as real ones), writes their report as launch/report.py does, and opens it
in Chromium without a window: until its load event, and until every chart and the first pictures are drawn. `--labels`
and `--seeds` make a matrix of runs.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import time
from pathlib import Path

import numpy as np

from benchmarks.data.doctor import picture, terrains
from stage.runs import Run
from studies.report import page
from studies.report.runs import labels
from tests.support.browser import Browser, chromium
from tests.support.runs.run_folders import recipe, sample, samples

NAMES = [
    "loss", "grad_norm", "learning_rate", "reward", "reward_std", "frac_reward_zero_std", "kl", "entropy", "step_time",
    "num_tokens", "epoch", "guards/skipped_steps",
    *(f"completions/{n}" for n in ("mean_length", "min_length", "max_length", "clipped_ratio")),
    *(f"rewards/{name}/{of}" for name in ("gated", "gold") for of in ("mean", "std")),
    *(f"reward_raw/{n}" for n in ("format", "grounding", "vqa", "choice", "open_ended", "vqa_count", "choice_count")),
    *(f"score/{n}" for n in ("mean", "std", "group_std", "margin", "scored", "failed", "zero_spread_groups")),
    *(f"score/{n}" for n in ("corr_length", "corr_format", "probe_drift", "shuffled_gap", "shuffled_won")),
    *(f"clip_ratio/{n}" for n in ("low_mean", "high_mean", "region_mean")),
    *(f"time/{n}" for n in ("rollout", "rewards", "reference", "preparation", "update")),
    *(f"tokens/{n}{of}" for n in ("rollout", "reference", "update") for of in ("", "_ideal")),
    *(f"padding/{n}" for n in ("rollout", "update")), "images/encoded", "images/ideal",
    "throughput/tokens", "throughput/mfu", "memory/peak_gib",
]  # fmt: skip


def made(folder: Path, steps: int, rows: int, seed: int, label: int, bases: list[np.ndarray]) -> None:
    """One run: each metric a random walk with noise, as training curves are."""
    rng = np.random.default_rng([seed, label])
    run = Run.create(folder, recipe(seed, training={"learning_rate": 1e-6 * (label + 1)}), main=True)
    walks = rng.normal(size=(len(NAMES), steps)).cumsum(1) / np.sqrt(steps) + 0.3 * rng.normal(size=(len(NAMES), steps))
    for step, values in enumerate(walks.T, 1):
        run.log(step, dict(zip(NAMES, values.tolist(), strict=True)))
    run.finish(steps=steps)
    kept = []
    (folder / "samples").mkdir()
    for number in range(rows):
        image, boxes = picture(bases, rng)
        name = f"samples/{number}.jpg"
        image.save(folder / name, quality=90)
        truth = {"answer": None, "boxes": boxes, "quads": None, "size": list(image.size)}
        trace = " ".join(rng.choice(["the", "a", "red", "building", "left", "of", "road", "near"], 60))
        step = 1 + number * (steps - 1) // max(1, rows - 1)
        kept.append(sample(step, number, "(100,200),(500,900)", trace=trace, truth=truth, image=name, read=boxes[:1]))
    samples(folder, kept)


def opened(file: Path, repeats: int) -> dict[str, float]:
    """Median seconds until the load event, and until all is drawn; what went wrong; what was asked for."""
    loaded, drawn = [], []
    with Browser() as browser:
        for _ in range(repeats):
            begun = time.monotonic()
            page = browser.open(file)
            page.settle()
            loaded.append(page.seconds)
            drawn.append(time.monotonic() - begun)
            assert not page.faults and not page.requests, (page.faults, page.requests)
            begun = time.monotonic()
            page.evaluate("document.getElementById('samples').scrollIntoView()")
            while not page.evaluate("document.querySelectorAll('.card').length"):
                time.sleep(0.01)
            page.settle()
            shown = time.monotonic() - begun
    return {"loaded": statistics.median(loaded), "drawn": statistics.median(drawn), "samples": shown}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--rows", type=int, default=500, help="of samples, over all runs")
    parser.add_argument("--labels", type=int, default=1)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5, help="how often the page is opened")
    parser.add_argument("--out", type=Path, default=Path("runs/benchmarks/report"))
    asked = parser.parse_args()
    shutil.rmtree(asked.out, ignore_errors=True)
    bases = terrains(np.random.default_rng(0))
    for label in range(asked.labels):
        for seed in range(asked.seeds):
            rows = asked.rows // (asked.labels * asked.seeds)
            made(asked.out / f"label{label}-seed{seed}", asked.steps, rows, seed, label, bases)
    begun = time.monotonic()
    text = page.html(page.Asked(labels.curves([str(asked.out)], True), rows=asked.rows))
    found = {"seconds to write": time.monotonic() - begun, "MB": len(text.encode()) / 1e6}
    file = asked.out / "report.html"
    file.write_text(text, encoding="utf-8")
    found |= {
        f"seconds until {name}": value for name, value in (opened(file, asked.repeats) if chromium() else {}).items()
    }
    shape = {name: getattr(asked, name) for name in ("steps", "rows", "labels", "seeds")} | {"metrics": len(NAMES)}
    print(json.dumps(shape | {name: round(value, 2) for name, value in found.items()}, indent=2))


if __name__ == "__main__":
    main()
