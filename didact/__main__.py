"""``python -m didact`` and the ``didact`` command."""

from didact.cli import main

if __name__ == "__main__":
    main()
