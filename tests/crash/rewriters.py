#!/usr/bin/python3
"""Cut UPDATE short at a system call, let a user's program rewrite what is left, deliver before and after, and log in.

    rewriters.py [-s] [-p points] [server ...]

Every program of mailers.py, and what people do by hand, meets what each kill leaves. After the next login, which is the real
pop3d's, either the mailbox is byte for byte what the other programs left, and if bytes were on their way the side file was set
aside and the log names it; or UPDATE was finished rightly: every message that was kept, and not removed by the program, is there
once and whole, and so is what was delivered. Needs root. -s is a short form.
"""

import argparse
import grp
import itertools
import os
import pathlib
import re
import struct
import sys
import time

import crash
import lab
from lab import KILLED, LOGIN, SERVERS, Harm

sys.path.insert(0, str(lab.TESTS / "tools"))
import mailers  # noqa: E402

MAIL_GID = grp.getgrnam("mail").gr_gid
DELETED = [0, 3]
GONE = {3, 30}                          # the messages with FIND in their Subject: who removes any removes of these


class Spooled(lab.Maildrop):
    """The mailbox of the desk's user."""

    def __init__(self, desk, messages):
        self.desk, self.dir, self.path = desk, desk.spool, desk.mailbox
        self.list = pathlib.Path("/dev/shm", desk.root.name + ".list")
        self.messages, self.original = messages, lab.octets_of(messages)
        os.chown(self.dir, desk.uid, -1)        # for the server without root

    def __exit__(self, *_):
        self.list.unlink(missing_ok=True)

    def give(self, path):
        os.chown(path, self.desk.uid, MAIL_GID)
        if path == self.path:
            path.chmod(0o660)


# ---- what people do by hand; each takes the desk ----

def moves(desk):
    """mv of a copy without the message: another inode."""
    new = desk.mailbox.with_name("new")
    new.write_bytes(without(desk.mailbox.read_bytes()))
    os.chown(new, desk.uid, MAIL_GID)
    new.chmod(0o660)
    desk.run("mv", "/var/mail/new", mailers.MAIL)


def without(content):
    found = re.split(rb"(?m)^(?=From p3dd-)", content)
    return b"".join(text for text in found if not re.search(rb"(?m)^Subject: p3dd 30?$", text))


def edits(desk):
    """sed -i: another inode, the user's."""
    desk.as_user("sed", "-i", "s/^Subject: p3dd 3$/Subject: edited/", mailers.MAIL, group="mail")


def edits_in_place(desk):
    desk.as_user("ex", "-s", "-u", "NONE", "-c", "set noswapfile backupcopy=yes binary", "-c", "%s/^Subject: p3dd 3$/Subject: edited/e",
                 "-c", "wq", mailers.MAIL, group="mail")


