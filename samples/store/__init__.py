"""Checked records on disk, once a node, for runs of millions of rows: memory-mapped Arrow that every process opens.

    packed    a record as bytes and back
    content   which state of a data file this is, and which code reads it
    table     records one after another, in files or in memory, and what was noted of each
    keeping   the folder in which tables are kept: built once, under a lock, then opened
    drawn     the rows of several tables that a mixture uses, in its order

Nothing here knows of prompts or of stages. What a stage asks of all rows is answered from the `facts` of their kinds,
which the one pass over the data counts (`samples.facts`); the records themselves are read when a batch needs them.
"""

from samples.store.drawn import Drawn
from samples.store.keeping import Identified, Key, kept
from samples.store.table import Codec, Table, Writer

__all__ = ["Codec", "Drawn", "Identified", "Key", "Table", "Writer", "kept"]
