"""What a run came from: machine and versions, commit and changes, data and model, seeds."""
