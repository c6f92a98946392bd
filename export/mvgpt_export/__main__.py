"""`python -m mvgpt_export` is `mvgpt`."""

from .cli import main

main()
