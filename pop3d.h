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
 * Become pw for good: groups, gid and uid, real, effective and saved, except
 * that spool stays as the saved gid (pass pw->pw_gid to keep none).  Checks
 * that root cannot be had back.  Returns only if all of it holds, otherwise
 * logs and exits: that cannot be ignored.
 */
void drop_privileges(const struct passwd *pw, gid_t spool);

/*
 * After drop_privileges(): no new privileges, processes or core dumps, and,
 * on Linux with Landlock, no access by name to any file but to create and
 * remove files in the directory dir (a descriptor; files that are open stay
 * usable).  Best effort: returns NULL, or what could not be had, for the log,
 * with errno.
 */
const char *confine(int dir);

/* mailbox.c: the maildrop */

enum {				/* message.flags */
	MSG_DELETED	= 1,	/* the only one that pop3d.c sets */
	MSG_PRIVATE	= 2	/* has header lines that are not sent */
};

struct message {
	off_t		start;	/* offset of its From_ line in the mailbox */
	off_t		octets;	/* that RETR sends: RFC 1939, section 11 */
	uint32_t	digest;	/* of its From_ line and header */
	uint16_t	from;	/* bytes of its From_ line */
	uint8_t		separator; /* bytes of the empty line at its end */
	uint8_t		flags;
};

struct digest {
	uint64_t	a, b;
};

struct unique_id {
	struct digest	digest;
	uint32_t	twin;	/* 1 for the first message with this digest */
};

#define UNIQUE_ID_SIZE	(32 + sizeof("-4294967295"))

struct reading {		/* where message_read() is in a message */
	off_t		at;	/* offset in the mailbox of what comes next */
	off_t		end;
	bool		header;	/* private lines are still to be left out */
	bool		line;	/* at is where a line begins */
	bool		hiding;	/* the line before at is a private one */
};

struct maildrop {
	struct message	*messages;
	size_t		 count;
	struct unique_id *ids;	/* NULL until they are asked for */
	bool		 writable;	/* messages can be deleted */
	char		 why[200];	/* after a failure: words for the log */
	char		 note[200];	/* the same after a success */

	/* mailbox.c's own */
	char		 name[200];	/* of the mailbox in dir */
	char		 side_name[NAME_MAX + 1];
	char		 hitch_name[NAME_MAX + 1];
	char		 stale_name[NAME_MAX + 1];
	char		 lock_name[NAME_MAX + 1];
	int		 dir;		/* descriptors, or -1 */
	int		 fd;
	int		 side;
	int		 hitch;
	gid_t		 spool;		/* the saved gid: use_gid() */
	struct stat	 seen;		/* the mailbox as it was scanned */
	bool		 settled;	/* a change since would show in seen */
	bool		 locked;	/* by lock() */
	time_t		 touched;	/* when the dotlock was, last */
	sigset_t	 signals;	/* the mask to restore in unlock() */
	bool		 news;		/* the index lacks what was found out */
};

/*
 * The gid with which a user whose own one is own can create files in the
 * directory of the mailbox path: the directory's, if only its group may write
 * there and every directory on the way is root's, or else own.
 */
gid_t maildrop_gid(const char *path, gid_t own);

/*
 * Open the maildrop of the mailbox path: take the session lock, which is the
 * exclusive-access lock of RFC 1939, section 4; recover an UPDATE that was cut
 * short (pop3d.8, THE SIDE FILE); lock the mailbox for the scan, which blocks
 * all signals until then.  Files in its directory are created with the saved
 * gid.  A missing mailbox is an empty maildrop.  Returns 0, or -1 with errno
 * and drop->why:
 *	EBUSY	another session has the maildrop: [IN-USE]
 *	EAGAIN	another program has it locked: [IN-USE]
 *	EPERM	it is not a file of the user's alone: [SYS/PERM]
 *	others	the system call's: [SYS/TEMP]
 * 0 with words in drop->note: recovery set a side file aside, or, if not
 * drop->writable, why it is not.
 * maildrop_close() is due in every case.
 */
int maildrop_open(struct maildrop *drop, const char *path);

/*
 * Find the messages and release the lock that maildrop_open() took.  One
 * sequential read, or none if the index in the side file is still good.
 * Returns 0, or -1 with errno and drop->why; EBADMSG: it is not a mailbox.
 */
int maildrop_scan(struct maildrop *drop);

/*
 * Compute drop->ids, once (RFC 1939, section 7, UIDL).  0, or -1 with errno;
 * ESTALE: the mailbox was changed by another program.
 */
int maildrop_ids(struct maildrop *drop);

/* Write message n's unique-id, a string, to text (UNIQUE_ID_SIZE bytes). */
void unique_id(const struct maildrop *drop, size_t n, char *text);

/*
 * Whether message n (from 0) is still in the mailbox where it was and as it
 * was, so that octets of another are never sent.  0, or -1 with errno; ESTALE:
 * it is not.
 */
int message_check(struct maildrop *drop, size_t n);

/* Begin reading message n. */
void message_begin(const struct maildrop *drop, size_t n, struct reading *);

/*
 * Read the next bytes of a message as they are stored, without its From_ line,
 * separator and private header lines: size bytes at most, into buf.  size is
 * at least 4096.  Returns how many, 0 at the end, -1 with errno.
 */
ssize_t message_read(const struct maildrop *drop, struct reading *,
    char *buf, size_t size);

/*
 * The UPDATE state (RFC 1939, section 6): remove the messages marked
 * MSG_DELETED, so that it is durable.  Nothing marked: nothing is done.
 * Blocks all signals meanwhile.  Returns 0, or -1 with errno and drop->why;
 * ESTALE: the mailbox was changed by another program.  What was not to be
 * deleted is safe in either case.
 */
int maildrop_update(struct maildrop *drop);

/*
 * Write the index, if this session found out what it does not have: call it
 * when the session ends well.  Nothing is synced, nothing depends on it.
 */
void maildrop_index(struct maildrop *drop);

/* Release what is held.  Async-signal-safe; the arrays are the caller's. */
void maildrop_close(struct maildrop *drop);

#endif