def truncates(desk):
    os.truncate(desk.mailbox, desk.mailbox.stat().st_size // 2)


def empties(desk):
    os.truncate(desk.mailbox, 0)


def makes_anew(desk):
    """Deleted, and made anew with the number that the old inode had: to pop3d as good as this."""
    with desk.mailbox.open("r+b") as mailbox:
        mailbox.truncate()
        mailbox.write(lab.Message(77, 3000).stored * 3)


def removes(desk):
    desk.mailbox.unlink()


def nothing(desk):
    pass


PROGRAMS = [mailers.neomutt, mailers.mutt, mailers.gnu_mail, mailers.s_nail, mailers.alpine, mailers.dovecot_expunges,
            mailers.dovecot_marks]
PEOPLE = [moves, edits, edits_in_place, truncates, empties, makes_anew, removes, nothing]
DELIVERERS = [None, mailers.procmail, mailers.maildrop, mailers.dma, mailers.dotlockfile]


def new_mail(number):
    """Without a line that deliverers quote, each in its way."""
    return lab.Message(number, 3000, "new").stored.split(b"\n", 1)[1].replace(b">From", b">Form").rstrip(b"\n") + b"\n"


def tries(action, desk, *arguments):
    """A program may refuse a mailbox that is half done: that is no harm."""
    try:
        action(desk, *arguments)
    except AssertionError as refused:
        return str(refused)[:200] or "refused"
    return ""


def record(side):
    """(state, n) of the record that counts, or (0, 0). The fields are those of struct record in mailbox.c."""
    records = [struct.unpack_from("=QQQqqqq", side, at) for at in (0, 4096) if len(side) >= at + 512]
    latest = max((fields[1], fields[2], fields[5]) for fields in records) if records else (0, 0, 0)
    return latest[1:]


def bodies(content):
    """(who, number, whole) of each message that is there."""
    for stored in re.findall(rb"(?ms)^From (?:p3dd|bob)\S*@.*?(?=^From (?:p3dd|bob)\S*@|\Z)", content):
        if found := re.search(rb"(?m)^Subject: (p3dd|new) (\d+)$", stored):
            who, number = found[1].decode(), int(found[2])
            right = new_mail(number) if who == "new" else RIGHT.get(number, b"")
            yield who, number, stored.partition(b"\n\n")[2].rstrip(b"\n") == right.partition(b"\n\n")[2].rstrip(b"\n")


MESSAGES = lab.mailbox("short")
RIGHT = {number: message.stored for number, message in enumerate(MESSAGES, 1)}


def judge(drop, left, delivered, side, program, log):
    now = drop.content() if drop.path.exists() else None
    saved = drop.dir / f".{mailers.NAME}.pop3d.saved"
    if now == left:                     # if nobody rewrote it, that is right only where UPDATE was whole or had not begun
        if saved.exists() and not any(saved.name in line and line.startswith("<18>") for line in log):
            raise Harm("a side file was set aside, and no line with priority crit names it")
        if saved.exists() and record(saved.read_bytes()) != record(side):
            raise Harm("what was set aside is another side file")
        if program is not nothing:
            return "left" if not saved.exists() else "set aside"
    if saved.exists():
        raise Harm("the side file was set aside, and the mailbox changed")
    found = list(bodies(now or b""))
    if bad := [f"{who} {number}" for who, number, whole in found if not whole]:
        raise Harm(f"not whole: {bad}")
    names = [(who, number) for who, number, _ in found]
    if len(set(names)) != len(names):
        raise Harm(f"twice: {sorted(names)}")
    kept = {("p3dd", number) for number in RIGHT if number - 1 not in DELETED}
    gone = {("p3dd", number) for number in GONE} if program is not nothing else set()
    if missing := (kept - gone | {("new", number) for number in delivered}) - set(names):
        raise Harm(f"missing: {missing}")
    return "finished"


def try_one(drop, state, program, before, after):
    desk = drop.desk
    drop.restore(state)
    desk.run("sh", "-c", f"rm -rf {desk.home}/mail/.imap {desk.home}/mail/dovecot* {desk.home}/mbox")
    lab.remove_stale_lock(drop.path)
    delivered = []
    if before:
        refused = tries(before, desk, new_mail(801))
        delivered += [] if refused else [801]
    tries(program, desk)
    if program in (truncates, empties, makes_anew, removes):
        delivered = []
    if after and drop.path.exists():
        refused = tries(after, desk, new_mail(802))
        delivered += [] if refused else [802]
    left = drop.content() if drop.path.exists() else None
    side = (drop.dir / f".{mailers.NAME}.pop3d").read_bytes()
    desk.lines.clear()
    with desk.pop3d("-p") as session:
        answer = session.login(mailers.NAME, desk.password)
        if answer.startswith(b"+OK"):
            session.cmd("QUIT")
        session.end()
        session.wait()
    if not answer.startswith(b"+OK") and not (answer.startswith(b"-ERR [SYS/PERM]") and left and not left.startswith(b"From ")):
        raise Harm(f"login: {answer!r}")
    if answer.startswith(b"+OK"):
        desk.log(r": (logout|login): ")
    return judge(drop, left, delivered, side, program, list(desk.lines))


def sweep(servers, programs, points=0, report=print):
    """(tried, harmed): every program at so many kill points of each server, 0 for all; deliverers take turns."""
    total, harmed = 0, []
    with mailers.Desk() as desk, Spooled(desk, MESSAGES) as drop:
        os.environ["POP3D_STUB_UID"] = str(desk.uid)
        try:
            for server in servers:
                commands = [*LOGIN, *lab.deletions(DELETED), b"QUIT"]
                drop.begin(server)
                drop.session(server, commands, marker="QUIT", lists=True)
                chosen = crash.sample(list(crash.different(drop.calls()))[1:-1], points)
                turns = itertools.cycle(itertools.product(DELIVERERS, DELIVERERS))
                outcomes = {}
                for number, action in chosen:
                    drop.restore()
                    if drop.session(server, commands, marker="QUIT", number=number, action=action)[0] != KILLED:
                        raise Harm("not killed")
                    state = drop.save()
                    for program in programs:
                        before, after = next(turns)
                        what = ", ".join((deliverer.__name__ if deliverer else "nobody") for deliverer in (before, after))
                        try:
                            outcome = try_one(drop, state, program, before, after)
                        except Harm as harm:
                            outcome = "harmed"
                            harmed.append(f"{server.name}, call {number} ({action}), {program.__name__}, "
                                          f"delivered before and after by {what}: {harm}")
                        outcomes.setdefault(program.__name__, {}).setdefault(outcome, 0)
                        outcomes[program.__name__][outcome] += 1
                        total += 1
                report(f"{server.name}: {len(chosen)} kill points", flush=True)
                for name, counts in outcomes.items():
                    report(f"    {name:<20} " + "  ".join(f"{outcome} {count}" for outcome, count in sorted(counts.items())), flush=True)
        finally:
            del os.environ["POP3D_STUB_UID"]
    return total, harmed


SHORT, LONG = 5, 0


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("-s", action="store_true", help="short form")
    parser.add_argument("-p", type=int, help="so many kill points")
    parser.add_argument("servers", nargs="*", type=pathlib.Path, default=SERVERS[:3])
    args = parser.parse_args()
    began = time.monotonic()
    points = args.p if args.p is not None else SHORT if args.s else LONG
    total, harmed = sweep(args.servers, PROGRAMS + PEOPLE, points)
    print(*harmed[:20], sep="\n")
    print(f"{total} rewritten, {len(harmed)} harmed, {time.monotonic() - began:.0f} s")
    return bool(harmed)


if __name__ == "__main__":
    sys.exit(main())
