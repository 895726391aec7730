"""Dubai-CC (Hoxha et al. 2022, IEEE TGRS, "Change Captioning"): captions of what changed in Dubai from 2000 to 2010.

As ShizhenChang/Chg2Cap reads it (preprocess_data.py and data/Dubai_CC/DubaiCC.py at 94dff22):

    description_jsontr_te_val/{Train,Validation,Test}_….json   {"images": [{"filename": "11x37.tif", "sentences": [
                                                                   {"raw": "A road has appeared."}, … five]}]}
    RGB/500_2000/11x37.tif, RGB/500_2010/11x37.tif

A row shows the picture of 2000 before that of 2010, with these dates; `references` are all captions. Whether a pair has
changed is stated nowhere, so that no `kind` tells them apart (LEVIR-CC has one).
"""

from __future__ import annotations

from typing import Any

from samples.readers import captions
from samples.readers.look import Look
from samples.readers.records import record, text
from samples.readers.rows import Place

YEARS = ("2000", "2010")
HOMES = ("..", ".", "../RGB", "RGB")


def fits(look: Look) -> bool:
    if look.is_folder or look.is_hub or not captions.fits(look) or any("changeflag" in row for row in look.first):
        return False
    return any((look.path.parent / home / f"500_{YEARS[0]}").is_dir() for home in HOMES)


def convert(row: dict[str, Any], place: Place, task: str | None) -> dict[str, Any]:
    name, said = place.own(text(row, "filename"), "filename"), captions.captions_of(row)
    pair = [place.find(*(f"{home}/500_{year}/{name}" for home in HOMES)) for year in YEARS]
    more = {"images": pair, "dates": list(YEARS), "references": said, "id": name}
    return record(None, captions.CHANGED, task or "caption", said[0], **more)
