"""What each family of specs is compared with: a module a family, which lists its twins in `TWINS`."""
