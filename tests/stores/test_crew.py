"""What workers agree on: locks that the kernel takes back when a process ends."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from escalade_server.stores.crew import Crew

MATE = """\
import sys
from escalade_server.stores.crew import Crew
crew = Crew(int(sys.argv[1]), 2)
for line in sys.stdin:
    word, _, number = line.strip().partition(" ")
    if word == "turn":
        with crew.turn():
            print("has it", flush=True)
            sys.stdin.readline()
        print("gave it", flush=True)
    elif word == "live":
        crew.live(int(number))
        print("lives", flush=True)
    elif word == "lead":
        print(crew.lead(), flush=True)
    else:
        print(crew.is_dead(int(number)), flush=True)
"""


class Mate:
    """Another process of the crew."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self.process = process

    def say(self, order: str) -> str:
        self.order(order)
        return self.hear()

    def order(self, order: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{order}\n")
        self.process.stdin.flush()

    def hear(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()


@pytest.fixture
def handle() -> Iterator[int]:
    made = Crew.make()
    yield made
    os.close(made)


@contextmanager
def mate(handle: int) -> Iterator[Mate]:
    process = subprocess.Popen(
        [sys.executable, "-c", MATE, str(handle)], pass_fds=(handle,), text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    with process:
        try:
            yield Mate(process)
        finally:
            process.kill()


def test_an_owner_is_dead_when_its_process_is_and_never_before(handle: int) -> None:
    crew = Crew(handle)
    crew.live(7)
    with mate(handle) as other:
        assert other.say("live 8") == "lives"
        assert other.say("dead 7") == "False"
        assert not crew.is_dead(8)
        os.kill(other.process.pid, signal.SIGSTOP)
        assert not crew.is_dead(8), "it only sleeps"
        other.process.kill()
        other.process.wait()
        assert crew.is_dead(8)
        assert crew.is_dead(8), "asking changes nothing"
    assert not crew.is_dead(7), "oneself is never dead"
    with mate(handle) as next_one:
        assert next_one.say("dead 7") == "False", "also after this process was asked"
        assert next_one.say("dead 8") == "True"


def test_one_leads_and_after_its_death_another(handle: int) -> None:
    crew = Crew(handle)
    with mate(handle) as other:
        assert other.say("lead") == "True"
        assert not crew.lead()
        other.process.kill()
        other.process.wait()
        assert crew.lead()
    with mate(handle) as next_one:
        assert next_one.say("lead") == "False"
    assert crew.lead(), "until it ends"


def test_one_writes_at_a_time(handle: int) -> None:
    with mate(handle) as one, mate(handle) as two:
        assert one.say("turn") == "has it"
        two.order("turn")
        one.order("enough")
        assert one.hear() == "gave it"
        assert two.hear() == "has it"
        one.order("turn")
        two.process.kill()  # in the middle of its turn
        assert one.hear() == "has it"
