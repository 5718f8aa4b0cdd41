"""Turns names of mutants (all without any) into a line for each; exits with 1 where one is not killed.

python -m tests.mutants [ids...]
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from tests.mutants import mutants, verdicts


def main(ids: list[str]) -> int:
    known = {m.id: m for m in mutants()}
    unknown = [i for i in ids if i not in known]
    if unknown:
        print(f"no mutant is called {', '.join(unknown)}", file=sys.stderr)
        return 2
    alive = 0
    with tempfile.TemporaryDirectory(prefix="mutants-") as place:
        for verdict in verdicts([known[i] for i in ids or known], Path(place)):
            print(f"{verdict.mutant.id}: {verdict.outcome} ({verdict.mutant.wrong})", flush=True)
            alive += verdict.outcome != "killed"
    return int(alive > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
