#!/usr/bin/python3
"""Measure the tests of pop3d by mutation: one change at a time in pop3d.c, auth.c and mailbox.c, and see whether a test fails.

    mutate.py all [-f file.c] [-n COUNT] [-s SEED] [-t SECONDS] [-o RESULTS]     in copies, one for each processor; root
    mutate.py list TREE [-f file.c]                       what mutants there are, one a line: id file:line function kind change
    mutate.py run TREE [-n COUNT] [-s SEED] [-f file.c] [-t SECONDS] [-o RESULTS] [-i ID ...] [--stage N ...] [-d TEST]
    mutate.py show RESULTS                                counts per file, and the survivors

"all" is what make mutate does: 150 mutants or an hour, in copies of this tree with an /etc and a /var/mail of their own, and then
"show". The exit status is 0 if all were tried and 95 of 100 are noticed. -s N takes others.

TREE is a checkout that this program may change: one copy for each run at a time (it builds in TREE and TREE/tests/build and puts
the source back after each mutant; killed by SIGKILL it does not: copy the three files again). A mutant's id is a checksum of
file, offset and change: -i finds it again as long as the source is the same. run takes COUNT mutants at random, stratified by
function; those in WEIGHTY get their share threefold, dropped conditions first. --part K/N takes every Nth, for parallel runs.
Each mutant goes through the stages of ORDER for its file (LOCKS and CRASH: for these functions alone), or those named, each
built with make and run with pytest -x; the first failure kills, and so does a stage that takes four times as long as without a
mutant, which is tried first: all must pass there ("run TREE -n 0" does that alone; -d leaves one test out).
The same object code at -O2 as the original's: equivalent, and not run. Stages in ORDER are quick, not all: give
survivors to others afterwards (run TREE -i ID --stage cases local faults privileges deploy locks, or all), with a new -o.
RESULTS: JSON, a line each, appended; show takes the last line of an id, so one file may follow another into it with cat.
A processor that is not busy: survivors take 15 to 60 s, the others 3 to 10.
"""

import argparse
import collections
import json
import os
import pathlib
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import zlib

FILES = ["pop3d.c", "auth.c", "mailbox.c"]
WEIGHTY = {"drop_privileges", "check_file", "spool_gid", "ask_pam", "auth_user", "same_user", "login", "set_mailbox",
           "begin_transaction", "plain", "is_dead", "break_dotlock", "kernel_lock", "set_aside",
           "is_plausible", "load_index", "write_index", "take_anchors", "put_record", "commit", "latest_record", "step", "close_hole", "was_cut",
           "matches", "recover", "check_message", "check_deleted", "note_id", "is_plain_id", "note_uidl"}
LIMIT, LONG_LIMIT = 30, 120
CPU = {"unit": 20, "auth": 5}    # seconds of processor time that no process of these stages comes near
P = ["-p", "no:cacheprovider"]
STUBS = ["build/pop3d-stub", "build/pop3d-stub-hasty", "build/pop3d-stub-patient", "build/pop3d-stub-quick",
         "build/pop3d-stub-area4k", "build/pop3d-stub-area0", "build/pop3d-stub-index", "build/pop3d-stub-clock", "build/killat",
         "build/pop3d-stub-norecords", "build/pop3d-stub-disk", "build/on_nfs.so"]
REAL = ["build/pop3d-quick", "build/pop3d-hasty", *STUBS[:4], "build/confine_probe", "build/no_landlock",
        "build/pop3d-calm", "build/pop3d-stub-hangs", "build/raise_in_malloc.so",
        "build/pam_careless.so"]
