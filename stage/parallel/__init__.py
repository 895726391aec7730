"""Several processes: what they agree on, DeepSpeed ZeRO, FSDP2."""
