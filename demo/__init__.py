"""The demo world: procedural aerial scenes with exact truth, and a tiny Qwen2-VL that lives in it."""
