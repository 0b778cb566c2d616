"""Processes and event loops that handlers start, in a real worker: subprocess, multiprocessing, os.fork, asyncio."""

from __future__ import annotations

import re
from collections.abc import Iterator
from signal import SIGTERM

import pytest

from tests.worker_process import ROOT, LocalQueues, WorkerProcess, local_sqs, write_project

pytestmark = pytest.mark.slow

HANDLERS = """
import asyncio, atexit, concurrent.futures, contextvars, logging, multiprocessing, os, socket, subprocess, sys, time
import multiprocessing.connection, multiprocessing.pool, sqlite3, threading
import gevent, gevent.event, greenlet, multiprocessing.dummy
from gevent.monkey import get_original
from millpond import Message, Reject, handler

log = logging.getLogger("work")
fork = multiprocessing.get_context("fork")
variable = contextvars.ContextVar("variable", default="unset")
local = threading.local()


def square(number):
    return number * number


def live():  # until the test has seen the worker at work beside it
    log.info("lives")
    while not os.path.exists("released"):
        time.sleep(0.01)
    return os.getpid()


def ends(pid):
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def run(payload):
    assert subprocess.run(["echo", "hi"], capture_output=True, text=True).stdout == "hi\\n"
    assert subprocess.check_output(["sh", "-c", "cat; exit 0"], input=b"x" * 100_000) == b"x" * 100_000
    assert subprocess.run(["sh", "-c", "exit 7"]).returncode == 7
    assert subprocess.run(["sh", "-c", "kill -9 $$"]).returncode == -9
    with subprocess.Popen(["sleep", "60"]) as process:
        try:
            process.communicate(timeout=0.2)
        except subprocess.TimeoutExpired:
            process.kill()
        assert process.wait() == -9 and process.poll() == -9
    try:
        subprocess.run(["sleep", "60"], timeout=0.2)
    except subprocess.TimeoutExpired:
        pass
    assert os.waitstatus_to_exitcode(os.system("exit 3")) == 3


def many(payload):
    running = [subprocess.Popen(["sh", "-c", f"exit {number}"]) for number in range(20)]
    assert [process.wait() for process in running] == list(range(20))


def forks(payload):
    pid = os.fork()
    if pid == 0:
        live()
        os._exit(5)
    assert ends(pid) == 5


def returns(payload):
    pid = os.fork()
    if pid == 0:
        log.info("in the child")
        time.sleep(0)
        return
    assert ends(pid) == 0


def raises(payload):
    pid = os.fork()
    if pid == 0:
        raise ValueError("in the child")
    assert ends(pid) == 1


def process(payload):
    results = fork.Queue()
    child = fork.Process(target=lambda: results.put(live()))
    child.start()
    assert results.get() == child.pid
    child.join()
    assert child.exitcode == 0


def terminate(payload):
    child = fork.Process(target=time.sleep, args=[60])
    child.start()
    child.terminate()
    child.join()
    assert child.exitcode == -15


def pool(payload):
    with fork.Pool(2) as workers:
        assert workers.map(square, range(10)) == [number * number for number in range(10)]


def executor(payload):
    with concurrent.futures.ProcessPoolExecutor(2, mp_context=fork) as workers:
        assert list(workers.map(square, range(10))) == [number * number for number in range(10)]


def logged(function):
    try:
        function(None)
    except BaseException:
        log.exception("in the child")
        raise


def nested(payload):
    child = fork.Process(target=logged, args=[run])
    child.start()
    child.join()
    assert child.exitcode == 0


def spawned(payload):
    with multiprocessing.get_context("spawn").Pool(1) as workers:
        assert workers.apply(os.getpid) != os.getpid()
    child = multiprocessing.get_context("spawn").Process(target=sys.exit, args=[3])
    child.start()
    child.join()
    assert child.exitcode == 3


def closes(payload):
    subprocess.run(["true"])
    for _ in range(3):
        reading, writing = os.pipe()
        os.close(writing)
        assert multiprocessing.connection.wait([reading], 60) == [reading]
        os.close(reading)


def in_a_thread(function):
    thread = threading.Thread(target=function)
    thread.start()
    thread.join()


def in_a_greenlet(function):
    gevent.spawn(function).join()


def in_a_raw_greenlet(function):
    ended = gevent.event.Event()
    gevent.spawn_raw(lambda: (function(), ended.set()))
    ended.wait()


def in_an_executor(function):
    with concurrent.futures.ThreadPoolExecutor(1) as workers:
        first = workers.submit(function)
        pid = os.getpid()
        workers.submit(lambda: os._exit(99) if os.getpid() != pid else None)  # is the parent's to run
        first.result()


def in_a_pool_of_threads(function):
    with multiprocessing.pool.ThreadPool(1) as workers:
        workers.apply(function)


def in_a_pool_of_gevent(function):
    gevent.get_hub().threadpool.apply(function)


def in_a_child(function):
    child = fork.Process(target=logged, args=[lambda ignored: in_a_thread(function)])
    child.start()
    child.join()
    assert child.exitcode == 0


def fail():
    raise ValueError("in the child")


def forks_in(way):
    def work(payload):
        for ending, code in ((lambda: None, 0), (fail, 1), (lambda: sys.exit(3), 3), (lambda: sys.exit("no"), 1)):
            reading, writing = os.pipe()

            def function():
                pid = os.fork()
                if pid == 0:
                    time.sleep(0)
                    ending()
                    return
                os.write(writing, b"%d" % ends(pid))

            way(function)
            assert os.read(reading, 10) == b"%d" % code
            os.close(reading)
            os.close(writing)

    work.__name__ = way.__name__
    return work


def raw_switch(payload):
    here, inner = greenlet.getcurrent(), []

    def inside():
        inner.append(greenlet.getcurrent())
        pid = os.fork()
        here.switch(pid)
        time.sleep(0)
        return pid

    pid = greenlet.greenlet(lambda: greenlet.greenlet(inside).switch()).switch()
    assert inner[0].switch() == pid
    if pid == 0:
        time.sleep(0)
        sys.exit(7)
    assert ends(pid) == 7


def raw_under_the_hub(payload):
    here = greenlet.getcurrent()
    other = greenlet.greenlet(lambda: here.switch(os.fork()), here.parent)
    pid = other.switch()
    if pid == 0:
        time.sleep(0)
        sys.exit(7)
    assert ends(pid) == 7


def in_a_coroutine(payload):
    async def forks():
        pid = os.fork()
        return pid and ends(pid)

    assert asyncio.run(forks()) == 0


def in_a_coroutine_of_a_child(payload):
    pid = os.fork()
    if pid:
        assert ends(pid) == 0
    else:
        in_a_coroutine(payload)


def in_a_chunk(payload):  # the child has the one call in which it was forked, not those after it
    reading, writing = os.pipe()

    def work(number):
        os.write(writing, b"%d" % number)
        pid = os.fork()
        if pid:
            return ends(pid)
        if number:
            sys.exit(number)

    with multiprocessing.pool.ThreadPool(2) as workers:
        assert workers.map(work, range(3), chunksize=3) == [0, 1, 2]
        assert workers.starmap(work, [[0], [1]], chunksize=2) == [0, 1]
    assert os.read(reading, 99) == b"01201"


def in_the_hub(payload):
    forked = gevent.event.AsyncResult()
    gevent.get_hub().loop.run_callback(lambda: forked.set(os.fork()))
    pid = forked.get()
    if pid:
        assert ends(pid) == 0


def keeps(payload):
    with_the_engine = threading.get_native_id() == os.getpid()
    near, far = socket.socketpair()
    near.settimeout(30)
    held, queue, woken = threading.Lock(), multiprocessing.dummy.Queue(), []
    held.acquire()
    waiter = gevent.spawn(lambda: held.acquire() and woken.append(os.getpid()))
    with gevent.Timeout(30):
        gevent.sleep(0)
        pid = os.fork()
        time.sleep(0)
    if pid == 0:
        far.close()
        assert near.recv(99) == b"to the child"
        held.release()
        for _ in range(9):
            gevent.sleep(0)  # who is awake goes on
        assert woken == ([] if with_the_engine else [os.getpid()])
        near.sendall(b"to the parent")
        near.close()
        sys.exit(4)
    near.close()
    far.sendall(b"to the child")
    assert far.recv(99) == b"to the parent" and far.recv(99) == b""
    assert ends(pid) == 4
    held.release()
    waiter.join()
    assert woken == [os.getpid()]


async def coroutine(payload):
    async def numbers():
        for number in range(5):
            await asyncio.sleep(0.02)
            yield number

    assert [number async for number in numbers()] == list(range(5))
    process = await asyncio.create_subprocess_exec("echo", "hi", stdout=subprocess.PIPE)
    assert (await process.communicate())[0] == b"hi\\n"
    assert await asyncio.get_running_loop().run_in_executor(None, square, 3) == 9
    assert await asyncio.gather(*(asyncio.sleep(0.05, number) for number in range(3))) == [0, 1, 2]


def loop(payload):
    asyncio.run(coroutine(payload))


def things(payload, message: Message):
    assert variable.get() == "unset"
    variable.set("mine")
    assert not hasattr(local, "value") or local.value == "kept"
    local.value = "kept"
    time.sleep(0.05)
    with sqlite3.connect(":memory:") as database:
        assert database.execute("select 1 + 1").fetchone() == (2,)
    with concurrent.futures.ThreadPoolExecutor(2) as workers:
        assert list(workers.map(square, range(5))) == [0, 1, 4, 9, 16]
    log.info("fields")


def declare(function, thread):
    def work(payload: dict | None) -> None:
        function(payload)
        log.info("done")

    handler(f"{function.__name__}-{'thread' if thread else 'greenlet'}", thread=thread, max_attempts=1)(work)


for function in (run, many, forks, returns, raises, process, terminate, pool, executor, nested, spawned, loop, closes):
    for thread in (False, True):
        declare(function, thread)


for function in (raw_switch, raw_under_the_hub, in_a_coroutine, in_a_coroutine_of_a_child, in_a_chunk):
    for thread in (False, True):
        declare(function, thread)


for function in (in_the_hub, keeps):
    for thread in (False, True):
        declare(function, thread)


for way in (
    in_a_thread,
    in_a_greenlet,
    in_a_raw_greenlet,
    in_an_executor,
    in_a_pool_of_threads,
    in_a_pool_of_gevent,
    in_a_child,
):
    for thread in (False, True):
        declare(forks_in(way), thread)


@handler("whose", max_attempts=1)
def whose(payload: dict | None) -> None:
    log.info("mine", extra={"pid": os.getpid()})


@handler("things-greenlet", max_attempts=1)
def in_greenlet(payload: dict | None, message: Message) -> None:
    things(payload, message)


@handler("things-thread", thread=True, max_attempts=1)
def in_thread(payload: dict | None, message: Message) -> None:
    things(payload, message)
"""

