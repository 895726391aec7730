"""A stage from its recipe to its finished run: what SFT, GRPO, the score model's training and evaluation share.

recipe/ cli                recipes from YAML, and the command line
planning/                  `--dry-run`: batches, tokens, memory
trainer/                   arguments, model, callbacks, the end of a training
checkpoints/ signals guards/ parallel/   that it ends as it should, in one process or many
replay/                    single steps of it, computed again
endpoint/                  asking a model behind an OpenAI-compatible address, with journal and cost
runs origins/ curves metrics/ tracking/  what is known of a run, while it runs and after
"""
