"""Files → samples → rows: the record of one question about pictures, and all that reads, mixes and examines it.

sample        the record, and our own JSONL
reading       `read(path)`: any supported file as an iterator of `Sample`
readers/      one file a format
sections      the recipe's `data:`
mixture/      several sources as one set of rows; its arithmetic is in `shares`
facts         what is noted of each sample while it is read
store/        checked samples on disk, once a node, for millions of rows
rows          samples as the table that TRL reads
fingerprints  digests that tell whether two runs saw the same rows
doctor/       what a recipe's data holds, what is wrong with it, and whether it leaks
"""

from samples.reading import FORMATS, TASKS, Faults, read
from samples.sample import Sample, image_name, kinds_of, write

__all__ = ["FORMATS", "TASKS", "Faults", "Sample", "image_name", "kinds_of", "read", "write"]
