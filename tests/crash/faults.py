#!/usr/bin/python3
"""Let each system call of the server fail once, with each errno that it may well fail with, or do half of its work.

    faults.py [-s] update|recovery|session ...

update is from QUIT on, recovery a login after a crash, session all of one. Every reply must be the right one or -ERR; where
+OK answers QUIT, all that was deleted is gone; the next login works at once and finds all that was kept. -s is a short form.
"""

import argparse
import collections
import errno
import itertools
import multiprocessing
import os
import signal
import sys
import time

import crash
import lab
from lab import HUNG, LOGIN, SERVERS, Harm

DISK = ["EIO", "ENOSPC", "EDQUOT", "EINTR"]
NAME = ["EIO", "ENOSPC", "EDQUOT", "EACCES", "EROFS", "EINTR"]     # not ENOENT: that is an answer, and right or wrong
ERRNOS = {
    "openat": [*NAME, "EMFILE", "ENFILE", "ENOMEM"],
    "read": ["EIO", "EINTR", "short"], "pread64": ["EIO", "EINTR", "short"],
    "write": [*DISK, "EFBIG", "short"], "pwrite64": [*DISK, "EFBIG", "short"],
    "fsync": DISK, "fdatasync": DISK, "ftruncate": DISK, "fallocate": [*DISK, "EOPNOTSUPP", "EFBIG"],
    "linkat": [*NAME, "EEXIST", "EMLINK"], "unlinkat": NAME, "mknodat": [*NAME, "EEXIST"],
    "renameat": NAME, "renameat2": NAME, "utimensat": NAME,
    "fcntl": ["EAGAIN", "EACCES", "EINTR", "ENOLCK", "EINVAL"], "flock": ["EAGAIN", "EINTR", "ENOLCK"],
    "statx": ["EIO", "EACCES", "ENOMEM"], "newfstatat": ["EIO", "EACCES", "ENOMEM"], "fstat": ["EIO", "ENOMEM"], "fstatfs": ["EIO", "EINTR", "ENOSYS"],
    "lseek": ["EIO", "ESPIPE"], "close": ["EIO", "EINTR"], "ppoll": ["EINTR", "ENOMEM"], "mmap": ["ENOMEM"], "brk": ["ENOMEM"],
    "mremap": ["ENOMEM"], "munmap": ["ENOMEM"], "mprotect": ["ENOMEM"],
    "connect": ["ECONNREFUSED", "EINTR"], "socket": ["EMFILE", "EACCES"], "sendto": ["ENOBUFS", "ECONNREFUSED"],
    "setresgid": ["EPERM"], "setresuid": ["EPERM", "EAGAIN"], "setgroups": ["EPERM"], "prctl": ["EINVAL"],
    "getpeername": ["ENOTSOCK", "ENOTCONN"], "setsockopt": ["ENOTSOCK", "ENOPROTOOPT"], 
    "faccessat2": ["EIO", "EACCES"], "prlimit64": ["EPERM"], "close_range": ["ENOSYS", "EMFILE"],
}
NEVER = {                               # these do not fail, or not as anything that the server did
    "alarm", "arch_prctl", "execve", "exit_group", "getegid", "geteuid", "getgid", "getpid", "getuid", "rseq", "rt_sigaction",
    "getrandom",                        # without it arc4random(3) of glibc ends the process
    "rt_sigprocmask", "rt_sigreturn", "set_robust_list", "set_tid_address", "umask",
}
OTHERS = ["EIO", "EINTR", "ENOMEM"]
MULTI = {b"CAPA", b"LIST", b"UIDL", b"RETR", b"TOP"}


def replies(output, commands):
    """The greeting and the replies; the last one may be cut short, and what does not belong to any comes last."""
    found = []
    for command in [b"", *commands]:
        if not output:
            break
        verb, _, argument = command.partition(b" ")
        multi = verb in MULTI and not (verb in (b"LIST", b"UIDL") and argument) and output.startswith(b"+OK")
        end = output.find(b"\r\n.\r\n" if multi else b"\r\n")
        end = end + (5 if multi else 2) if end >= 0 else len(output)
        found.append(output[:end])
        output = output[end:]
    return found + ([output] if output else [])


def judge_replies(got, want, commands):
    """The right reply, or -ERR, or the session's end in the middle of a right one."""
    if len(got) > len(want):
        raise Harm(f"more replies than commands: {got[-1]!r}")
    for index, (reply, right) in enumerate(zip(got, want)):
        command = commands[index - 1] if index else b"greeting"
        if command == b"QUIT" and reply.startswith((b"+OK", b"-ERR")):
            continue
        if reply != right and not reply.startswith(b"-ERR") and not (index == len(got) - 1 and right.startswith(reply)):
            raise Harm(f"{command.decode()} was answered {reply[:80]!r}, not {right[:80]!r}")


def deleted_by(got, commands):
    """The messages whose DELE was answered +OK, and whether QUIT was."""
    deleted, done = [], False
    for command, reply in zip(commands, got[1:]):
        if reply.startswith(b"+OK"):
            if command.startswith(b"DELE"):
                deleted.append(int(command.split()[1]) - 1)
            if command == b"RSET":
                deleted.clear()
            done = command == b"QUIT"
    return deleted, done


