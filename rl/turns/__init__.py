"""GRPO over completions of several turns, with tools between them (`vlm.tools`).

conversing.py  the mixin `Turns` of `rl.GRPOTrainer`: what TRL is told of such completions
rollout.py     the turns of a batch, through transformers or vLLM
metrics.py     what a batch of conversations did, in numbers
"""
