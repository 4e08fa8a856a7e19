"""The command line: `vitrina inspect | evaluate | train | tune | plan | serve | report | data | demo`.

Only this module is imported at start; a command imports what it needs when it runs, so `--help` is quick.
"""

import os
import sys


def main() -> None:
    """Entry point: runs a command; an expected error is one sentence on stderr and its own exit code."""
    from vitrina.cli import options
    from vitrina.cli.app import app
    from vitrina.errors import VitrinaError

    try:
        app()
    except VitrinaError as error:
        _stop(str(error), error.exit_code, debug=options.debugging())
    except ModuleNotFoundError as error:
        sentence = options.missing_extra(error)
        if sentence is None:
            raise
        _stop(sentence, 2, debug=options.debugging())
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except KeyboardInterrupt:
        _stop("stopped; what was finished is kept", 130, debug=False)


def _stop(sentence: str, code: int, *, debug: bool) -> None:
    if debug:
        raise  # noqa: PLE0704  called from an except block: the traceback is what was asked for
    sys.stderr.write(f"error: {sentence}\n")
    sys.exit(code)


__all__ = ["main"]
