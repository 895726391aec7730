"""What a recipe will do and need, told before weights load: batches, tokens, memory on which GPUs."""
