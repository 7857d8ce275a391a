"""What is tried with a protocol: each check yields, for every case, whether it ended right, and the case."""

import itertools

from disk import Disk, Failed

TEXT = set(b"abcdefghijklmnopqrstuvwxyz!?")     # bytes of the messages that are there at first, and of the marks
SIZES = 3, 4, 5                                 # of these messages, so that every hole has room for its marks; real ones have 30


def crashes(disk, action, power):
    """Every state that a crash of the action can leave, and the state after it ran through."""
    seen = {}

    def note(state):
        seen[tuple(sorted(state.cache.items())), tuple(sorted(state.durable.items())), tuple(state.pending)] = state

    def crash(state):
        for left in state.after_power_loss() if power else [state]:
            note(left)

    done = disk.copy()
    done.comes, done.points = disk.comes, []
    action(done)
    for state in done.points:
        crash(state)
    done.points = None
    for fails in itertools.count():             # each fsync of the side file fails once
        trial = disk.copy()
        trial.comes, trial.fails = disk.comes, fails
        try:
            action(trial)
        except Failed:
            trial.comes = trial.fails = None
            crash(trial)
            note(trial.copy())                  # a session answers -ERR and ends: no power is lost
            continue
        return list(seen.values()), done


def ends(protocol, disk, power, known):
    """The states after a recovery, and after every one that crashed and ran again. known: recoveries that ran before."""
    again, done = crashes(disk, protocol.recover, power)
    yield done
    for state in again:
        found = tuple(sorted(state.cache.items()))      # all that a recovery sees
        if found not in known:
            protocol.recover(state)
            known[found] = state
        yield known[found]


class Case:
    """A mailbox of messages of these sizes, some of them deleted."""

    def __init__(self, deleted, sizes):
        self.deleted = deleted
        self.texts = [b"F" + bytes([97 + 4 * i + j for j in range(n - 1)]) for i, n in enumerate(sizes)]
        self.mailbox = b"".join(self.texts)
        end = list(itertools.accumulate(sizes))
        self.dead = [(end[i] - sizes[i], end[i]) for i in deleted]
        self.kept = self.without(deleted)
        # A deleted message may be there whole, or not at all.
        self.allowed = {self.without(gone) for k in range(len(deleted) + 1) for gone in itertools.combinations(deleted, k)}

    def without(self, gone):
        return b"".join(text for i, text in enumerate(self.texts) if i not in gone)

    def cut_short(self, protocol, power, disk=None):
        """The states that a crash of UPDATE leaves."""
        start = disk or Disk(self.mailbox)
        states, done = crashes(start, lambda disk: protocol.update(disk, self.dead), power)
        assert done.cache["M"] == self.kept + start.cache["M"][len(self.mailbox):], (self.deleted, done.cache)
        return states


def cases(sizes, most=None):
    count = len(sizes)
    return [Case(deleted, sizes) for k in range(1, (most or count) + 1) for deleted in itertools.combinations(range(count), k)]


def crashed(protocol, first_power, second_power, sizes):
    """A crash, a delivery or none, and a recovery that crashes too: what was kept and delivered is there once."""
    for case in cases(sizes):
        known, tail = {}, case.mailbox[len(case.kept):]
        mails = [b"", b"F", b"FXY", b"FXYFZFZZZZ", b"F" + b"X" * (len(tail) - 1), tail, tail + b"FQ"]
        for state, mail in itertools.product(case.cut_short(protocol, first_power), dict.fromkeys(mails)):
            delivered = state.copy()
            if mail:
                delivered.piece("w", "M", len(delivered.cache["M"]), mail)
                delivered.fsync("M")
            for end in ends(protocol, delivered, second_power, known):
                good = end.cache["M"] in {left + mail for left in case.allowed} and not end.aside
                yield good and protocol.latest(end)[1] == "idle", (case.deleted, state.cache, mail, end.cache)


