"""An exported checkpoint under transformers 4.57: equal logits, token ids and pixels. By hand: it installs one.

    python -m tests.vlm.by_hand.transformers_4 [CHECKPOINT …]      # by default the demo's base, and a tiny Qwen2.5-VL

An environment of its own is made in a temporary folder (or used again, --environment DIR); torch and Pillow are
borrowed from this one. Both sides compute in float32 on one thread.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
TEXTS = ["Where is the red ship?", "12.5 m² – naïve, déjà vu 船 <|box_start|>(12,34),(56,78)<|box_end|>\n\tdone  "]
SIDE = r"""
import sys, torch, transformers
import numpy as np
from PIL import Image
from transformers import AutoConfig, AutoTokenizer, Qwen2VLForConditionalGeneration, Qwen2_5_VLForConditionalGeneration
old = transformers.__version__.startswith("4.")
if old:
    from transformers import Qwen2VLImageProcessor as Images
else:
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil as Images
torch.set_num_threads(1)
folder, out, texts = sys.argv[1], sys.argv[2], sys.argv[3:]
kind = AutoConfig.from_pretrained(folder).model_type
cls = Qwen2VLForConditionalGeneration if kind == "qwen2_vl" else Qwen2_5_VLForConditionalGeneration
model, info = cls.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"], info
tokenizer = AutoTokenizer.from_pretrained(folder)
slow = [tokenizer]
if old:
    from transformers import Qwen2Tokenizer
    slow.append(Qwen2Tokenizer.from_pretrained(folder))  # reads vocab.json and merges.txt
picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 130, 3), dtype=np.uint8))
seen = Images.from_pretrained(folder)(images=[picture], return_tensors="pt")
pads = int(seen["image_grid_thw"].prod()) // 4
turns = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": texts[0]}]}]
said = tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
whole = said.replace("<|image_pad|>", "<|image_pad|>" * pads)
ids = tokenizer(whole, return_tensors="pt")["input_ids"]
more = {} if old else {"mm_token_type_ids": (ids == model.config.image_token_id).int()}
with torch.no_grad():
    given = {"input_ids": ids, "attention_mask": torch.ones_like(ids), **seen, **more}
    logits = model.eval()(**given).logits
    greedy = model.generate(**given, max_new_tokens=12, do_sample=False)
texts.append(whole)
found = {"version": transformers.__version__, "texts": [[t(text)["input_ids"] for text in texts] for t in slow[:1]]}
if old:
    assert [slow[1](text)["input_ids"] for text in texts] == found["texts"][0], "the slow tokenizer differs"
found |= {"special": sorted(tokenizer.all_special_tokens), "logits": logits, "pixels": seen["pixel_values"]}
found |= {"prompt": whole, "greedy": greedy.tolist(), "plain": tokenizer.decode(greedy[0], skip_special_tokens=True)}
torch.save(found, out)
"""


def environment(folder: Path) -> str:
    """The interpreter of an environment with transformers 4.57, and torch from here."""
    python = folder / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "-q", "transformers==4.57.*"], check=True)
        ask = "import sysconfig; print(sysconfig.get_path('purelib'))"
        own = subprocess.run([str(python), "-c", ask], check=True, capture_output=True, text=True).stdout.strip()
        (Path(own) / "zz_borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return str(python)


def compare(checkpoint: str, python: str, scratch: Path) -> None:
    import torch

    exported = scratch / "exported"
    subprocess.run([sys.executable, "-m", "vlm.export", checkpoint, str(exported)], cwd=ROOT, check=True)
    sides = []
    for side, interpreter in ((checkpoint, sys.executable), (exported, python), (exported, sys.executable)):
        subprocess.run([interpreter, "-c", SIDE, str(side), str(scratch / "side.pt"), *TEXTS], cwd=scratch, check=True)
        sides.append(torch.load(scratch / "side.pt"))
    here, there, again = sides
    for name, other in ((f"{there['version']} on the export", there), (f"{again['version']} on the export", again)):
        for what in ("texts", "prompt", "special", "greedy", "plain"):
            assert here[what] == other[what], f"{name}: {what} differs: {here[what]} {other[what]}"
        differ = {what: float((here[what] - other[what]).abs().max()) for what in ("pixels", "logits")}
        scale = float(here["logits"].abs().max())
        print(f"{checkpoint}: {here['version']} against {name}: {differ}, largest logit {scale:.2f}; tokens are equal")
        assert differ["pixels"] < 1e-6 and differ["logits"] < 1e-4 * scale, differ


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoints", nargs="*")
    parser.add_argument("--environment", type=Path, help="folder of an environment, kept for the next time")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        checkpoints = asked.checkpoints or [str(ROOT / "demo/base"), _tiny_2_5(Path(scratch))]
        python = environment(asked.environment or Path(scratch) / "environment")
        for number, checkpoint in enumerate(checkpoints):
            (own := Path(scratch) / str(number)).mkdir()
            compare(checkpoint, python, own)


def _tiny_2_5(scratch: Path) -> str:
    """Tied embeddings, and a vision tower that has windows."""
    from types import SimpleNamespace

    from tests.support.tiny_checkpoints import qwen2_5_vl

    def mktemp(name: str) -> Path:
        (folder := scratch / name).mkdir()
        return folder

    return str(qwen2_5_vl(SimpleNamespace(mktemp=mktemp), ROOT / "demo/base"))


if __name__ == "__main__":
    main()
