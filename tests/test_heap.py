"""Memory is kept in the block, and given back after it."""

import subprocess
import sys

import pytest

BLOCK = 200 << 20

PROGRAM = f"""
import contextlib, numpy as np, resource
from sentiment_model.training.heap import kept_memory

def faults_of_a_step():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    np.empty({BLOCK}, np.uint8)[::4096] = 1
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()

with kept_memory():
    first, second, within = faults_of_a_step(), faults_of_a_step(), resident()
print(first, second, within - resident())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="tells GNU's C library")
def test_a_step_finds_the_memory_of_the_one_before() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    first, second, returned = map(int, done.stdout.split())
    assert second < first / 10
    assert returned > BLOCK * 0.9
