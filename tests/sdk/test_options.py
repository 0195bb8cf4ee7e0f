"""Views of a client: the call wins over the view, the view over the client."""

from datetime import timedelta

import pytest

import escalade
from escalade import testing
from escalade._channel import replicas
from escalade.testing import answer

FREE = escalade.Constraints(free_only=True, denied_models=("a",))


def test_a_view_has_its_own_timeout() -> None:
    with (
        testing.Server(lambda _: answer("x")) as server,
        escalade.Client(server.target, timeout=50) as client,
    ):
        view = client.with_options(timeout=20)
        client.complete("x")
        view.complete("x")
        view.complete("x", timeout=5)
        view.with_options(metadata={"team": "a"}).complete("x")
        with view.stream("x") as stream:
            stream.answer()

    given = [round(call.timeout_s or 0, -1) for call in server.calls]
    assert given[:2] == [50, 20]
    assert (server.calls[2].timeout_s or 9) < 6
    assert given[3:] == [20, 20]


def test_limits_are_laid_over_each_other() -> None:
    with testing.Server(lambda _: answer("x")) as server, server.client() as client:
        view = client.with_options(constraints=FREE)
        view.complete("x")
        view.complete("x", constraints=escalade.Constraints(max_wait=timedelta(seconds=5)))
        view.complete("x", constraints=escalade.Constraints(free_only=False, denied_models=("b",)))
        view.with_options(constraints=escalade.Constraints(highest_layer="paid")).complete("x")
        client.complete("x")

    sent = [call.request.constraints for call in server.calls]
    assert [made.free_only for made in sent] == [True, True, False, True, False]
    assert [list(made.denied_models) for made in sent] == [["a"], ["a"], ["b"], ["a"], []]
    assert sent[1].max_wait.seconds == 5
    assert sent[3].highest_layer == "paid"
    assert not server.calls[4].request.HasField("constraints")


def test_every_limit_of_a_view_holds_and_gives_way() -> None:
    """No field is forgotten: each is taken from the view, and each is won by the call."""
    ours = escalade.Constraints(*range(11))
    theirs = escalade.Constraints(*range(100, 111))
    with escalade.Client() as client:
        options = client.with_options(constraints=ours)._options

    assert options.constraints_of(escalade.Constraints()) == ours
    assert options.constraints_of(None) == ours
    assert options.constraints_of(theirs) == theirs


def test_metadata_goes_along_and_hides() -> None:
    with testing.Server(lambda _: answer("x")) as server, server.client(token="t") as client:
        view = client.with_options(metadata={"team": "a", "secret": "top-secret"})
        view.with_options(metadata={"team": "b"}).complete("x")
        client.complete("x")

    headers = server.calls[0].metadata
    assert (headers["team"], headers["secret"], headers["authorization"]) == (
        "b",
        "top-secret",
        "Bearer t",
    )
    assert "team" not in server.calls[1].metadata
    assert "top-secret" not in repr(view) + repr(vars(view))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("Team", "a"),
        ("", "a"),
        ("grpc-timeout", "1S"),
        ("team-bin", "a"),
        (":path", "a"),
        ("authorization", "Bearer x"),
        ("team", "line\nbreak"),
        ("team", "ü"),
    ],
)
def test_metadata_that_cannot_travel(key: str, value: str) -> None:
    with escalade.Client() as client, pytest.raises(escalade.UsageError):
        client.with_options(metadata={key: value})


def test_a_timeout_that_is_none() -> None:
    with escalade.Client() as client, pytest.raises(escalade.UsageError):
        client.with_options(timeout=0)


def test_a_view_shares_connections_and_closes_none() -> None:
    with testing.Server(lambda _: answer("x")) as server:
        with server.client() as client:
            with client.with_options(timeout=5) as view:
                view.complete("x")
            assert client.complete("x").text == "x"
            assert isinstance(view, escalade.Client)
        with pytest.raises(escalade.UsageError, match="closed"):
            view.complete("x")

    assert len({call.connection for call in server.calls}) == 1


async def test_a_view_with_asyncio() -> None:
    async with testing.Server(lambda _: answer("x")) as server, server.async_client() as client:
        async with client.with_options(constraints=FREE, metadata={"team": "a"}) as view:
            await view.complete("x")
        await client.complete("x")

    assert server.calls[0].request.constraints.free_only
    assert server.calls[0].metadata["team"] == "a"
    assert len({call.connection for call in server.calls}) == 1


# ------------------------------------------------------------------------------ replicas


@pytest.mark.parametrize(
    ("target", "written"),
    [
        ("10.0.0.1:1,10.0.0.2:2", "ipv4:10.0.0.1:1,10.0.0.2:2"),
        ("10.0.0.1:1, 10.0.0.2:2", "ipv4:10.0.0.1:1,10.0.0.2:2"),
        ("[::1]:1,[fe80::2]:2", "ipv6:[::1]:1,[fe80::2]:2"),
        ("ipv4:10.0.0.1:1,10.0.0.2:2", "ipv4:10.0.0.1:1,10.0.0.2:2"),
        ("dns:///escalade:50051", "dns:///escalade:50051"),
        ("localhost:50051", "localhost:50051"),
        ("unix:/run/a,b.sock", "unix:/run/a,b.sock"),
    ],
)
def test_a_list_of_replicas(target: str, written: str) -> None:
    assert replicas(target) == written


@pytest.mark.parametrize("target", ["", "a:1,b:2", "10.0.0.1:1,[::1]:1", "10.0.0.1,10.0.0.2", ","])
def test_a_list_that_is_none(target: str) -> None:
    with pytest.raises(escalade.UsageError):
        replicas(target)


@pytest.mark.parametrize("form", ["{0},{1}", "ipv4:{0},{1}"])
def test_calls_go_round_the_replicas(form: str) -> None:
    def reply(_: object) -> testing.Reply:
        return answer("x")

    with testing.Server(reply) as one, testing.Server(reply) as two:
        target = form.format(one.target, two.target)
        with escalade.Client(target, token="t", timeout=20) as client:
            for _ in range(500):  # until both connections stand
                client.complete("x")
                if one.calls and two.calls:
                    break
            before = len(one.calls), len(two.calls)
            for _ in range(10):
                client.complete("x")
            assert (len(one.calls) - before[0], len(two.calls) - before[1]) == (5, 5)
            one.stop()
            assert [client.complete("x").text for _ in range(5)] == ["x"] * 5
