from escalade_server.core.nominal import nominal_view
from escalade_server.core.policy import judge
from escalade_server.core.standing import OK, Balance, Standing, VerdictClass
from tests.core.builders import DAY, T0, three_layers


def test_r5_a_cap_with_room_for_one_token_is_not_out() -> None:
    of = three_layers()
    premium = of.layers[-1]
    (gpt,) = premium.models
    (counter,) = gpt.counters
    nearly = Standing({counter.key: Balance("m", counter.limit - 1_000, 0, DAY)})

    verdict, candidate = judge(gpt, premium, nominal_view(of, nearly, T0))

    assert verdict is OK
    assert candidate is not None
    assert (candidate.tokens, candidate.nanos) == (1, 150)


def test_r5_a_spent_cap_is_out_for_the_nominal_task_too() -> None:
    of = three_layers()
    premium = of.layers[-1]
    (gpt,) = premium.models
    (counter,) = gpt.counters
    spent = Standing({counter.key: Balance("m", counter.limit, 0, DAY)})

    verdict, _ = judge(gpt, premium, nominal_view(of, spent, T0))

    assert verdict.cls is VerdictClass.MONEY
