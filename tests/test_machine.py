"""Threads that wait do not spin and freed memory is used again: every command sees to it before torch is loaded, unless
the user has settings of his own."""

import ctypes
import os
import platform
import resource
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from nearfar import machine
from nearfar.machine import KEPT, free_memory, prepare

CODE = """
import os, subprocess, sys
from nearfar import cli

def command(words):
    assert "torch" not in sys.modules
    child = [sys.executable, "-c", "import os; print(os.environ['OMP_WAIT_POLICY'])"]
    print(subprocess.run(child, capture_output=True, text=True, check=True).stdout.strip())
    import torch
    torch.ones(2) + 1

command.raw = True
cli.load = lambda name: command
cli.main(["train"])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="asks the OpenMP that torch brings on Linux")
@pytest.mark.parametrize(("policy", "spins"), [(None, "0"), ("active", "30000000000")])
def test_threads_wait_quietly_unless_the_user_says_otherwise(policy, spins):
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_", "KMP_"))}
    environment |= {"OMP_DISPLAY_ENV": "VERBOSE"} | ({"OMP_WAIT_POLICY": policy} if policy else {})
    done = subprocess.run(
        [sys.executable, "-c", CODE], env=environment, capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stdout.split() == [policy or "passive"], "what processes started from here inherit"
    assert f"GOMP_SPINCOUNT = '{spins}'" in done.stderr, "what OpenMP took"


FAULTS = """
import resource, sys
from nearfar.machine import prepare

if sys.argv[1] == "prepared":
    prepare()
for _ in range(12):
    block = bytearray(64 << 20)
    del block
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
"""
PAGES = (64 << 20) // resource.getpagesize()


def faults(kind, **environment):
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("MALLOC_", "LD_PRELOAD", "GLIBC_TUNABLES"))}
    words = [sys.executable, "-c", FAULTS, kind]
    return int(subprocess.run(words, env=clean | environment, capture_output=True, text=True, check=True).stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc's allocator is changed")
def test_freed_memory_is_used_again_and_not_mapped_page_by_page_each_time():
    # Twelve times 64 MiB: all their pages anew, or those of the first block (huge pages would need fewer).
    plain, prepared = faults("plain"), faults("prepared")
    assert prepared < 2 * PAGES + 10_000
    if plain > 11 * PAGES:  # no huge pages here
        assert prepared < plain / 4
    assert faults("plain", MALLOC_MMAP_MAX_="0", MALLOC_TRIM_THRESHOLD_=str(KEPT)) < 2 * PAGES + 10_000, "inherited"


@pytest.mark.parametrize(
    "own", [{"MALLOC_ARENA_MAX": "1"}, {"GLIBC_TUNABLES": "glibc.malloc.arena_max=1"}, {"LD_PRELOAD": "libjemalloc.so"}]
)
def test_settings_of_the_user_stay(own, monkeypatch):
    for name in [name for name in os.environ if name.startswith(("MALLOC_", "OMP_"))]:
        monkeypatch.delenv(name)
    for name, value in own.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(ctypes, "CDLL", lambda name: pytest.fail("the allocator was changed"))
    before = dict(os.environ)
    prepare()
    assert dict(os.environ) == before | {"OMP_WAIT_POLICY": "passive"}


PIECES = """
from nearfar.machine import give_back, prepare

def resident():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmRSS"))

prepare()
blocks = [bytearray(1 << 20) for _ in range(200)]
full = resident()
kept = blocks[::2]  # what is free lies between what is in use
del blocks
pieces = resident()
give_back()
print(full - pieces, full - resident())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc's allocator gives back")
def test_free_memory_between_blocks_in_use_is_given_back():
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("MALLOC_", "LD_PRELOAD", "GLIBC_TUNABLES"))}
    words = [sys.executable, "-c", PIECES]
    done = subprocess.run(words, env=clean, capture_output=True, text=True, check=True)
    before, after = map(int, done.stdout.split())
    assert before < 10 * 1024, "KiB: prepare() keeps it"
    assert after > 90 * 1024, "of 100 MiB"


MEMINFO = "MemTotal:       8000 kB\nMemFree:         100 kB\nMemAvailable:   4000 kB\n"
SECOND = {"memory.max": "3000000\n", "memory.current": "2500000\n", "memory.stat": "anon 5\ninactive_file 300000\n"}
FIRST = {"memory.limit_in_bytes": "3000000", "memory.usage_in_bytes": "2000000", "memory.stat": "total_inactive_file 7"}


@pytest.mark.parametrize(
    ("folder", "group", "expected"),
    [
        ("", {}, 4000 * 1024),
        ("", SECOND, 800_000),
        ("", SECOND | {"memory.max": "max\n"}, 4000 * 1024),
        ("", SECOND | {"memory.current": "9000000"}, 0),
        ("memory", FIRST, 1_000_007),
        ("memory", FIRST | {"memory.limit_in_bytes": "9223372036854771712"}, 4000 * 1024),
    ],
)
def test_free_memory_within_the_limit_of_a_container(folder, group, expected, tmp_path):
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/meminfo").write_text(MEMINFO)
    (tmp_path / "sys/fs/cgroup" / folder).mkdir(parents=True)
    for name, text in group.items():
        (tmp_path / "sys/fs/cgroup" / folder / name).write_text(text)
    assert free_memory(tmp_path) == expected


@pytest.mark.skipif(sys.platform != "linux", reason="reads Linux's own files")
def test_this_machine_has_memory_left():
    assert 1 << 20 < free_memory() <= os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def test_the_fastest_of_several_runs_that_take_turns_counts(monkeypatch):
    lasting, now = {"mine": iter([9.0, 5.0, 2.0, 4.0]), "other": iter([1.0, 8.0, 9.0, 4.0])}, [0.0]
    runs = []

    def lasts(name):
        def run():
            runs.append(name)
            now[0] += next(lasting[name])

        return run

    monkeypatch.setattr(machine.time, "perf_counter", lambda: now[0])
    assert machine.time_share(lasts("mine"), lasts("other"), 3) == 0.5  # the first of each is not timed
    assert runs == ["mine", "other"] * 4


def test_threads_wait_for_what_one_of_them_computes():
    calls, both = [], threading.Barrier(4)

    @machine.once
    def timed():
        calls.append(1)
        time.sleep(0.05)
        return len(calls)

    def ask(_):
        both.wait()
        return timed()

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(ask, range(4))) == [1, 1, 1, 1]
    timed.cache_clear()
    assert timed() == 2


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_what_was_computed_is_there_in_a_child_that_was_forked_meanwhile(monkeypatch):
    """A lock that a thread of the parent holds is never opened in the child."""
    lock = threading.Lock()
    monkeypatch.setattr(machine.threading, "Lock", lambda: lock)
    number = machine.once(lambda: 5)
    assert number() == 5
    with lock:
        child = os.fork()
        if child == 0:
            signal.alarm(20)
            os._exit(number())
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 5
