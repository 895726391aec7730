"""Print docs/metrics.md:  python -m vlm.metrics > docs/metrics.md"""

from vlm.metrics import GROUPS
from vlm.metrics.page import page

print(page(GROUPS), end="")
