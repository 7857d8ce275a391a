#!/usr/bin/python3
"""pop3d on NFS: a server, and two hosts that deliver to and serve the same mailboxes; see README.

    nfs.py [-r ROUNDS] [GROUP[:PART] ...]       all; PART: only those lines of a group with that in an argument
"""

import argparse
import collections
import sys
import time
import traceback

import hosts

LEASE = 15                              # seconds; 90 is the usual
INDEX = "pop3d-stub-index0"             # keeps an index of the smallest mailbox
HARM = ["lost", "doubled", "back", "strange", "stale", "other"]
tally = collections.Counter()
args = argparse.Namespace(rounds=14)


def say(*words):
    print(time.strftime("%T"), *words, flush=True)


def problems():
    return sum(tally[kind] for kind in HARM)


def harm(kind, *words):
    tally[kind] += 1
    say("HARM", f"{kind}:", *words)


def both(lab, options):
    lab.a.mount_nfs(options)
    lab.b.mount_nfs(options)


def fresh(lab, user, n, synced=True):
    lab.server.make_box(user, list(range(1, n + 1)), *[] if synced else [False])


def without(n, deleted):
    return [i for i in range(1, n + 1) if i not in deleted]


def judge(lab, where, user, kept, deleted=(), served=None, more=(), ordered=True):
    """What must be in the mailbox is, once and in order; of the deleted some may be; what a login showed is the same."""
    there, beside = lab.server.left(user)
    tally["cases"] += 1
    before = problems()
    if lost := sorted({*kept, *more} - set(there)):
        harm("lost", *where, lost[:10])
    if len(set(there)) < len(there):
        harm("doubled", *where, [i for i in there if there.count(i) > 1][:10])
    if any(i < 0 for i in there):
        harm("strange", *where, lab.server.junk(user))
    if unknown := sorted(i for i in set(there) - {*kept, *deleted, *more} if i > 0):
        harm("back", *where, unknown[:10])
    if served is not None and served != [i if i > 0 else None for i in there]:
        harm("stale", *where, "served", served, "not", there)
    if beside:
        harm("other", *where, "left beside the mailbox", beside)
    if ordered and problems() == before and there != sorted(there):
        harm("other", *where, "not in order")
    return there


def login(lab, host, user, where, server="pop3d-stub", patience=0):
    """A login that reads all; it must work, after so many seconds at most: (numbers, seconds, log)."""
    began = time.monotonic()
    while True:
        answer, ids, log = host.login_all(user, server)
        took = time.monotonic() - began
        if answer.startswith("+OK") or took > patience:
            break
        time.sleep(1)
    if not answer.startswith("+OK"):
        harm("other", *where, "login:", answer, log)
    return ids, took, log


def inuse(lab, options):
    """A second session is refused, on whichever host, and let in when the first is dead."""
    both(lab, options)
    fresh(lab, "u0", 5)
    lab.a.held("u0")
    answer, _, log = lab.b.login_all("u0")
    say("second session:", answer, log.strip())
    tally["cases"] += 1
    if "[IN-USE]" not in answer:
        harm("other", "inuse", options, answer)
    lab.a.over("u0")
    _, took, _ = login(lab, lab.b, "u0", ("inuse", options), patience=20)
    say(f"after SIGKILL of the first: in after {took:.1f} s")


def stale_login(lab, options, rounds=20):
    """A login sees at once what the other host did, with an index in the side file or without."""
    both(lab, options)
    fresh(lab, "u2", 12)
    want = list(range(1, 13))
    lab.b.login_all("u2", INDEX)
    for i in range(rounds):
        what = ("deliver", "rewrite", "swap")[i % 3]
        if what == "deliver":
            want.append(13 + i)
            lab.a.deliver("u2", want[-1:])
        elif what == "rewrite":
            want.pop(i % len(want))
            lab.a.rewrite("u2", want)
        else:                           # same size, and mtime put back
            want = want[1:] + want[:1]
            lab.a.rewrite("u2", want, True)
        host = lab.a if i % 6 == 5 else lab.b
        ids, _, log = login(lab, host, "u2", ("stale_login", options), INDEX)
        tally["cases"] += 1
        if ids != want:
            harm("stale", "stale_login", options, "round", i, what, "served", ids, "not", want, log)
        if i % 4 == 0:
            time.sleep(3.2)             # settled: the next login writes an index
            lab.b.login_all("u2", INDEX)


