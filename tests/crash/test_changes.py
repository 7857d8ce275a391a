"""Deliveries and other programs in the middle of a session."""

import os
import re

import pytest

from harness import PATIENT, Maildrop, mail

CHANGED = b"-ERR [SYS/TEMP] mailbox was changed by another program"
THREE = mail(1) + mail(2) + mail(3)


def rewrite(drop, content):
    """In place, as readers do it; the modification time does not tell."""
    st = drop.path.stat()
    with open(drop.path, "rb+") as mailbox:
        mailbox.write(content)
        mailbox.truncate()
    os.utime(drop.path, ns=(st.st_atime_ns, st.st_mtime_ns))


def marked_read(drop):
    rewrite(drop, THREE.replace(b"Subject", b"Status: RO\nSubject"))


def same_size(drop):
    rewrite(drop, THREE.replace(b"number", b"NUMBER"))


def cut_short(drop):
    rewrite(drop, THREE[:len(THREE) // 4])


def emptied(drop):
    rewrite(drop, b"")


def first_removed(drop):
    rewrite(drop, mail(2) + mail(3))


def order_reversed(drop):
    rewrite(drop, mail(3) + mail(2) + mail(1))


def no_mailbox_any_more(drop):
    rewrite(drop, b"\0" * len(THREE))


ALL = [marked_read, same_size, cut_short, emptied, first_removed,
       order_reversed, no_mailbox_any_more]


@pytest.fixture
def session(drop):
    with drop.session() as session:
        assert session.login().startswith(b"+OK")
        yield session


def expect_end(session):
    assert session.rest() == b""
    assert session.wait() == 0


@pytest.mark.parametrize("command", ["RETR 1", "TOP 1 0"])
@pytest.mark.parametrize("change", ALL)
def test_a_change_is_seen_and_ends_the_session(drop, session, change, command):
    session.cmd("DELE 3")
    change(drop)
    content = drop.content
    assert session.cmd(command) == CHANGED
    expect_end(session)
    assert drop.content == content


@pytest.mark.parametrize("change", ALL)
def test_a_change_is_seen_at_quit(drop, session, change):
    session.cmd("DELE 1")
    change(drop)
    content = drop.content
    assert session.cmd("QUIT") == CHANGED
    expect_end(session)
    assert drop.content == content


def test_a_mailbox_that_is_shorter_has_changed_though_the_deleted_message_has_not(drop, session):
    session.cmd("DELE 1")
    rewrite(drop, mail(1) + mail(2))
    assert session.cmd("QUIT") == CHANGED
    expect_end(session)
    assert "it is shorter than it was" in session.log()
    assert drop.content == mail(1) + mail(2)


@pytest.mark.parametrize("changed", [1, 3])
def test_one_that_changed_is_enough_among_those_to_be_deleted(drop, session, changed):
    session.cmd("DELE 1")
    session.cmd("DELE 3")
    rewrite(drop, THREE.replace(b"number %d" % changed, b"NUMBER %d" % changed))
    content = drop.content
    assert session.cmd("QUIT") == CHANGED
    expect_end(session)
    assert drop.content == content


@pytest.mark.parametrize("change", ALL)
def test_a_session_that_deletes_nothing_does_not_mind(drop, session, change):
    session.cmd("STAT")
    change(drop)
    content = drop.content
    assert session.cmd("QUIT").startswith(b"+OK")
    assert drop.content == content


def test_a_message_that_is_where_it_was_is_sent(drop, session):
    order_reversed(drop)
    assert session.multi("RETR 2")[1][1] == b"Subject: number 2"


def read_while_it_was_sent(drop):
    rewrite(drop, drop.content.replace(b"Subject", b"Status: RO\nSubject"))


LONG = 70 * b"x" + b"\n"


@pytest.mark.parametrize("command", ["RETR 1", "TOP 1 9000"])
@pytest.mark.parametrize("change", [read_while_it_was_sent, emptied])
def test_a_change_while_a_message_is_sent_leaves_it_without_an_end(
        tmp_path, change, command):
    """More of it is still to be read than pipes and buffers hold."""
    drop = Maildrop(tmp_path / "alice", mail(1, body=10_000 * LONG))
    with drop.session() as session:
        session.login()
        assert session.cmd(command).startswith(b"+OK")
        change(drop)
        assert not session.rest().endswith(b"\r\n.\r\n")
        assert session.wait() == 0
        assert "reason=changed" in session.log()
        assert re.search("maildrop failed: .* at=read error=", session.log())


def test_a_delivery_while_a_message_is_sent_does_not(tmp_path):
    drop = Maildrop(tmp_path / "alice", mail(1, body=10_000 * LONG))
    with drop.session() as session:
        session.login()
        assert session.cmd("RETR 1").startswith(b"+OK")
        drop.deliver(mail(2))
        assert session.body()[-10_000:] == 10_000 * [LONG[:-1]]
        assert session.cmd("QUIT").startswith(b"+OK")


BEGUN = [b"F", b"From", b"From bob@example.org ", b"From bob@example.org Thu Nov  5 10:0",
         b"\nFrom bob", b"\r\nFrom bob"]


@pytest.mark.parametrize("begun", BEGUN)
def test_a_delivery_that_has_just_begun_is_no_change(drop, session, begun):
    """procmail writes the F alone; the rest may come after our look."""
    drop.deliver(begun)
    assert session.cmd("RETR 3").startswith(b"+OK")
    assert session.body()


@pytest.mark.parametrize("begun", BEGUN)
def test_a_delivery_that_has_just_begun_keeps_the_last_message_from_being_deleted(drop, session, begun):
    """Under the locks a deliverer that knows one has written more: nothing is written, and the next session may."""
    session.cmd("DELE 3")
    drop.deliver(begun)
    assert session.cmd("QUIT") == CHANGED
    expect_end(session)
    assert drop.content == THREE + begun


@pytest.mark.parametrize("begun", BEGUN)
def test_a_delivery_that_has_just_begun_moves_with_the_last_message(drop, session, begun):
    session.cmd("DELE 1")
    drop.deliver(begun)
    assert session.cmd("QUIT").startswith(b"+OK")
    assert drop.content == mail(2) + mail(3) + begun


def test_a_last_message_that_grows_is_a_change(drop, session):
    with drop.path.open("ab") as mailbox:
        mailbox.write(b"more\n")
    assert session.cmd("RETR 3") == CHANGED
    expect_end(session)


def replaced(drop):
    new = drop.path.with_name("new")
    new.write_bytes(mail(7) + mail(8) + mail(9))
    new.rename(drop.path)


def removed(drop):
    drop.path.unlink()


@pytest.mark.parametrize("change", [replaced, removed])
def test_another_file_of_that_name_is_left_alone(drop, session, change):
    session.cmd("DELE 1")
    change(drop)
    content = drop.content
    assert session.cmd("QUIT") == CHANGED
    expect_end(session)
    assert drop.content == content
    assert not drop.dotlock.exists()


def test_without_the_side_file_nothing_is_moved(drop, session):
    """Another session may have the one that is there next."""
    session.cmd("DELE 1")
    drop.side.unlink()
    assert session.cmd("QUIT").startswith(b"-ERR [IN-USE]")
    expect_end(session)
    assert drop.content == THREE
    assert not drop.dotlock.exists()


def test_a_mailbox_that_was_touched_is_unchanged(drop, session):
    session.cmd("DELE 1")
    os.utime(drop.path)
    drop.path.chmod(0o600)
    assert session.multi("RETR 2")[1][1] == b"Subject: number 2"
    assert session.cmd("QUIT").startswith(b"+OK")
    assert drop.content == mail(2) + mail(3)


# ---- deliveries ----

def test_mail_that_comes_is_for_the_next_session(drop, session):
    stat = session.cmd("STAT")
    drop.deliver(mail(4))
    assert session.cmd("STAT") == stat
    assert session.cmd("RETR 4").startswith(b"-ERR")
    assert session.cmd("RETR 3").startswith(b"+OK")
    session.body()
    assert session.cmd("QUIT").startswith(b"+OK")
    session.wait()
    with drop.session() as session:
        session.login()
        assert session.cmd("STAT").startswith(b"+OK 4 ")


@pytest.mark.parametrize("deleted", [(1,), (2,), (3,), (1, 3), (1, 2, 3)])
def test_mail_that_comes_is_kept_at_quit(drop, session, deleted):
    for number in deleted:
        session.cmd(f"DELE {number}")
    drop.deliver(mail(4))
    drop.deliver(mail(5, body=5000 * b"a long one\n"))
    assert session.cmd("QUIT").startswith(b"+OK")
    assert drop.content == b"".join(mail(number) for number in range(1, 4)
                                    if number not in deleted) \
        + mail(4) + mail(5, body=5000 * b"a long one\n")


def test_mail_comes_to_an_empty_mailbox(tmp_path):
    drop = Maildrop(tmp_path / "alice", b"")
    with drop.session() as session:
        session.login()
        drop.deliver(mail(1))
        assert session.cmd("STAT") == b"+OK 0 0"
        assert session.cmd("QUIT").startswith(b"+OK")
    assert drop.content == mail(1)


def test_mail_comes_to_a_missing_mailbox(tmp_path):
    drop = Maildrop(tmp_path / "alice")
    with drop.session() as session:
        session.login()
        drop.deliver(mail(1))
        assert session.cmd("STAT") == b"+OK 0 0"
        assert session.cmd("QUIT").startswith(b"+OK")
    assert drop.content == mail(1)


# ---- a deliverer that had not finished when the session began ----

@pytest.fixture
def half(tmp_path):
    """The last message has no end yet."""
    return Maildrop(tmp_path / "alice", mail(1) + mail(2) + mail(3)[:-5])


def test_a_message_that_grew_is_not_sent(half):
    with half.session() as session:
        session.login()
        half.deliver(mail(3)[-5:])
        assert session.cmd("RETR 1").startswith(b"+OK")
        session.body()
        assert session.cmd("RETR 3") == CHANGED
        expect_end(session)


def test_a_message_that_grew_is_not_deleted(half):
    with half.session() as session:
        session.login()
        session.cmd("DELE 3")
        half.deliver(mail(3)[-5:])
        assert session.cmd("QUIT") == CHANGED
    assert half.content == THREE


def test_a_message_that_grew_is_kept_whole(half):
    with half.session() as session:
        session.login()
        session.cmd("DELE 1")
        half.deliver(mail(3)[-5:] + mail(4))
        assert session.cmd("QUIT").startswith(b"+OK")
    assert half.content == mail(2) + mail(3) + mail(4)


def test_the_next_message_is_glued_on(tmp_path):
    """A deliverer whose mailbox lacked the last newline."""
    drop = Maildrop(tmp_path / "alice", mail(1) + b"".join(
        mail(2).rsplit(b"\n\n", 1)))
    with drop.session() as session:
        session.login()
        session.cmd("DELE 1")
        drop.deliver(b"\n\n" + mail(3))
        assert session.cmd("QUIT").startswith(b"+OK")
    assert drop.content == mail(2) + mail(3)


# ---- what is no change, and what is none of ours ----

PRIVATE = mail(1, header=b"Status: O \nX-Status:    \n") + mail(2) + mail(3)


def test_a_private_line_changed_in_place_does_not_matter(tmp_path):
    """As c-client and dovecot do it: the line has room, the message keeps its size."""
    drop = Maildrop(tmp_path / "alice", PRIVATE)
    with drop.session() as session:
        session.login()
        before = session.multi("RETR 1")
        rewrite(drop, PRIVATE.replace(b"Status: O \nX-Status:    ", b"Status: RO\nX-Status: AF "))
        assert session.multi("RETR 1") == before
        assert session.cmd("DELE 1").startswith(b"+OK")
        assert session.cmd("QUIT").startswith(b"+OK")
    assert drop.content == mail(2) + mail(3)


@pytest.mark.parametrize("deleted", [1, 3])
def test_a_kept_message_is_kept_as_another_program_left_it(drop, session, deleted):
    """In place, and of the same size."""
    session.cmd(f"DELE {deleted}")
    changed = mail(2).replace(b"Hello.", b"HELLO!")
    rewrite(drop, THREE.replace(mail(2), changed))
    assert session.cmd("QUIT").startswith(b"+OK")
    assert drop.content == THREE.replace(mail(2), changed).replace(mail(deleted), b"")


@pytest.mark.parametrize("change", ALL)
def test_the_log_counts_nothing_as_deleted_that_is_not(drop, session, change):
    session.cmd("DELE 1")
    change(drop)
    assert session.cmd("QUIT") == CHANGED
    expect_end(session)
    assert " dele=0 " in session.log()


def test_a_from_line_that_grew_at_the_expense_of_a_private_line_is_a_change(tmp_path):
    """The same size, the same header, but it begins elsewhere."""
    content = mail(1, header=b"Status: O  \n") + mail(2)
    drop = Maildrop(tmp_path / "alice", content)
    with drop.session() as session:
        session.login()
        rewrite(drop, content.replace(b"From bob@", b"From bobby@", 1).replace(b"Status: O  ", b"Status: O", 1))
        assert session.cmd("RETR 1") == CHANGED
        expect_end(session)


@pytest.mark.parametrize("command", ["UIDL 2", "UIDL"])
def test_an_x_uidl_line_that_changed_is_not_told(drop, command):
    """It is kept nowhere, and read again."""
    content = mail(1) + mail(2, header=b"X-UIDL: before\n")
    drop.path.write_bytes(content)
    with drop.session() as session:
        session.login()
        rewrite(drop, content.replace(b"before", b"behind"))
        if command == "UIDL":
            session.send(b"UIDL\r\n")
            assert b"\r\n.\r\n" not in session.rest()
        else:
            assert session.cmd(command) == CHANGED
            expect_end(session)
        assert session.wait() == 0
        assert "message 2 has another X-UIDL line" in session.log()


@pytest.mark.parametrize("said, answer", [
    (["NOOP"], b"+OK bye"), (["DELE 2"], CHANGED), (["DELE 2", "RSET"], b"+OK bye")])
def test_quit_in_a_farewell_is_ok_only_if_nothing_is_marked(drop, said, answer):
    drop.path.write_bytes(THREE)
    with drop.session(binary=PATIENT) as session:
        session.login()
        for command in said:
            assert session.cmd(command).startswith(b"+OK")
        cut_short(drop)
        assert session.cmd("RETR 1") == CHANGED
        assert session.cmd("QUIT") == answer
        expect_end(session)
