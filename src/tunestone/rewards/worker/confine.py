"""Give up, in this process and for good, everything that reward code does not need.

Linux only, by system calls through ctypes: namespaces (unshare), files (Landlock), system calls
(seccomp), capabilities. Each function either does what it says or raises OSError. The order in
`enter` matters: namespaces need capabilities, Landlock and seccomp need `no_new_privs`.

Left out: a list of allowed system calls. What Python and its extensions need differs by version,
and a filter that breaks a reward in the middle of a run helps nobody; we refuse the calls that
reach other processes, the network, or the kernel's rarely tried corners.

Sources: the manual pages landlock(7), seccomp(2), user_namespaces(7), pid_namespaces(7), capset(2).
"""

import ctypes
import os
import stat
import struct
from collections.abc import Iterable, Sequence

_CLONE_NEWUSER, _CLONE_NEWPID = 0x10000000, 0x20000000
_CLONE_NEWNET, _CLONE_NEWIPC = 0x40000000, 0x08000000
_NEW_NAMESPACES = 0x7E020000  # every CLONE_NEW* flag there is
_PR_SET_DUMPABLE, _PR_SET_SECCOMP = 4, 22
_PR_SET_NO_NEW_PRIVS, _PR_SET_CHILD_SUBREAPER = 38, 36
_SECCOMP_MODE_FILTER = 2

# Landlock: access rights by the version that brought them, and system call numbers.
_READ = 1 << 0 | 1 << 2 | 1 << 3  # execute, read files, list folders
_LIST = 1 << 3
_MOVE = 1 << 13
_READ_AND_WRITE = 1 << 1 | 1 << 2
_FILE_RIGHTS = 1 << 0 | 1 << 1 | 1 << 2 | 1 << 14 | 1 << 15
_RIGHTS_BY_VERSION = {1: (1 << 13) - 1, 2: 1 << 13, 3: 1 << 14, 5: 1 << 15}
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_SCOPE_ABSTRACT_SOCKETS, _SCOPE_SIGNALS = 1 << 0, 1 << 1

_ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
# System call numbers: (x86_64, aarch64); None where the architecture has no such call.
_FORBIDDEN: dict[str, tuple[int | None, int | None]] = {
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "kcmp": (312, 272),
    "pidfd_getfd": (438, 438),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "move_mount": (429, 429),
    "open_tree": (428, 428),
    "fsopen": (430, 430),
    "unshare": (272, 97),
    "setns": (308, 268),
    "open_by_handle_at": (304, 265),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "inotify_add_watch": (254, 27),
    "fanotify_init": (300, 262),
    # What outlives the process that made it, or is the whole machine's.
    "shmget": (29, 194),
    "shmat": (30, 196),
    "shmctl": (31, 195),
    "semget": (64, 190),
    "semop": (65, 193),
    "semctl": (66, 191),
    "semtimedop": (220, 192),
    "msgget": (68, 186),
    "msgsnd": (69, 189),
    "msgrcv": (70, 188),
    "msgctl": (71, 187),
    "mq_open": (240, 180),
    "mq_unlink": (241, 181),
    # Memory that no process is seen to hold.
    "memfd_secret": (447, 447),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "keyctl": (250, 219),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "reboot": (169, 142),
    "swapon": (167, 224),
    "swapoff": (168, 225),
    "syslog": (103, 116),
    "acct": (163, 89),
    "quotactl": (179, 60),
    "settimeofday": (164, 170),
    "clock_settime": (227, 112),
    "personality": (135, 92),
    "process_madvise": (440, 440),
    "migrate_pages": (256, 238),
    "move_pages": (279, 239),
    # Time and limits of other processes; of its own, see below.
    "setpriority": (141, 140),
    "sched_setparam": (142, 118),
    "sched_setscheduler": (144, 119),
    "sched_setattr": (314, 274),
    "ioprio_set": (251, 30),
}
# Landlock does not restrict these: modes, owners, times and attributes of any file we own. The
# first are let succeed without effect, since `shutil.copy` and the like must not fail for them.
_WITHOUT_EFFECT: dict[str, tuple[int | None, int | None]] = {
    "chmod": (90, None),
    "fchmod": (91, 52),
    "fchmodat": (268, 53),
    "fchmodat2": (452, 452),
    "chown": (92, None),
    "fchown": (93, 55),
    "lchown": (94, None),
    "fchownat": (260, 54),
    "utime": (132, None),
    "utimes": (235, None),
    "futimesat": (261, None),
    "utimensat": (280, 88),
}
_UNSUPPORTED: dict[str, tuple[int | None, int | None]] = {
    "setxattr": (188, 5),
    "lsetxattr": (189, 6),
    "fsetxattr": (190, 7),
    "setxattrat": (463, 463),
    "removexattr": (197, 14),
    "lremovexattr": (198, 15),
    "fremovexattr": (199, 16),
    "removexattrat": (466, 466),
    "file_setattr": (469, 469),
    "fallocate": (285, 47),  # it passes the limit of file size
}
_OF_ITSELF_ONLY = ((302, 261), (203, 122))  # prlimit64, sched_setaffinity: with process 0
_SOCKET, _CLONE, _CLONE3 = (41, 198), (56, 220), (435, 435)
_MEMFD_CREATE = (319, 279)
_SOCKETPAIR, _IOCTL = (53, 199), (16, 29)
_SOCK_DGRAM, _SOCK_RAW, _SOCK_KINDS = 2, 3, 0xF
_FILE_FLAGS = (0x40086602, 0x401C5820)  # FS_IOC_SETFLAGS, FS_IOC_FSSETXATTR
_FORK, _VFORK, _CLONE_THREAD = (57, None), (58, None), 0x00010000
_SETPGID, _SETSID, _KILL = (109, 154), (112, 157), (62, 129)
_TKILL, _TGKILL, _PIDFD_SEND = (200, 130), (234, 131), (424, 424)
_AF_INET, _AF_INET6, _AF_NETLINK = 2, 10, 16
_EPERM, _ENOSYS, _EOPNOTSUPP = 1, 38, 95

