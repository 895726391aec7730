"""Many runs: ablation matrices. Imports only vlm; launch/ hands in what it needs to know of the stages."""
