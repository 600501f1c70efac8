"""`python -m jaxgd`: the same as `jaxgd`."""

from jaxgd.cli import main

main()
