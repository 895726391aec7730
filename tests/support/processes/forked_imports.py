"""What the server of `tests.support.processes.forked` imports before it forks."""

from vlm.common import telemetry

telemetry.quiet()

import deepspeed  # noqa: E402, F401
import matplotlib.pyplot  # noqa: E402, F401
import torch  # noqa: E402

import stage.curves  # noqa: E402, F401
import stage.trainer.finish  # noqa: E402, F401

torch.set_num_threads(1)
