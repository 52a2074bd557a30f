"""Runs one Python program confined: `python -I confine.py SETTINGS PROGRAM`.

It limits itself before the program's first line runs, and no limit can be taken back:

* rlimits: memory, processor time, size of written files, no core file
* Landlock: files are written below the working directory only
* a seccomp filter: no sockets, no io_uring, no signals, no ptrace, no new processes (threads
  are allowed)
* no capabilities, and no way to gain any
* it dies with the process that started it

Where one of them cannot be had (Linux before 5.13, or Landlock off), nothing is run. This stops
mistakes and mischief of generated programs. It is no sandbox against an attacker: whatever the
user can read, the program can read.

Standard library only: it must run outside the package too.
"""

from __future__ import annotations

import ctypes
import json
import os
import platform
import resource
import struct
import sys

_PR_SET_PDEATHSIG, _PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _SECCOMP_MODE_FILTER = 1, 38, 22, 2
_SIGKILL, _EPERM, _ENOSYS = 9, 1, 38
_CLONE_THREAD = 0x10000
_ALLOW, _ERRNO, _KILL = 0x7FFF0000, 0x00050000, 0x80000000
# BPF: load a word, jump if equal, jump if a bit is set, return.
_LOAD, _IF_EQUAL, _IF_BIT, _RETURN = 0x20, 0x15, 0x45, 0x06
_OFFSET_SYSCALL, _OFFSET_ARCH, _OFFSET_ARGUMENT = 0, 4, 16

# AUDIT_ARCH, and the numbers of the system calls: clone, clone3, and those that are refused
# (socket, socketpair, ptrace, setsid, kill, tkill, tgkill, io_uring_setup, pidfd_send_signal;
# fork and vfork, which the second has only as clone).
_SYSTEMS = {
    "x86_64": (0xC000003E, 56, 435, (41, 53, 101, 112, 62, 200, 234, 425, 424, 57, 58)),
    "aarch64": (0xC00000B7, 220, 435, (198, 199, 117, 157, 129, 130, 131, 425, 424)),
}
_X32_BIT = 0x40000000

# Landlock: system calls, and rights to change files by the version that brought them.
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_WRITE_FILE, _REFER, _TRUNCATE = 1 << 1, 1 << 13, 1 << 14
_REMOVE_AND_MAKE = sum(1 << bit for bit in range(4, 13))

_CAPABILITY_VERSION_3 = 0x20080522

_LIBC = ctypes.CDLL(None, use_errno=True)

CANNOT_CONFINE = 97  # exit status


def seccomp_program(machine: str) -> bytes:
    """The filter as BPF instructions.

    Raises:
        KeyError: an unknown machine.
    """
    arch, clone, clone3, refused = _SYSTEMS[machine]
    code: list[tuple[int, int, int, int]] = [
        (_LOAD, 0, 0, _OFFSET_ARCH),
        (_IF_EQUAL, 1, 0, arch),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, _OFFSET_SYSCALL),
        (_IF_BIT, 0, 1, _X32_BIT),
        (_RETURN, 0, 0, _KILL),
        # The flags of clone3 lie in memory, out of the filter's sight: libc falls back to clone.
        (_IF_EQUAL, 0, 1, clone3),
        (_RETURN, 0, 0, _ERRNO | _ENOSYS),
    ]
    for number in refused:
        code += [(_IF_EQUAL, 0, 1, number), (_RETURN, 0, 0, _ERRNO | _EPERM)]
    code += [
        (_IF_EQUAL, 0, 3, clone),
        (_LOAD, 0, 0, _OFFSET_ARGUMENT),
        (_IF_BIT, 1, 0, _CLONE_THREAD),
        (_RETURN, 0, 0, _ERRNO | _EPERM),
        (_RETURN, 0, 0, _ALLOW),
    ]
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in code)


def confine(memory: int, cpu_seconds: int, file_bytes: int) -> None:
    """Limit this process for good.

    Raises:
        OSError: a limit could not be set; nothing must be run then.
        KeyError: an unknown machine.
    """
    for limit, value in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_CPU, cpu_seconds),
        (resource.RLIMIT_FSIZE, file_bytes),
    ):
        resource.setrlimit(limit, (value, value))
    _call("prctl", _PR_SET_PDEATHSIG, ctypes.c_ulong(_SIGKILL), 0, 0, 0)
    _call("prctl", _PR_SET_NO_NEW_PRIVS, ctypes.c_ulong(1), 0, 0, 0)
    _write_only_below(os.getcwd())
    # Header: version, this process. Then effective, permitted and inheritable, twice 32 bits.
    _call("capset", struct.pack("=Ii", _CAPABILITY_VERSION_3, 0), bytes(24))
    program = seccomp_program(platform.machine())
    buffer = ctypes.create_string_buffer(program, len(program))
    # struct sock_fprog: number of instructions, pointer.
    pointer = struct.pack("@HP", len(program) // 8, ctypes.addressof(buffer))
    _call("prctl", _PR_SET_SECCOMP, ctypes.c_ulong(_SECCOMP_MODE_FILTER), pointer, 0, 0)


def _write_only_below(folder: str) -> None:
    version = _call("syscall", _CREATE_RULESET, None, ctypes.c_size_t(0), ctypes.c_uint(1))
    rights = _WRITE_FILE | _REMOVE_AND_MAKE
    rights |= _REFER if version >= 2 else 0
    rights |= _TRUNCATE if version >= 3 else 0
    ruleset = _call("syscall", _CREATE_RULESET, struct.pack("=Q", rights), ctypes.c_size_t(8), 0)
    for path, allowed in ((folder, rights), (os.devnull, rights & (_WRITE_FILE | _TRUNCATE))):
        beneath = os.open(path, os.O_PATH)
        _call("syscall", _ADD_RULE, ruleset, 1, struct.pack("=Qi", allowed, beneath), 0)
        os.close(beneath)
    _call("syscall", _RESTRICT_SELF, ruleset, 0)
    os.close(ruleset)


def _call(name: str, *arguments: object) -> int:
    result = int(getattr(_LIBC, name)(*arguments))
    if result < 0:
        raise OSError(ctypes.get_errno(), f"{name}{arguments[:1]} failed")
    return result


def _main() -> None:
    limits, path = json.loads(sys.argv[1]), sys.argv[2]
    with open(path, encoding="utf-8") as file:
        source = file.read()
    try:
        confine(**limits)
    except (OSError, KeyError) as error:
        print(f"cannot confine a program on this machine: {error!r}", file=sys.stderr)
        os._exit(CANNOT_CONFINE)
    sys.argv = [path]
    exec(compile(source, path, "exec"), {"__name__": "__main__"})


if __name__ == "__main__":
    _main()
