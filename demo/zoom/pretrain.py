"""Make the zoom demo's shipped base: a tiny Qwen2-VL pretrained on `demo.zoom.corpus`.

    python -m torch.distributed.run --nproc_per_node 2 -m demo.zoom.pretrain OUT --steps 1700 --seed 0

Optimizers and schedule are `demo.pretrain`'s; float32 throughout, saved in bfloat16. Two processes of one thread each
halve a batch between them (`demo.pretrain.pretrain`); `python -m demo.zoom.pretrain` alone is one process.
"""

from __future__ import annotations

from demo.pretrain import arguments_of, pretrain
from demo.zoom.corpus import Corpus, phase_of
from demo.zoom.tiny import processor, random_model, tokenizer


def main() -> None:
    parser = arguments_of(__doc__, 1700)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    words = tokenizer()
    pretrain(random_model(words, arguments.seed), processor(words), Corpus, arguments, phase_of)


if __name__ == "__main__":
    main()
