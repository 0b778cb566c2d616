"""A standard output that nobody reads, that is closed or that is full: real pipes, real processes."""

from __future__ import annotations

import fcntl
import io
import json
import logging
import os
import resource
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress

import pytest
from gevent.monkey import get_original

from millpond.observe import log
from millpond.observe.standard_output import PATIENCE_SECONDS, StandardOutput, unblocked
from tests.worker_process import ROOT, SECONDS, WORKER, local_sqs, write_project

_close = get_original("os", "close")  # gevent's own waits for the hub
_sleep = get_original("time", "sleep")
_start_thread = get_original("_thread", "start_new_thread")
_monotonic = get_original("time", "monotonic")


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    yield
    root.handlers[:] = before
    root.setLevel(level)


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """(reading, writing), which takes 16 KiB."""
    reading, writing = os.pipe()
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 16_384)
    yield reading, writing
    for number in (reading, writing):
        with suppress(OSError):  # the test has closed it
            os.close(number)


def text_of(number: int) -> io.TextIOWrapper:
    return io.TextIOWrapper(io.FileIO(number, "w", closefd=False))


def read_all(number: int) -> bytes:
    """What a pipe holds now."""
    os.set_blocking(number, False)
    data = b""
    while True:
        try:
            piece = os.read(number, 65_536)
        except BlockingIOError:
            return data
        if not piece:
            return data
        data += piece


def lines_of(data: bytes) -> list[dict]:
    return [json.loads(line) for line in data.splitlines()]


def test_what_a_thread_says_at_once_is_counted_while_another_waits_for_a_reader_and_hurts_neither(pipe):
    out = StandardOutput(pipe[1])
    while out.offer(b"x" * 1_000 + b"\n"):
        pass
    slow, over, said = StandardOutput(pipe[1]), [], 0

    def write() -> None:
        try:
            over.append(slow.offer(b"a line\n"))
        except BaseException as error:
            over.append(error)

    _start_thread(write, ())
    while not over:
        slow.write_at_once(b"a word\n")
        said += 1
        _sleep(0.001)
    assert over == [False]
    assert slow.dropped == said > 1


def test_a_pipe_that_nobody_reads_drops_lines_and_says_how_many_when_it_flows_again(pipe):
    reading, writing = pipe
    log.setup("info", "json", text_of(writing))
    for number in range(2_000):
        log.event(logging.INFO, "worker.ready", "text", number=number)
    before = lines_of(read_all(reading))
    assert [line["number"] for line in before] == list(range(len(before)))  # whole lines, the oldest ones
    log.event(logging.INFO, "worker.stopped", "waiting")
    told, stopped = lines_of(read_all(reading))
    assert (told["event"], told["lines"]) == ("log.dropped", 2_000 - len(before))
    assert told["message"] == f"{2_000 - len(before)} log lines were dropped: nobody read them"
    assert stopped["event"] == "worker.stopped"
    log.event(logging.INFO, "worker.stopped", "waiting")
    assert len(lines_of(read_all(reading))) == 1  # it is told once


def test_what_was_dropped_is_told_at_the_flush_too(pipe):
    reading, writing = pipe
    log.setup("info", "json", text_of(writing))
    for _ in range(500):
        log.event(logging.INFO, "worker.ready", "waiting")
    read_all(reading)
    log.flush()
    assert [line["event"] for line in lines_of(read_all(reading))] == ["log.dropped"]


@pytest.mark.clock
def test_a_full_pipe_holds_up_a_worker_for_half_a_second_in_all_not_at_each_line(pipe):
    _, writing = pipe
    out = StandardOutput(writing)
    began = _monotonic()
    for _ in range(1_000):
        out.write(b"x" * 99 + b"\n")
    assert _monotonic() - began < 2 * PATIENCE_SECONDS
    assert out.dropped > 800


def test_a_reader_that_is_only_slow_loses_nothing(pipe):
    reading, writing = pipe
    got = bytearray()
    done = get_original("_thread", "allocate_lock")()
    done.acquire()

    def read() -> None:  # natively: greenlets do not run while the hub waits
        while piece := os.read(reading, 512):
            got.extend(piece)
            _sleep(0.001)
        done.release()

    get_original("_thread", "start_new_thread")(read, ())
    out = StandardOutput(writing)
    for number in range(300):
        out.write(b"%099d\n" % number)
    _close(writing)
    assert done.acquire(True, 10)
    assert out.dropped == 0
    assert bytes(got) == b"".join(b"%099d\n" % number for number in range(300))


def test_a_line_longer_than_the_pipe_is_finished_before_the_next_one_begins(pipe):
    reading, writing = pipe
    out = StandardOutput(writing)
    long = b"a" * 40_000 + b"\n"
    out.write(long)
    out.write(b"lost\n")
    assert out.dropped == 1
    data = read_all(reading)
    while len(data) < len(long) and not out.offer(b"next\n"):
        data += read_all(reading)
    assert data + read_all(reading) == long + b"next\n"


def test_print_in_a_handler_is_not_held_up_either(pipe):
    reading, writing = pipe
    stream = unblocked(text_of(writing))
    log.setup("info", "json", stream)
    for _ in range(1_000):
        print("x" * 99, file=stream)
    read_all(reading)
    log.event(logging.INFO, "worker.ready", "waiting")
    told, ready = lines_of(read_all(reading))
    assert told["lines"] > 800
    assert ready["event"] == "worker.ready"


