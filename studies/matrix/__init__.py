"""One matrix file → labelled runs, each a chain of stages, run by the launchers' own commands (launch/ablate.py).

recipe      what a matrix file holds
changes     what a value of an axis changes in a stage's recipe, as overrides
axes        the axes, and the combinations of their values
planning    runs and stages: which are the same work, where they lie, in which order they go
marks       what has become of a stage, read from its folder and its record
commands    the command of a stage
running     stages run one after another or side by side
cost        work, time and disk before anything runs
view        the same as tables
slurm       the same as an array of jobs
"""
