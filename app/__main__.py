"""`python -m app …` is `weir …`, in the repository's directory."""

from app.cli import main

main()
