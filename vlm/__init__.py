"""The trunk: recipes, samples, prompts, answers, boxes and model loading, shared by every stage.

Imports nothing from `rewards`, `sft`, `rl`, `evals` or `demo`.
"""
