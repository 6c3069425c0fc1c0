"""Celery's side of scripts/bench-queue: the worker's module, and `python celery_app.py push|tick|hold N`.

Everything is Celery's default but the results, which no system of the table keeps.
"""

import os
import sys
import time

from celery import Celery

app = Celery("bench", broker=os.environ["BENCH_REDIS"])
app.conf.task_ignore_result = True
app.conf.broker_connection_retry_on_startup = True


def note(line):
    with open(os.environ["BENCH_SEEN"], "a") as seen:
        seen.write(f"{line}\n")


@app.task(name="nop")
def nop(payload):
    if payload[0] == "t":
        note(time.time_ns() - int(payload.split()[0][1:]))
    elif payload[0] == "s":
        time.sleep(0.1)
        note(payload.split()[0][1:])


def main():
    what, n = sys.argv[1], int(sys.argv[2])
    # Celery has no call for many tasks; one connection kept for all of them is the fastest it offers.
    with app.producer_pool.acquire(block=True) as producer:
        begun = time.time()
        for k in range(n):
            if what == "tick":
                time.sleep(max(0, begun + k * 0.02 - time.time()))
            payload = {"push": "x", "tick": f"t{time.time_ns()} ", "hold": f"s{k} "}[what]
            nop.apply_async((payload.ljust(98, "x"),), producer=producer)
        print(time.time() - begun)


if __name__ == "__main__":
    main()
