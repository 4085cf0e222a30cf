"""What `arbiter tune` wrote, as Python objects and, with pandas, as frames. docs/database.md
explains the tables.

    database = Database("h200.db")           # a database, a snapshot, or lines of `arbiter export`
    for decision in database.decisions(world=4, pattern="allreduce"):
        print(decision.tokens_min, decision.tokens_max, decision.candidate, decision.median_us)
    database.frame("trial")                  # a pandas.DataFrame
    Communicator.from_torch(decisions=database)

Reads only, once, when it is made. The library checks a file when it takes decisions from it; this
does not."""

import contextlib
import json
import os
import sqlite3
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional, Union

from .errors import DatabaseError

__all__ = ["Database", "Decision"]

TABLES = (
    "environment",
    "run",
    "problem",
    "candidate",
    "trial",
    "sample",
    "decision",
    "nccl_choice",
)
_APPLICATION_ID = 0x41524254
_NEWEST = 4  # PRAGMA user_version
_NOT_RECORDED = -1  # in databases; JSON lines leave it out
_HEADER = b"SQLite format 3\0"


class Decision(NamedTuple):
    """The candidate that won an interval of tokens (both ends included), and the next one. Times
    are medians of one call of `measured_tokens`, in microseconds; `runner_up` is None where
    nothing else was measured. `registers` and `spill_bytes` are of the kernels that were timed.
    None: not recorded, or not known. `environment` is a key."""

    environment: str
    mode: str
    world: int
    dtype: str
    pattern: str
    hidden: int
    tokens_min: int
    tokens_max: int
    backend: str
    algorithm: str
    candidate: str
    median_us: float
    runner_up: Optional[str]
    runner_up_median_us: float
    measured_tokens: Optional[int] = None
    registers: Optional[int] = None
    spill_bytes: Optional[int] = None


class Database:
    """`tables`: by name, the rows as dictionaries. Raises DatabaseError for what is no database of
    Arbiter's, or a newer one than this package knows; OSError as open() does."""

    def __init__(self, path: Union[str, "os.PathLike[str]"]) -> None:
        self.path = Path(path)
        with open(self.path, "rb") as file:
            is_sqlite = file.read(len(_HEADER)) == _HEADER
        self.tables: Dict[str, List[Dict[str, Any]]] = {name: [] for name in TABLES}
        (self._read_sqlite if is_sqlite else self._read_lines)()

    def decisions(self, **wanted: Any) -> List[Decision]:
        """By environment, mode, world, dtype, pattern, hidden and tokens. `wanted`: values of
        members of Decision that rows must have, such as world=4."""
        unknown = wanted.keys() - set(Decision._fields)
        if unknown:
            raise TypeError(
                f"a decision has no member '{min(unknown)}'; it has {', '.join(Decision._fields)}"
            )
        candidates = {row["key"]: row for row in self.tables["candidate"]}
        found = []
        for row in self.tables["decision"]:
            try:
                won, second = candidates[row["candidate"]], row["runner_up"]
                members: Dict[str, Any] = {name: row[name] for name in Decision._fields[:8]}
                for name in Decision._fields[-3:]:
                    given = row.get(name, _NOT_RECORDED)
                    members[name] = None if given == _NOT_RECORDED else given
                decision = Decision(
                    **members,
                    backend=won["backend"],
                    algorithm=won["algorithm"],
                    candidate=won["name"],
                    median_us=row["median_us"],
                    runner_up=candidates[second]["name"] if second else None,
                    runner_up_median_us=row["runner_up_median_us"],
                )
            except KeyError as error:
                raise DatabaseError(f"{self.path}: a decision lacks {error}") from error
            if all(getattr(decision, name) == value for name, value in wanted.items()):
                found.append(decision)
        return sorted(found, key=lambda decision: decision[:7])

    def frame(self, table: str = "decision", **wanted: Any) -> Any:
        """A pandas.DataFrame: of decisions() for "decision", else of the table's rows. `wanted`:
        see decisions()."""
        import pandas

        if table == "decision":
            return pandas.DataFrame(self.decisions(**wanted), columns=list(Decision._fields))
        if table not in self.tables:
            raise DatabaseError(f"there is no table '{table}'; expected one of {', '.join(TABLES)}")
        frame = pandas.DataFrame(self.tables[table])
        for name, value in wanted.items():
            frame = frame[frame[name] == value]
        return frame

    def __fspath__(self) -> str:
        return str(self.path)

    def __repr__(self) -> str:
        return f"<arbiter.Database {self.path}: {len(self.tables['decision'])} decisions>"

    def _read_sqlite(self) -> None:
        uri = f"{self.path.resolve().as_uri()}?mode=ro"
        try:
            with contextlib.closing(sqlite3.connect(uri, uri=True)) as connection:
                connection.row_factory = sqlite3.Row
                if connection.execute("PRAGMA application_id").fetchone()[0] != _APPLICATION_ID:
                    raise DatabaseError(f"{self.path} is a database of another program")
                version = connection.execute("PRAGMA user_version").fetchone()[0]
                if version > _NEWEST:
                    raise DatabaseError(
                        f"{self.path} has schema {version}; this package reads up to {_NEWEST}"
                    )
                there = {
                    row[0]
                    for row in connection.execute(
                        "SELECT name FROM sqlite_master WHERE type = 'table'"
                    )
                }
                for name in TABLES:
                    if name in there:
                        self.tables[name] = [
                            dict(row) for row in connection.execute(f"SELECT * FROM {name}")
                        ]
        except sqlite3.Error as error:
            raise DatabaseError(f"{self.path}: {error}") from error

    def _read_lines(self) -> None:
        first = True
        with open(self.path, encoding="utf-8", errors="replace") as file:
            for number, line in enumerate(file, 1):
                try:
                    row = json.loads(line)
                    kind = row.pop("type")
                except (ValueError, KeyError, AttributeError, TypeError):
                    raise DatabaseError(
                        f"{self.path}:{number}: neither a database nor JSON lines of one"
                    ) from None
                if first != (kind == "header"):
                    raise DatabaseError(
                        f"{self.path}:{number}: expected one header, in the first line"
                    )
                first = False
                if kind == "header":
                    continue
                if kind not in self.tables:
                    raise DatabaseError(f"{self.path}:{number}: unknown type '{kind}'")
                samples = row.pop("samples_us", ()) if kind == "trial" else ()
                self.tables[kind].append(row)
                self.tables["sample"] += [
                    {"trial": row["key"], "ordinal": ordinal, "us": us}
                    for ordinal, us in enumerate(samples)
                ]
        if first:
            raise DatabaseError(f"{self.path} is empty")
