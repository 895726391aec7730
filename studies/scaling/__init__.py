"""Over-optimisation of a learned reward: it against the truth (gold), over the KL divergence from the start.

Gao, Schulman & Hilton 2022, "Scaling laws for reward model overoptimization", arXiv 2210.10760. Gold has to be known,
as in the demo world: `python launch/scaling.py runs/demo/bon runs/demo/grpo_score`.
"""
