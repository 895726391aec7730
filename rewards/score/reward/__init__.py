"""The reward `score`: from completions to scores to rewards, and what is watched meanwhile.

score        the reward, as TRL calls it, and its options
candidates   from TRL's columns to what the score model is asked
reference    scores of reference answers, remembered
shaping      from scores to rewards, by whole groups
faults       scores that could not be computed; stopping: a run that ends because of them
health       metrics of a call; probes: experiments on the score model
"""
