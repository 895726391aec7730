"""Each prompt computed once for all its completions, with gradients; on by default (`share_prefix`).

prompts.py   the mixin `SharedPrompts` of `rl.GRPOTrainer`, which holds the others together
rows.py      which rows share a prompt, which pictures they show; a generation batch shuffled and cut by prompt
prefill.py   sampling from one prefill of each prompt
packed.py    log-probabilities of a micro-batch packed into one row
parity.py    how far the shared path may be from TRL's plain one
"""
