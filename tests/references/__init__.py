"""Turns papers into plain PyTorch modules, written for reading and apart from archdsl, to be compared with its own."""
