"""The launcher of tests, drill, benchmark and demo: what it waits for, says, and leaves: nothing."""

import os
import signal
import sys
from pathlib import Path

import pytest

from simulator.launcher import (
    ROOT,
    Child,
    Overdue,
    ProcessTrouble,
    children_of,
    group_members,
    process_tree,
    wait_until,
)

A_FAMILY = """
import os, subprocess, sys, time
apart = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
close = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print("children", apart.pid, close.pid, flush=True)
time.sleep(600)
"""


def python(code: str, tmp_path: Path, **environment: str) -> Child:
    return Child([sys.executable, "-c", code], environment, tmp_path / "log")


def test_what_is_waited_for_in_vain_is_named() -> None:
    with pytest.raises(Overdue, match="in vain for Godot"):
        wait_until(lambda: False, 0.01, "Godot")
    answers = iter((False, False, True))
    assert wait_until(lambda: next(answers), 5.0, "the third") >= 0


def test_a_line_is_found_and_the_variables_are_those_that_were_given(tmp_path: Path) -> None:
    child = python(
        "import os; print('first'); print('X =', os.environ['X'], sorted(os.environ))", tmp_path, X="7"
    )
    line = child.wait_for_line(lambda line: line if line.startswith("X =") else None)
    assert line.startswith("X = 7")
    assert "HOME" not in line
    assert (child.wait(), child.is_running) == (0, False)
    assert child.log.startswith("first\n")


def test_a_process_that_ends_before_it_is_ready_is_told_with_its_last_words(tmp_path: Path) -> None:
    child = python("import sys; sys.exit('no room')", tmp_path)
    with pytest.raises(ProcessTrouble, match="no answer: the process ended, status 1:\nno room"):
        child.wait_for(lambda: False, "answer")


def test_a_log_is_of_one_run_though_the_file_holds_all(tmp_path: Path) -> None:
    for word in ("one", "two"):
        child = python(f"print({word!r})", tmp_path)
        assert child.wait() == 0
        assert child.log == f"{word}\n"
    assert (tmp_path / "log").read_text() == "one\ntwo\n"


def test_stopping_ends_who_does_not_listen(tmp_path: Path) -> None:
    deaf = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up'); time.sleep(600)"
    child = python(deaf, tmp_path)
    child.wait_for(lambda: child.log, "word")
    with pytest.raises(Overdue, match="to end:\nup"):
        child.wait(0.01)
    assert child.stop(0.05) == -signal.SIGKILL


def test_the_whole_tree_is_killed_whatever_session_its_members_are_in(tmp_path: Path) -> None:
    child = python(A_FAMILY, tmp_path)
    line = child.wait_for_line(lambda line: line if line.startswith("children") else None)
    apart, close = map(int, line.split()[1:])
    assert set(children_of(child.pid)) == {apart, close}
    assert set(process_tree(child.pid)) == {child.pid, apart, close}
    assert set(group_members(child.pid)) == {child.pid, close}
    assert child.kill_tree() == 3
    assert group_members(child.pid) == []
    for pid in (apart, close):
        wait_until(lambda pid=pid: not alive(pid), 60.0, "the end of the children")  # type: ignore[misc]


def test_what_a_dead_parent_leaves_of_its_group_is_killed_too(tmp_path: Path) -> None:
    child = python(A_FAMILY, tmp_path)
    line = child.wait_for_line(lambda line: line if line.startswith("children") else None)
    apart, close = map(int, line.split()[1:])
    child.terminate()
    assert child.wait() == -signal.SIGTERM
    os.kill(apart, signal.SIGKILL)  # nobody knows any more whose it was
    assert group_members(child.pid) == [close]
    child.kill_tree()
    assert group_members(child.pid) == []


def test_a_child_ends_with_who_started_it(tmp_path: Path) -> None:
    code = f"""
import sys
from pathlib import Path
sys.path.insert(0, {str(ROOT)!r})
from simulator.launcher import Child
sleeper = "import time; print('up', flush=True); time.sleep(600)"
child = Child([sys.executable, "-c", sleeper], {{}}, Path("child.log"))
child.wait_for(lambda: child.log, "word")
print("child", child.pid, flush=True)
import time; time.sleep(600)
"""
    parent = Child([sys.executable, "-c", code], {}, tmp_path / "log", cwd=tmp_path)
    line = parent.wait_for_line(lambda line: line if line.startswith("child") else None)
    pid = int(line.split()[1])
    assert alive(pid)
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    wait_until(lambda: not alive(pid), 60.0, "the end of the child")


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
