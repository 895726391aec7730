"""What a benchmark measured, as JSON (everything), Markdown (a table) and PNG (the ratios)."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from benchmarks.support.common import Ways, cases, fastest, machine, peak

INKS = ("#2563a8", "#8fb4d9")


def run(
    name: str,
    options: argparse.Namespace,
    ways: Callable[[argparse.Namespace], Ways],
    measure: Callable[[argparse.Namespace], list[dict]],
    notes: Sequence[str],
) -> None:
    """Measure each case and write it down; under `--only` print the peak memory of one way of the first case."""
    torch.set_num_threads(options.threads)
    wanted = cases(options)
    if options.only:
        print(json.dumps(peak(ways(wanted[0])[options.only], options.device)))
        return
    write(name, options, [row for case in wanted for row in measure(case)], notes)


def write(name: str, options: argparse.Namespace, rows: list[dict], notes: Sequence[str]) -> None:
    """Table and picture of ways that were timed, into `options.out`."""
    peak_flops = fastest(options.device)
    png = record(name, options, rows, notes, table(rows, options.device, peak_flops), figures(rows, peak_flops))
    if find_spec("matplotlib") is None:
        print(f"{png.name} is not drawn: matplotlib is not installed", flush=True)
        return
    draw(rows, options.device, png, png.stem)


def record(
    name: str, options: argparse.Namespace, rows: list[dict], notes: Sequence[str], text: str, line: str
) -> Path:
    """NAME.json and NAME.md into `options.out`; the latter is printed, too. Returns the name of a picture beside them.

    text: the Markdown table. line: what came out, for a table of several benchmarks (`benchmarks.support.summary`).
    """
    folder = Path(options.out)
    folder.mkdir(parents=True, exist_ok=True)
    stem = options.name or name
    about = machine(options)
    on = f"{described(about)}; {options.dtype}"
    content = {"benchmark": name, "figures": line, "on": on, "machine": about, "options": vars(options)}
    content |= {"notes": list(notes), "rows": rows}
    (folder / f"{stem}.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    on += f"; load {about['load'][0]} at the end"
    text = "\n".join([text, "", *(f"- {note}" for note in [*notes, on])])
    (folder / f"{stem}.md").write_text(text + "\n", encoding="utf-8")
    print(text, flush=True)
    return folder / f"{stem}.png"


def described(about: dict[str, Any]) -> str:
    where = about["gpu"] or f"{about['processor']}, {about['cores']} cores, {about['threads']} thread(s)"
    versions = " ".join(f"{name} {version}" for name, version in about["versions"].items())
    return f"{where}; {versions}; {about['commit']}"


def figures(rows: list[dict], peak_flops: float | None) -> str:
    """`total 3.1 → 0.52 s (6.0×), MFU 41% → 38%, 60.1 → 41.2 GiB; …`: the plain way → the other."""
    found = []
    for row in rows:
        ways = row["base"], row["way"]
        before, after = (row["wall"][way]["median"] for way in ways)
        said = f"{row['phase']} {before:.3g} → {after:.3g} s ({row['ratio']['wall']['of_medians']:.1f}×)"
        said += f" {row['way']}" if len({row["way"] for row in rows}) > 1 else ""
        shares = [utilisation(row, way, peak_flops) for way in ways]
        said += f", MFU {' → '.join(filter(None, shares))}" if any(shares) else ""
        if memory := row.get("peak_gib"):
            said += ", " + " → ".join(f"{memory[way]['peak']:.1f}" for way in ways) + " GiB"
        found.append(said)
    return "; ".join(found)


def label(row: dict[str, Any]) -> str:
    """`tiny P280 R64 G8 U8`"""
    return " ".join([row["shape"], *(f"{key}{row[key]}" for key in ("P", "R", "G", "U") if key in row)])


def table(rows: list[dict], device: str, peak_flops: float | None = None) -> str:
    """A Markdown table: seconds (median, min–max), and how many times fewer of everything the way takes.

    peak_flops: what the GPU could do in a second, for its utilisation.
    """
    shown = ["wall"] if device == "cuda" else ["wall", "cpu"]
    kinds = {"wall": "wall", "cpu": "CPU time"}
    head = ["case", "phase", "way", "of", "s", "s with the way", *(f"× {kinds[kind]} (pairs)" for kind in shown)]
    head += ["× FLOPs", "ideal", "saving realised", "peak GiB", "with the way"]
    head += ["TFLOP/s", "with the way", "MFU", "with the way"] if device == "cuda" else []
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    for row in rows:
        times = row[shown[-1]]  # CPU time where it was measured
        cells = [label(row), row["phase"], row["way"], row["base"]]
        cells += [_seconds(times[way]) for way in (row["base"], row["way"])]
        cells += ["{of_medians:.2f} ({min:.2f}–{max:.2f})".format(**row["ratio"][kind]) for kind in shown]
        flops = row["flops"]
        cells.append(f"{flops['ratio']:.2f}" if flops["ratio"] else "")
        cells += [f"{flops['ideal_ratio']:.2f}", f"{flops['realised']:.1%}"] if "realised" in flops else ["", ""]
        memory = row.get("peak_gib", {})
        cells += [f"{memory[way]['peak']:.2f}" if way in memory else "" for way in (row["base"], row["way"])]
        if device == "cuda":
            cells += [f"{row['tflops_per_s'][way]:.0f}" for way in (row["base"], row["way"])]
            cells += [utilisation(row, way, peak_flops) for way in (row["base"], row["way"])]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def utilisation(row: dict, way: str, peak_flops: float | None) -> str:
    """Share of the GPU's peak that a way needed in a phase; "" where either is not known."""
    return f"{row['needed_per_s'][way] / peak_flops:.1%}" if peak_flops and way in row["needed_per_s"] else ""


