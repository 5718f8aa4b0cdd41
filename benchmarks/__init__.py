"""Turns the compiler and what it emits into numbers: ratios to a peer measured in the same run."""
