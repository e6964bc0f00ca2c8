"""`python -m ditzoo`, and `accelerate launch -m ditzoo train RECIPE`."""

from ditzoo.cli import main

if __name__ == "__main__":
    main()
