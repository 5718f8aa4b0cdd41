"""Turns published weights into the state dict of a spec's module, and back."""
