"""What the log is told of the server itself: what was started, what nobody awaited."""

import asyncio
from contextlib import AsyncExitStack
from typing import TextIO

from escalade_server.bootstrap.options import Options
from escalade_server.engine.readiness import DRAINING
from escalade_server.strategy.load import Loaded
from escalade_server.telemetry import names
from escalade_server.telemetry.logs import Log, make_logger
from escalade_server.telemetry.mistakes import LoggedMistakes
from escalade_server.telemetry.redact import Redactor
from escalade_server.telemetry.sink import LineSink

NOBODY_KNOWN = "Callers must be known, and no token is live: make one with `escalade token create`"


def open_log(
    options: Options, stream: TextIO, stack: AsyncExitStack, worker: int = 0,
    redactor: Redactor | None = None,
) -> tuple[Log, LineSink]:  # fmt: skip
    """Open the log; ``stack`` closes it, and says then how many lines were lost.

    Every line of a ``worker`` has its number.
    """
    sink = LineSink(stream)
    log = make_logger(sink, stream, options.log_format, options.log_level, redactor)
    if worker:
        log = log.bind(worker=worker)
    stack.callback(_close_log, sink, log)
    return log, sink


def say_tls(log: Log, why: str) -> None:
    """Log that the certificate was renewed, or ``why`` not."""
    if why:
        log.error(names.TLS_NOT_RENEWED, detail=why)
    else:
        log.info(names.TLS_RENEWED)


def say_ledger(log: Log, why: str) -> None:
    """Log ``why`` the ledger cannot be written, or that it can be again."""
    if why:
        log.error(names.LEDGER_FAILING, detail=why)
    else:
        log.info(names.LEDGER_MENDED)


def say_readiness(log: Log, reason: str, well: bool) -> None:  # noqa: FBT001 - as it is told
    """Log that readiness is lost for a reason, or that the reason is gone."""
    if well:
        log.info(names.SERVER_READY, reason=reason)
    elif reason != DRAINING:  # which is said by itself
        log.warning(names.SERVER_NOT_READY, reason=reason)


def _close_log(sink: LineSink, log: Log) -> None:
    if sink.lost:
        log.warning(names.LINES_LOST, lines=sink.lost)
    sink.close()


def catch_strays(stack: AsyncExitStack, mistakes: LoggedMistakes, log: Log) -> None:
    """Log what nobody awaited, instead of printing it with its words."""
    loop = asyncio.get_running_loop()

    def on_stray(_loop: asyncio.AbstractEventLoop, context: dict[str, object]) -> None:
        error = context.get("exception")
        if isinstance(error, Exception):
            mistakes(error)
        else:
            log.error(names.MISTAKE, detail=context["message"])

    stack.callback(loop.set_exception_handler, loop.get_exception_handler())
    loop.set_exception_handler(on_stray)


def say_started(
    log: Log, loaded: Loaded, target: str, new_state: str, *, nobody_known: bool
) -> None:
    """Log what was started."""
    say_strategy(log, loaded)
    if new_state:
        log.warning(names.LEDGER_NEW, state=new_state)
    if nobody_known:
        log.warning(names.NOBODY_KNOWN, detail=NOBODY_KNOWN)
    log.info(names.SERVER_STARTED, target=target)


def say_strategy(log: Log, loaded: Loaded) -> None:
    """Log what is in force now, and what there is to say of it."""
    layers = [layer.name for layer in loaded.catalog.layers]
    log.info(names.STRATEGY_LOADED, file=loaded.file, layers=layers)
    for notice in loaded.notices:
        log.info(names.STRATEGY_NOTICE, code=notice.code, line=notice.line, detail=notice.sentence)
    for key in loaded.not_yet_in_effect:
        log.warning(names.STRATEGY_NOT_IN_EFFECT, key=key.key, line=key.line, detail=key.sentence)
    for model in loaded.catalog.models:
        if model.absence is not None:
            log.warning(names.MODEL_UNAVAILABLE, model=model.key, detail=model.absence.detail)