def _seconds(times: dict[str, float]) -> str:
    return "{median:.3g} ({min:.3g}–{max:.3g})".format(**times)


def draw(rows: list[dict], device: str, png: Path, title: str) -> None:
    """Bars of the measured ratio, its spread, and a mark at that of the FLOPs and at the ideal."""
    from matplotlib.figure import Figure

    kind = "wall" if device == "cuda" else "cpu"
    figure = Figure(figsize=(8.5, 1.3 + 0.34 * len(rows)), layout="constrained")
    axis = figure.subplots()
    places = range(len(rows))
    ratios = [row["ratio"][kind] for row in rows]
    axis.barh(places, [ratio["of_medians"] for ratio in ratios], color=INKS[1], height=0.62)
    for place, ratio in zip(places, ratios, strict=True):
        axis.plot([ratio["min"], ratio["max"]], [place, place], color=INKS[0], linewidth=1.6)
    for key, mark, text in (("ratio", "|", "FLOPs, counted"), ("ideal_ratio", "x", "FLOPs, ideal")):
        points = [(row["flops"][key], place) for place, row in zip(places, rows, strict=True) if row["flops"].get(key)]
        if points:
            axis.scatter(*zip(*points, strict=True), marker=mark, s=55, color="#d9730d", label=text, zorder=3)
    axis.set_yticks(places, [f"{label(row)}  {row['phase']}, {row['way']}" for row in rows], fontsize=8)
    axis.invert_yaxis()
    axis.axvline(1, color="#999999", linewidth=0.8)
    time = "wall time" if device == "cuda" else "CPU time"
    axis.set_xlabel(f"× less {time} than the plain way (bar: medians; line: pairs)", fontsize=9)
    axis.set_title(title, fontsize=11, loc="left", fontweight="bold")
    axis.spines[["top", "right"]].set_visible(False)
    if axis.get_legend_handles_labels()[0]:
        axis.legend(fontsize=8, frameon=False, loc="lower left", bbox_to_anchor=(0.72, 1))
    figure.savefig(png, dpi=110, facecolor="white")
