"""Studies: published results, measured again. Each is a script: `python -m experiments.NAME --help`."""
