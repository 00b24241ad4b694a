"""Nothing in the package runs code that comes as data."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "t5x_mini"
# The two ends of a pipe between `tokenize` and the processes that it starts.
OWN_PIPE = {"tokens/pool.py", "tokens/worker.py"}
LOADERS = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve", "yaml", "torch", "code", "runpy"}
CALLS = {"eval", "exec", "compile", "__import__"}
MODULES = sorted(str(path.relative_to(PACKAGE)) for path in PACKAGE.rglob("*.py"))


def dangers(text: str) -> list[str]:
    """Calls that can run code from data: `pickle.load`, `eval`, `numpy.load(allow_pickle=True)`."""
    found = []
    for node in ast.walk(ast.parse(text)):
        if not isinstance(node, ast.Call):
            continue
        name, options = ast.unparse(node.func), {option.arg: option.value for option in node.keywords}
        loads = name.split(".")[0] in LOADERS and name.rpartition(".")[2] in ("load", "loads", "Unpickler", "run_path")
        pickles = "allow_pickle" in options and ast.unparse(options["allow_pickle"]) != "False"
        trusts = "trust_remote_code" in options and ast.unparse(options["trust_remote_code"]) != "False"
        if loads or pickles or trusts or name in CALLS:
            found.append(f"line {node.lineno}: {name}")
    return found


@pytest.mark.damage("Nothing executes code from data.")
def test_no_module_loads_code_from_data():
    found = {name: dangers((PACKAGE / name).read_text()) for name in MODULES if name not in OWN_PIPE}
    assert {name: calls for name, calls in found.items() if calls} == {}


def test_the_modules_of_the_pipe_are_what_the_list_says():
    assert OWN_PIPE <= set(MODULES)
    assert all(dangers((PACKAGE / name).read_text()) for name in OWN_PIPE)


@pytest.mark.parametrize(
    "text",
    [
        "pickle.load(f)",
        "eval('1')",
        "np.load(f, allow_pickle=True)",
        "torch.load(f, weights_only=True)",
        "yaml.load(f)",
    ],
)
def test_what_is_dangerous_is_found(text):
    assert dangers(text)


def test_what_is_not_dangerous_is_not_found():
    assert dangers("json.loads(a); np.load(f, allow_pickle=False); re.compile(a); model.compile()") == []
