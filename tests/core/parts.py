"""Parts of a task for tests of single core modules: needs, views, attempts and diaries."""

from escalade_server.core import policy, settlement
from escalade_server.core.answer import Fold
from escalade_server.core.assess import FirstLook, first_look
from escalade_server.core.attempt import Live
from escalade_server.core.catalog import Catalog, Layer, Model
from escalade_server.core.diary import Diary
from escalade_server.core.events import ChunkArrived, TextDelta
from escalade_server.core.experience import Experience
from escalade_server.core.failure import Failure, FailureClass
from escalade_server.core.need import Need
from escalade_server.core.standing import Standing, Verdict
from escalade_server.core.task import Basis, Request, Usage
from escalade_server.core.trace import AttemptStatus, Skip
from tests.core.builders import T0, layers, request, three_layers


def look(catalog: Catalog | None = None, req: Request | None = None) -> FirstLook:
    return first_look(req or request(), catalog or three_layers())


def need(catalog: Catalog | None = None, req: Request | None = None) -> Need:
    return look(catalog, req).need


def view(
    wanted: Need,
    *,
    seen: Experience | None = None,
    standing: Standing | None = None,
    require: bool = False,
) -> policy.View:
    return policy.view(wanted, seen or Experience(), standing or Standing(), T0, require=require)


def one_layer(*models: Model) -> Layer:
    """Make the only layer of a strategy."""
    return layers(("only", models, ()))[0]


def live(model: Model, wanted: Need, number: int = 1) -> Live:
    """Make an attempt that has 30 s for its first token and a minute in all."""
    candidate = wanted.candidate(model, None)
    return Live(number, candidate, f"t.{number}", T0, T0 + 30_000, T0 + 60_000, Fold(keep=True))


def spoken(attempt: Live, text: str, at_ms: int = T0 + 100) -> Live:
    attempt.take(ChunkArrived(attempt.number, (TextDelta(text),)), at_ms)
    return attempt


def diary(catalog: Catalog, req: Request | None = None) -> Diary:
    asked = req or request()
    return Diary(asked, catalog, look(catalog, asked), [catalog.layers[0].name], T0)


def book_failure(pages: Diary, model: Model, cls: FailureClass, detail: str = "broke") -> None:
    attempt = live(model, pages.look.need, len(pages.attempts) + 1)
    booking = settlement.Booking(1, Usage(), 0, Basis.NONE)
    pages.book(attempt, booking, AttemptStatus.FAILED, T0, Failure(cls, detail))


def skip(model: Model, verdict: Verdict) -> Skip:
    return Skip(model.layer, model, verdict)