# What to make in tests/, whether the real pop3d too, what pytest gets.
STAGES = {
    "unit": (["build/mailbox_test"], False, ["units", "-k", "test_mailbox"]),
    "auth": (["build/auth_test", "build/pam_ask.so", "build/confine_probe", "build/no_landlock"], True,
             ["units", "-k", "test_auth"]),
    "authreal": (REAL + ["build/count_hashes.so"], True,
                 ["privileges", "cases/test_session.py", "deploy/test_time.py", "-k", "(not test_session or real) and not many_at_a_time"]),
    "talk": (STUBS[:4], False,
             ["cases/test_access.py", "cases/test_proxy.py", "cases/test_session.py", "-k", "not real and not host and not killed_session "
              "and not what_another and not haproxy and not lasts and not thousand and not as_long_as_a_login"]),
    "changes": (STUBS[:1], False, ["crash/test_changes.py"]),
    "records": (STUBS[:1], False, ["crash/test_records.py"]),
    "lines": (STUBS[:3], False, ["cases/test_transcripts.py", "-k", "one_segment"]),
    "ids": (["build/pop3d-stub"], False, ["cases/test_unique_ids.py"]),
    "lies": (["build/pop3d-stub-disk", "build/killat"], False, ["crash/test_faults.py", "-k", "not_believed"]),
    "drop": (STUBS[:4] + ["build/pop3d-stub-index", "build/pop3d-stub-clock"], False,
             ["crash/test_changes.py", "crash/test_records.py", "crash/test_index.py", "cases/test_access.py", "cases/test_session.py", "-k",
              "not real and not unchanged_mailbox_is_not_read and (not test_session or second or killed or nothing_is_left)"]),
    "locks": (STUBS, False, ["crash/test_locks.py", "crash/test_concurrency.py"]),
    "crash": (STUBS, False, ["crash/test_crash.py", "crash/test_fulldisk.py", "crash/test_halfcut.py", "crash/test_files_around.py"]),
    "kill": (["build/pop3d-stub", "build/pop3d-stub-area4k", "build/killat"], False,
             ["crash/test_crash.py", "-k", "area4k or second_session"]),
    "faults": (STUBS, False, ["crash/test_faults.py"]),
    "real": (REAL, True, ["privileges", "cases/test_session.py", "crash/test_index.py", "deploy/test_superservers.py",
                                           "-k", "privileges or confine or superservers or real"]),
    "cases": (STUBS, False, ["cases/test_transcripts.py", "cases/test_access.py"]),
    "local": (STUBS, False, ["crash/test_local.py", "crash/test_crash.py"]),
    "privileges": (REAL, True, ["privileges", "deploy/test_superservers.py"]),
    "deploy": (REAL + ["build/auth_test", "build/pam_ask.so"], True,
               ["deploy/test_deploy_files.py", "cases/test_session.py", "-k", "deploy_files or real"]),
    "all": (["all"], True, ["."]),
}
ORDER = {"pop3d.c": ["lines", "talk", "changes", "records", "authreal"], "auth.c": ["auth", "authreal"],
         "mailbox.c": ["unit", "lines", "ids", "drop", "kill", "lies", "locks"]}
# Stages that are for the mutants of some functions alone, for they take long.
LOCKS = {"is_remote", "drop_pages", "holder", "kernel_lock", "make_dotlock", "is_dead", "break_dotlock", "dotlock", "try_locks",
         "unlock", "progress", "lock", "session_lock", "open_side", "begin", "maildrop_begin", "maildrop_open",
         "maildrop_close", "pause_at_random", "is_name_of", "use_gid", "move_name", "remove_name", "file_clock", "seconds", "look_at"}
CRASH = {"write_at", "read_at", "read_all", "sum", "next_dead", "skip_dead", "count_live", "sync_mailbox", "gather", "copy",
         "copy_saved", "mark_size", "anchor", "take_anchors", "commit", "put_record", "make_room", "reserve",
         "move_saved", "step", "finish",
         "close_hole", "update", "check_deleted", "maildrop_update", "is_range", "is_strange", "was_cut",
         "matches", "leave_alone", "go_on", "read_through", "recover", "recover_latest", "self_sum",
         "latest_record", "write_record", "give_back_room", "set_aside"} | LOCKS
ALONE = {"locks": LOCKS, "crash": CRASH, "kill": CRASH, "lies": CRASH - LOCKS}
LONG = {"lies", "kill", "crash", "locks", "talk", "faults", "real", "all", "deploy", "cases", "local", "privileges", "authreal"}

# ---- mutants ----


