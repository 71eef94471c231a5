"""`python -m trainkit`: the same as the console script `trainkit`."""

from trainkit.cli.main import main

if __name__ == "__main__":
    main()