KINDS = ("run", "many", "returns", "raises", "terminate", "pool", "executor", "nested")
KINDS += ("spawned", "loop", "closes")
FORKS = ("raw_switch", "raw_under_the_hub", "in_a_coroutine", "in_a_coroutine_of_a_child", "in_a_chunk")
FORKS += ("in_the_hub", "keeps")
WAYS = ("greenlet", "thread")
PLACES = (
    "in_a_thread",
    "in_a_greenlet",
    "in_a_raw_greenlet",
    "in_an_executor",
    "in_a_pool_of_threads",
    "in_a_pool_of_gevent",
    "in_a_child",
)


@pytest.fixture(scope="module")
def queues(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalQueues]:
    with local_sqs(tmp_path_factory.mktemp("sqs")) as queues:
        yield queues


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory, queues: LocalQueues) -> Iterator[WorkerProcess]:
    """One worker for all: what a handler leaves behind would show in the next one."""
    config = f"""
        [worker]
        handlers = ["jobs"]
        drain_seconds = 10
        [queues.q]
        url = "{queues.create("q")}"
        wait_seconds = 1
        visibility_seconds = 30
        [log]
        succeeded_per_second = 1000
    """
    with WorkerProcess(write_project(tmp_path_factory.mktemp("worker"), HANDLERS, config)) as worker:
        worker.expect("worker.ready")
        yield worker
        worker.signal(SIGTERM)
        stopped = worker.expect("worker.stopped")
        assert stopped["received"] == stopped["succeeded"]  # each was received once, and by the worker alone
        assert worker.exit_code() == 0
        assert worker.stderr == ""