def stale_session(lab, options, drop, rounds=3):
    """In a session, after another host rewrote the mailbox: RETR is right or refused, and QUIT deletes nothing else.

    drop: this host has nothing of the mailbox in its memory but what it knows of its size and times.
    """
    both(lab, options)
    counts = collections.Counter()
    for _ in range(rounds):
        fresh(lab, "u3", 40)
        lab.b.login_all("u3", INDEX)
        time.sleep(3.2)
        lab.b.login_all("u3", INDEX)   # settled: writes the index
        if drop:
            lab.b.forget()
        lab.b.held("u3", INDEX)
        lab.a.rewrite("u3", without(40, [1]))
        wanted = (2, 5, 20, 33)
        got = lab.b.retrs("u3", wanted)
        for want, g in zip(wanted, got):
            counts["right" if g == want else "refused" if isinstance(g, str) else "wrong"] += 1
            if g != want and not isinstance(g, str):
                harm("stale", "stale_session", options, f"RETR {want} sends", g or "octets of no message")
        reply, _ = lab.b.say("u3", "DELE 3", "QUIT")
        counts[f"QUIT {reply[:20]}"] += 1
        judge(lab, ("stale_session", options, "QUIT", reply), "u3", without(40, [1]))
    say("RETR", dict(counts))


def grown(lab, options, wait=4, n=20):
    """Another host delivers in a session: RETR of the last message, DELE and QUIT are as without it."""
    both(lab, options)
    fresh(lab, "u0", n)
    lab.a.held("u0")
    lab.b.deliver("u0", [101])
    time.sleep(wait)
    got = lab.a.retrs("u0", (n, n - 1))
    reply, log = lab.a.say("u0", "DELE 1", "QUIT")
    if got != [n, n - 1] or not reply.startswith("+OK"):
        harm("stale", "grown", options, f"RETR {n}, {n - 1}:", got, "QUIT", reply, log)
    judge(lab, ("grown", options), "u0", without(n, [1]), [] if reply.startswith("+OK") else [1], more=[101])


def handed_out(lab, options, holder="pop3d-stub", leases=1, first=()):
    """A host where a program has the mailbox open delivers after the other did, and is handed a delegation with that.

    first: what it delivers before; then its own pages are there.  The other host has the mailbox open for writing when the
    program opens it, so nothing was handed out that the other's delivery calls back.  The mailbox and the two messages end in
    one page.
    """
    lab.server.delegations(leases)
    both(lab, options)
    fresh(lab, "u0", 11)
    lab.b.keep_open("u0", "w")
    session = holder and holder.startswith("pop3d")
    if session:
        lab.a.held("u0", holder)
        lab.a.retrs("u0", (11,))
    elif holder:
        lab.a.keep_open("u0", holder)
    if first:
        lab.a.deliver("u0", first)
    lab.b.deliver("u0", [101])
    lab.b.close_all()
    time.sleep(1)
    lab.a.deliver("u0", [106])
    where, gone = ("handed_out", options, holder, "leases", leases, *first), []
    if session:
        reply, log = lab.a.say("u0", "DELE 1", "QUIT")
        gone = [1]
        if not reply.startswith("+OK"):
            harm("other", *where, reply, log)
    lab.a.close_all()
    lab.server.delegations(1)
    judge(lab, where, "u0", without(11, gone), more=[*first, 101, 106], ordered=False)


def kills(lab, options, numbers=range(1, 300, 3), server="pop3d-stub", n=30):
    """Killed on one host at system calls after QUIT; the other is let in at once, and all is well."""
    both(lab, options)
    dele, tried = [2, 3, 7, 11, 12, 20], 0
    for number in numbers:
        fresh(lab, "u0", n)
        lab.b.login_all("u0")
        status = lab.a.killed_update("u0", dele, number, server)
        where = "kills", options, server, "call", number, status
        ids, took, _ = login(lab, lab.b, "u0", where, server)
        judge(lab, where, "u0", without(n, dele), dele, ids)
        if took > 20:
            harm("other", *where, f"in only after {took:.0f} s")
        tried += 1
        if status != 137:
            break
    say("killed at", tried, "system calls")


def slowkill(lab, options, n=120):
    """The same with a slow line, while the other host tries to get in all the time: no late write harms."""
    both(lab, options)
    dele = [2, 3, 50, 90]
    for number in range(14, 200, 9):
        fresh(lab, "u0", n)
        lab.b.login_all("u0")
        lab.a.slow("20ms rate 2mbit")
        job = lab.a.begin("killed_update", "u0", dele, number)
        while not job.wait(0.5) or not lab.b.login_all("u0")[0].startswith("+OK"):
            lab.b.login_all("u0")
        status = lab.a.end(job)
        lab.a.fast()
        time.sleep(0.5)
        where = "slowkill", options, "call", number, status
        judge(lab, where, "u0", without(n, dele), dele, login(lab, lab.b, "u0", where)[0])
        if status != 137:
            break


