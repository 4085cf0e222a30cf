"""Databases as objects and frames: the decisions that come with Arbiter, as JSON lines and as a
database."""

import json
import re
import sqlite3
from pathlib import Path

import pytest

import arbiter
from arbiter.database import Database, Decision

ROOT = Path(__file__).resolve().parents[2]
LINES = ROOT / "tests" / "fuzz" / "corpus" / "jsonl" / "h200-2-ranks.jsonl"
KEY = "a" * 64


@pytest.fixture
def database(tmp_path):
    """With the library's own schema, and the rows of LINES."""
    source = (ROOT / "db" / "src" / "sqlite" / "schema.cpp").read_text(encoding="utf-8")
    path = tmp_path / "h200.db"
    connection = sqlite3.connect(path)
    for text in re.findall(r'R"sql\((.*?)\)sql"', source, re.S):
        connection.executescript(text)
    connection.execute("PRAGMA application_id = 0x41524254")
    connection.execute("PRAGMA user_version = 4")
    for line in LINES.read_text(encoding="utf-8").splitlines()[1:]:
        row = json.loads(line)
        table = row.pop("type")
        values = [json.dumps(value) if isinstance(value, dict) else value for value in row.values()]
        columns, places = ", ".join(row), ", ".join("?" * len(row))
        connection.execute(f"INSERT INTO {table} ({columns}) VALUES ({places})", values)
    connection.commit()
    connection.close()
    return path


def test_lines_and_a_database_say_the_same(database):
    ours, lines = Database(database), Database(LINES)
    assert (
        ours.decisions() == lines.decisions()
        and len(ours.decisions()) == len(lines.tables["decision"]) > 1
    )
    for decision in ours.decisions():
        assert isinstance(decision, Decision) and decision.candidate.startswith(decision.backend)
        assert 1 <= decision.tokens_min <= decision.tokens_max and decision.median_us > 0
    assert [d.tokens_min for d in ours.decisions(pattern="allreduce")] == sorted(
        d.tokens_min for d in lines.decisions() if d.pattern == "allreduce"
    )
    assert ours.decisions(world=3) == []
    assert str(database) in repr(ours) and f"{len(ours.decisions())} decisions" in repr(ours)
    with pytest.raises(TypeError, match="no member 'ranks'"):
        ours.decisions(ranks=2)


def test_what_was_timed_is_known_where_it_was_recorded(database):
    assert {d.measured_tokens for d in Database(database).decisions()} == {None}
    connection = sqlite3.connect(database)
    connection.execute(
        "UPDATE decision SET measured_tokens = tokens_max, registers = 64, spill_bytes = 0"
    )
    connection.commit()
    connection.close()
    for decision in Database(database).decisions():
        assert decision.measured_tokens == decision.tokens_max
        assert (decision.registers, decision.spill_bytes) == (64, 0)


def test_trials_keep_their_samples(tmp_path):
    path = tmp_path / "trials.jsonl"
    rows = [
        {"type": "header", "schema": 2},
        {"type": "trial", "key": KEY, "status": "done", "samples_us": [1.5, 2.5]},
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    tables = Database(path).tables
    assert tables["trial"] == [{"key": KEY, "status": "done"}]
    assert tables["sample"] == [
        {"trial": KEY, "ordinal": 0, "us": 1.5},
        {"trial": KEY, "ordinal": 1, "us": 2.5},
    ]


def test_frames(database):
    pytest.importorskip("pandas")
    ours = Database(database)
    frame = ours.frame()
    assert list(frame.columns) == list(Decision._fields) and len(frame) == len(ours.decisions())
    assert set(ours.frame(pattern="allreduce").pattern) == {"allreduce"}
    assert len(ours.frame("candidate", backend="trtllm")) < len(ours.frame("candidate"))
    with pytest.raises(arbiter.DatabaseError, match="no table 'winners'"):
        ours.frame("winners")


def test_what_is_no_database_is_named(database, tmp_path):
    other = tmp_path / "other.db"
    for text, message in (
        ("", "is empty"),
        ("hello\n", ":1: neither"),
        ('{"type": "decision"}\n', ":1: expected one header"),
        ('{"type": "header"}\n{"type": "winner"}\n', ":2: unknown type 'winner'"),
        ('{"type": "header"}\n{"type": "decision", "key": "x"}\n', "lacks 'candidate'"),
    ):
        other.write_text(text)
        with pytest.raises(arbiter.DatabaseError, match=message):
            Database(other).decisions()
    with pytest.raises(FileNotFoundError):
        Database(tmp_path / "missing.db")
    for pragma, message in (
        ("user_version = 5", "has schema 5"),
        ("application_id = 1", "another program"),
    ):
        connection = sqlite3.connect(database)
        connection.execute(f"PRAGMA {pragma}")
        connection.commit()
        connection.close()
        with pytest.raises(arbiter.DatabaseError, match=message):
            Database(database)


def test_a_communicator_takes_it(tmp_path):
    """As the path that it is: what the library says of it names the file."""
    path = tmp_path / "empty.jsonl"
    path.write_text('{"type": "header", "schema": 2}\n')
    with pytest.raises(arbiter.DatabaseError, match=r"empty\.jsonl"):
        arbiter.Communicator.in_process(1, decisions=Database(path))
