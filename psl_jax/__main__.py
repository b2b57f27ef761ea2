"""python -m psl_jax COMMAND: the same as psl-jax COMMAND."""

from psl_jax import cli

if __name__ == "__main__":
    cli.run()