def negative(lab, options, numbers=(12, 25, 40)):
    """A host that has just seen that a dotlock is not there is let in at once after the other made it and was killed."""
    both(lab, options)
    dele = [2, 3, 7, 11]
    for number in numbers:
        fresh(lab, "u0", 30)
        lab.b.login_all("u0")
        lab.b.look("u0")
        status = lab.a.killed_update("u0", dele, number)
        where = "negative", options, "call", number, status
        say("killed at call", number, "beside the mailbox:", lab.server.left("u0")[1])
        ids, took, _ = login(lab, lab.b, "u0", where)
        judge(lab, where, "u0", without(30, dele), dele, ids)
        if took > 20:
            harm("other", *where, f"in only after {took:.0f} s")


def dies(lab, options, update=False, patience=LEASE * 6):
    """A host is switched off in a session, or in UPDATE: when the other is let in, and with what."""
    both(lab, options)
    fresh(lab, "u1", 60)
    dele, where = [2, 5, 9], ("dies", options, "in UPDATE" if update else "in a session")
    lab.a.held("u1", "pop3d-stub-area4k")
    if update:                          # on a slow line, so that it takes seconds
        lab.a.say("u1", *[f"DELE {i}" for i in dele])
        lab.a.slow("50ms")
        lab.a.begin("say", "u1", "QUIT")
        time.sleep(2.5)
    remembered = lab.a.statd() if "vers=3" in options else ""
    lab.a.kill()
    died = time.monotonic()
    if "vers=3" in options:             # there a lock stays until the dead host's statd tells that it is back
        time.sleep(LEASE)
        say("let in while the host is off:", lab.b.login_all("u1")[0])
    else:
        login(lab, lab.b, "u1", where, patience=patience)
        say(*where, f"let in after {time.monotonic() - died:.0f} s")
    lab.a.boot()
    lab.a.mount_nfs(options)
    if remembered:
        lab.a.booted_again(remembered)
    ids, _, _ = login(lab, lab.b, "u1", where, patience=60)
    judge(lab, where, "u1", without(60, dele), dele if update else without(60, without(60, dele)), ids)


def replaced(lab, options):
    """Another host renames a file over the mailbox in a session."""
    both(lab, options)
    fresh(lab, "u0", 10)
    lab.b.held("u0")
    new = list(range(101, 120))
    lab.a.replace("u0", new)
    got = lab.b.retrs("u0", (3, 9))
    for want, g in zip((3, 9), got):
        if not isinstance(g, str) and g != want:
            harm("stale", "replaced", options, got)
    reply, log = lab.b.say("u0", "DELE 1", "QUIT")
    say("RETR 3, 9:", got, "QUIT:", reply, log)
    judge(lab, ("replaced", options), "u0", new, served=login(lab, lab.b, "u0", ("replaced", options))[0])


def outage(lab, options, how, seconds=25, synced=True):
    """The server is frozen, cut off, or switched off and booted, while a host is in UPDATE."""
    both(lab, options)
    fresh(lab, "u1", 60, synced)
    dele, where = [2, 15, 40], ("outage", options, how)
    lab.a.held("u1", "pop3d-stub-area4k")
    lab.a.say("u1", *[f"DELE {i}" for i in dele])
    lab.a.slow("10ms")
    quit = lab.a.begin("say", "u1", "QUIT")
    time.sleep(0.5)
    say("UPDATE", "is over" if quit.is_set() else "goes on")
    if how == "frozen":
        lab.server.freeze()
        time.sleep(seconds)
        lab.server.thaw()
    elif how == "cut":
        lab.hub.cut.add(2)
        time.sleep(seconds)
        lab.hub.cut.clear()
    else:
        lab.server.kill()
        lab.server.boot()
        lab.server.serve_nfs(LEASE)
    reply, log = lab.a.end(quit)
    say("QUIT:", reply, log)
    lab.a.fast()
    lab.a.over("u1")
    for host in lab.b, lab.a:
        ids, took, log = login(lab, host, "u1", where, "pop3d-stub-area4k", 8 * LEASE)
        if "aside" in log:
            harm("other", *where, log)
    judge(lab, where, "u1", without(60, dele), [] if reply.startswith("+OK") else dele, ids)


