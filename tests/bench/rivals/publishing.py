"""How fast a process submits: tasks a second, and what of its own CPU each of them costs."""

import threading
import time
from collections.abc import Callable

BODY = "x" * 256


def clocks() -> tuple[float, float]:
    """Seconds on the wall, and seconds of this process's CPU, all threads and the kernel's work for it included."""
    return time.perf_counter(), time.process_time()


def told(count: int, since: tuple[float, float]) -> str:
    """Tasks a second, and microseconds of CPU for each, since `clocks()`."""
    wall, cpu = clocks()
    return f"{count / (wall - since[0])} {(cpu - since[1]) / count * 1e6}"


def by_threads(send: Callable[[str], object], threads: int, count: int) -> str:
    """Submit `count` tasks by so many threads, each one task after the other; what `told` tells.

    The clock starts when every thread has submitted one task: the connections are there, and the queue is.
    """
    started: list[tuple[float, float]] = []
    ready = threading.Barrier(threads, action=lambda: started.append(clocks()))

    def work() -> None:
        send(BODY)
        ready.wait()
        for _ in range(count // threads):
            send(BODY)

    workers = [threading.Thread(target=work) for _ in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return told(count // threads * threads, started[0])
