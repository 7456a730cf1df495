"""`python -m latentmas_ray`: the command `latentmas`, also where its script is not on the path."""

from latentmas_ray.cli.main import run

if __name__ == "__main__":
    run()
