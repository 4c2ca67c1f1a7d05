"""Functions are named by what they do, in words that a reader knows."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
FOLDERS = ("glm_core", "plugins", "examples", "benchmarks", "scripts")
VERBS = (ROOT / "tests" / "data" / "verbs.txt").read_text("utf-8").splitlines()

# First words of functions that say what is so, and of conversions, as the standard library names them.
CLAIMS = {"is", "has", "can", "may", "must", "should", "was"}
CONVERSIONS = {"from", "to", "as"}
# Attributes, variants of one function, and what pytest injects by its name, are nouns.
NOUNS_BY_DECORATOR = {"property", "cached_property", "setter", "overload", "fixture"}
# A check of the conformance kit has the name of the promise that it checks.
PROMISE_DECORATOR = "check"
# Names that somebody else chose: who calls, or overrides, what.
CHOSEN_BY_OTHERS = {
    "_init_weights": "transformers.PreTrainedModel calls it",
    "_unsupported_upgrade_warning": "uvicorn's protocol, overridden",
    "asgi_app": "an entry point; programs that mount the API import it by this name",
    "body": "starlette.Request, overridden",
    "connection_made": "asyncio.Protocol calls it",
    "cuda": "torch.nn.Module, overridden",
    "data_received": "asyncio.Protocol calls it",
    "eof_received": "asyncio.Protocol calls it",
    "extra_repr": "torch.nn.Module calls it when it is printed",
    "json": "starlette.Request, overridden",
    "main": "where a program begins, by custom",
    "on_response_complete": "uvicorn's protocol, overridden",
    "on_tick": "uvicorn.Server, overridden",
    "persistent_load": "pickle.Unpickler calls it",
    "ptuning": "the call of ChatGLM6Bpkg",
    "reportinfo": "pytest.Item, overridden",
    "repr_failure": "pytest.Item, overridden",
    "runtest": "pytest.Item, overridden",
    "startup": "uvicorn.Server, overridden",
}
CHOSEN_BY_PYTEST = "pytest_"  # its hooks begin so


def test_the_first_word_of_every_function_is_a_verb() -> None:
    """A verb that is missing is added to tests/data/verbs.txt; a noun gets another name."""
    verbs = set(VERBS)
    named = list(find_functions())
    others = [
        f"{path.relative_to(ROOT)}:{function.lineno} {function.name}"
        for path, function in named
        if not is_excepted(function) and not begins_with_verb(function.name, verbs)
    ]
    assert len(named) > 2000
    assert others == []


def test_the_verbs_are_sorted_and_each_is_there_once() -> None:
    """Whoever adds a verb to the list sees whether it is there already."""
    assert sorted(set(VERBS)) == VERBS


def test_every_exception_is_used() -> None:
    """An exception that nothing needs any more is taken out of the list."""
    names = {function.name for _, function in find_functions()}
    assert set(CHOSEN_BY_OTHERS) - names == set()


def find_functions() -> Iterator[tuple[Path, ast.FunctionDef | ast.AsyncFunctionDef]]:
    """Find every function of ours outside the tests, methods and nested ones as well."""
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text("utf-8"))):
                if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                    yield path, node


def is_excepted(function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """Return whether the name of a function follows another rule: Python's, a library's or a promise's."""
    if function.name.startswith(("__", CHOSEN_BY_PYTEST)) or function.name in CHOSEN_BY_OTHERS:
        return True
    decorators = {name_decorator(decorator) for decorator in function.decorator_list}
    return bool(decorators & {*NOUNS_BY_DECORATOR, PROMISE_DECORATOR})


def name_decorator(decorator: ast.expr) -> str:
    """Return the last name of a decorator: ``fixture`` of ``@pytest.fixture(scope="module")``."""
    if isinstance(decorator, ast.Call):
        decorator = decorator.func
    return decorator.attr if isinstance(decorator, ast.Attribute) else ast.unparse(decorator)


def begins_with_verb(name: str, verbs: set[str]) -> bool:
    """Return whether the first word is a verb; a claim has it in the third person, as in ``fits_memory``."""
    first = name.strip("_").split("_")[0]
    third_person = {first.removesuffix("s"), first.removesuffix("es")}  # fits, matches
    return first in CLAIMS | CONVERSIONS | verbs or bool(third_person & verbs)
