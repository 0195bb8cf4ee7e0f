"""What operators do to models: set them aside, take them in again, end their cooldowns.

All of it is kept as cooldowns are, in the shared state: every server and every worker follows, and
a restart forgets nothing. What an operator set aside has a key of its own, so that no cooldown
ends it, and it ends none.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from escalade_server.core.catalog import Catalog, Model
from escalade_server.core.commands import SetBench
from escalade_server.core.failure import NEVER_MS, FailureClass
from escalade_server.core.standing import Bench, Standing, VerdictClass, operator_bench
from escalade_server.engine.feed import Feed
from escalade_server.engine.health import Health
from escalade_server.engine.news import ModelNews, Place
from escalade_server.engine.ports import Clock, Store
from escalade_server.engine.waiting import WaitingRoom

NOTE_MAX = 200
"""Characters of what an operator says about it."""


class ModelAction(Enum):
    """What to do."""

    DISABLE = "disable"
    ENABLE = "enable"
    CLEAR_COOLDOWN = "clear_cooldown"


@dataclass(frozen=True, slots=True)
class Act:
    """What somebody did, when, to what, and why. Instants in Unix ms; 0: until enabled."""

    at_ms: int
    who: str
    action: ModelAction
    place: Place
    models: tuple[str, ...]
    """Keys of the models that it is about."""
    until_ms: int = 0
    note: str = ""


class Controlled(Protocol):
    """What is controlled; the engine is."""

    @property
    def catalog(self) -> Catalog:
        """The strategy in force."""
        ...

    @property
    def store(self) -> Store:
        """Where cooldowns are shared."""
        ...

    @property
    def clock(self) -> Clock:
        """The service's own time."""
        ...

    @property
    def health(self) -> Health:
        """Circuits of this process."""
        ...

    @property
    def room(self) -> WaitingRoom:
        """Who waits for what may be free now."""
        ...

    def standing(self) -> Standing:
        """Shared state and circuits at this instant."""
        ...


class ModelDesk:
    """Takes operators' orders; every one is told to the feed, and to ``audit``."""

    def __init__(self, engine: Controlled, feed: Feed | None, audit: Callable[[Act], None]) -> None:
        """Say what is controlled, and who is told."""
        self._engine, self._feed, self._audit = engine, feed, audit

    def models(self, place: Place) -> tuple[Model, ...]:
        """Find the models of a place; what is empty in it matches all."""
        wanted = (place.layer, place.provider, place.account, place.model)
        return tuple(
            model
            for model in self._engine.catalog.models
            if all(
                not want or want == has
                for want, has in zip(
                    wanted, (model.layer, model.provider, model.account, model.id), strict=True
                )
            )
        )

    async def act(
        self, action: ModelAction, place: Place, who: str, until_ms: int = 0, note: str = ""
    ) -> tuple[Model, ...]:
        """Do it, and answer the models that it is about; without any, nothing is done.

        Raises:
            StoreError: the shared state cannot be reached; it may have been done in part.
        """
        models, note = self.models(place), note.strip()
        if not models:
            return ()
        engine = self._engine
        now_ms = engine.clock.now_ms()
        act = Act(now_ms, who, action, place, tuple(m.key for m in models), until_ms, note)
        told = _words(act)
        if action is ModelAction.CLEAR_COOLDOWN:
            for key in _cooled(models, engine.standing()):
                await self._clear(key, now_ms)
            for model in models:
                engine.health.close(model)
        else:
            for key in _keys(place, models, is_enabling=action is ModelAction.ENABLE):
                await self._clear(operator_bench(key), now_ms)
                if action is ModelAction.DISABLE:
                    bench = Bench(until_ms or NEVER_MS, FailureClass.FORBIDDEN, told)
                    await engine.store.bench(SetBench(operator_bench(key), bench), now_ms)
        engine.room.look_again()
        self._audit(act)
        if self._feed is not None:
            self._feed.publish(_news(act, told))
        return models

    async def _clear(self, key: str, now_ms: int) -> None:
        await self._engine.store.bench(SetBench(key, Bench(0, FailureClass.FORBIDDEN, "")), now_ms)


def _cooled(models: Sequence[Model], standing: Standing) -> Iterable[str]:
    """Keys of the cooldowns that stand against models, those for one agent only included."""
    plain = {key for m in models for key in (m.key, m.account_key, m.provider)}
    own = {key for key in standing.benches if key.partition(" of agent ")[0] in plain}
    return sorted(plain | own)


def _keys(place: Place, models: Sequence[Model], *, is_enabling: bool) -> list[str]:
    """Under which keys a place is set aside: models that come later belong to their provider.

    Enabling a provider enables what is set aside below it, too.
    """
    if place.layer or place.model:
        return list(dict.fromkeys(model.key for model in models))
    account = f"{place.provider}/{place.account}"
    above = [account if place.account else place.provider]
    if not is_enabling:
        return above
    below = [key for model in models for key in (model.account_key, model.key)]
    return list(dict.fromkeys((*above, *below)))


def _words(act: Act) -> str:
    by = f"operator {act.who}" if act.who else "an operator"
    said = f": {act.note}" if act.note else ""
    match act.action:
        case ModelAction.DISABLE:
            return f"set aside by {by}{said}"
        case ModelAction.ENABLE:
            return f"taken in again by {by}{said}"
        case ModelAction.CLEAR_COOLDOWN:
            return f"cooldown and circuit ended by {by}{said}"


def _news(act: Act, told: str) -> ModelNews:
    if act.action is not ModelAction.DISABLE:
        return ModelNews(act.place, VerdictClass.OK, "", told)
    return ModelNews(act.place, VerdictClass.DOWN, "disabled", told, act.until_ms or NEVER_MS)
