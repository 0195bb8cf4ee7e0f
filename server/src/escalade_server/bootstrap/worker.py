"""One worker process of ``serve --workers N``; started by ``bootstrap.workers``, never by hand.

It is told what to serve over a socket, serves until SIGTERM or until its supervisor is gone, and
ends with 0 once it is drained.
"""

import asyncio
import socket
import sys

from escalade_server.bootstrap.channel import Begin, Channel, Failed, Ready
from escalade_server.bootstrap.options import StartError
from escalade_server.bootstrap.post import Post
from escalade_server.bootstrap.process import on_hangup, run, stop_signal
from escalade_server.bootstrap.start import start
from escalade_server.stores.crew import Crew
from escalade_server.strategy.errors import StrategyErrors


async def _serve(end: socket.socket, locks: int) -> None:
    stop = stop_signal()
    on_hangup(lambda: None)  # the supervisor hears it, and says what is to be done
    channel = await Channel.open(end)
    begin = await anext(channel.messages())
    assert isinstance(begin, Begin), begin
    post = Post(channel, begin, Crew(locks, begin.number, first=begin.first))
    try:
        running = await start(begin.options, post=post)
    except (StartError, StrategyErrors) as error:
        channel.send(Failed(f"{error}"))
        channel.close()
        return
    try:
        required = running.strategies.auth_required
        channel.send(Ready(running.state, running.ledger_is_new, running.nobody_known, required))
        ends = [asyncio.ensure_future(event.wait()) for event in (stop, post.gone)]
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
    finally:
        await running.stop()
        channel.close()


def work() -> None:
    """Serve, with the handles of the socket and of the file of locks as arguments."""
    end, locks = map(int, sys.argv[1:])
    run(_serve(socket.socket(fileno=end), locks))