def masked(text):
    """text with comments, strings, characters and preprocessor lines blanked, of the same length."""
    out = list(text)
    pattern = re.compile(r'/\*.*?\*/|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'|^[ \t]*#(?:[^\n]*\\\n)*[^\n]*', re.S | re.M)
    for m in pattern.finditer(text):
        keep = m.group()[0] in "\"'"
        for i in range(m.start() + keep, m.end() - keep):
            if out[i] != "\n":
                out[i] = "\x00" if keep else " "
    return "".join(out)


def functions(mask):
    """(name, begin, end) of each body, in a file where functions begin in column 0 and end with } in column 0."""
    for m in re.finditer(r"^([a-z_0-9]+)\([^;{]*?\)\n\{\n", mask, re.M):
        yield m[1], m.end(), mask.index("\n}", m.end())


def closing(mask, at):
    """Where the bracket at at is closed."""
    depth = 0
    for i in range(at, len(mask)):
        depth += (mask[i] in "([{") - (mask[i] in ")]}")
        if depth == 0:
            return i
    return len(mask)


def operand(mask, at, direction, begin, end):
    """The extent of the operand of && or || beside at."""
    depth, i = 0, at
    while begin <= i < end:
        c = mask[i]
        opens, closes = ("([", ")]") if direction > 0 else (")]", "([")
        if c in opens:
            depth += 1
        elif c in closes:
            if depth == 0:
                break
            depth -= 1
        elif depth == 0:
            two = mask[i:i + 2] if direction > 0 else mask[i - 1:i + 1]
            if two in ("&&", "||") or c in ";?,{}" or (c == ":"):
                break
            if c == "=" and not re.match(r"[=!<>]=|==", mask[i - 1:i + 1]) and mask[i + 1] != "=":
                break
            if direction < 0 and re.match(r"\breturn\b", mask[i - 5:i + 1]):
                break
        i += direction
    lo, hi = (at, i) if direction > 0 else (i + 1, at + 1)
    while lo < hi and mask[lo].isspace():
        lo += 1
    while hi > lo and mask[hi - 1].isspace():
        hi -= 1
    return lo, hi


SWAP = {"<": ["<="], "<=": ["<"], ">": [">="], ">=": [">"], "==": ["!="], "!=": ["=="], "&&": ["||"], "||": ["&&"],
        "+": ["-"], "-": ["+"], "+=": ["-="], "-=": ["+="], "<<": [">>"], ">>": ["<<"], "++": ["--"]}
ERRNOS = {"EAGAIN": "EIO", "EBUSY": "EAGAIN", "EPERM": "EIO", "ESTALE": "EIO", "EBADMSG": "ESTALE", "ENOENT": "EIO",
          "EACCES": "EIO", "EROFS": "EIO", "EEXIST": "EIO", "EIO": "EAGAIN", "EINTR": "EIO", "ENOSPC": "EIO", "EFBIG": "EIO",
          "ENOTDIR": "EIO"}


def changes(text, mask, begin, end):
    """(kind, from, to, replacement) of all mutants of one function's body."""
    body = mask[begin:end]

    def at(pattern):
        return ((m, begin + m.start(), begin + m.end()) for m in re.finditer(pattern, body, re.S))

    for m, lo, hi in at(r"(?<=[ \w)\]])\s(<=|>=|==|!=|<|>|&&|\|\||\+=|-=|<<|>>|\+|-)(?=\s)"):
        for other in SWAP[m[1]]:
            kind = {"&": "logic", "|": "logic", "+": "arith", "-": "arith"}.get(m[1][0], "relation")
            yield kind, lo + 1, hi, other
    for m, lo, hi in at(r"&&|\|\|"):
        drop = "1" if m[0] == "&&" else "0"
        for a, b in operand(mask, lo - 1, -1, begin, end), operand(mask, hi, 1, begin, end):
            if a < b:
                yield "condition", a, b, drop
    for m, lo, hi in at(r"\b(?:if|while) \("):
        close = closing(mask, hi - 1)
        inner = text[hi:close]
        yield "negate", hi, close, f"!({inner})"
        if "&&" not in inner and "||" not in inner and m[0].startswith("if"):
            yield "condition", hi, close, "0"
    for m, lo, hi in at(r"(?<![\w.\x00'])\d+(?![\w.\x00'])"):
        for other in (int(m[0]) + 1, int(m[0]) - 1):
            if other >= 0 and not (m[0] == "1" and mask[lo - 1] == "-"):
                yield "constant", lo, hi, str(other)
    for m, lo, hi in at(r"(?<=\n)\t+([a-z_0-9]+)\("):
        close = closing(mask, hi - 1)
        if mask[close + 1] == ";" and m[1] not in ("if", "while", "for", "switch", "return", "va_start", "va_end"):
            yield "call", lo + len(m[0]) - len(m[1]) - 1, close + 1, ""
    for m, lo, hi in at(r"\b(fsync|ftruncate|setgroups|initgroups|setresgid|setresuid|touch_dotlock|fstat|setegid|flock)\("):
        close = closing(mask, hi - 1)
        if mask[close + 1] != ";":
            yield "call", lo, close + 1, "0"
    for m, lo, hi in at(r"(?<=\n)\t+((?:continue|break|return -1|return)|[\w.>*\[\]\-]+ (?:[|&+-]|<<|>>)?= [^;{}]*|"
                        r"[\w.>-]+(?:\+\+|--));"):
        if m[1] == "continue" and re.search(r"\bwhile \(|for \(", mask[max(begin, lo - 120):lo].rsplit(";", 1)[-1]):
            continue
        yield "statement", hi - 1 - len(m[1]), hi - 1, ""
    for m, lo, hi in at(r"\breturn (-1|0|1|true|false);"):
        for other in {"-1": ["0"], "0": ["-1"], "1": ["0"], "true": ["false"], "false": ["true"]}[m[1]]:
            yield "result", hi - 1 - len(m[1]), hi - 1, other
    for m, lo, hi in at(r"\b(?:true|false)\b"):
        yield "result", lo, hi, {"true": "false", "false": "true"}[m[0]]
    for m, lo, hi in at(r"\b[A-Z][A-Z_0-9]+\s*\|\s*(?=[A-Z(])"):
        yield "flag", lo, hi, ""
    for m, lo, hi in at(r"\s*\|\s*[A-Z][A-Z_0-9]+\b"):
        yield "flag", lo, hi, ""
    for m, lo, hi in at(r"\b(?:AT_SYMLINK_NOFOLLOW|O_EXCL|O_NOFOLLOW|O_NONBLOCK|LOCK_NB|MSG_DELETED)\b"):
        yield "flag", lo, hi, "0"
    for m, lo, hi in at(r"\bE[A-Z]{3,}\b"):
        if m[0] in ERRNOS:
            yield "errno", lo, hi, ERRNOS[m[0]]
    for m, lo, hi in at(r"\b(F_WRLCK|F_RDLCK|LOCK_SH|LOCK_EX|HOLE|IDLE|CUT|AUTH_REFUSED|AUTH_TROUBLE|AUTH_FORBIDDEN)\b"):
        yield "enum", lo, hi, {"F_WRLCK": "F_RDLCK", "F_RDLCK": "F_WRLCK", "LOCK_SH": "LOCK_EX", "LOCK_EX": "LOCK_SH",
                               "HOLE": "CUT", "IDLE": "HOLE", "CUT": "HOLE", "AUTH_REFUSED": "AUTH_TROUBLE",
                               "AUTH_TROUBLE": "AUTH_REFUSED", "AUTH_FORBIDDEN": "AUTH_REFUSED"}[m[0]]
    for m, lo, hi in at(r"\b[a-z_0-9]+\(([^(),]+),\s*([^(),]+)(?=[,)])"):
        if m[1].strip() != m[2].strip() and "\0" not in m[1] + m[2]:
            yield "arguments", begin + m.start(1), begin + m.end(2), f"{m[2]}, {m[1]}"
    for m, lo, hi in at(r"\bcase [\w ]+:"):
        yield "case", lo, hi, f"case 9{lo % 9973:04d}:"


def mutants(tree, only=None):
    for name in FILES:
        if only and name != only:
            continue
        text = (tree / name).read_text()
        mask = masked(text)
        seen = set()
        for function, begin, end in functions(mask):
            for kind, lo, hi, new in changes(text, mask, begin, end):
                if (lo, hi, new) in seen or text[lo:hi] == new:
                    continue
                seen.add((lo, hi, new))
                number = zlib.crc32(f"{name} {lo} {hi} {new}".encode())
                yield dict(id=f"{number:08x}", file=name, line=text.count("\n", 0, lo) + 1, function=function, kind=kind, lo=lo,
                           hi=hi, old=re.sub(r"\s+", " ", text[lo:hi]), new=new,
                           context=re.sub(r"\s+", " ", text[max(0, lo - 40):lo] + "{{" + text[lo:hi] + "}}" + text[hi:hi + 30]))


def sample(all_mutants, count, seed):
    """Stratified: functions in turn at random, weighty ones three times as often, dropped conditions of these first."""
    rng = random.Random(seed)
    strata = collections.defaultdict(list)
    for m in all_mutants:
        strata[m["file"], m["function"]].append(m)
    for (_, function), stratum in strata.items():
        rng.shuffle(stratum)
        if function in WEIGHTY:
            stratum.sort(key=lambda m: m["kind"] == "condition")     # popped from the end
    chosen = []
    while len(chosen) < count and any(strata.values()):
        turn = [key for key in strata for _ in range(3 if key[1] in WEIGHTY else 1)]
        rng.shuffle(turn)
        for key in turn:
            if strata[key]:
                chosen.append(strata[key].pop())
    return chosen[:count]


# ---- running ----

FLAGS = ["-std=gnu11", "-D_GNU_SOURCE", "-D_FILE_OFFSET_BITS=64", "-O2", "-g0", "-w"]


def object_code(tree, name):
    """The object code, or None if it does not compile."""
    out = tree / "mutant.o"
    if subprocess.run(["cc", *FLAGS, "-c", "-o", out, name], cwd=tree, stderr=subprocess.DEVNULL).returncode:
        return None
    return out.read_bytes()


limits = {}             # seconds, by stage


def stage_limits(tree, names, extra):
    """Each stage must pass on the tree as it is; four times as long it may take with a mutant."""
    for name in names:
        limits[name] = 1200
        begun = time.monotonic()
        if failed := stage(tree, name, extra):
            sys.exit(f"{name} does not pass without a mutant: {failed}")
        limits[name] = max(LONG_LIMIT if name in LONG else LIMIT, 4 * (time.monotonic() - begun))


def stage(tree, name, extra):
    """None, or what failed first."""
    targets, real, tests = STAGES[name]
    make = ["make", "-s", f"CFLAGS=-O{int(name == 'unit')} -g0 -w", "LDFLAGS="]
    for command, where in [(make + targets, tree / "tests")] + ([(make + ["pop3d"], tree)] if real else []):
        if subprocess.run(command, cwd=where, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode:
            return "build"
    with tempfile.TemporaryFile("a+") as output:
        process = subprocess.Popen(["/usr/bin/python3", "-u", "-m", "pytest", "-x", "-v", "--tb=no", *P, *tests, *extra],
                                   cwd=tree / "tests", stdout=output, stderr=subprocess.STDOUT, start_new_session=True,
                                   preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_CPU, (CPU.get(name, 60),) * 2))
        # The first failure's line ends the wait soon: what else was started may hang, and with it the end of a fixture.
        failed, deadline = None, time.monotonic() + limits[name]
        while True:
            ended = process.poll() is not None
            output.seek(0)
            if failed is None and (m := re.search(r"^(\S+::.*?) (?:FAILED|ERROR)", output.read(), re.M)):
                failed, deadline = m[1], time.monotonic() + (3 if name in ("unit", "talk", "lines", "drop", "auth") else 20)
            if ended or time.monotonic() > deadline:
                break
            time.sleep(0.05)
        if not ended:
            failed = failed or "timeout"
            os.killpg(process.pid, signal.SIGTERM)
            time.sleep(0.5)
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        process.wait()
    if failed is None and process.returncode not in (0, -9):
        failed = f"pytest {process.returncode}"
    return failed


def run(tree, args):
    everything = list(mutants(tree, args.f))
    if args.i:
        chosen = sorted((m for m in everything if m["id"] in args.i), key=lambda m: args.i.index(m["id"]))
    else:
        chosen = sample(everything, args.n, args.s)
    if args.part:
        part, parts = map(int, args.part.split("/"))
        chosen = chosen[part::parts]
    extra = ["--deselect", args.d] if args.d else []
    plain = {}
    names = {m["file"] for m in chosen} or ([args.f] if args.f else FILES)
    for name in names:
        plain[name] = object_code(tree, name)
    stage_limits(tree, {which: None for name in names for which in args.stage or ORDER[name]}, extra)
    if args.n == 0 and not args.i:
        print(*limits.items(), sep="\n")
        return
    end = time.monotonic() + args.t
    with open(args.o, "a") as results:
        for m in chosen:
            if time.monotonic() > end:
                break
            path = tree / m["file"]
            original = path.read_text()
            begun = time.monotonic()
            try:
                path.write_text(original[:m["lo"]] + m["new"] + original[m["hi"]:])
                code = object_code(tree, m["file"])
                if code is None:
                    m["fate"] = "unbuilt"
                elif code == plain[m["file"]]:
                    m["fate"] = "equivalent"
                else:
                    m["fate"] = "survived"
                    for which in args.stage or ORDER[m["file"]]:
                        if not args.stage and m["function"] not in ALONE.get(which, {m["function"]}):
                            continue
                        if by := stage(tree, which, extra):
                            m["fate"], m["by"] = "killed", by
                            break
            finally:
                path.write_text(original)
            m["seconds"] = round(time.monotonic() - begun, 1)
            results.write(json.dumps(m) + "\n")
            results.flush()
            print(m["fate"], m["seconds"], f"{m['file']}:{m['line']}", m["function"], m["kind"], m["context"], m["new"],
                  m.get("by", ""), flush=True)


# A tree, an /etc, a /var/mail and a /tmp of its own for a part: killed tests leave accounts, mounts and files behind.
APART = """
mkdir "$1/etc" "$1/mail"
cp -a /etc/. "$1/etc" 2>/dev/null
chgrp mail "$1/mail"
chmod 2775 "$1/mail"
mount --bind "$1/etc" /etc
mount --bind "$1/mail" /var/mail
mount -t tmpfs -o mode=1777 none /tmp
shift
exec "$@"
"""


def run_all(args):
    """Every processor has a part, in a copy of this tree; then show."""
    top = pathlib.Path(__file__).resolve().parent.parent.parent
    parts = os.cpu_count()
    pathlib.Path(args.o).unlink(missing_ok=True)
    with tempfile.TemporaryDirectory(prefix="pop3d-mutate-", dir="/var/tmp") as folder:
        running = []
        for part in range(parts):
            tree = pathlib.Path(folder, str(part))
            shutil.copytree(top, tree / "tree", symlinks=True, ignore=shutil.ignore_patterns(".git", "build", "__pycache__"))
            argv = [sys.executable, __file__, "run", str(tree / "tree"), "-n", str(args.n), "-s", str(args.s), "-t", str(args.t),
                    "-o", os.path.abspath(args.o), *(["-f", args.f] if args.f else []), "--part", f"{part}/{parts}"]
            running.append(subprocess.Popen(["unshare", "-m", "sh", "-c", APART, "sh", str(tree), *argv]))
        ended = [process.wait() for process in running]
    return show(args.o, args.n) or int(any(ended))


def show(results, wanted=0):
    fates = {}
    for line in open(results):
        m = json.loads(line)
        fates[m["id"]] = m           # the last run counts
    table = collections.defaultdict(collections.Counter)
    for m in fates.values():
        table[m["file"]][m["fate"]] += 1
    for name, fate in table.items():
        tried = fate["killed"] + fate["survived"]
        print(name, dict(fate), f"{100 * fate['killed'] / max(tried, 1):.0f} %")
    for m in sorted(fates.values(), key=lambda m: (m["file"], m["line"])):
        if m["fate"] == "survived":
            print(m["id"], f"{m['file']}:{m['line']}", m["function"], m["kind"], m["context"], "=>", repr(m["new"]))
    total = sum(table.values(), collections.Counter())
    tried = total["killed"] + total["survived"]
    print(f"{total['killed']} of {tried} noticed; of those that were not, some may equal the original")
    if short := max(wanted - total.total(), 0):
        print(f"{short} were not tried: the time was over, or a part ended early")
    return 0 if tried and not short and total["killed"] >= 0.95 * tried else 1


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["all", "list", "run", "show"])
    parser.add_argument("tree", type=pathlib.Path, nargs="?")
    parser.add_argument("-n", type=int, default=150)
    parser.add_argument("-s", type=int, default=1)
    parser.add_argument("-f", choices=FILES)
    parser.add_argument("-t", type=int, default=3600)
    parser.add_argument("-o", default="mutants.json")
    parser.add_argument("-i", nargs="*")
    parser.add_argument("-d", metavar="TEST", help="a test that fails on this machine without a mutation, too")
    parser.add_argument("--stage", nargs="*", choices=STAGES)
    parser.add_argument("--part", help="K/N: every Nth mutant from K on, for runs in parallel")
    args = parser.parse_args()
    if args.what == "all":
        return run_all(args)
    if args.tree is None:
        parser.error("which?")
    if args.what == "show":
        return show(args.tree)
    tree = args.tree.resolve()
    if args.what == "list":
        for m in mutants(tree, args.f):
            print(m["id"], f"{m['file']}:{m['line']}", m["function"], m["kind"], m["context"], "=>", repr(m["new"]))
        return None
    return run(tree, args)


if __name__ == "__main__":
    sys.exit(main())