_libc = ctypes.CDLL(None, use_errno=True)

_Instruction = tuple[int, int, int, int]
"""Of classic BPF: operation, jump if true, jump if false, constant."""
_LOAD, _JUMP_EQUAL, _JUMP_AT_LEAST, _JUMP_ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_AND = 0x54
_ALLOW, _KILL_PROCESS, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
_NUMBER, _ARCHITECTURE, _ARGUMENT0, _ARGUMENT1 = 0, 4, 16, 24  # offsets in struct seccomp_data


def enter_namespaces(*, network: bool) -> None:
    """Move into new user, pid and ipc namespaces, and an empty network unless it is allowed.

    This process stays behind as the one that waits; what returns is its child, which is process 1
    in there: nothing inside can kill it, and all ends with it.
    """
    user, group = os.getuid(), os.getgid()
    flags = _CLONE_NEWUSER | _CLONE_NEWPID | _CLONE_NEWIPC | (0 if network else _CLONE_NEWNET)
    _checked(_libc.unshare(flags), "unshare")
    _write("/proc/self/setgroups", "deny")
    _write("/proc/self/uid_map", f"{user} {user} 1")
    _write("/proc/self/gid_map", f"{group} {group} 1")
    child = os.fork()
    if child:
        _, status = os.waitpid(child, 0)
        os._exit(os.waitstatus_to_exitcode(status) & 0xFF)


def drop_privileges() -> None:
    """No capabilities, no way to gain any, no look into this process's memory; adopt orphans."""
    header = struct.pack("=Ii", 0x20080522, 0)  # version 3, this thread
    _checked(_libc.syscall(_number((126, 91)), header, bytes(24)), "capset")
    for option, value in (
        (_PR_SET_NO_NEW_PRIVS, 1),
        (_PR_SET_DUMPABLE, 0),
        (_PR_SET_CHILD_SUBREAPER, 1),
    ):
        _checked(_libc.prctl(option, value, 0, 0, 0), f"prctl {option}")


def landlock_version() -> int:
    """Version of the kernel's Landlock; 0 when it has none."""
    return max(0, int(_libc.syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), 1)))


