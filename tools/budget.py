"""Size budget of src/: files <= 400 lines, functions <= 60 lines, <= 12 parameters (DESIGN section 2)."""

import ast
import sys
from pathlib import Path

MAX_FILE, MAX_FUNCTION, MAX_PARAMETERS = 400, 60, 12


def breaches(path: Path) -> list[str]:
    """Sentences naming each breach of the budget in one file."""
    text = path.read_text()
    found = []
    n_lines = text.count("\n")
    if n_lines > MAX_FILE:
        found.append(f"{path}: {n_lines} lines, the budget is {MAX_FILE}; split it by idea")
    for node in ast.walk(ast.parse(text)):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        first = node.body[0]
        is_doc = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
        docstring = (first.end_lineno or 0) - first.lineno + 1 if is_doc else 0
        n_body = (node.end_lineno or 0) - node.lineno + 1 - docstring
        if n_body > MAX_FUNCTION:
            found.append(f"{path}:{node.lineno} {node.name}: {n_body} lines, the budget is {MAX_FUNCTION}")
        arguments = node.args
        n_parameters = len(arguments.posonlyargs + arguments.args + arguments.kwonlyargs)
        if n_parameters > MAX_PARAMETERS:
            found.append(
                f"{path}:{node.lineno} {node.name}: {n_parameters} parameters, at most {MAX_PARAMETERS}"
            )
    return found


def main() -> int:
    """Print every breach; exit 1 if there is one."""
    root = Path(__file__).resolve().parent.parent / "src"
    found = [line for path in sorted(root.rglob("*.py")) for line in breaches(path)]
    print("\n".join(found) or "size budget: kept")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
