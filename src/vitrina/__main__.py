"""`python -m vitrina` is `vitrina`."""

from vitrina.cli import main

if __name__ == "__main__":
    main()
