import pytest
from exchange_world import World


@pytest.fixture
def world() -> World:
    return World()
