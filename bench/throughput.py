"""10,000 messages of 20 ms at concurrency 100: time, CPU per message, requests."""

from __future__ import annotations

from bench.rig import Worker, config, server

MESSAGES = 10_000
SECONDS = 0.02
CONCURRENCY = 100


def run() -> None:
    with server() as one:
        for prefetch in (0, 100):
            for _ in range(3):
                url = one.queue()
                one.fill(url, MESSAGES, (SECONDS, SECONDS))
                text = config(
                    url,
                    queue=f"prefetch = {prefetch}\nwait_seconds = 1",
                    worker=f"concurrency = {CONCURRENCY}",
                    job=f"total = {MESSAGES}",
                )
                worker = Worker(text, "--until-empty")
                code = worker.wait(120)
                print(f"prefetch {prefetch:3}: {told(worker)}, left {one.counts(url)}, exit {code}", flush=True)


def told(worker: Worker) -> str:
    """What the marks of one run say."""
    ideal = MESSAGES * SECONDS / CONCURRENCY
    (first, _), (_, cpu), (last, all_cpu) = [worker.mark(name) for name in ("first", "thousandth", "last")]
    micros = (all_cpu - cpu) / (MESSAGES - 1_000) * 1e6
    return (
        f"{last - first:.2f} s (the sleep alone {ideal:.2f} s, x{(last - first) / ideal:.2f}), start to first message "
        f"{first - worker.started:.2f} s, {micros:.0f} us CPU a message, {worker.messages('books')[0]}"
    )


if __name__ == "__main__":
    run()
