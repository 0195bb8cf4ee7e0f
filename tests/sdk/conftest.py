"""What the tests of the client share."""

import asyncio

import pytest

from tests.sdk.faces import AsyncFace, Face, SyncFace
from tests.sdk.route_faces import AsyncRouteFace, RouteFace, SyncRouteFace


@pytest.fixture(params=[SyncFace, AsyncFace], ids=["sync", "async"])
def face(request: pytest.FixtureRequest) -> Face:
    made: Face = request.param()
    return made


@pytest.fixture(params=[SyncRouteFace, AsyncRouteFace], ids=["sync", "async"])
def route_face(request: pytest.FixtureRequest) -> RouteFace:
    made: RouteFace = request.param()
    return made


# The looptime plugin asks the policy for a loop in front of tests without one, too. Unless told
# that there is none, the policy makes one that nobody closes: a ResourceWarning in a later test.
asyncio.set_event_loop(None)
