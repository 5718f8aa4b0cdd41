"""What a graph takes on a machine: peak rates, kernels, predicted times."""
