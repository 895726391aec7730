"""The end of a training stage: a folder that the next stage, and plain transformers, can load."""

from __future__ import annotations

from pathlib import Path


def save_model(trainer, processor, folder: Path) -> Path:
    """Write model (or adapter), processor and chat template to `folder`; collective under ZeRO, returns the folder.

    A LoRA run saves the adapter; `python -m vlm.adapters ADAPTER OUT` merges it into its base.
    """
    trainer.save_model(str(folder))
    if trainer.is_world_process_zero():
        processor.save_pretrained(folder)
    trainer.accelerator.wait_for_everyone()
    return folder
