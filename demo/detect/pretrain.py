"""Make the detection demo's base: the demo's base, pretrained further on `demo.detect.corpus`.

    python -m demo.detect.pretrain OUT --steps 800

Optimizers and schedule are `demo.pretrain`'s; float32 throughout, saved in bfloat16.
"""

from __future__ import annotations

from transformers import AutoTokenizer

from demo.detect.corpus import Corpus, phase_of
from demo.pretrain import arguments_of, pretrain
from demo.tiny import processor
from vlm.loading import load_model
from vlm.sections import ModelSection


def main() -> None:
    parser = arguments_of(__doc__, 800)
    parser.add_argument("--start", default="demo/base", help="the checkpoint to begin with")
    arguments = parser.parse_args()
    model = load_model(ModelSection(path=arguments.start, dtype="float32", attention="sdpa"))
    parts = processor(AutoTokenizer.from_pretrained(arguments.start))
    pretrain(model, parts, Corpus, arguments, phase_of)


if __name__ == "__main__":
    main()
