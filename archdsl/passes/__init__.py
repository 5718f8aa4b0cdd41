"""Changes of graphs: passes, what each may rely on, and the order they run in."""
