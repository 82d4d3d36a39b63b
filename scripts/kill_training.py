"""Kill a small training run with `kill -9` at random instants, and see that nothing is lost.

python scripts/kill_training.py --count 200
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.train.killing import shoot


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=200, help="kills in all")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        runs = shoot(Path(folder), arguments.count, arguments.seed)
    print(f"{arguments.count} kills, {runs} runs, {time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