def restrict_files(
    *,
    readable: Sequence[str],
    listable: Sequence[str],
    writable: Sequence[str],
    devices: Sequence[str],
) -> None:
    """From now on only these files and folders, with all below them, can be opened.

    Of what is below a listable folder only the names can be seen.
    """
    version = landlock_version()
    if version == 0:
        raise OSError("the kernel has no Landlock")
    handled = 0
    for since, rights in _RIGHTS_BY_VERSION.items():
        handled |= rights if version >= since else 0
    # Forks are beneath us and can still be killed; what runs on loading can reach nobody else.
    scoped = _SCOPE_ABSTRACT_SOCKETS | _SCOPE_SIGNALS if version >= 6 else 0
    ruleset = _create_ruleset(handled, scoped, version)
    for path in readable:
        _allow_beneath(ruleset, path, _READ & handled)
    for path in listable:
        _allow_beneath(ruleset, path, _LIST & handled)
    for path in devices:
        _allow_beneath(ruleset, path, _READ_AND_WRITE & handled)
    for path in writable:
        _allow_beneath(ruleset, path, handled)
    _checked(_libc.syscall(_RESTRICT_SELF, ruleset, 0), "landlock_restrict_self")
    os.close(ruleset)


def restrict_signals() -> None:
    """From now on this process can signal only itself and what it starts."""
    if landlock_version() >= 6:
        # A layer that does not name moves between folders would forbid them.
        ruleset = _create_ruleset(_MOVE, _SCOPE_SIGNALS, 6)
        _allow_beneath(ruleset, "/", _MOVE)
        _checked(_libc.syscall(_RESTRICT_SELF, ruleset, 0), "landlock_restrict_self")
        os.close(ruleset)
    else:  # then it can signal itself only
        own = os.getpid()
        rules = [*_only_for_argument(_KILL, [own]), *_only_for_argument(_TGKILL, [own])]
        _install([*rules, *_forbid(_number(_TKILL)), *_forbid(_number(_PIDFD_SEND))])


def restrict_system_calls(*, network: bool) -> None:
    """Refuse the calls above, new namespaces, and sockets other than those of the internet."""
    families = [_AF_INET, _AF_INET6, _AF_NETLINK] if network else []
    rules = [
        *_only_for_argument(_SOCKET, families),
        *_forbid_argument_bits(_CLONE, _NEW_NAMESPACES),
    ]
    # A pair of datagram sockets can still send to any other socket, one of a file outside too.
    rules += _forbid_second_argument(_SOCKETPAIR, _SOCK_KINDS, (_SOCK_DGRAM, _SOCK_RAW))
    rules += _forbid_second_argument(_IOCTL, 0xFFFFFFFF, _FILE_FLAGS)
    for numbers in _WITHOUT_EFFECT.values():
        rules += _forbid(_number(numbers), error=0)
    for numbers in _UNSUPPORTED.values():
        rules += _forbid(_number(numbers), error=_EOPNOTSUPP)
    rules += _forbid(_number(_CLONE3), error=_ENOSYS)  # its flags lie in memory; libc takes clone
    for numbers in _FORBIDDEN.values():
        rules += _forbid(_number(numbers))
    for numbers in _OF_ITSELF_ONLY:
        rules += _only_for_argument(numbers, [0])
    _install(rules)


def forbid_processes() -> None:
    """From now on this process can start threads but no processes."""
    body: list[_Instruction] = [
        (_LOAD, 0, 0, _ARGUMENT0),
        (_JUMP_ANY_BIT, 1, 0, _CLONE_THREAD),
        (_RETURN, 0, 0, _ERRNO | _EPERM),
        (_RETURN, 0, 0, _ALLOW),
    ]
    rules = [(_JUMP_EQUAL, 0, len(body), _number(_CLONE) or 0), *body]
    hidden = _forbid(_number(_MEMFD_CREATE))  # memory that no process is seen to hold
    _install([*_forbid(_number(_FORK)), *_forbid(_number(_VFORK)), *hidden, *rules])


def keep_in_session() -> None:
    """From now on this process cannot leave its session, by which the trainer finds what is left
    of it when it has ended."""
    _install(_forbid(_number(_SETSID)))


def keep_in_group() -> None:
    """From now on this process cannot leave its process group, so killing that ends it all."""
    _install([*_forbid(_number(_SETPGID)), *_forbid(_number(_SETSID))])


def _write(path: str, text: str) -> None:
    file = os.open(path, os.O_WRONLY)
    os.write(file, text.encode())
    os.close(file)


