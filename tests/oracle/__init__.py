"""Turns a spec and an implementation that we did not write into a verdict: same outputs, same gradients."""
