"""docs/cli.md from the commands themselves: `python tools/cli_docs.py [--check]`."""

import sys
from pathlib import Path
from typing import Any

import typer.main

from vitrina.cli.app import app

PAGE = Path(__file__).resolve().parent.parent / "docs" / "cli.md"

HEAD = """\
# Command line

Results go to stdout, progress and remarks to stderr. With `--json` stdout holds one JSON document and nothing
else. An error is one sentence on stderr; `--debug` shows the traceback instead.

| exit code | meaning |
|---:|---|
| 0 | done |
| 1 | something failed that is neither your input nor the disk; or a model was left out of an evaluation |
| 2 | the data, the configuration or an argument is wrong, or an extra is not installed |
| 3 | a saved model or evaluation is missing, damaged or of another version |
| 4 | state could not be read or written |
| 130 | stopped by Ctrl+C |

This page is generated from the code (`python tools/cli_docs.py`).
"""


def page() -> str:
    """The whole page."""
    parts = [HEAD]
    for name, command in commands(typer.main.get_command(app)):
        text = (command.help or "").strip()
        about, _, examples = text.partition("Examples:")
        lines = [line.strip() for line in examples.splitlines() if line.strip()]
        parts.append(f"## {name}\n\n{_unindented(about)}\n")
        parts.append("```\n" + "\n".join(lines) + "\n```\n")
        parts.append("| argument | meaning |\n|---|---|")
        parts.append("\n".join(_row(p) for p in command.params if "--help" not in p.opts) + "\n")
    return "\n".join(parts)


def commands(group: Any, name: str = "vitrina") -> list[tuple[str, Any]]:
    """Every command that does something, with its full name."""
    inner = getattr(group, "commands", None)
    if inner is None:
        return [(name, group)]
    return [found for child, command in inner.items() for found in commands(command, f"{name} {child}")]


def _unindented(text: str) -> str:
    return "\n".join(line.strip() for line in text.strip().splitlines())


def _row(parameter: Any) -> str:
    is_option = parameter.param_type_name == "option"
    names = [*parameter.opts, *parameter.secondary_opts] if is_option else [str(parameter.name).upper()]
    named = ", ".join(f"`{name}`" for name in names)
    return f"| {named} | {' '.join((parameter.help or '').split())} |"


def main() -> int:
    """Write the page, or with --check say whether it is up to date."""
    text = page()
    if "--check" in sys.argv:
        if PAGE.read_text() != text:
            print("docs/cli.md is out of date; run: python tools/cli_docs.py")
            return 1
        return 0
    PAGE.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
