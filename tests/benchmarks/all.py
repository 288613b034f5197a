"""All benchmarks, one after the other: `make bench`. `figures` needs the run that `make demo` left."""

from __future__ import annotations

from tests.benchmarks import figures, labelling, training

if __name__ == "__main__":
    labelling.main()
    training.main()
    figures.main()
