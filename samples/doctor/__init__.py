"""The data doctor (`launch/data.py`): what a recipe's data holds, what is wrong with it, and whether it leaks.

    subject.py        what is examined: the parts of a recipe that matter, of whatever stage
    examine.py        the examination, from a subject to a report
    gallery.py        every different picture, decoded once, in worker processes
    rows.py           what is seen of rows: counts, boxes, lengths
    leaks.py          the same picture in training and evaluation
    report.py         the findings and the verdict; figure.py and view.py show them

**Faults** make data unfit: rows that the readers refuse, pictures that cannot be decoded, files that break off,
a mixture that leaves nothing, and pictures that training and evaluation share (the same file, or the same pixels).
**Warnings** are for a person to judge: pictures that look alike across training and evaluation, pictures with nothing
to see (nearly black, nearly white, constant: `samples.doctor.brightness`), rows longer than there is room for, odd
boxes, and masks that are empty, or that the recipe's form can hardly say.

Examined are all rows that the recipe reads (its tasks, up to `limit`), also those that `percent` or `ratio` would not
draw: another seed would.
"""
