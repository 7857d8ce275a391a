/*
 * Copyright (c) 2026 the pop3d authors
 *
 * Permission to use, copy, modify, and distribute this software for any
 * purpose with or without fee is hereby granted, provided that the above
 * copyright notice and this permission notice appear in all copies.
 *
 * THE SOFTWARE IS PROVIDED "AS IS" AND THE AUTHOR DISCLAIMS ALL WARRANTIES
 * WITH REGARD TO THIS SOFTWARE INCLUDING ALL IMPLIED WARRANTIES OF
 * MERCHANTABILITY AND FITNESS. IN NO EVENT SHALL THE AUTHOR BE LIABLE FOR
 * ANY SPECIAL, DIRECT, INDIRECT, OR CONSEQUENTIAL DAMAGES OR ANY DAMAGES
 * WHATSOEVER RESULTING FROM LOSS OF USE, DATA OR PROFITS, WHETHER IN AN
 * ACTION OF CONTRACT, NEGLIGENCE OR OTHER TORTIOUS ACTION, ARISING OUT OF
 * OR IN CONNECTION WITH THE USE OR PERFORMANCE OF THIS SOFTWARE.
 */

/*
 * All that the three files of pop3d know of each other.  Calls go one way:
 * pop3d.c calls auth.c and mailbox.c, which call neither it nor each other.
 */

#ifndef POP3D_H
#define POP3D_H

#include <sys/types.h>
#include <sys/stat.h>

#include <limits.h>
#include <pwd.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define POP3D_VERSION	"1.0"

/*
 * So many seconds may a library or a file system say nothing: pop3d.c sets
 * alarm(2), which then ends the process.
 */
#ifndef HANG_SECONDS
#define HANG_SECONDS	60
#endif

/* auth.c: who it is, and giving up being root */

/* From the start: no core dump and no debugger, for passwords come here. */
void protect_memory(void);

enum auth {
	AUTH_OK,
	AUTH_REFUSED,		/* wrong credentials: [AUTH], RFC 3206 */
	AUTH_FORBIDDEN,		/* right, but the account may not: [SYS/PERM] */
	AUTH_TROUBLE		/* PAM could not tell: [SYS/TEMP] */
};

/*
 * The AUTHORIZATION state (RFC 1939, section 4): ask PAM, service "pop3d",
 * whether pass is the password of user and the account may be used.  user is
 * an account's name; or that and an `@' and more; or either with capitals that
 * the account's name has not.  peer is the client's address, for PAM_RHOST, or
 * NULL.  *pw is the account, or NULL if there is none of that name; it is
 * getpwnam(3)'s and lives until the next call of that.  With AUTH_OK PAM kept
 * the name, and *pw is not uid 0, and, unless we are root, our own.  With any
 * other answer *why is a few words for the log.  The password is the caller's
 * to wipe; copies made here are wiped here.
 */
enum auth auth_user(const char *user, const char *pass, const char *peer,
    struct passwd **pw, const char **why);

/*
 * The gid with which a user whose own one is own can create files in the
 * directory of the mailbox path: the directory's, if only its group may write
 * there and every directory on the way is root's, or else own.
 */
gid_t spool_gid(const char *path, gid_t own);

/*
 * Become pw for good: groups, gid and uid, real, effective and saved, except
 * that spool stays as the saved gid (pass pw->pw_gid to keep none).  Checks
 * that root cannot be had back.  Returns only if all of it holds, otherwise
 * logs and exits: that cannot be ignored.
 */
void drop_privileges(const struct passwd *pw, gid_t spool);

/*
 * After drop_privileges(): no new privileges, processes or core dumps, and,
 * as far as Linux has Landlock, no access by name to any file but to create
 * and remove files in the directory dir (a descriptor; files that are open
 * stay usable), no TCP, no signals to others.  Best effort: returns NULL, or
 * what could not be had and why, for the log.
 */
const char *confine(int dir);

/* mailbox.c: the maildrop */

enum {				/* message.flags */
	MSG_DELETED	= 1,	/* the only one that pop3d.c sets */
	MSG_PRIVATE	= 2,	/* has header lines that are not sent */
	MSG_UIDL	= 4	/* its unique-id is that of its X-UIDL line */
};

struct message {
	off_t		start;	/* offset of its From_ line in the mailbox */
	off_t		octets;	/* that RETR sends: RFC 1939, section 11 */
	uint64_t	id;	/* what its unique-id is made of */
	uint32_t	twin;	/* which one with this id, from 1 */
	uint16_t	from;	/* bytes of its From_ line */
	uint8_t		separator; /* bytes of the empty line at its end */
	uint8_t		flags;
};

#define UNIQUE_ID_MAX	70	/* octets: RFC 1939, section 7 */
#define UNIQUE_ID_SIZE	(UNIQUE_ID_MAX + 1)

struct stamp {			/* of a file: another one, and it changed */
	uint64_t	device, inode, links;
	int64_t		size, mtime[2], ctime[2];
	uint32_t	mode, uid;
};

#define NAMES		5	/* of files: mailbox.c, "names" */