def comes_between(protocol, first_power, second_power, sizes):
    """A deliverer without locks appends in the middle of an fsync of UPDATE's: after SIGKILL all of that is there, and always
    what was kept. (What comes between the last look and the cut is lost: no fsync is there.)"""
    for case in cases(sizes):
        for at in itertools.count():
            known, start = {}, Disk(case.mailbox)
            start.comes = at
            states, done = crashes(start, lambda disk: protocol.update(disk, case.dead), first_power)
            if not done.mail:
                break
            yield done.cache["M"] == case.kept + done.mail, (case.deleted, start.cache, done.mail, done.cache)
            for state in states:
                mails = (b"", b"FNEW") if first_power or second_power else (state.mail,)
                for end in ends(protocol, state, second_power, known):
                    good = end.cache["M"] in {left + mail for left in case.allowed for mail in mails}
                    yield good and not end.aside, (case.deleted, state.cache, state.mail, end.cache)


def messages(mailbox):
    """As any program reads it: a message begins with F."""
    starts = [i for i, byte in enumerate(mailbox) if byte == ord("F")]
    return [mailbox[a:b] for a, b in zip(starts, [*starts[1:], len(mailbox)])]


def rewritings(mailbox):
    """The mailbox after another program deleted some messages of what it found, in place."""
    found = messages(mailbox)
    head = len(mailbox) - sum(map(len, found))
    for gone in itertools.product((False, True), repeat=len(found)):
        if any(gone) and len(found) <= 6:
            yield mailbox[:head] + b"".join(text for text, away in zip(found, gone) if not away)


def rewritten(protocol, first_power, _, sizes):
    """A crash, and another program and a deliverer before the login: what these left is what is there."""
    for case in cases(sizes):
        for state in case.cut_short(protocol, first_power):
            if protocol.latest(state)[1] == "idle":
                continue
            mails = b"", b"FXY", b"FXYFZZZZZZZZZZZZZZZZZZZ", b"FVVVVVVVFWWWWWWFXXXXXXXXFYYYYYY"
            for left, mail in itertools.product(rewritings(state.cache["M"]), mails):
                end = state.copy()
                end.piece("t", "M", 0)
                end.write("M", 0, left + mail, step=100)
                end.fsync("M")
                protocol.recover(end)
                yield end.cache["M"] == left + mail, (case.deleted, state.cache, left + mail, end.cache)


def not_synced(protocol, first_power, second_power, sizes):
    """A deliverer appended before QUIT and did not sync: what was there before is whole, nothing is set aside."""
    for case in cases(sizes, len(sizes) - 1):
        known, start = {}, Disk(case.mailbox)
        start.write("M", len(case.mailbox), b"FNEW", step=4)
        for state in case.cut_short(protocol, first_power, start):
            for end in ends(protocol, state, second_power, known):
                good = end.cache["M"] in {left + mail for left in case.allowed for mail in (b"", b"FNEW")}
                yield good and not end.aside, (case.deleted, state.cache, b"FNEW", end.cache)


def delivered_after(protocol, first_power, _, sizes):
    """A crash, a deliverer that does not sync, and the power goes: nothing that was kept is harmed, nothing dead comes back."""
    for case in cases(sizes):
        for state, mail in itertools.product(case.cut_short(protocol, first_power), (b"FXY", b"FXYZFQRSTUV")):
            delivered = state.copy()
            delivered.write("M", len(delivered.cache["M"]), mail, step=4)
            for end in delivered.after_power_loss():
                before = dict(end.cache)
                protocol.recover(end)
                left = end.cache["M"]
                behind = [left[len(kept):] for kept in case.allowed if left.startswith(kept)]
                yield end.aside or any(not set(rest) & TEXT for rest in behind), (case.deleted, before, mail, left)


def other_data(protocol, first_power, _, sizes):
    """The data area is not what the record says (a side file from a backup, a disk that lied): it does not go into the mailbox."""
    for case in cases(sizes):
        for state in case.cut_short(protocol, first_power):
            n = protocol.latest(state)[4]
            for data in (b"", b"\0" * n, b"Q" * n, state.cache.get("D", b"")[:n - 1]) if n else ():
                end = state.copy()
                end.cache["D"] = data
                protocol.recover(end)
                yield end.cache["M"] == state.cache["M"], (case.deleted, state.cache, data, end.cache)