def partition(lab, options, retr=True):
    """A host is cut off for longer than the lease; the other takes over and deletes; the first comes back and says QUIT.

    retr: it says RETR before that, which ends the session; what QUIT is then told is only a farewell.
    """
    both(lab, options)
    fresh(lab, "u2", 30)
    lab.a.held("u2")
    lab.a.say("u2", "DELE 3", "DELE 4")
    lab.hub.cut.add(2)
    cut = time.monotonic()
    while not lab.b.held("u2").startswith("+OK") and time.monotonic() - cut < 10 * LEASE:
        time.sleep(1)
    say(f"the other is let in after {time.monotonic() - cut:.0f} s")
    reply, log = lab.b.say("u2", "DELE 1", "DELE 10", "QUIT")
    if not reply.startswith("+OK"):
        harm("other", "partition", options, reply, log)
    lab.hub.cut.clear()
    time.sleep(2)
    got = lab.a.retrs("u2", (5,)) if retr else []
    reply, log = lab.a.say("u2", "QUIT")
    say("back: RETR 5", got, "QUIT", reply, log)
    if got == [None]:
        harm("stale", "partition", options, "RETR 5", got)
    gone = {1, 10, 3, 4} if reply.startswith("+OK") and got in ([], [5]) else {1, 10}
    where = "partition", options, "QUIT", reply
    ids, _, _ = login(lab, lab.b, "u2", where, patience=6 * LEASE)
    judge(lab, where, "u2", without(30, gone), served=ids)


def clocks(lab, options):
    """A client whose clock is wrong by an hour: a fresh dotlock of another program stands, a stale one does not."""
    both(lab, options)
    for skew, back in ("+1 hour", "-1 hour"), ("-1 hour", "+1 hour"):
        for minutes, expected in (None, "-ERR"), (11, "+OK"):
            fresh(lab, "u0", 10)
            lab.b.login_all("u0")
            lab.b.clock(skew)
            lab.server.foreign_lock("u0", minutes)
            if minutes:
                lab.server.clock(f"+{minutes} minutes")
            reply, log = lab.b.held("u0", INDEX), ""
            if reply.startswith("+OK"):
                reply, log = lab.b.say("u0", "DELE 1", "QUIT")
            lab.b.over("u0")
            tally["cases"] += 1
            if not reply.startswith(expected):
                harm("other", "clocks", options, skew, "dotlock of", minutes, "minutes:", reply, log)
            if minutes:
                lab.server.clock(f"-{minutes} minutes")
            lab.b.clock(back)


def soak(lab, options, rounds=1, seconds=60, users=("u0", "u1"), deliverers=("append", "procmail"), sessions=True,
         leases=1):
    """Both hosts deliver and serve; 15 sessions of 100 are killed. rounds None: as many as -r says."""
    lab.server.delegations(leases)
    both(lab, options)
    total, before = collections.Counter(), problems()
    for r in range(rounds or args.rounds):
        for user in users:
            fresh(lab, user, 20)
        jobs = [(host, host.begin("soak", users, seconds, time.time() + host.number, 1000 + host.number, deliverers, sessions))
                for host in (lab.a, lab.b)]
        told = [host.end(job) for host, job in jobs]
        for user in users:
            where = "soak", options, *deliverers, "sessions" if sessions else "no sessions", user
            ids = login(lab, lab.b, user, where, patience=60)[0] if sessions else None
            total.update(settle(lab, where, user, [result[user] for result in told], ids))
        total["rounds"] += 1
    lab.server.delegations(1)
    say(dict(total), "harmed", problems() - before)


def settle(lab, where, user, told, served):
    """All that was there or delivered is deleted, or left, once."""
    delivered = set(range(1, 21)).union(*[t["delivered"] for t in told])
    deleted = [i for t in told for i in t["deleted"]]
    maybe = {i for t in told for i in t["maybe"] + t["unsure"]}
    before = problems()
    judge(lab, where, user, delivered - set(deleted) - maybe, maybe, served, ordered=False)
    if len(set(deleted)) < len(deleted):
        harm("doubled", *where, "deleted twice", [i for i in deleted if deleted.count(i) > 1][:10])
    for t in told:
        if t["wrong"]:
            harm("stale", *where, len(t["wrong"]), t["wrong"][:3])
        if t["errors"]:
            harm("other", *where, len(t["errors"]), t["errors"][:3])
    if problems() > before:
        say("deliveries:", [t["how"][:8] for t in told])
    return {"delivered": len(delivered) - 20, "deleted": len(deleted), "maybe": len(maybe),
            "refused": sum(len(t["refused"]) for t in told),
            **{key: sum(t[key] for t in told) for key in ("sessions", "killed")}}