struct maildrop {
	struct message	*messages;
	size_t		 count;
	bool		 writable;	/* messages can be deleted */
	bool		 recovered;	/* an UPDATE that was cut short */
	bool		 lost;		/* it could not be: a changed mailbox */
	bool		 begun;		/* UPDATE may have deleted something */
	char		 why[300];	/* after a failure: words for the log */
	char		 note[300];	/* why it is not writable */
	char		 saved[NAME_MAX + 1]; /* side file set aside, or "" */

	/* mailbox.c's own */
	char		 name[NAMES][NAME_MAX + 1];	/* of files in dir */
	int		 dir;		/* descriptors, or -1 */
	int		 fd;
	int		 side;
	int		 dot;		/* pins the inode of our dotlock */
	gid_t		 spool;		/* the saved gid: use_gid() */
	bool		 remote;	/* other hosts may change the mailbox */
	bool		 session;	/* the session lock is ours */
	bool		 locked;	/* by lock() */
	bool		 watched;	/* progress() puts the alarm off */
	time_t		 put_off;	/* when it did */
	time_t		 touched;	/* when the dotlock was, last */
	struct stamp	 seen;		/* the mailbox as it was scanned */
	bool		 settled;	/* a change since would show in seen */
	off_t		 end;		/* of what was scanned */
	bool		 numbered;	/* the twins are */
	struct {			/* the mailbox through a record: */
		off_t	 w, n, next;	/* [w, next) is n saved bytes */
	} view;
	struct scan	*reader;	/* of message_read() */
	size_t		 reading;	/* the message that it is in */
};

/* No maildrop: maildrop_close() may be called, and does nothing. */
#define MAILDROP_CLOSED	{ .dir = -1, .fd = -1, .side = -1, .dot = -1 }

/*
 * Open the files of the mailbox path: its directory, the side file, which is
 * created with the saved gid, and the mailbox.  Nothing of their content is
 * looked at: confine() comes next.  A missing mailbox is an empty maildrop.
 * Returns 0, or -1 with errno and, as all functions here, with words for the
 * log in drop->why:
 *	EPERM	it is not a file of the user's alone: [SYS/PERM]
 *	others	the system call's: [SYS/TEMP]
 * maildrop_close() is due in every case.
 */
int maildrop_open(struct maildrop *drop, const char *path);

/*
 * Begin the session: take the session lock, which is the exclusive-access lock
 * of RFC 1939, section 4; lock the mailbox; recover an UPDATE that was cut
 * short (pop3d.8, IMPLEMENTATION NOTES); find the messages, by one sequential
 * read, or none if the index in the side file is still good; unlock.  May wait
 * for other programs, 35 s in all, and as long as reading takes: alarm(2) is
 * set anew, to 60 s, whenever it gets on.  Signals that are not blocked may
 * end the process here, for nothing is lost by that; recovery alone blocks
 * them.  Returns 0, or -1 with errno and drop->why:
 *	EBUSY	another session has the maildrop: [IN-USE]
 *	EAGAIN	another program has the mailbox locked: [IN-USE]
 *	EBADMSG	it is not a mailbox: [SYS/PERM]
 *	E2BIG	it has too many messages: [SYS/PERM]
 *	EPERM	as above
 *	others	the system call's: [SYS/TEMP]
 * drop->recovered, drop->lost, drop->saved and, if not drop->writable,
 * drop->note are to be logged, the first three also after -1.
 */
int maildrop_begin(struct maildrop *drop);

/*
 * Number the messages that have the same id, once: unique_id() needs it.
 * Returns 0, or -1 with errno ENOMEM.
 */
int maildrop_ids(struct maildrop *drop);

/*
 * Write message n's unique-id (RFC 1939, section 7, UIDL), a string, to text
 * (UNIQUE_ID_SIZE bytes).  An X-UIDL line is read again.  Returns 0, or -1 with
 * errno and drop->why: ESTALE: it was changed by another program.
 */
int unique_id(struct maildrop *drop, size_t n, char *text);

/* Begin reading message n (from 0).  0, or -1 with errno ENOMEM. */
int message_begin(struct maildrop *drop, size_t n);

/*
 * The next octets of the message as they are stored, without its From_ line,
 * separator and private header lines: *text is where they are, until the next
 * call.  The two octets before them can be read: they end the line before if
 * *text begins one; so can 32 behind.  Before the first and before the last
 * ones are handed out the message is seen to be still what it was.  Returns
 * how many, 0 at the end, -1 with errno and drop->why; ESTALE: it was changed
 * by another program, and the octets that were handed out may be another's.
 */
ssize_t message_read(struct maildrop *drop, const char **text);

/* After octets were handed out: true if no more come, false if some may. */
bool message_ended(const struct maildrop *drop);

/*
 * Whether the message that is read is still what it was: for who stops before
 * its end.  0, or -1 with errno and drop->why, as above.
 */
int message_check(struct maildrop *drop);

/*
 * The UPDATE state (RFC 1939, section 6): remove the messages marked
 * MSG_DELETED, so that it is durable.  Nothing marked: nothing is done.
 * Blocks all signals meanwhile.  Returns 0, or -1 with errno and drop->why:
 * EAGAIN and ESTALE as above, EBUSY: the side file is no longer ours.  What
 * was not to be deleted is safe in either case; unless drop->begun, so is all.
 */
int maildrop_update(struct maildrop *drop);

/* Release all that is held, and forget the messages.  errno is left alone. */
void maildrop_close(struct maildrop *drop);

#endif
