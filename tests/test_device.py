"""What choosing a device does to the process."""

import platform

import pytest


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is glibc's")
def test_freed_tensors_are_not_given_back_to_the_system_on_a_cpu(command):
    """64 MiB are 16,384 pages; each that was given back would be a page fault when it is asked for again."""
    code = """
import resource, torch
from utils.device import Compute

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

Compute.choose("cpu", "fp32")
for _ in range(50):
    torch.zeros(2**24).fill_(1)
before = faults()
for _ in range(50):
    torch.zeros(2**24).fill_(1)
print((faults() - before) // 50)
"""
    assert int(command("-c", code).stdout) < 2000