def _checked(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


def _number(numbers: tuple[int | None, int | None]) -> int | None:
    return numbers[0] if os.uname().machine == "x86_64" else numbers[1]


def _create_ruleset(files: int, scoped: int, version: int) -> int:
    attributes = struct.pack("=QQQ", files, 0, scoped)
    size = 8 if version < 4 else 16 if version < 6 else 24  # older kernels know fewer fields
    result = _libc.syscall(_CREATE_RULESET, attributes, ctypes.c_size_t(size), 0)
    return _checked(result, "landlock_create_ruleset")


def _allow_beneath(ruleset: int, path: str, rights: int) -> None:
    try:
        folder = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except FileNotFoundError:
        return  # what is not there need not be allowed
    if not stat.S_ISDIR(os.fstat(folder).st_mode):
        rights &= _FILE_RIGHTS
    rule = struct.pack("=Qi", rights, folder)
    _checked(_libc.syscall(_ADD_RULE, ruleset, 1, rule, 0), f"landlock_add_rule {path}")
    os.close(folder)


def _forbid(number: int | None, error: int = _EPERM) -> list[_Instruction]:
    if number is None:
        return []
    return [(_JUMP_EQUAL, 0, 1, number), (_RETURN, 0, 0, _ERRNO | error)]


def _only_for_argument(numbers: tuple[int, int], allowed: Iterable[int]) -> list[_Instruction]:
    """The call may be made when its first argument is one of these."""
    tests = [(_JUMP_EQUAL, 0, 1, value) for value in allowed]
    body: list[_Instruction] = [(_LOAD, 0, 0, _ARGUMENT0)]
    for test in tests:
        body += [test, (_RETURN, 0, 0, _ALLOW)]
    body.append((_RETURN, 0, 0, _ERRNO | _EPERM))
    return [(_JUMP_EQUAL, 0, len(body), _number(numbers) or 0), *body]


def _forbid_argument_bits(numbers: tuple[int, int], bits: int) -> list[_Instruction]:
    """The call may not be made with any of these bits in its first argument."""
    body = [
        (_LOAD, 0, 0, _ARGUMENT0),
        (_JUMP_ANY_BIT, 0, 1, bits),
        (_RETURN, 0, 0, _ERRNO | _EPERM),
        (_RETURN, 0, 0, _ALLOW),
    ]
    return [(_JUMP_EQUAL, 0, len(body), _number(numbers) or 0), *body]


def _forbid_second_argument(
    numbers: tuple[int, int], mask: int, values: Iterable[int]
) -> list[_Instruction]:
    """The call may not be made when its second argument, masked, is one of these."""
    body: list[_Instruction] = [(_LOAD, 0, 0, _ARGUMENT1), (_AND, 0, 0, mask)]
    for value in values:
        body += [(_JUMP_EQUAL, 0, 1, value), (_RETURN, 0, 0, _ERRNO | _EPERM)]
    body.append((_RETURN, 0, 0, _ALLOW))
    return [(_JUMP_EQUAL, 0, len(body), _number(numbers) or 0), *body]


def _install(rules: Sequence[_Instruction]) -> None:
    """Add a filter; the kernel asks all filters and takes the strictest answer."""
    machine = os.uname().machine
    if machine not in _ARCHITECTURES:
        raise OSError(f"no system call numbers known for {machine}")
    program: list[_Instruction] = [
        (_LOAD, 0, 0, _ARCHITECTURE),
        (_JUMP_EQUAL, 1, 0, _ARCHITECTURES[machine]),
        (_RETURN, 0, 0, _KILL_PROCESS),
        (_LOAD, 0, 0, _NUMBER),
    ]
    if machine == "x86_64":  # the x32 calls have other numbers
        program += [(_JUMP_AT_LEAST, 0, 1, 0x40000000), (_RETURN, 0, 0, _ERRNO | _ENOSYS)]
    program += [*rules, (_RETURN, 0, 0, _ALLOW)]
    code = b"".join(struct.pack("=HBBI", *step) for step in program)
    buffer = ctypes.create_string_buffer(code, len(code))
    filter_ = struct.pack("@HP", len(program), ctypes.addressof(buffer))
    result = _libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, filter_, 0, 0)
    _checked(result, "seccomp")
