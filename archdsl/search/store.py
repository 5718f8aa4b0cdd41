"""Turns the state of a search into files from which it goes on after any interruption."""

from __future__ import annotations

import fcntl
import json
import os
from pathlib import Path
from typing import IO, Any
from zipfile import BadZipFile

from archdsl.diagnostics import error
from archdsl.search.evolve import State
from archdsl.search.study import Progress

STATE, SETTINGS, LOG, EVALUATIONS = ".state", "settings.json", "study.jsonl", "evaluations.jsonl"


class Store:
    """The state of a search on disk. Raises E-RUN where another process works on it, or what is there is unreadable."""

    def __init__(self, directory: Path) -> None:
        self.directory, self.place = directory, directory / STATE
        self._lock: IO[bytes] | None = None

    def __enter__(self) -> Store:
        try:
            self.place.mkdir(parents=True, exist_ok=True)
            self._lock = (self.place / "lock").open("ab")
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise error(
                "E-RUN", f"another process is searching in `{self.directory}`", help="choose another --name"
            ) from None
        except OSError as e:
            raise error("E-RUN", f"cannot keep a search in `{self.directory}`: {e.strerror}") from e
        return self

    def __exit__(self, *_: object) -> None:
        if self._lock is not None:
            self._lock.close()

    def last(self, first: State) -> tuple[State, list[Progress]]:
        """The last whole generation and how it went until then; `first` and nothing where there is none."""
        try:
            head = (self.place / "generation").read_bytes()
            state = State.from_bytes(head + (self.place / "seen").read_bytes())
            lines = (self.directory / LOG).read_text(encoding="utf-8").splitlines()
            history = [_progress(json.loads(line)) for line in lines[: state.generation]]
            self._cut(self.place / "seen", 8 * state.distinct)
            self._cut(self.directory / LOG, sum(len(line.encode()) + 1 for line in lines[: state.generation]))
        except FileNotFoundError:
            for path in (self.place / "seen", self.directory / LOG):
                path.unlink(missing_ok=True)
            return first, []
        except (OSError, EOFError, ValueError, KeyError, TypeError, BadZipFile) as e:
            raise error("E-RUN", f"the state in `{self.directory}` cannot be read: {e}", help="start anew") from e
        return state, history

    def save(self, state: State, progress: Progress, known: int) -> None:
        """Puts a generation on disk: what is new of the points seen (from `known` on), its line, then the state."""
        try:
            append(self.place / "seen", state.seen.keys[known:].astype("<u8").tobytes())
            record = {
                name: getattr(progress, name) for name in ("generation", "priced", "distinct", "feasible", "front")
            }
            record |= {
                "hypervolume": progress.hypervolume,
                "digest": state.archive.digest(),
                "seconds": round(progress.seconds, 3),
            }
            record |= {"box": progress.box}
            record |= {"undivided": progress.undivided} if progress.undivided else {}
            append(self.directory / LOG, (json.dumps(record) + "\n").encode())
            staged = self.place / "generation.tmp"
            staged.unlink(missing_ok=True)
            append(staged, state.head())
            os.replace(staged, self.place / "generation")
        except OSError as e:
            raise error("E-RUN", f"cannot write to `{self.directory}`: {e.strerror}") from e

    @staticmethod
    def _cut(path: Path, size: int) -> None:
        """Takes away what an interrupted generation wrote."""
        if path.stat().st_size < size:
            raise ValueError(f"{path.name} is too short")
        truncate(path, size)


def append(path: Path, data: bytes) -> None:
    """Adds to a file, and returns when it is on disk. Raises E-RUN."""
    try:
        with path.open("ab") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except OSError as e:
        raise error("E-RUN", f"cannot write `{path}`: {e.strerror}", help="make room, then go on with --resume") from e


def truncate(path: Path, size: int) -> None:
    """Takes away the end of a file. Raises E-RUN."""
    try:
        os.truncate(path, size)
    except OSError as e:
        raise error("E-RUN", f"cannot write `{path}`: {e.strerror}") from e


def _progress(record: dict[str, Any]) -> Progress:
    numbers = ("generation", "priced", "distinct", "feasible", "front", "hypervolume", "seconds")
    box, undivided = tuple(map(tuple, record["box"])), record.get("undivided", "")
    return Progress(**{name: record[name] for name in numbers}, box=box, undivided=undivided)
