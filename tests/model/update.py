#!/usr/bin/python3
"""UPDATE as an executable model: the protocol that mailbox.c follows, checked at every crash point.

    update.py [-s] [-v]

Prints the cases tried and those that went wrong, for the protocol and for weakened ones; the exit status is 0 if the protocol
is never wrong and each weakened one is. A check of a weakened one ends at 500 wrong. -s is a short form: the last message of
three is not there. -v shows the first case that went wrong.

In a case UPDATE deletes some of a few messages and is cut short, by SIGKILL or by power loss, before or after any piece of a
write or an fsync (disk.py). Then, as the check has it (checks.py), a deliverer appends, or another program rewrites what it
finds, and recovery runs, which may be cut short as well, and runs again. In the end the mailbox holds every kept message
once, then all that was delivered; a deleted message may be there whole, or not at all. If another program rewrote it, it is
what that program and the deliverers left, and the side file is set aside.
"""

import argparse
import multiprocessing
import os
import sys

import checks
from protocol import OneSlot, Update, unpack

SIGKILL, POWER = False, True
TWICE = [(SIGKILL, SIGKILL), (SIGKILL, POWER), (POWER, SIGKILL), (POWER, POWER)]     # a crash, and one of its recovery
ONCE = [(SIGKILL, None), (POWER, None)]
LOST = [(POWER, SIGKILL), (POWER, POWER)]

STRONG = [
    ("the protocol", Update(), checks.crashed, TWICE),
    ("the same, larger steps", Update(4, 4), checks.crashed, TWICE),
    ("the same, on a full disk", Update(0), checks.crashed, TWICE),
    ("rewritten by another program", Update(), checks.rewritten, ONCE),
    ("the same, larger steps", Update(40, 40), checks.rewritten, ONCE),
    ("the same, on a full disk", Update(0), checks.rewritten, ONCE),
    ("a delivery that was not synced", Update(), checks.not_synced, LOST),
    ("the same, larger steps", Update(4, 4), checks.not_synced, LOST),
    ("delivered after the crash, not synced", Update(), checks.delivered_after, ONCE),
    ("the same, larger steps", Update(4, 4), checks.delivered_after, ONCE),
    ("mail comes in the middle of an fsync", Update(), checks.comes_between, TWICE[:1] + LOST[:1]),
    ("the same, larger steps", Update(4, 4), checks.comes_between, TWICE[:1] + LOST[:1]),
    ("the same, on a full disk", Update(0), checks.comes_between, TWICE[:1] + LOST[:1]),
    ("another data area than was saved", Update(4, 4), checks.other_data, ONCE),
]
WEAK = [
    ("weakened: no fsync", Update(fsync=False), checks.crashed, [(POWER, POWER)]),
    ("weakened: not synced first", Update(4, 4, first=False), checks.not_synced, [(POWER, SIGKILL)]),
    ("weakened: no look before the cut", Update(look=False), checks.comes_between, [(SIGKILL, SIGKILL)]),
    ("weakened: no mark", Update(mark=False), checks.crashed, [(SIGKILL, SIGKILL)]),
    ("weakened: a cut believed atomic", Update(careful=False), checks.crashed, [(POWER, SIGKILL)]),
    ("weakened: no anchor at the end", Update(40, 40, end_anchor=False), checks.rewritten, [(SIGKILL, None)]),
    ("weakened: the data area believed", Update(4, 4, data_sum=False), checks.other_data, [(SIGKILL, None)]),
    ("weakened: fsync believed", Update(4, 4, rewrite=False), checks.crashed, [(POWER, POWER)]),
    ("weakened: one slot for all records", OneSlot(), checks.crashed, [(POWER, SIGKILL)]),
]
ROWS = [(table, at, powers) for table in (STRONG, WEAK) for at, (*_, every) in enumerate(table) for powers in every]
ENOUGH = 500


def run(job):
    """A row: (cases, wrong, the first that was)."""
    row, sizes = job
    table, at, powers = ROWS[row]
    _, protocol, check, _ = table[at]
    cases, wrong, example = 0, 0, None
    for good, case in check(protocol, *powers, sizes):
        cases += 1
        if not good:
            wrong += 1
            example = example or case
        if wrong == ENOUGH:
            break
    return cases, wrong, example


def shown(files):
    return {name: unpack(text) or text.rstrip(b"\0") if name in "AB" else text for name, text in files.items()}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("-s", action="store_true", help="short form")
    parser.add_argument("-v", action="store_true", help="show the first case that went wrong")
    args = parser.parse_args()
    sizes = checks.SIZES[:2] if args.s else checks.SIZES
    good = True
    with multiprocessing.Pool(os.cpu_count()) as pool:
        results = pool.imap(run, [(row, sizes) for row in range(len(ROWS))])
        for (table, at, powers), (cases, wrong, example) in zip(ROWS, results):
            crash = " then ".join("power loss" if power else "SIGKILL" for power in powers if power is not None)
            print(f"{table[at][0]:<38} {crash:<24} cases {cases:>8}  wrong {wrong:>5}", flush=True)
            if wrong and args.v:
                deleted, crashed, mail, end = example
                print(f"    first: deleted {deleted}, after the crash {shown(crashed)}, then or delivered {mail}, in the end {shown(end)}")
            good &= bool(wrong) == (table is WEAK)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
