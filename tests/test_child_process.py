"""The helper that starts programs for other tests: it loses no line and leaves nothing behind."""

from __future__ import annotations

import signal
import sys

import psutil
import pytest
from child_process import ChildProcess, run
from patience import wait_until

MANY_LINES = """
import sys
for number in range(20_000):
    print("line", number, file=sys.stderr)
    if number == 10_000:
        sys.stderr.flush()
        sys.stdin.readline()
"""


def is_running(process_id: int) -> bool:
    """Whether there is such a process that is no zombie waiting for its parent."""
    try:
        return psutil.Process(process_id).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def python(program: str) -> ChildProcess:
    """Start a Python program."""
    return ChildProcess(sys.executable, "-u", "-c", program)


def test_no_line_is_lost_between_waiting_and_the_end() -> None:
    """What was read on the way to a line is in the whole output as well, however much it is."""
    with python(MANY_LINES) as child:
        child.wait_for("^line 10000$")
        child.write("go on\n")
        done = child.finish()
    assert done.stderr.splitlines() == [f"line {number}" for number in range(20_000)]


def test_a_line_that_came_before_is_found() -> None:
    """Whoever waits twice, or late, finds it, in either stream."""
    with python("import sys; print('one'); print('two', file=sys.stderr)") as child:
        assert child.finish().returncode == 0
        assert child.wait_for("^(o)ne")[1] == "o"
        assert child.wait_for("two")


def test_a_program_that_ends_without_the_line_is_an_error_with_all_it_said() -> None:
    """Nobody waits for a line of a program that has gone."""
    with python("print('something else'); raise SystemExit(3)") as child:
        with pytest.raises(AssertionError, match=r"(?s)status: 3.*something else"):
            child.wait_for("^ready")


def test_a_failing_test_leaves_no_process_behind() -> None:
    """What the program started is killed with it, and the failure shows what was said."""
    program = (
        "import subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        "print(child.pid); time.sleep(600)\n"
    )
    with pytest.raises(ZeroDivisionError) as failure, python(program) as child:  # noqa: PT012
        grandchild = int(child.wait_for(r"^\d+$")[0])
        assert 1 / 0
    assert child.returncode == -signal.SIGKILL
    assert str(grandchild) in "".join(failure.value.__notes__)
    wait_until(lambda: not is_running(grandchild))


def test_a_program_that_never_ends_is_killed() -> None:
    """The time limit names itself."""
    with pytest.raises(AssertionError, match="did not end within"):
        run(sys.executable, "-c", "import time; time.sleep(600)", seconds=0.1)


def test_input_reaches_the_program() -> None:
    """And its end as well."""
    assert run("cat", input="你好\n").stdout == "你好\n"
