"""Several processes: what they agree on, what each writes as it goes, DeepSpeed ZeRO, FSDP2."""
