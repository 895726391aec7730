"""Many runs: ablation matrices, tables, reports, curves. launch/ hands in what they need to know of the branches."""
