"""Score predictions, with the convention beside each number, and compare runs question by question."""
