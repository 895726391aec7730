"""What a recipe will do and need, told before weights load: batches, visual tokens, memory on which GPUs."""
