"""Making preference data: images, a question and several candidate texts become ranked lists for the score model.

judge.py   a vision-language model behind `stage.endpoint` rates the candidates in five dimensions (prompts.py)
truth.py   closed questions need no judge: candidates are compared with the truth
dedup.py   near-duplicates among the rows are left out first (embeddings.py)
pairs.py   ratings become ranked lists or pairs, in the JSONL that `rewards.score.training.preferences` reads
stage.py   all of it, by recipe: python launch/prefer.py recipes/prefer.yaml
"""
