"""Search: a space, its exact costs for whole batches, and an engine that looks for the best points in a budget."""
