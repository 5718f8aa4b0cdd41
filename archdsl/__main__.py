"""Turns `python -m archdsl` into the `archdsl` command."""

from __future__ import annotations

import sys

from archdsl.cli import console

if __name__ == "__main__":
    sys.exit(console())
