"""The online state: nothing acknowledged is lost, nothing is counted twice, every trouble is one sentence."""

import os
import signal
import sqlite3
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from vitrina.errors import StateError
from vitrina.serve.state import Row, State

TS = 1_700_000_000_000_000


def row(n, user="u", item="i", at=0, **more):
    return Row(event_id=f"e{n}", user_id=user, item_id=item, event="buy", ts=TS + at, **more)


@pytest.fixture
def state(tmp_path):
    opened = State(tmp_path / "events.db", tail=5, busy_timeout_s=0.1)
    yield opened
    opened.close()


def test_a_repeat_is_a_duplicate_and_another_event_under_the_same_id_a_conflict(state):
    assert state.append([row(1), row(2), row(1)]) == ["stored", "stored", "duplicate"]
    assert state.append([row(1), row(2, item="other"), row(2, at=1)]) == ["duplicate", "conflict", "conflict"]
    assert state.append([row(2, at=7, stamped=True)]) == ["duplicate"]
    assert state.counts()["events"] == 2
    assert state.append([]) == []


def test_tails_are_in_time_order_and_hold_the_latest(state):
    state.append([row(n, item=f"i{n}", at=10 - n) for n in range(4)])
    state.append([row(n, item=f"i{n}", at=n) for n in range(4, 9)])
    times = [at for _, at, _ in state.tail("u")]
    assert times == sorted(times)
    every = sorted([10 - n for n in range(4)] + list(range(4, 9)))
    assert [at - TS for at in times] == every[-5:]
    assert state.tail("nobody") == []
    assert state.counts()["events"] == 9, "the log keeps what the tail lets go"


def test_what_was_stored_is_there_after_a_restart(tmp_path):
    first = State(tmp_path / "events.db")
    first.append([row(1, user="ü 🙂", item="x'; DROP TABLE events; --", value=2.5, request_id="r1")])
    first.close()
    again = State(tmp_path / "events.db")
    assert again.tail("ü 🙂") == [("x'; DROP TABLE events; --", TS, "buy")]
    frame = again.frame()
    assert frame.row(0, named=True)["value"] == 2.5
    assert frame["ts"].dtype.time_zone == "UTC"
    assert again.users("ü") == ["ü 🙂"]
    assert again.users("%") == []
    again.close()
    again.close()
    with pytest.raises(StateError, match="closed"):
        again.append([row(2)])


def test_many_threads_write_and_read_and_every_event_is_stored_once(state):
    wrong = []

    def work(thread):
        for n in range(40):
            outcome = state.append(
                [row(f"{thread}-{n}", user=f"u{thread}", item=str(n), at=n), row(f"shared-{n}")]
            )
            if outcome[0] != "stored":
                wrong.append(outcome)
            if state.tail(f"u{thread}")[-1][0] != str(n):
                wrong.append("a read after an acknowledged write is stale")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    assert not wrong
    assert state.counts()["events"] == 8 * 40 + 40
    assert state.frame()["event_id"].n_unique() == 360


def test_a_lock_of_another_process_is_one_sentence_and_stores_nothing(state):
    state.append([row(1)])
    other = sqlite3.connect(state.path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StateError, match="lock; try again"):
        state.append([row(2)])
    assert len(state.tail("u")) == 1, "readers do not wait for writers"
    other.execute("ROLLBACK")
    other.close()
    assert state.append([row(2)]) == ["stored"]


def test_a_full_disk_is_one_sentence_and_stores_nothing_of_the_batch(state):
    state.append([row(1)])
    pages = state._writer.execute("PRAGMA page_count").fetchone()[0]
    state._writer.execute(f"PRAGMA max_page_count = {pages + 2}")
    with pytest.raises(StateError, match="disk is full"):
        state.append([row(n, item="x" * 200) for n in range(2, 200)])
    assert state.counts()["events"] == 1
    assert state.tail("u") == [("i", TS, "buy")]
    state._writer.execute("PRAGMA max_page_count = 100000")
    assert state.append([row(2)]) == ["stored"]


FULL = """
import resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
from vitrina.errors import StateError
from vitrina.serve.state import Row, State
state = State(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
stored = 0
try:
    for n in range(10_000):
        state.append([Row(f"e{n}", "u", "i" * 100, "buy", n)])
        stored += 1
except StateError as error:
    print(stored, error)
"""


def test_when_the_system_refuses_to_write_what_was_acknowledged_is_there(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(tmp_path / "events.db")], capture_output=True, text=True, check=True
    )
    n_stored, sentence = done.stdout.split(" ", 1)
    assert "not available: the disk" in sentence
    state = State(tmp_path / "events.db")
    assert state.counts()["events"] == int(n_stored) > 0
    state.close()


def test_a_read_only_file_is_refused_at_the_start(tmp_path):
    State(tmp_path / "events.db").close()
    uri = f"file:{tmp_path / 'events.db'}?mode=ro"
    with pytest.raises(StateError, match="read-only"):
        ReadOnly(uri)


class ReadOnly(State):
    """The state as a user without write permission meets it; root, who runs many tests, has it always."""

    def _connect(self):
        connection = sqlite3.connect(
            self.path.as_posix(), uri=True, isolation_level=None, check_same_thread=False
        )
        self._connections.append(connection)
        return connection


@pytest.mark.parametrize("what", ["noise", "torn", "foreign", "folder"])
def test_a_file_that_is_not_our_state_is_refused_at_the_start(tmp_path, what):
    path = tmp_path / "events.db"
    if what == "noise":
        path.write_bytes(os.urandom(9000))
    elif what == "folder":
        path = tmp_path / "missing" / "events.db"
    elif what == "foreign":
        other = sqlite3.connect(path)
        other.execute("CREATE TABLE mine (x)")
        other.close()
    else:
        state = State(path)
        state.append([row(n, user=f"u{n}", item="x" * 50) for n in range(2000)])
        state.close()
        content = bytearray(path.read_bytes())
        content[8192:40960] = os.urandom(40960 - 8192)
        path.write_bytes(content)
    with pytest.raises(StateError, match=r"events\.db") as told:
        State(path)
    assert "\n" not in str(told.value)


WRITER = """
import sys, threading
from vitrina.serve.state import Row, State
state = State(sys.argv[1])
lock = threading.Lock()
def work(thread):
    n = 0
    while True:
        rows = [Row(f"{thread}-{n}-{i}", f"u{thread}", str(n), "buy", n) for i in range(3)]
        assert state.append(rows) == ["stored"] * 3
        with lock:
            sys.stdout.write("".join(row.event_id + "\\n" for row in rows))
            sys.stdout.flush()
        n += 1
for thread in range(4):
    threading.Thread(target=work, args=(thread,)).start()
"""


def test_nothing_acknowledged_is_lost_when_the_process_is_killed(tmp_path):
    path = tmp_path / "events.db"
    writer = subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True)
    lines = []
    enough = threading.Event()

    def read():
        for line in writer.stdout:
            lines.append(line)
            if len(lines) > 600:
                enough.set()

    reader = threading.Thread(target=read)
    reader.start()
    assert enough.wait(30)
    writer.send_signal(signal.SIGKILL)
    writer.wait()
    reader.join()
    writer.stdout.close()
    acknowledged = {line.strip() for line in lines if line.endswith("\n")}
    state = State(path)
    stored = set(state.frame()["event_id"])
    assert acknowledged <= stored
    assert len(acknowledged) > 600
    batches = {event_id.rsplit("-", 1)[0] for event_id in stored}
    assert len(stored) == 3 * len(batches), "a batch is stored whole or not at all"
    state.close()