def end_of(worker: WorkerProcess, *types: str) -> dict:
    """The outcome of the next message of one of these types."""
    return worker.expect_any(["message.succeeded", "message.dead_lettered", "message.retried"], type=set(types))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", KINDS)
def test_processes_and_loops_work_in_handlers_of_either_kind(worker, queues, kind, way):
    queues.send("q", f"{kind}-{way}")
    ended = end_of(worker, f"{kind}-{way}")
    assert ended["event"] == "message.succeeded", worker.output()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", FORKS)
def test_the_code_that_forked_goes_on_where_it_was_in_the_child(worker, queues, kind, way):
    queues.send("q", f"{kind}-{way}")
    ended = end_of(worker, f"{kind}-{way}")
    assert ended["event"] == "message.succeeded", worker.output()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", ["forks", "process"])
def test_a_forked_child_has_no_live_engine_in_it(worker, queues, kind, way):
    released = worker.folder / "released"
    released.unlink(missing_ok=True)
    queues.send("q", f"{kind}-{way}")
    worker.expect("log", message="lives", type=f"{kind}-{way}")
    for _ in range(20):
        queues.send("q", "whose")
        assert worker.expect("log", message="mine")["pid"] == worker.pid
    released.touch()
    ended = end_of(worker, f"{kind}-{way}")
    assert ended["event"] == "message.succeeded", worker.output()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("place", PLACES)
