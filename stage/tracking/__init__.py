"""What a run shows of itself while it trains, beyond its numbers.

    section.py      the recipe's `tracking:`
    trackers.py     the recipe's labels for wandb and trackio; whether what is named is installed
    table.py        which rows of a generation batch are shown, and what a row holds
    pictures.py     pictures small enough to be sent, and where boxes lie in them
    overlays.py     a row for wandb (boxes as overlays) and for trackio (boxes drawn)
    samples.py      puts them together: samples.jsonl and samples/ in the run folder, and the trackers' tables
    signs.py        signs of collapse, each from the numbers logged so far
    alerts.py       watches for them while it trains
    attach.py       hands all this to a trainer

Nothing here needs wandb, but where the recipe names it.
"""
