import json
import subprocess
import sys

import pytest

import vitrina

HEAVY = (
    "torch",
    "fastapi",
    "starlette",
    "uvicorn",
    "optuna",
    "altair",
    "numba",
    "scipy",
    "polars",
    "pyarrow",
    "pydantic",
)


def modules_after(statement: str) -> list[str]:
    code = f"{statement}\nimport sys, json; print(json.dumps(sorted(m.split('.')[0] for m in sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def test_import_vitrina_loads_nothing_that_takes_time():
    loaded = set(modules_after("import vitrina"))
    assert not loaded & set(HEAVY)


@pytest.mark.parametrize(
    "statement", ["import vitrina.pipeline", "import vitrina.evaluate", "import vitrina.recipes"]
)
def test_nothing_but_the_service_loads_a_web_framework_and_nothing_loads_torch_or_an_optimiser(statement):
    loaded = set(modules_after(statement))
    assert not loaded & {"torch", "fastapi", "starlette", "uvicorn", "optuna"}


def test_the_command_line_says_its_help_before_anything_heavy_is_loaded():
    loaded = set(modules_after("import vitrina.cli.app"))
    assert not loaded & set(HEAVY)


def test_help_loads_no_numbers_and_no_frames():
    code = (
        "import sys\n"
        "from typer.testing import CliRunner\n"
        "from vitrina.cli.app import app\n"
        "assert CliRunner().invoke(app, ['--help']).exit_code == 0\n"
        "heavy = {'numpy', 'polars', 'numba', 'scipy'}\n"
        "print(','.join({name.partition('.')[0] for name in sys.modules} & heavy))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == ""


def test_every_public_name_can_be_imported_and_dir_lists_it():
    for name in vitrina.__all__:
        assert getattr(vitrina, name) is not None
    assert dir(vitrina) == sorted(vitrina.__all__)


def test_an_unknown_name_says_what_there_is():
    with pytest.raises(AttributeError, match=r"has no attribute 'Pipelin'.*Pipeline"):
        vitrina.Pipelin  # noqa: B018


def test_the_stub_for_editors_lists_the_same_names_as_the_module():
    import ast
    from pathlib import Path

    stub = ast.parse(Path(vitrina.__file__).with_suffix(".pyi").read_text())
    named = {"__version__"}
    for node in stub.body:
        if isinstance(node, ast.ImportFrom):
            named |= {alias.asname or alias.name for alias in node.names}
    assert named == set(vitrina.__all__)


def test_every_candidate_generator_and_policy_is_at_the_top_level():
    from vitrina.candidates import CANDIDATES
    from vitrina.policies import POLICIES

    assert {*CANDIDATES, *POLICIES} <= set(vitrina.__all__)
