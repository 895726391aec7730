import pytest
from trl.generation import vllm_generation

from tests.engine import world


@pytest.fixture(scope="module")
def engines():
    """In a file's trainers, engines of the same arguments are one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vllm_generation, "LLM", world.Engines())
        yield
