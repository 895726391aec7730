"""The score model: what it reads, its weights, its forward passes.

exchange      images, question and answer, as text and as tensors
score_model   the model: loading, saving, scoring
layout        what its folder holds: ours, the published one, a plain backbone
passes        from exchanges to forward passes: which are in one together, and the pass itself
prefixes      what exchanges have in common, computed once
fingerprint   what tells two score models apart
"""
