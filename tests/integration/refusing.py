#!/usr/bin/env python3
"""Executes a command under a seccomp filter that refuses one system call.

    refusing.py NUMBER[:FIRST_ARGUMENT] ERRNO COMMAND [ARGUMENT]...

What the command starts is under it as well. (A kernel that lacks the call answers so, and
so do the filters of containers.)
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct
import sys

PR_SET_NO_NEW_PRIVS = 38
PR_SET_SECCOMP = 22
SECCOMP_MODE_FILTER = 2
# <linux/bpf_common.h> and <linux/seccomp.h>
LOAD, JUMP_IF_EQUAL, RETURN = 0x20, 0x15, 0x06
NUMBER, FIRST_ARGUMENT = 0, 16  # offsets in struct seccomp_data
ERRNO, ALLOW = 0x00050000, 0x7FFF0000

PRCTL = {"x86_64": 157, "aarch64": 167}.get(platform.machine(), 0)
PIDFD_OPEN = 434  # the same everywhere, as all that are newer than 5.0


def _instruction(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("=HBBI", code, if_true, if_false, value)


def refuse(number: int, first: int | None, errno: int) -> None:
    """Have this process and its children refused the call."""
    checks = [(NUMBER, number)] + ([(FIRST_ARGUMENT, first)] if first is not None else [])
    program = b""
    for index, (offset, value) in enumerate(checks):
        left = 2 * (len(checks) - index) - 1
        program += _instruction(LOAD, offset) + _instruction(JUMP_IF_EQUAL, value, 0, left)
    program += _instruction(RETURN, ERRNO | errno) + _instruction(RETURN, ALLOW)
    kept = ctypes.create_string_buffer(program)
    fprog = struct.pack("HP", len(program) // 8, ctypes.addressof(kept))
    libc = ctypes.CDLL(None, use_errno=True)
    zero = ctypes.c_ulong(0)
    for call in (
        (PR_SET_NO_NEW_PRIVS, ctypes.c_ulong(1), zero, zero, zero),
        (PR_SET_SECCOMP, ctypes.c_ulong(SECCOMP_MODE_FILTER), fprog),
    ):
        if libc.prctl(*call) != 0:
            raise OSError(ctypes.get_errno(), "prctl")


if __name__ == "__main__":
    number, _, first = sys.argv[1].partition(":")
    refuse(int(number), int(first) if first else None, int(sys.argv[2]))
    os.execvp(sys.argv[3], sys.argv[3:])
