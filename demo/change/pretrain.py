"""Make the change demo's base: the demo's base, pretrained further on `demo.change.corpus`.

    python -m torch.distributed.run --nproc_per_node 2 -m demo.change.pretrain OUT --steps 1200

Optimizers and schedule are `demo.pretrain`'s; float32 throughout, saved in bfloat16. Two processes of one thread each
halve a batch between them (`demo.pretrain.pretrain`); `python -m demo.change.pretrain` alone is one process.
"""

from __future__ import annotations

from transformers import AutoTokenizer

from demo.change.corpus import Corpus, phase_of
from demo.pretrain import arguments_of, pretrain
from demo.tiny import processor
from vlm.loading import load_model
from vlm.sections import ModelSection


def main() -> None:
    parser = arguments_of(__doc__, 1200)
    parser.add_argument("--start", default="demo/base", help="the checkpoint to begin with")
    arguments = parser.parse_args()
    model = load_model(ModelSection(path=arguments.start, dtype="float32", attention="sdpa"))
    parts = processor(AutoTokenizer.from_pretrained(arguments.start))
    pretrain(model, parts, Corpus, arguments, phase_of)


if __name__ == "__main__":
    main()
