"""The same request id on ``Route`` again (R27): nothing is told again, and nothing chosen twice."""

import grpc

from escalade.v1 import error_pb2 as x
from tests.api.route_world import (
    COST_NANOS,
    RESERVE_NANOS,
    Served,
    Talk,
    failed,
    ok,
    paid,
    selected,
    unreported,
)
from tests.api.world import Told


async def asked(server: Served, tokens: int = 4_000) -> Told:
    first = paid()
    first.task.tokens = tokens
    return await (await Talk.begin(server, first)).end()


async def test_r27_a_route_that_runs_or_was_answered_is_not_chosen_again(server: Served) -> None:
    talk, _ = await selected(server)
    running, other = await asked(server), await asked(server, tokens=4_001)
    await talk.say(ok())
    assert (await talk.end()).code is grpc.StatusCode.OK
    again, another = await asked(server), await asked(server, tokens=4_001)

    assert (running.code, running.reason) == (grpc.StatusCode.ABORTED, "REQUEST_IN_PROGRESS")
    assert (again.code, again.reason) == (grpc.StatusCode.ALREADY_EXISTS, "ALREADY_ANSWERED")
    for misused in (other, another):
        assert misused.code is grpc.StatusCode.INVALID_ARGUMENT
        assert misused.reason == "REQUEST_INVALID"
    assert again.events[-1].failed.report.cost.list_nano_usd == COST_NANOS
    assert server.books() == (COST_NANOS, 0)


async def test_r27_a_late_report_answers_the_id(server: Served) -> None:
    reservation = await unreported(server)
    await server.report(reservation, ok())

    assert (await asked(server)).reason == "ALREADY_ANSWERED"
    assert server.books() == (COST_NANOS, 0)


async def test_r27_a_route_without_an_answer_is_chosen_anew(server: Served) -> None:
    """One that nobody reported, and one that failed on every model there is."""
    await unreported(server)
    talk, _ = await selected(server)
    await talk.say(failed(x.FAILURE_CLASS_BAD_REQUEST))
    assert (await talk.end()).reason == "REQUEST_REJECTED"
    talk, _ = await selected(server)
    await talk.say(ok())

    assert (await talk.end()).code is grpc.StatusCode.OK
    assert server.books() == (RESERVE_NANOS + COST_NANOS, 0)
