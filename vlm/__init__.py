"""The trunk: what every stage shares. Imports nothing from `rewards`, `sft`, `rl`, `evals` or `demo`.

config schema yaml_nodes recipe            recipes, from YAML to dataclasses
planning/                                  `--dry-run`
samples readers/ mixture/ rows doctor/     data, from files to what TRL reads
pictures/ boxes/ prompts answers numerals  what a model is shown and asked, and what it says
loading models weights adapters shapes     the model
prefix/ rollout                            each prompt computed once
training finish callbacks stateful         a training stage
checkpoints/ signals guards/ parallel/     that it ends as it should, in one process or many
replay/                                    single steps of it, computed again
runs origins/ curves metrics/ tracking/    what is known of a run, while it runs and after
bootstrap best_of                          statistics
cli errors redaction telemetry addresses   at the command line, and what must not leave
"""
