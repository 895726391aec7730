"""Several data sources as one set of rows: which rows of each are used, and how often.

    data:
      train:
        - {path: vqa.jsonl, percent: 30}               # RSCoVLM's %P: 30% of the rows
        - {path: boxes.json, format: vhm, repeat: 3}   # RSCoVLM's *K: every row three times

    data:
      rows: 8000                                       # or: N rows in all, 3 of 4 of them from vqa.jsonl
      train: [{path: vqa.jsonl, ratio: 3}, {path: boxes.json, format: vhm, ratio: 1}]

What happens to the rows of one source, in this order:

    tasks     rows of other tasks are left out (`data.tasks`, and the source's own)
    limit     of what is left the first N; what comes after them is neither read nor checked
    blind     of these, rows that a model answers without their picture are left out (`data.drop_blind`, training only)
    percent   of these N in a hundred, drawn by seed, to the nearest row
    repeat    all of these N times, one pass after another
    ratio     instead of percent and repeat: the source's part of `data.rows` (largest remainders, so exact to one row),
              as whole passes and, for the rest, rows drawn by seed

Drawn are the rows with the smallest hashes of seed, source and id. So the draw is the same in every process and on
every platform, knows nothing of other sources and of a row's place in the file, and a larger percentage contains a
smaller one. Rows keep the order of the file; sources come one after another, as they stand in the recipe.
"""

from samples.mixture.drawing import count, count_all, draw, draw_all, is_here
from samples.mixture.record import Line, Mixture, Part
from samples.mixture.source import Source

__all__ = ["Line", "Mixture", "Part", "Source", "count", "count_all", "draw", "draw_all", "is_here"]