def test_print_and_the_log_come_out_in_the_order_in_which_they_were_written(pipe):
    reading, writing = pipe
    stream = unblocked(text_of(writing))
    log.setup("info", "json", stream)
    print("one", "two", file=stream)
    log.event(logging.INFO, "worker.ready", "waiting")
    print("three", file=stream)
    assert [line[:8] for line in read_all(reading).splitlines()] == [b"one two", b'{"ts":"2', b"three"]


def test_a_stream_without_a_descriptor_stays_as_it_is():
    stream = io.StringIO()
    assert unblocked(stream) is stream
    assert unblocked(None) is None


def test_a_full_disk_drops_lines_and_they_are_counted_when_there_is_room_again():
    full = os.open("/dev/full", os.O_WRONLY)
    out = StandardOutput(full)
    out.write(b"one\ntwo\n")
    assert out.dropped == 2
    reading, writing = os.pipe()
    os.dup2(writing, full)
    assert out.offer(b"three\n")
    assert os.read(reading, 100) == b"three\n"
    for number in (full, reading, writing):
        os.close(number)


def test_a_reader_that_has_gone_leads_nowhere_for_everybody(pipe):
    reading, writing = pipe
    out = StandardOutput(writing)
    _close(reading)
    out.write(b"one\n")
    os.write(writing, b"two\n")  # without SIGPIPE's error
    assert out.dropped == 0


def test_a_reader_that_has_gone_is_no_error_of_print_where_the_process_has_no_descriptor_left(pipe):
    reading, writing = pipe
    out = StandardOutput(writing)
    _close(reading)
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (1, before[1]))  # poll() takes no more than that either
    try:
        out.write(b"one\n")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    out.write(b"two\n")
    os.write(writing, b"three\n")  # it leads nowhere now


class Watch:
    """A clock that a test sets. At each look it goes on by `step` and `then` is called."""

    def __init__(self) -> None:
        self.now, self.step, self.then = 1_000.0, 0.0, lambda: None

    def monotonic(self) -> float:
        self.now += self.step
        self.then()
        return self.now


def test_one_hundredth_of_the_time_that_goes_by_is_new_patience_with_a_slow_reader(pipe, monkeypatch):
    reading, writing = pipe
    watch = Watch()
    monkeypatch.setattr("millpond.observe.standard_output.time", watch)
    out = StandardOutput(writing)
    watch.step = PATIENCE_SECONDS

    def fill() -> None:
        while out.offer(b"x" * 4_096):
            pass

    fill()  # all patience is gone with it
    watch.step = 0.0
    watch.then = lambda: read_all(reading)  # there is room as soon as the standard_output waits for it
    os.set_blocking(reading, False)
    assert not out.offer(b"x")
    watch.then = lambda: None
    fill()
    watch.now += 0.05  # half a millisecond more
    watch.then = lambda: read_all(reading)
    assert not out.offer(b"x")
    watch.then = lambda: None
    fill()
    watch.now += 1
    watch.then = lambda: read_all(reading)
    assert out.offer(b"x")


def test_lines_of_threads_are_whole(pipe):
    reading, writing = pipe
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 1 << 20)
    out = StandardOutput(writing)
    writers = [
        threading.Thread(target=lambda letter=letter: [out.write(letter * 4_999 + b"\n") for _ in range(20)])
        for letter in (b"a", b"b")
    ]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert {line[:1] * 4_999 for line in read_all(reading).splitlines()} == {b"a" * 4_999, b"b" * 4_999}


def test_a_standard_output_that_was_never_open_is_no_error():
    code = "from millpond.observe import log; log.setup('info', 'auto'); log.event(20, 'a.b', 'text'); log.flush()"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, close_fds=True, preexec_fn=lambda: os.close(1), check=True)


PRINTS = """
import logging
from millpond import handler

@handler("print")
def show(payload: dict | None) -> None:
    print("p" * 300)
    logging.getLogger("work").info("l" * 300)
"""


@pytest.mark.slow
def test_a_worker_whose_output_nobody_reads_works_on_and_ends_in_order(tmp_path):
    with local_sqs(tmp_path) as queues:
        url = queues.create("q")
        config = f'[worker]\nhandlers = ["jobs"]\ndrain_seconds = 10\n[queues.q]\nurl = "{url}"\nwait_seconds = 1\n'
        folder = write_project(tmp_path / "worker", PRINTS, config)
        queues.send("q", "print", number=1_000)
        worker = subprocess.Popen(
            [sys.executable, *WORKER],
            cwd=folder,
            env={"PATH": os.environ["PATH"], "HOME": str(folder), "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        with worker:
            try:
                end = _monotonic() + SECONDS
                while queues.counts("q") != (0, 0, 0):
                    assert _monotonic() < end
                worker.terminate()
                assert worker.wait(20) == 0
                events = [line for line in worker.stdout.read().splitlines() if line.startswith(b'{"ts"')]
                assert 10 < len(events) < 1_000
                assert worker.stderr.read() == b""
            finally:
                worker.kill()


def test_a_log_whose_stream_was_closed_writes_into_no_file_that_has_its_descriptor_now(tmp_path):
    stream = open(tmp_path / "log", "w")  # noqa: SIM115  it is closed below
    log.setup("info", "json", stream)
    number = stream.fileno()
    with open(tmp_path / "letter", "w") as other:
        stream.close()
        os.dup2(other.fileno(), number)
        try:
            log.event(logging.INFO, "worker.ready", "waiting")
            log.flush()
        finally:
            _close(number)
    assert (tmp_path / "letter").read_text() == ""
