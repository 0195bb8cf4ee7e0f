"""What the books say to SQLite: each statement once, and many rows in few of them."""

import apsw


class Upsert:
    """Writes many rows in few statements: 64 at a time while there are so many, then fewer."""

    def __init__(self, columns: int, sql: str) -> None:
        """Take a statement in which ``$ROWS`` stands for the rows."""
        row = f"({', '.join('?' * columns)})"
        self._statements = [
            (size, sql.replace("$ROWS", ", ".join([row] * size))) for size in (64, 16, 4, 1)
        ]

    def write(self, connection: apsw.Connection, rows: list[tuple[str | int, ...]]) -> None:
        """Insert the rows, or change those that are there."""
        begin = 0
        for size, statement in self._statements:
            while len(rows) - begin >= size:
                some = rows[begin : begin + size]
                connection.execute(statement, [value for row in some for value in row])
                begin += size


RESERVATIONS = Upsert(
    24,
    """
INSERT INTO reservations VALUES $ROWS
ON CONFLICT (number) DO UPDATE SET state = excluded.state, resolve_at_ms = excluded.resolve_at_ms,
  used_requests = excluded.used_requests, used_tokens = excluded.used_tokens,
  used_nanos = excluded.used_nanos, digest = excluded.digest, figures = excluded.figures
""",
)
WINDOWS = Upsert(
    6,
    """
INSERT INTO windows VALUES $ROWS
ON CONFLICT (counter, starts_ms) DO UPDATE SET spent = excluded.spent, held = excluded.held
""",
)
PUT_BENCH = "INSERT OR REPLACE INTO benches VALUES (?, ?, ?, ?)"
_RESERVATION = """
SELECT number, id, owner, model, position, state, tokens, nanos, windows, admitted_ms,
  resolve_at_ms, agent, routed, digest, request_id, content, figures, day, layer, task_type,
  metered, used_requests, used_tokens, used_nanos FROM reservations
"""
_BY_ID = "id IN (SELECT value FROM json_each(?))"
_BY_REQUEST = """request_id <> '' AND (agent, request_id) IN
  (SELECT value ->> 0, value ->> 1 FROM json_each(?))"""
MET = f"{_RESERVATION} WHERE {_BY_ID} OR ({_BY_REQUEST})"
UNSETTLED = _RESERVATION + " WHERE state < ?"
TAKE_OVER = "UPDATE reservations SET owner = ? WHERE number = ?"
DROP_SLICES = """
DELETE FROM windows WHERE ends_ms <= ? AND counter IN
  (SELECT id FROM counters WHERE period IN (SELECT value FROM json_each(?)))
"""
DROP_RESERVATIONS = """
DELETE FROM reservations
WHERE number IN (SELECT number FROM reservations ORDER BY number LIMIT ?)
  AND state >= ? AND admitted_ms <= ?
"""
