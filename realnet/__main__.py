"""`python -m realnet` is the `realnet` command."""

from realnet.cli import main

if __name__ == "__main__":
    main()
