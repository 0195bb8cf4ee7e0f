import re

from escalade_server.engine.entropy import SystemEntropy


def test_task_ids_are_fresh_trace_ids() -> None:
    ids = {SystemEntropy().task_id() for _ in range(1_000)}
    assert len(ids) == 1_000
    assert all(re.fullmatch("[0-9a-f]{32}", id_) for id_ in ids)