def try_fault(drop, server, commands, want, marker, number, action, deleted=None):
    """One fault, and the next login: what QUIT (or in recovery PASS) was answered. deleted is what a former session deleted."""
    what = action if action in ("short", "term") else getattr(errno, action)
    status, output = drop.session(server, commands, marker=marker, number=number, action=what)
    if status == HUNG:
        raise Harm("hung")
    if status >= 128 and not (action == "term" and status - 128 in (signal.SIGTERM, signal.SIGALRM)):
        raise Harm(f"killed by signal {status - 128}")
    got = replies(output, commands)
    judge_replies(got, want, commands)
    gone, done = deleted_by(got, commands)
    if deleted is None:
        deleted = gone
        if done:
            drop.judge(deleted, all_gone=True)
    crash.login(drop, server, deleted, None)
    if len(got) <= len(want) - 1 or not got[-1].endswith(b"\r\n"):
        return "ended"
    return "-ERR" if any(reply.startswith(b"-ERR") for reply in got) else "+OK"


def faults(calls):
    """All that can fail, but in the loader, which ends at the server's close_range."""
    names = [name for name, _ in calls]
    first = names.index("close_range") if "close_range" in names else 0
    for number, name in enumerate(names[first:], first + 1):
        for action in [*([] if name in NEVER else ERRNOS.get(name, OTHERS)), "term"]:
            yield number, name, action


def run(job):
    """A part of the faults of one range: a list of (call, errno, outcome)."""
    which, server, kind, pattern, most, part, parts = job
    with lab.Maildrop(lab.mailbox(kind)) as drop:
        deleted = list(lab.PATTERNS[pattern](len(drop.messages)))
        ending = [*lab.deletions(deleted), b"QUIT"]
        drop.begin(server)
        if which == "recovery":
            commands, marker, starts = [*LOGIN, b"STAT", b"LIST", b"QUIT"], "PASS", half_done(drop, server, ending)
        elif which == "update":
            commands, marker, starts = [*LOGIN, *ending], "QUIT", [drop.start]
        else:
            commands, marker, starts = whole_session(drop.messages, ending), None, [drop.start]
            drop.begin(server, first=True)
            starts.append(drop.start)
        results = []
        for start in starts:
            drop.restore(start)
            want = replies(drop.session(server, commands, marker=marker, lists=True)[1], commands)
            calls = drop.calls()
            for number, name, action in crash.sample(faults(calls), most)[part::parts]:
                drop.restore(start)
                try:
                    outcome = try_fault(drop, server, commands, want, marker, number, action,
                                        deleted if which == "recovery" else None)
                except Harm as harm:
                    outcome = f"{which}, {server.name}, {pattern}, call {number} of {len(calls)}, {name} {action}: {harm}"
                results.append((name, action, outcome))
        return results


def half_done(drop, server, ending):
    """Three maildrops as crashes leave them, each unlike the others."""
    drop.session(server, [*LOGIN, *ending], marker="QUIT", lists=True)
    for number, action in crash.sample(list(crash.different(drop.calls()))[1:-1], 3):
        drop.restore()
        drop.session(server, [*LOGIN, *ending], marker="QUIT", number=number, action=action)
        yield drop.save()


def whole_session(messages, ending):
    retrievals = [b"%b %d" % (verb, index) for index in range(1, len(messages) + 1, 4) for verb in (b"RETR", b"LIST", b"UIDL")]
    return [b"CAPA", *LOGIN, b"CAPA", b"STAT", b"LIST", b"UIDL", *retrievals, b"TOP 2 3", b"DELE 2", b"RSET", b"NOOP", *ending]


def sweep(ranges, servers, kinds, patterns, most=0, parts=8, report=print):
    """(faults tried, what went wrong); most: how many at most of a start, 0 for all."""
    jobs = [(*what, most, part, parts) for what in itertools.product(ranges, servers, kinds, patterns) for part in range(parts)]
    table = collections.defaultdict(collections.Counter)
    with multiprocessing.Pool(os.cpu_count()) as pool:
        for name, action, outcome in itertools.chain.from_iterable(pool.imap_unordered(run, jobs)):
            table[name][action, outcome] += 1
    bad = [outcome for counts in table.values() for _, outcome in counts if outcome not in ("+OK", "-ERR", "ended")]
    report(f"{'call':<18} {'tried':>6} {'+OK':>6} {'-ERR':>6} {'ended':>6} {'harm':>6}  with")
    for name, counts in sorted(table.items()):
        sums = collections.Counter()
        for (_, outcome), count in counts.items():
            sums[outcome if outcome in ("+OK", "-ERR", "ended") else "harm"] += count
        actions = " ".join(dict.fromkeys(action for action, _ in counts))
        report(f"{name:<18} {sum(sums.values()):>6} {sums['+OK']:>6} {sums['-ERR']:>6} {sums['ended']:>6} {sums['harm']:>6}  {actions}")
    tried = sum(sum(counts.values()) for counts in table.values())
    hung = sum(": hung" in line for line in bad)
    report(f"{tried} faults tried, {len(bad) - hung} lost or wrong, {hung} hung", flush=True)
    return tried, bad


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("-s", action="store_true", help="short form")
    parser.add_argument("ranges", nargs="+", choices=["update", "recovery", "session"])
    args = parser.parse_args()
    began = time.monotonic()
    tried, bad = sweep(args.ranges, SERVERS, ["short"], list(lab.PATTERNS), most=SHORT if args.s else 0)
    print(*bad[:20], sep="\n")
    print(f"{time.monotonic() - began:.0f} s")
    return bool(bad)


SHORT = 40

if __name__ == "__main__":
    sys.exit(main())