def test_a_child_ends_with_its_own_exit_code_wherever_it_was_forked(worker, queues, place, way):
    queues.send("q", f"{place}-{way}")
    ended = end_of(worker, f"{place}-{way}")
    assert ended["event"] == "message.succeeded", worker.output()
    names = [line["event"] for line in worker.lines]
    assert not {"greenlet.failed", "thread.failed", "object.failed"}.intersection(names), worker.output()
    assert "child.failed" in names, worker.output()


@pytest.mark.parametrize("kind", ["run", "loop", "things"])
def test_they_work_side_by_side_too(worker, queues, kind):
    for way in WAYS:
        queues.send("q", f"{kind}-{way}", number=5)
    for _ in range(10):
        ended = end_of(worker, f"{kind}-greenlet", f"{kind}-thread")
        assert ended["event"] == "message.succeeded", worker.output()


def test_a_line_of_the_log_has_its_message_in_a_thread_as_in_a_greenlet(worker, queues):
    for way in WAYS:
        queues.send("q", f"things-{way}")
        line = worker.expect("log", message="fields", type=f"things-{way}")
        assert line["queue"] == "q"
        assert line["event_id"] == line["message_id"]


SETUP = """
import logging, os
import msgspec
from millpond import handler

class Settings(msgspec.Struct):
    pass

def setup(settings):
    {work}

@handler("{name}")
def work(payload: dict | None) -> None:
    pass
"""
FORKS_AND_WAITS = "assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0 if (pid := os.fork()) else True"


def test_a_child_that_setup_forked_does_not_go_on_with_the_boot(tmp_path, queues):
    config = f"""
        [worker]
        handlers = ["jobs"]
        [queues.q]
        url = "{queues.create("forked-in-setup")}"
        wait_seconds = 1
    """
    folder = write_project(tmp_path, SETUP.format(work=FORKS_AND_WAITS, name="first"), config)
    told = "logging.getLogger('work').warning('the next one')"
    (folder / "jobs" / "zebra.py").write_text(SETUP.format(work=told, name="second"))
    with WorkerProcess(folder, "--until-empty") as worker:
        assert worker.exit_code() == 0, worker.output()
    assert [line["message"] for line in worker.lines].count("the next one") == 1


CLIENT = """
import threading
import boto3
from millpond import handler

{local}

@handler("asks-greenlet", max_attempts=1)
def in_greenlet(payload: dict | None) -> None:
    client().get_queue_url(QueueName="asked")

@handler("asks-thread", thread=True, max_attempts=1)
def in_thread(payload: dict | None) -> None:
    client().get_queue_url(QueueName="asked")
"""


def test_a_client_a_thread_as_the_page_says_serves_threads_and_greenlets(tmp_path, queues):
    [local] = re.findall(r"^```python\n(.*?)^```$", (ROOT / "docs/libraries.md").read_text(), re.MULTILINE | re.DOTALL)
    local = local.replace('client("s3")', f'client("sqs", "us-east-1", endpoint_url="{queues.endpoint}")')
    config = f"""
        [worker]
        handlers = ["jobs"]
        [queues.q]
        url = "{queues.create("asked")}"
        wait_seconds = 1
    """
    for way in WAYS:
        queues.send("asked", f"asks-{way}", number=20)
    keys = {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x"}
    folder = write_project(tmp_path, CLIENT.format(local=local), config)
    with WorkerProcess(folder, "--until-empty", **keys) as worker:
        assert worker.exit_code() == 0, worker.output()
        assert worker.expect("worker.stopped")["succeeded"] == 40
