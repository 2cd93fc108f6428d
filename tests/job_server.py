"""A supervisor in a process of its own, so that a test can kill it as `kill -9` kills a server.

python job_server.py FOLDER MODEL     runs until it is killed, or until SIGTERM shuts it down
"""

import signal
import sys
import threading
from pathlib import Path

from job_bench import Bench


def main(folder: Path, model: Path) -> None:
    """Run the jobs of the folder."""
    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda number, frame: ended.set())
    bench = Bench(folder, model)
    bench.supervisor.start()
    print("ready", flush=True)
    while not ended.wait(0.05):
        pass
    bench.supervisor.shutdown()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