FOUR = "u0", "u1", "u2", "u3"
BIG = (343,)                            # of two pages
GROUPS = {
    "inuse": (inuse, [("vers=4.2",), ("vers=3",)]),
    "stale_login": (stale_login, [("vers=4.2,actimeo=60",), ("vers=3,actimeo=60",), ("vers=4.2,nocto,noatime", 9)]),
    "stale_session": (stale_session, [("vers=4.2", False), ("vers=4.2,noatime,actimeo=60", False),
                                      ("vers=4.2,noatime,actimeo=60", True), ("vers=3,noatime,actimeo=60", True)]),
    "grown": (grown, [("vers=4.2",), ("vers=4.2,noatime,actimeo=60",), ("vers=4.2", 0), ("vers=3",), ("vers=4.2,noac", 1)]),
    "handed_out": (handed_out, [("vers=4.2", "pop3d-stub", 0, BIG), ("vers=4.2", "rw", 0, BIG), ("vers=3", "pop3d-stub", 1, BIG),
                                ("vers=4.2", "r", 1, BIG), ("vers=4.2", None, 1, BIG)]),
    "kills": (kills, [("vers=4.2",), ("vers=3", range(1, 300, 7)), ("vers=4.2", range(1, 300, 7), "pop3d-stub-area4k")]),
    "slowkill": (slowkill, [("vers=4.2",)]),
    "negative": (negative, [("vers=4.2",), ("vers=3",)]),
    "clocks": (clocks, [("vers=4.2",)]),
    "replaced": (replaced, [("vers=4.2",), ("vers=3",)]),
    "outage": (outage, [("vers=4.2", "frozen"), ("vers=4.2", "reboot"), ("vers=4.2,soft,timeo=20,retrans=1", "frozen"),
                        ("vers=3", "reboot"), ("vers=4.2,soft,timeo=20,retrans=1", "cut")]),
    "partition": (partition, [("vers=4.2",), ("vers=4.2", False)]),
    "dies": (dies, [("vers=4.2",), ("vers=4.2", True), ("vers=3",)]),
    "soak": (soak, [("vers=4.2",), ("vers=3",)]),
    # What happens when both hosts open a mailbox for the first time; and without us, and without delegations.
    "starts": (soak, [("vers=4.2", None, 7, FOUR)]),
    "controls": (soak, [("vers=4.2", None, 7, FOUR, ("append", "procmail"), False),
                        ("vers=4.2", None, 7, FOUR, ("append", "procmail"), True, 0), ("vers=3", None, 7, FOUR)]),
    # The client's own fault: every line is harmed.
    "nuls": (handed_out, [("vers=4.2", "rw"), ("vers=4.2", "rw", 1, BIG), ("vers=4.2",), ("vers=4.2", "pop3d-stub", 1, BIG),
                          ("vers=4.2,noac",)]),
    # And so is this, or the tests are blind.
    "norecords": (kills, [("vers=4.2", range(60, 90, 2), "pop3d-stub-norecords")]),
}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("-r", type=int, dest="rounds", default=14, help="rounds of starts and controls")
    parser.add_argument("groups", nargs="*", help=", ".join(GROUPS))
    parser.parse_args(namespace=args)
    for group in args.groups:
        if group.partition(":")[0] not in GROUPS:
            parser.error(f"no group {group}")
    try:
        with hosts.Lab() as lab:
            say("three hosts are up,", lab.server.serve_nfs(LEASE), "threads of nfsd")
            for group in args.groups or [name for name in GROUPS if name not in ("controls", "nuls", "norecords")]:
                group, _, part = group.partition(":")
                function, lines = GROUPS[group]
                for line in lines:
                    if part and not any(part in str(argument) for argument in line):
                        continue
                    say(group, *line)
                    try:
                        function(lab, *line)
                    except Exception:
                        tally["not finished"] += 1
                        say("NOT FINISHED", group, *line, traceback.format_exc(limit=4))
                        lab.hub.cut.clear()
    finally:
        print("cases", tally["cases"], *[f"{kind} {tally[kind]}" for kind in HARM], "not finished", tally["not finished"])
    return any(tally[kind] for kind in [*HARM, "not finished"])


if __name__ == "__main__":
    sys.exit(main())
