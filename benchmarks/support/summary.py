"""The table of a set of checks: name, seconds, how it ended, and what each found.

    python -m benchmarks.support.summary FOLDER

FOLDER holds `checks.tsv` (a line for each check: name, limit and seconds, how it ended) and NAME.json of those that
measured something. The table is printed and written to FOLDER/summary.md, as Markdown for benchmarks/README.md.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path


def summary(folder: Path) -> str:
    lines = ["| check | s (at most) | ended | figures |", "| --- | --- | --- | --- |"]
    machines: dict[str, list[str]] = {}
    for line in (folder / "checks.tsv").read_text().splitlines():
        name, limit, seconds, ended = line.split("\t")
        found = folder / f"{name}.json"
        figures = ""
        if found.exists():
            content = json.loads(found.read_text())
            figures = content["figures"]
            machines.setdefault(content["on"], []).append(name)
        lines.append(f"| {name} | {seconds} ({limit}) | {ended} | {figures} |")
    return "\n".join([*lines, "", *(f"- {', '.join(names)}: {machine}" for machine, names in machines.items())])


def main() -> None:
    folder = Path(sys.argv[1])
    text = summary(folder)
    (folder / "summary.md").write_text(text + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
