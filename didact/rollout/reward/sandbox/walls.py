"""Walls a Linux process in, for good: no files but those to be read, no other process, no network, no privileges.

Landlock (docs.kernel.org/userspace-api/landlock.html) bounds the files, seccomp (.../seccomp_filter.html) the system
calls, ``setrlimit`` the amounts. Stands by itself: the walled process imports nothing of Didact.
"""

import ctypes
import os
import platform
import resource
import struct
from collections.abc import Iterable

FILE = 1 << 20  # bytes of a file in memory, the only kind it can write
HANDLES = 64  # open files
READ, READ_FOLDER, WRITE = 1 << 2, 1 << 3, 1 << 1  # Landlock's rights
RIGHTS = (0x1FFF, 0x3FFF, 0x7FFF, 0x7FFF, 0xFFFF)  # all rights over files that version 1, 2, ... knows
NO_NEW_PRIVILEGES, SECCOMP, FILTER = 38, 22, 2  # for prctl
RULESET, RULE, RESTRICT = 444, 445, 446  # Landlock's system calls, the same everywhere
OPEN_PATH = 0o10000000
THREAD = 0x10000  # CLONE_THREAD
NOT_PERMITTED, NOT_THERE = 1, 38  # EPERM, ENOSYS
ALLOW, REFUSE, KILL = 0x7FFF0000, 0x00050000, 0x80000000
# By machine: its number for seccomp, clone, clone3, capset, and the calls that are refused, in this order: fork and
# exec; sockets; signals to others; reading and tracing others; modes, owners, times and attributes of files; limits and
# priority; namespaces and mounts; shared memory and queues; io_uring, bpf, perf, keys, handles, faults, personality.
CALLS: dict[str, tuple[int, int, int, int, tuple[int, ...]]] = {
    "x86_64": (
        *(0xC000003E, 56, 435, 126),
        (
            *(57, 58, 59, 322),
            *(41, 42, 49),
            *(62, 200, 234, 129, 297, 424),
            *(101, 310, 311, 434, 438),
            *(90, 91, 268, 452, 92, 93, 94, 260, 132, 235, 261, 280, 188, 189, 190, 197, 198, 199),
            *(160, 302, 141, 203),
            *(272, 308, 165, 155, 161, 428, 429, 430, 442),
            *(29, 64, 68, 240),
            *(425, 321, 298, 248, 249, 250, 304, 323, 135),
        ),
    ),
    "aarch64": (
        *(0xC00000B7, 220, 435, 91),
        (
            *(221, 281),
            *(198, 203, 200),
            *(129, 130, 131, 138, 240, 424),
            *(117, 270, 271, 434, 438),
            *(52, 53, 452, 54, 55, 88, 5, 6, 7, 14, 15, 16),
            *(164, 261, 140, 122),
            *(97, 268, 40, 41, 51, 428, 429, 430, 442),
            *(194, 190, 186, 180),
            *(425, 280, 241, 217, 218, 219, 265, 282, 92),
        ),
    ),
}


class NoWalls(Exception):
    """This system cannot wall a process in."""


def limit(seconds: int, memory: int) -> None:
    """Bounds the computing time in seconds, the memory in bytes, and the number and size of files."""
    for what, most in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_FSIZE, FILE),
        (resource.RLIMIT_NOFILE, HANDLES),
        (resource.RLIMIT_CPU, seconds),
    ):
        resource.setrlimit(what, (most, most))


def wall_in(readable: Iterable[str]) -> None:
    """Leaves the process the files below ``readable`` to read, and threads of its own. Raises NoWalls."""
    if platform.machine() not in CALLS:
        raise NoWalls(f"no table of system calls for {platform.machine()}")
    libc = ctypes.CDLL(None, use_errno=True)
    _called(libc.prctl(NO_NEW_PRIVILEGES, 1, 0, 0, 0), "no_new_privs")
    _files(libc, readable)
    architecture, clone, clone3, capset, refused = CALLS[platform.machine()]
    header, none = ctypes.create_string_buffer(struct.pack("Ii", 0x20080522, 0)), ctypes.create_string_buffer(24)
    _called(libc.syscall(capset, header, none), "capset")
    _filter(libc, architecture, clone, clone3, refused)


def _files(libc: ctypes.CDLL, readable: Iterable[str]) -> None:
    version = _called(libc.syscall(RULESET, None, 0, 1), "Landlock")
    net, scope = (3 if version >= 4 else 0), (3 if version >= 6 else 0)  # TCP; signals and abstract sockets
    rules = struct.pack("QQQ", RIGHTS[min(version, len(RIGHTS)) - 1], net, scope)
    size = 24 if version >= 6 else 16 if version >= 4 else 8
    ruleset = _called(libc.syscall(RULESET, ctypes.create_string_buffer(rules, 24), size, 0), "Landlock")
    for path in readable:
        rights = READ | (READ_FOLDER if os.path.isdir(path) else 0) | (WRITE if path == os.devnull else 0)
        place = libc.open(path.encode(), OPEN_PATH)
        if place < 0:  # not every system has every folder
            continue
        rule = ctypes.create_string_buffer(struct.pack("<Qi", rights, place))
        _called(libc.syscall(RULE, ruleset, 1, rule, 0), f"Landlock for {path}")
        libc.close(place)
    _called(libc.syscall(RESTRICT, ruleset, 0), "Landlock")
    libc.close(ruleset)


def _filter(libc: ctypes.CDLL, architecture: int, clone: int, clone3: int, refused: tuple[int, ...]) -> None:
    """A program of the Berkeley packet filter: (code, jump if true, jump if false, operand) an instruction."""
    load, equal, at_least, bits, give = 0x20, 0x15, 0x35, 0x45, 0x06
    refuse = REFUSE | NOT_PERMITTED
    program = [
        *((load, 0, 0, 4), (equal, 1, 0, architecture), (give, 0, 0, KILL)),
        *((load, 0, 0, 0), (at_least, 0, 1, 0x40000000), (give, 0, 0, refuse)),  # the x32 calls
        *((equal, 0, 1, clone3), (give, 0, 0, REFUSE | NOT_THERE)),  # libc then takes clone, whose flags can be seen
        *((equal, 0, 4, clone), (load, 0, 0, 16), (bits, 0, 1, THREAD), (give, 0, 0, ALLOW), (give, 0, 0, refuse)),
        *(line for number in refused for line in ((equal, 0, 1, number), (give, 0, 0, refuse))),
        (give, 0, 0, ALLOW),
    ]
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *line) for line in program))
    head = ctypes.create_string_buffer(struct.pack("HxxxxxxQ", len(program), ctypes.addressof(code)))
    _called(libc.prctl(SECCOMP, FILTER, head, 0, 0), "seccomp")


def _called(result: int, what: str) -> int:
    if result < 0:
        raise NoWalls(f"{what}: {os.strerror(ctypes.get_errno())}")
    return result
