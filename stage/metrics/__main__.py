"""Print docs/metrics.md:  python -m stage.metrics > docs/metrics.md"""

from stage.metrics import GROUPS
from stage.metrics.page import page

print(page(GROUPS), end="")
