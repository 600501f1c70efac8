"""The same work done by jaxgd and by what a user would otherwise write: `python -m experiments.throughput`."""
