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
 * The maildrop: a mailbox in mbox format, its locks, its messages, UPDATE.
 *
 * This file alone opens, locks, reads and writes the mailbox.  It never logs,
 * replies or exits.  Its sections, of which none calls one below it:
 *
 *	small things		failures, whole reads and writes, a checksum
 *	names			the files in the mailbox's directory
 *	locks			three kinds, all or none
 *	the format		what begins a message; what a header line is
 *	the scan		where messages are, their octets and unique-ids
 *	the same message?	a second look at what the scan found
 *	reading			a message, piece by piece
 *	unique-ids		their numbers and texts
 *	the side file		the session lock, and the records in it
 *	the index		what the scan found, for the next session
 *	UPDATE			deleting, in steps that are recorded first
 *	recovery		finishing what was cut short
 *	a maildrop's life	open, begin, update, close: read this first
 *
 * From the format to the unique-ids nothing is written; behind the index
 * nothing is parsed.
 */

#include <sys/file.h>
#include <sys/param.h>
#include <sys/resource.h>
#include <sys/vfs.h>

#include <bsd/stdlib.h>
#include <bsd/string.h>
#include <byteswap.h>
#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <md5.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <time.h>
#include <unistd.h>

#include "pop3d.h"

#define KIB		1024
#define PAGE		(4 * KIB)

/* Limits that a test build makes smaller. */
#ifndef LOCK_SECONDS
#define LOCK_SECONDS	30		/* that mailbox locks are tried for */
#endif
#ifndef SESSION_SECONDS
#define SESSION_SECONDS	5		/* and the session lock */
#endif
#ifndef DATA_AREA_MAX
#define DATA_AREA_MAX	(64 << 20)	/* bytes of the side file's data area */
#endif
#ifndef INDEX_MIN
#define INDEX_MIN	(1 << 20)	/* bytes of a mailbox worth an index */
#endif
#ifndef MESSAGES_MAX
#define MESSAGES_MAX	(4 << 20)	/* mostly 128 MiB of memory */
#endif

/* ---- small things ---- */

/*
 * Every failure is -1, errno, and words for the log in drop->why, complete
 * with the system's own where there are any.
 */
static int __attribute__((format(printf, 3, 4)))
fail(struct maildrop *drop, int error, const char *format, ...)
{
	va_list ap;

	va_start(ap, format);
	vsnprintf(drop->why, sizeof(drop->why), format, ap);
	va_end(ap);
	errno = error;
	return -1;
}

/* The same for a system call, whose error is in errno. */
static int
failed(struct maildrop *drop, const char *what)
{
	return fail(drop, errno, "%s: %s", what, strerror(errno));
}

/* The disk, or what the user may have of it. */
static bool
is_full(int error)
{
	return error == ENOSPC || error == EDQUOT;
}

/* From now on messages can only be read, for the reason in drop->why. */
static void
only_read(struct maildrop *drop)
{
	drop->writable = false;
	strlcpy(drop->note, drop->why, sizeof(drop->note));
}

/* size bytes, fewer only where the file ends. */
static ssize_t
read_at(int fd, void *buf, size_t size, off_t at)
{
	size_t done;
	ssize_t n;

	for (done = 0; done < size; done += (size_t)n) {
		n = pread(fd, (char *)buf + done, size - done,
		    at + (off_t)done);
		if (n == -1)
			return -1;
		if (n == 0)
			break;
	}
	return (ssize_t)done;
}

/* size bytes, or it is a failure. */
static int
read_all(int fd, void *buf, size_t size, off_t at)
{
	ssize_t n = read_at(fd, buf, size, at);

	if (n == (ssize_t)size)
		return 0;
	if (n != -1)
		errno = EIO;	/* it is shorter than it was */
	return -1;
}

static int
write_at(int fd, const void *buf, size_t size, off_t at)
{
	size_t done;
	ssize_t n;

	for (done = 0; done < size; done += (size_t)n) {
		n = pwrite(fd, (const char *)buf + done, size - done,
		    at + (off_t)done);
		if (n == -1)
			return -1;
	}
	return 0;
}

static void
close_file(int *fd)
{
	if (*fd != -1)
		close(*fd);
	*fd = -1;
}

static uint64_t
mix(uint64_t x)
{
	x = (x + 0xd1b54a32d192ed03ULL) * 0x9e3779b97f4a7c15ULL;
	return x ^ x >> 32;
}

/*
 * The checksum of the side file.  It tells what a crash, a torn write or
 * another program left from what was written, and is no use against somebody
 * who forges: the side file is the user's own, as the mailbox is.
 */
static uint64_t
sum(uint64_t so_far, const void *data, size_t size)
{
	uint64_t rest, h = mix(so_far ^ size);
	const char *p = data;

	for (; size >= sizeof(rest); size -= sizeof(rest), p += sizeof(rest)) {
		memcpy(&rest, p, sizeof(rest));
		h = mix(h ^ rest);
	}
	rest = 0;
	if (size > 0)
		memcpy(&rest, p, size);
	return mix(h ^ rest);
}

static time_t
seconds(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec;
}

static void
pause_at_random(uint32_t least, uint32_t most)
{
	uint32_t ms = least + arc4random_uniform(most - least);
	struct timespec t = { ms / 1000, (long)(ms % 1000) * 1000000 };

	nanosleep(&t, NULL);
}

/* ---- names ---- */

/*
 * In the mailbox's directory, for the mailbox NAME:
 *
 *	NAME			the deliverers'; never made, never removed here
 *	NAME.lock		the dotlock, while mailbox locks are held
 *	.NAME.pop3d		the side file: made at the first login, stays
 *	.NAME.pop3d.saved	one that was set aside: the administrator's
 *	.NAME.pop3d.stale	a dotlock that is being broken, for a moment
 *
 * Once the process is confined no name can be opened any more.
 */

#define SIDE_DATA	8192	/* where the side file's data area begins */

enum { MAILBOX, LOCK, SIDE, SAVED, STALE };

/*
 * What name in the directory dir is, or the file dir itself if name is "".
 * Over NFS the server is asked: this host remembers times and sizes.
 */
static int
look_at(int dir, const char *name, struct stamp *s)
{
	struct statx x;

	if (statx(dir, name, AT_SYMLINK_NOFOLLOW | AT_STATX_FORCE_SYNC |
	    (*name == '\0' ? AT_EMPTY_PATH : 0), STATX_BASIC_STATS, &x) == -1)
		return -1;
	*s = (struct stamp){
	    .device = (uint64_t)x.stx_dev_major << 32 | x.stx_dev_minor,
	    .inode = x.stx_ino, .links = x.stx_nlink,
	    .size = (int64_t)x.stx_size,
	    .mtime = { x.stx_mtime.tv_sec, x.stx_mtime.tv_nsec },
	    .ctime = { x.stx_ctime.tv_sec, x.stx_ctime.tv_nsec },
	    .mode = x.stx_mode, .uid = x.stx_uid };
	return 0;
}

/* Whether name in the directory is the file that fd is. */
static bool
is_name_of(const struct maildrop *drop, const char *name, int fd)
{
	struct stamp there, opened;

	return look_at(fd, "", &opened) == 0 &&
	    look_at(drop->dir, name, &there) == 0 &&
	    there.device == opened.device && there.inode == opened.inode;
}

/* Nothing but the user's own file, and nobody else's by another name. */
static int
check_file(struct maildrop *drop, const char *what, const struct stamp *s)
{
	if (S_ISLNK(s->mode))
		return fail(drop, EPERM, "%s is a symbolic link", what);
	if (!S_ISREG(s->mode))
		return fail(drop, EPERM, "%s is not a regular file", what);
	if (s->uid != geteuid())
		return fail(drop, EPERM, "%s belongs to uid %lu", what,
		    (unsigned long)s->uid);
	if (s->links != 1)
		return fail(drop, EPERM, "%s has %lu links", what,
		    (unsigned long)s->links);
	return 0;
}

/*
 * Creating and removing files in the spool directory takes its group, which is
 * kept as the saved gid, and is the effective one only here.
 */
static void
use_gid(gid_t gid)
{
	int error = errno;

	if (gid != getegid() && setegid(gid) == -1)
		abort();
	errno = error;
}

/*
 * Open one of the user's files, to write, or else to read: it may be immutable.
 * 1: it is not the user's alone.  0 and no descriptor: there is none, and errno
 * says why none was made.
 */
static int
open_file(struct maildrop *drop, int name, int create, int *fd)
{
	const int flags = O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK | O_NOCTTY;
	const char *what = name == SIDE ? "side file" : "mailbox";
	struct stamp s;
	int error;

	use_gid(create ? drop->spool : getgid());
	*fd = openat(drop->dir, drop->name[name], O_RDWR | create | flags,
	    0600);
	use_gid(getgid());
	error = errno;
	if (*fd == -1 && error == ENOENT)
		return 0;
	if (look_at(*fd == -1 ? drop->dir : *fd,
	    *fd == -1 ? drop->name[name] : "", &s) == -1) {
		if (*fd != -1 || errno != ENOENT)
			return failed(drop, "cannot look at a file");
		errno = error;
		return 0;
	}
	if (check_file(drop, what, &s) == -1)
		return 1;
	if (*fd == -1 && (error == EACCES || error == EPERM ||
	    error == EROFS)) {
		fail(drop, error, "cannot open the %s for writing: %s", what,
		    strerror(error));
		only_read(drop);
		*fd = openat(drop->dir, drop->name[name], O_RDONLY | flags);
		error = errno;
	}
	return *fd != -1 ? 0 : fail(drop, error, "cannot open the %s: %s",
	    what, strerror(error));
}

/* Give from the name to, unless something has it. */
static int
move_name(const struct maildrop *drop, const char *from, const char *to)
{
	struct stamp there;
	int n;

	use_gid(drop->spool);
	n = renameat2(drop->dir, from, drop->dir, to, RENAME_NOREPLACE);
	/* NFS and others have no such flag. */
	if (n == -1 && errno == EINVAL) {
		if (look_at(drop->dir, to, &there) == 0)
			errno = EEXIST;
		else
			n = renameat(drop->dir, from, drop->dir, to);
	}
	use_gid(getgid());
	return n;
}

static void
remove_name(const struct maildrop *drop, const char *name)
{
	use_gid(drop->spool);
	unlinkat(drop->dir, name, 0);
	use_gid(getgid());
}

/* The clock of the file system, or 0 where there is no file to ask it. */
static time_t
file_clock(const struct maildrop *drop)
{
	struct stamp s;

	return drop->side != -1 && futimens(drop->side, NULL) == 0 &&
	    look_at(drop->side, "", &s) == 0 ? s.mtime[0] : 0;
}

/* ---- locks ---- */

/*
 * No kind of lock excludes every deliverer: so fcntl, flock and the dotlock,
 * in this order, and all three or none, for two who wait for one while they
 * hold another may wait for each other.
 */

#define DOTLOCK_MODE	0604	/* which no other program makes */
#define DOTLOCK_MAX	100	/* bytes: what is larger is no lock */
#define STALE_SECONDS	600	/* age of a dotlock that is broken */
#define TOUCH_SECONDS	15	/* our dotlock: maildrop(1) breaks at 60 */
#define DOT_SECONDS	5	/* that the scan waits for the dotlock */
#define SCAN_SECONDS	3	/* that it keeps others waiting */

/* On NFS and CIFS flock is fcntl's lock, and other hosts write the file. */
static bool
is_remote(int fd)
{
	struct statfs fs;

	return fstatfs(fd, &fs) == 0 && (fs.f_type == 0x6969 ||
	    (uint32_t)fs.f_type == 0xff534d42 ||
	    (uint32_t)fs.f_type == 0xfe534d42);
}

/* Let this host forget what it knows of the octets in the mailbox. */
static void
drop_pages(const struct maildrop *drop)
{
	if (drop->remote)
		posix_fadvise(drop->fd, 0, 0, POSIX_FADV_DONTNEED);
}

/* Who holds the lock that was refused, as far as the kernel tells. */
static const char *
holder(int fd, int command, short type, char *text, size_t size)
{
	struct flock held = { .l_type = type, .l_whence = SEEK_SET };

	if (fcntl(fd, command, &held) == -1 || held.l_type == F_UNLCK)
		return "somebody";
	if (held.l_pid > 0)
		snprintf(text, size, "pid %ld", (long)held.l_pid);
	else
		strlcpy(text, command == F_GETLK ? "another host" :
		    "another program or host", size);
	return text;
}

static int
kernel_lock(struct maildrop *drop, short type)
{
	struct flock whole = { .l_type = type, .l_whence = SEEK_SET };
	int how = (type == F_RDLCK ? LOCK_SH : LOCK_EX) | LOCK_NB;
	char who[40];

	if (fcntl(drop->fd, F_OFD_SETLK, &whole) == -1) {
		if (errno != EAGAIN && errno != EACCES)
			return failed(drop, "fcntl lock");
		return fail(drop, EAGAIN, "fcntl lock is held by %s",
		    holder(drop->fd, F_OFD_GETLK, type, who, sizeof(who)));
	}
	if (!drop->remote && flock(drop->fd, how) == -1)
		return failed(drop, "flock");
	return 0;
}

/* Make the dotlock and keep its inode, so that no other file can get it. */
static int
make_dotlock(struct maildrop *drop)
{
	mode_t mask = umask(0);
	int n;

	use_gid(drop->spool);
	n = mknodat(drop->dir, drop->name[LOCK], S_IFREG | DOTLOCK_MODE, 0);
	use_gid(getgid());
	umask(mask);
	if (n == -1)
		return -1;
	drop->dot = openat(drop->dir, drop->name[LOCK],
	    O_PATH | O_NOFOLLOW | O_CLOEXEC);
	if (drop->dot != -1)
		return 0;
	n = errno;
	remove_name(drop, drop->name[LOCK]);
	errno = n;
	return -1;
}

/* One of our mode is a dead session's, for the session lock is ours. */
static bool
is_dead_sessions(const struct maildrop *drop, const struct stamp *held)
{
	return drop->session && S_ISREG(held->mode) && held->size == 0 &&
	    held->uid == geteuid() && (held->mode & 07777) == DOTLOCK_MODE;
}

/*
 * Whether nobody has a dotlock any more.  Another program's is dead when nobody
 * touched it for ten minutes; the kernel locks are ours here.
 */
static bool
is_dead(const struct maildrop *drop, const struct stamp *held)
{
	time_t now;

	if (is_dead_sessions(drop, held))
		return true;
	if (!S_ISREG(held->mode) || held->size > DOTLOCK_MAX)
		return false;
	now = file_clock(drop);
	return (held->uid == geteuid() || held->uid == 0) &&
	    now - held->mtime[0] > STALE_SECONDS &&
	    now - held->ctime[0] > STALE_SECONDS;
}

/*
 * Remove the dotlock if it is the one judged, and not one that came in its
 * place: under another name it can be looked at again.
 */
static void
break_dotlock(const struct maildrop *drop, const struct stamp *judged)
{
	struct stamp now;

	remove_name(drop, drop->name[STALE]);
	if (move_name(drop, drop->name[LOCK], drop->name[STALE]) == -1 ||
	    look_at(drop->dir, drop->name[STALE], &now) == -1)
		return;
	if (now.inode != judged->inode || now.mtime[0] != judged->mtime[0] ||
	    now.mtime[1] != judged->mtime[1])
		(void)move_name(drop, drop->name[STALE], drop->name[LOCK]);
	remove_name(drop, drop->name[STALE]);
}

/*
 * At once, for a deliverer may wait for it, and for as long keep the kernel
 * locks from us.
 */
static void
break_dead_sessions(const struct maildrop *drop)
{
	struct stamp held;

	remove_name(drop, drop->name[STALE]);
	if (look_at(drop->dir, drop->name[LOCK], &held) == 0 &&
	    is_dead_sessions(drop, &held))
		break_dotlock(drop, &held);
}

/* It is made first: a host may remember that there was none. */
static int
dotlock(struct maildrop *drop)
{
	struct stamp held;
	int tries;

	for (tries = 0; tries < 2; tries++) {
		if (make_dotlock(drop) == 0) {
			drop->touched = seconds();
			return 0;
		}
		if (errno != EEXIST)
			return failed(drop, "cannot make the dotlock");
		if (look_at(drop->dir, drop->name[LOCK], &held) == 0 &&
		    is_dead(drop, &held))
			break_dotlock(drop, &held);
	}
	return fail(drop, EAGAIN, "%.100s is there", drop->name[LOCK]);
}

static int
try_locks(struct maildrop *drop, bool exclusive, bool dot)
{
	struct stamp now;

	if (kernel_lock(drop, exclusive ? F_WRLCK : F_RDLCK) == -1)
		return -1;
	if (dot && dotlock(drop) == -1) {
		/* Without a free inode nobody else can make one either;
		 * over quota, nobody who delivers as the user. */
		if (exclusive ? !is_full(errno) : errno == EAGAIN)
			return -1;
		if (!is_full(errno))
			only_read(drop);
	}
	drop_pages(drop);
	if (!is_name_of(drop, drop->name[MAILBOX], drop->fd))
		return fail(drop, ESTALE, "the mailbox was replaced");
	if (look_at(drop->fd, "", &now) == -1)
		return failed(drop, "cannot look at the mailbox");
	return check_file(drop, "mailbox", &now);
}

/* Leaves errno alone. */
static void
unlock(struct maildrop *drop)
{
	struct flock whole = { .l_type = F_UNLCK, .l_whence = SEEK_SET };
	int error = errno;

	if (drop->dot != -1 && is_name_of(drop, drop->name[LOCK], drop->dot))
		remove_name(drop, drop->name[LOCK]);
	close_file(&drop->dot);
	if (drop->locked) {
		if (!drop->remote)
			flock(drop->fd, LOCK_UN);
		fcntl(drop->fd, F_OFD_SETLK, &whole);
		drop->locked = false;
	}
	errno = error;
}

/*
 * Work gets on: the dotlock is touched, and the alarm put off, once a second,
 * for it costs more than a read.  Leaves errno alone.
 */
static void
progress(struct maildrop *drop)
{
	time_t now = seconds();
	int error = errno;

	if (drop->watched && now != drop->put_off) {
		alarm(HANG_SECONDS);
		drop->put_off = now;
	}
	if (drop->dot == -1 || now - drop->touched < TOUCH_SECONDS)
		return;
	if (is_name_of(drop, drop->name[LOCK], drop->dot))
		utimensat(drop->dir, drop->name[LOCK], NULL,
		    AT_SYMLINK_NOFOLLOW);
	drop->touched = now;
	errno = error;
}

/*
 * Shared locks do without the dotlock if it is not to be had: a stale one must
 * not keep a user from reading.
 */
static int
lock(struct maildrop *drop, bool exclusive)
{
	time_t start = seconds(), waited;
	char why[sizeof(drop->why)];

	if (drop->fd == -1)
		return 0;
	for (;;) {
		progress(drop);
		waited = seconds() - start;
		drop->locked = true;
		if (try_locks(drop, exclusive,
		    exclusive || waited < DOT_SECONDS) == 0) {
			drop->why[0] = '\0';	/* of an earlier try */
			return 0;
		}
		unlock(drop);
		if (errno != EAGAIN)
			return -1;
		if (waited >= LOCK_SECONDS)
			break;
		pause_at_random(500, 1500);
	}
	strlcpy(why, drop->why, sizeof(why));
	return fail(drop, EAGAIN, "%.200s; tried for %lld s", why,
	    (long long)waited);
}

/* ---- the format ---- */

/*
 * A message begins with a line "From ", a sender if there is one, and a date,
 * at the beginning of the mailbox or after an empty line; without that empty
 * line if the date is complete, with seconds and nothing strange.  It ends
 * before the empty line in front of the next one, or of the end.
 *
 * A date is a row of words, each of them of a kind:
 *
 *	W weekday  M month  D day  T hh:mm:ss  t hh:mm  Y year  P AM or PM
 *	w weekday and comma  Z zone  U zone in capitals
 *	B zone in brackets, or of hours alone
 *
 * T stands here for t as well, Z for U.  "remote from HOST" may follow.
 */
static const char *const forms[] = { "WMDTY", "WMDTZY", "WMDTYZ",
    /* Those above can be complete. */
    "WMDTUUY", "WMDTYUU", "WMDTYB", "WMDTYZB", "WMDYT", "WMDYTZ", "WDMYT",
    "WDMYTZ", "WDMYTP", "WDMYTPZ", "WDMTY", "WDMTZY", "WMDTPY", "WMDTPZY",
    "WMDTBY", "WMDTPBY", "wDMYT", "wDMYTZ", "wDMYTZB", NULL };
enum { COMPLETE_FORMS = 3, WORDS_MAX = 12 };
enum { NO_DATE, DATE, COMPLETE_DATE };

/* Bytes of the mailbox that tell what a line is, or stay behind the place. */
#define LOOK		KIB

/* The next word of [*p, end): how long it is, and *w where it begins. */
static size_t
word(const char **p, const char *end, const char **w)
{
	while (*p < end && (**p == ' ' || **p == '\t'))
		(*p)++;
	*w = *p;
	while (*p < end && **p != ' ' && **p != '\t')
		(*p)++;
	return (size_t)(*p - *w);
}

/* 0 in the form stands for any digit. */
static bool
like(const char *w, size_t n, const char *form)
{
	for (; n > 0; n--, w++, form++)
		if (*form == '\0' ||
		    (*form == '0' ? *w < '0' || *w > '9' : *w != *form))
			return false;
	return *form == '\0';
}

#define DAYS	"Sun Mon Tue Wed Thu Fri Sat "
#define MONTHS	"Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec "

/* One of the three-letter names in list.  Four bytes are compared at once. */
static bool
named(const char *w, size_t n, const char *list)
{
	char name[4] = "    ";

	if (n == 3)
		memcpy(name, w, 3);
	for (; *list != '\0'; list += sizeof(name))
		if (memcmp(name, list, sizeof(name)) == 0)
			return true;
	return false;
}

static char
zone_kind(const char *w, size_t n)
{
	char kind = 'U';
	size_t i;

	if (like(w, n, "+0000") || like(w, n, "-0000"))
		return 'Z';
	for (i = 0; i < n; i++)
		if (w[i] >= 'a' && w[i] <= 'z')
			kind = 'Z';
		else if (w[i] < 'A' || w[i] > 'Z')
			return '?';
	return n >= 1 && n <= 5 ? kind : '?';
}

static char
word_kind(const char *w, size_t n)
{
	static const struct {
		const char	*form;
		char		 kind;
	} kinds[] = { { "0", 'D' }, { "00", 'D' }, { "00:00:00", 'T' },
	    { "00:00", 't' }, { "0000", 'Y' }, { "AM", 'P' }, { "PM", 'P' },
	    { "+00", 'B' }, { "-00", 'B' }, { "remote", 'r' },
	    { "from", 'f' } };
	size_t i;

	if (named(w, n, DAYS))
		return 'W';
	if (n == 4 && w[3] == ',' && named(w, 3, DAYS))
		return 'w';
	if (named(w, n, MONTHS))
		return 'M';
	for (i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++)
		if (like(w, n, kinds[i].form))
			return kinds[i].kind;
	if (n > 2 && w[0] == '(' && w[n - 1] == ')')
		return zone_kind(w + 1, n - 2) == '?' ? '?' : 'B';
	return zone_kind(w, n);
}

static bool
has_form(const char *kinds, const char *form)
{
	for (; *form != '\0' && (*kinds == *form ||
	    (*form == 'T' && *kinds == 't') ||
	    (*form == 'Z' && *kinds == 'U')); kinds++, form++)
		continue;
	return *form == '\0' && *kinds == '\0';
}

/* What the words of [p, end) are, to the last of them. */
static int
date_of(const char *p, const char *end)
{
	char kinds[WORDS_MAX + 1] = "";
	const char *w;
	bool remote;
	size_t n, i;

	for (i = 0; (n = word(&p, end, &w)) > 0; i++) {
		if (i == WORDS_MAX)
			return NO_DATE;
		kinds[i] = word_kind(w, n);
		if (kinds[0] != 'W' && kinds[0] != 'w')
			return NO_DATE;
	}
	remote = i > 3 && kinds[i - 3] == 'r' && kinds[i - 2] == 'f';
	kinds[remote ? i - 3 : i] = '\0';
	for (i = 0; forms[i] != NULL; i++)
		if (has_form(kinds, forms[i]))
			return i < COMPLETE_FORMS && kinds[3] == 'T' &&
			    !remote ? COMPLETE_DATE : DATE;
	return NO_DATE;
}

static bool
is_digit(char c)
{
	return c >= '0' && c <= '9';
}

/* Of the 24 bytes at w: the date as nearly all programs write it. */
static bool
is_asctime(const char *w)
{
	return named(w, 3, DAYS) && w[3] == ' ' && named(w + 4, 3, MONTHS) &&
	    w[7] == ' ' && (w[8] == ' ' || is_digit(w[8])) &&
	    like(w + 9, 15, "0 00:00:00 0000");
}

/* Bytes of the empty line at p, with n bytes there, or 0. */
static size_t
empty_line(const char *p, size_t n)
{
	if (n >= 1 && p[0] == '\n')
		return 1;
	return n >= 2 && p[0] == '\r' && p[1] == '\n' ? 2 : 0;
}

/* Bytes of the empty line that ends at p, or 0. */
static size_t
empty_line_before(const char *p)
{
	if (p[-1] != '\n')
		return 0;
	if (p[-2] == '\n')
		return 1;
	return p[-2] == '\r' && p[-3] == '\n' ? 2 : 0;
}

/*
 * Whether a message begins at p, where a line begins.  There are n bytes, to
 * the end of the mailbox or LOOK of them, and some before p.
 */
static bool
is_from(const char *p, size_t n)
{
	const char *from = p, *end, *w;
	int date;

	if (p[-1] != '\n' || n < 5 || memcmp(p, "From ", 5) != 0)
		return false;
	end = memchr(p, '\n', n < LOOK ? n : LOOK);
	if (end == NULL) {
		if (n >= LOOK)
			return false;
		end = p + n;
	}
	if (end[-1] == '\r')
		end--;
	p += 5;
	if (end - p > 25 && *p != ' ' && *p != '\t' && end[-25] == ' ' &&
	    is_asctime(end - 24))
		return true;	/* which the rest would find, too, later */
	do
		date = date_of(p, end);
	while (date == NO_DATE && word(&p, end, &w) > 0);
	return date == COMPLETE_DATE ||
	    (date == DATE && empty_line_before(from) != 0);
}

enum kind {		/* of a header line */
	ORDINARY,
	PRIVATE,	/* local programs keep it for themselves: not sent */
	ADDED,		/* by local programs, for all to see */
	UIDL,		/* says what the unique-id is */
	RECEIVED,	/* makes the unique-id: the first of them, */
	EVERY,		/* each of them, */
	ABOVE		/* each above the first Received */
};

static bool
has_name(const char *p, size_t n, const char *name)
{
	/* Two letters tell most of them apart, and quickly. */
	return ((p[0] ^ name[0]) & 0x1f) == 0 && n > 2 &&
	    ((p[2] ^ name[2]) & 0x1f) == 0 && n >= strlen(name) &&
	    strncasecmp(p, name, strlen(name)) == 0;
}

/* Of the header line at p, of which n bytes are there. */
static enum kind
kind_of(const char *p, size_t n)
{
	static const struct {
		const char	*name;
		enum kind	 kind;
	} kinds[] = { { "Received:", RECEIVED }, { "Date:", ABOVE },
	    { "Message-ID:", ABOVE }, { "Delivered-To:", EVERY },
	    { "X-Delivery-ID:", EVERY }, { "X-UIDL:", UIDL },
	    { "Content-Length:", ADDED }, { "Lines:", ADDED },
	    { "Status:", PRIVATE }, { "X-Status:", PRIVATE },
	    { "X-Keywords:", PRIVATE }, { "X-UID:", PRIVATE },
	    { "X-IMAP:", PRIVATE }, { "X-IMAPbase:", PRIVATE } };
	size_t i;

	/* popa3d knows the X of X-Delivery-ID as a capital only. */
	for (i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++)
		if (has_name(p, n, kinds[i].name))
			return kinds[i].kind == EVERY && *p == 'x' ?
			    ORDINARY : kinds[i].kind;
	return ORDINARY;
}

static bool
is_continued(const char *p)
{
	return *p == ' ' || *p == '\t';
}

/* ---- the scan ---- */

/*
 * The mailbox goes by in a buffer: at least LOOK unread bytes, or all that are
 * left, and as many before them, are always there.  window() and line() look
 * ahead, consume() and those called take or skip move on.  A message's octets
 * are what RETR sends before byte-stuffing, so they are counted here alone.
 *
 * Its unique-id is popa3d's: the first half of an MD5 over the header lines
 * that no mail program rewrites, as they are stored.
 */

#define SCAN_SIZE	(256 * KIB)	/* bytes that the scan reads at once */
#define READ_SIZE	(32 * KIB)	/* the same, of a single message */
#define ROW		192		/* bytes that the scan counts at once */
#define BODY_IN_ID	KIB		/* bytes, where the header has no id */

struct scan {
	struct maildrop	*drop;
	off_t		 at;	/* offset in the mailbox of next */
	off_t		 end;	/* where to stop */
	off_t		 limit;	/* where to stop reading ahead */
	size_t		 size;
	char		*buf;
	const char	*next;	/* unread bytes are [next, last) */
	char		*last;
	time_t		 since;	/* the whole mailbox is scanned; else 0 */
	bool		 first;	/* the next message is the mailbox's first */
	unsigned int	 pseudo;
	bool		 header; /* for reading: the header is not yet over */
	enum kind	 kind;	/* of the latest header line */
	bool		 chosen; /* that line makes the unique-id */
	bool		 received; /* there was a Received line */
	bool		 found;	/* a line makes the unique-id */
	MD5_CTX		 md5;
	char		 body[BODY_IN_ID]; /* if none does: its beginning */
	char		 uidl[UNIQUE_ID_MAX + 1]; /* of an X-UIDL line, or "" */
	off_t		 octets;
};

enum { PSEUDO_IMAP = 1, PSEUDO_SUBJECT = 2, PSEUDO = 3 };

/* From offset at to offset end of the mailbox, with a buffer of size bytes. */
static int
scan_begin(struct scan *s, struct maildrop *drop, off_t at, off_t end,
    size_t size)
{
	memset(s, 0, sizeof(*s));
	s->drop = drop;
	s->at = at;
	s->end = s->limit = end;
	s->size = size;
	if ((s->buf = aligned_alloc(PAGE, 2 * PAGE + size)) == NULL)
		return failed(drop, "no memory for a buffer");
	s->next = s->last = s->buf + PAGE;
	memset(s->buf + PAGE - LOOK, '\n', LOOK);
	return 0;
}

static void
scan_end(struct scan *s)
{
	int error = errno;

	free(s->buf);
	errno = error;
}

/* Go on at another offset, over what need not be read. */
static void
scan_jump(struct scan *s, off_t at)
{
	off_t skipped = at - s->at;

	if (skipped >= 0 && skipped <= s->last - s->next)
		s->next += skipped;
	else {
		s->next = s->last = s->buf + PAGE;
		memset(s->buf + PAGE - LOOK, '\n', LOOK);
	}
	s->at = at;
}

/* Bytes of the mailbox that read_mailbox() leaves out. */
static off_t
hidden(const struct maildrop *drop)
{
	return drop->view.next - drop->view.w - drop->view.n;
}

/*
 * The mailbox as it should be: where a record could not be followed to its end,
 * what was saved is read from the side file, and what is dead is left out.
 */
static ssize_t
read_mailbox(const struct maildrop *drop, char *buf, size_t size, off_t at)
{
	const off_t w = drop->view.w, behind = w + drop->view.n;
	const struct {
		int	fd;
		off_t	end, shift;
	} parts[] = { { drop->fd, w, 0 }, { drop->side, behind, SIDE_DATA - w },
	    { drop->fd, INT64_MAX, hidden(drop) } }, *part = parts;
	size_t done;
	ssize_t n;

	for (done = 0; done < size; done += (size_t)n, at += n) {
		while (part < parts + 2 && at >= part->end)
			part++;
		n = read_at(part->fd, buf + done,
		    (size_t)MIN((off_t)(size - done), part->end - at),
		    at + part->shift);
		if (n <= 0)
			return n == -1 ? -1 : (ssize_t)done;
	}
	return (ssize_t)done;
}

/*
 * Reads are aligned, what is left unread goes in front: copies are cheaper.  A
 * scan that lasts lets go of its locks: it reads no further than the mailbox
 * went under them, and a message that changes is noticed when it is asked for.
 */
static ssize_t
read_more(struct scan *s)
{
	off_t have = s->last - s->next, want = s->limit - s->at - have;
	char *base = s->buf + PAGE;
	ssize_t n;

	progress(s->drop);
	if (s->since != 0 && seconds() - s->since >= SCAN_SECONDS)
		unlock(s->drop);
	memmove(base - have - LOOK, s->next - LOOK, (size_t)have + LOOK);
	s->next = base - have;
	s->last = base;
	if (want > (off_t)s->size)
		want = (off_t)s->size;
	n = read_mailbox(s->drop, base, (size_t)want, s->at + have);
	if (n != want) {
		if (n != -1)
			errno = ESTALE;	/* it shrank under our feet */
		return -1;
	}
	s->last += n;
	return have + n;
}

/* How many unread bytes there are: at least LOOK, or all that are left. */
static inline ssize_t
window(struct scan *s)
{
	off_t have = s->last - s->next, left = s->end - s->at;

	if (have < LOOK && have < left && (have = read_more(s)) == -1)
		return -1;
	return have < left ? have : left;
}

/* How long the next line is, or the next LOOK bytes of a longer one. */
static ssize_t
line(struct scan *s)
{
	ssize_t n = window(s);
	const char *lf;

	if (n <= 0)
		return n;
	if (n > LOOK)
		n = LOOK;
	lf = memchr(s->next, '\n', (size_t)n);
	return lf == NULL ? n : lf + 1 - s->next;
}

static void
consume(struct scan *s, size_t n)
{
	s->next += n;
	s->at += (off_t)n;
}

/* Consume a line of the header, or part of one, of which n bytes were found. */
static inline void
take_line(struct scan *s, size_t n)
{
	consume(s, n);
	if (s->kind != PRIVATE)
		s->octets += (off_t)n +
		    (s->next[-1] == '\n' && s->next[-2] != '\r');
}

/* Consume the From_ line, with which a message begins. */
static int
take_from(struct scan *s)
{
	ssize_t n;

	s->kind = ORDINARY;
	s->chosen = s->received = s->found = false;
	s->uidl[0] = '\0';
	s->pseudo = 0;
	s->octets = 0;
	MD5Init(&s->md5);
	do {
		if ((n = line(s)) <= 0)
			return n == 0 ? 0 : -1;
		consume(s, (size_t)n);
	} while (s->next[-1] != '\n');
	return 0;
}

/*
 * How long the next line of the header is, or part of it, and s->kind says what
 * it is; 0: there is none, -1: trouble.
 */
static inline ssize_t
header_line(struct scan *s)
{
	ssize_t n = line(s);

	if (n <= 0 || s->next[-1] != '\n')
		return n;
	if (empty_line(s->next, (size_t)n) != 0 ||
	    (*s->next == 'F' && is_from(s->next, (size_t)n)))
		return 0;
	if (!is_continued(s->next))
		s->kind = kind_of(s->next, (size_t)n);
	return n;
}

/*
 * The one word of an X-UIDL line: believed if RFC 1939 lets it be an id, and it
 * does not end as a twin's does, for then two could be alike.
 */
static void
note_uidl(struct scan *s, size_t n)
{
	const char *p = s->next + sizeof("X-UIDL:") - 1, *end = s->next + n;
	const char *w, *more;
	size_t i, size;

	while (end > p && (end[-1] == '\n' || end[-1] == '\r'))
		end--;
	size = word(&p, end, &w);
	if (s->uidl[0] != '\0' || size > UNIQUE_ID_MAX ||
	    word(&p, end, &more) != 0)
		return;
	for (i = 0; i < size; i++)
		if (w[i] <= 0x20 || w[i] >= 0x7f)
			return;
	while (i > 1 && is_digit(w[i - 1]))
		i--;
	if (i == size || w[i - 1] != '-') {
		memcpy(s->uidl, w, size);	/* it ends in no NUL */
		s->uidl[size] = '\0';
	}
}

/*
 * What the line of n bytes, found by header_line(), is to the unique-id.  As
 * long as no line makes it, all do that no program adds.
 */
static inline void
note_id(struct scan *s, size_t n)
{
	if (s->next[-1] == '\n' && !is_continued(s->next)) {
		s->chosen = s->kind == EVERY ||
		    (s->kind >= RECEIVED && !s->received);
		if (s->kind == RECEIVED)
			s->received = true;
		if (s->kind == UIDL && s->next[n - 1] == '\n')
			note_uidl(s, n);
	}
	if (s->chosen && !s->found) {
		MD5Init(&s->md5);
		s->found = true;
	}
	if (s->chosen || (!s->found && s->kind == ORDINARY))
		MD5Update(&s->md5, (const uint8_t *)s->next, n);
}

/* c-client keeps its notes in a message that is none. */
static void
note_pseudo(struct scan *s, size_t n)
{
	if (has_name(s->next, n, "X-IMAP:"))
		s->pseudo |= PSEUDO_IMAP;
	if (has_name(s->next, n,
	    "Subject: DON'T DELETE THIS MESSAGE -- FOLDER INTERNAL DATA"))
		s->pseudo |= PSEUDO_SUBJECT;
}

/* Consume the header, and the empty line behind it, if there is one. */
static int
take_header(struct scan *s, struct message *m)
{
	size_t empty;
	ssize_t n;

	while ((n = header_line(s)) > 0) {
		if (s->kind == PRIVATE)
			m->flags |= MSG_PRIVATE;
		if (s->first)
			note_pseudo(s, (size_t)n);
		note_id(s, (size_t)n);
		take_line(s, (size_t)n);
	}
	if (n == -1 || (n = window(s)) == -1)
		return -1;
	if ((empty = empty_line(s->next, (size_t)n)) != 0) {
		s->octets += 2;
		s->kind = ORDINARY;
		consume(s, empty);
	}
	return 0;
}

/*
 * Where a compiler can, it makes a second version of a loop, for processors
 * with wider registers, and the loader chooses.
 */
#if defined(__x86_64__) && defined(__GLIBC__) && __has_attribute(target_clones)
#define WIDE	__attribute__((target_clones("avx2", "default")))
#else
#define WIDE
#endif

/*
 * Consume ROW bytes at a time, up to a row with an LF that "From " may follow.
 * An LF without a CR before is sent as one octet more.  The inner loop is
 * plain and of constant length, for a compiler to make vectors of; a byte
 * counts to ROW.
 */
WIDE static void
skip_rows(struct scan *s)
{
	const char *p;
	uint8_t bare, from, lf;
	int i;

	for (p = s->next; s->last - p > ROW; p += ROW) {
		bare = from = 0;
		for (i = 0; i < ROW; i++) {
			lf = p[i] == '\n';
			bare = (uint8_t)(bare + (lf & (p[i - 1] != '\r')));
			from = (uint8_t)(from + (lf & (p[i + 1] == 'F')));
		}
		if (from != 0)
			break;
		s->octets += bare;
	}
	s->octets += p - s->next;
	consume(s, (size_t)(p - s->next));
}

/* The same for up to ROW bytes, line by line; true: "From " may be next. */
static bool
skip_lines(struct scan *s)
{
	const char *p = s->next, *lf;
	const char *stop = s->last - p > ROW ? p + ROW : s->last;
	bool from = false;

	while (!from && p < stop &&
	    (lf = memchr(p, '\n', (size_t)(stop - p))) != NULL) {
		s->octets += lf[-1] != '\r';
		p = lf + 1;
		from = s->last - p < 5 || memcmp(p, "From ", 5) == 0;
	}
	if (from)
		stop = p;
	s->octets += stop - s->next;
	consume(s, (size_t)(stop - s->next));
	return from;
}

/*
 * Consume the body up to a line that begins with "From ", or may do so when
 * more of it is read, or the end of the buffer; count its octets.
 */
static void
skip_body(struct scan *s)
{
	while (!skip_lines(s) && s->next < s->last)
		skip_rows(s);
}

/* An id in popa3d's form is the same one, whoever says it. */
static bool
is_plain_id(const char *text, uint64_t *id)
{
	if (strlen(text) != 16 || strspn(text, "0123456789abcdef") != 16)
		return false;
	*id = strtoull(text, NULL, 16);
	return true;
}

/*
 * All of the message has been seen.  One without a field for a unique-id has
 * the beginning of its body in it, of which size bytes were kept, but no empty
 * lines at the end, for these come and go with the next message.
 */
static void
take_id(struct scan *s, struct message *m, off_t size)
{
	uint8_t digest[MD5_DIGEST_LENGTH];
	uint32_t half[2];

	if (is_plain_id(s->uidl, &m->id))
		return;
	if (s->uidl[0] != '\0') {
		m->flags |= MSG_UIDL;
		MD5Init(&s->md5);
		MD5Update(&s->md5, (const uint8_t *)s->uidl,
		    strlen(s->uidl));
	} else if (!s->found) {
		while (size > 0 && (s->body[size - 1] == '\n' ||
		    s->body[size - 1] == '\r'))
			size--;
		MD5Update(&s->md5, (const uint8_t *)s->body, (size_t)size);
	}
	MD5Final(digest, &s->md5);
	memcpy(half, digest, sizeof(half));
	m->id = (uint64_t)le32toh(half[0]) << 32 | le32toh(half[1]);
}

/* The message that begins at the unread bytes. */
static int
take_message(struct scan *s, struct message *m)
{
	off_t body;
	ssize_t n;

	memset(m, 0, sizeof(*m));
	m->start = s->at;
	if (take_from(s) == -1)
		return -1;
	m->from = (uint16_t)(s->at - m->start);
	if (take_header(s, m) == -1 || (n = window(s)) == -1)
		return -1;
	body = s->at;
	if (!s->found)
		memcpy(s->body, s->next, (size_t)MIN(n, BODY_IN_ID));
	while (n > 0 && !is_from(s->next, (size_t)n)) {
		skip_body(s);
		n = window(s);
	}
	if (n == -1)
		return -1;
	m->octets = s->octets;
	if (s->at > m->start + m->from) {
		m->separator = (uint8_t)empty_line_before(s->next);
		if (m->separator != 0)
			m->octets -= 2;
		else if (s->kind != PRIVATE && s->next[-1] != '\n')
			m->octets += 2;	/* the newline that RETR adds */
	}
	/* The empty line may be the header's and the separator in one. */
	body = MAX(s->at - m->separator - body, 0);
	take_id(s, m, MIN(body, BODY_IN_ID));
	return 0;
}

/* 1: there was one more message, 0: there was none, -1: trouble. */
static int
next_message(struct scan *s, struct message *m)
{
	ssize_t n;

	do {
		if ((n = window(s)) <= 0)
			return n == 0 ? 0 : -1;
		if (take_message(s, m) == -1)
			return -1;
		s->first = false;
	} while (s->pseudo == PSEUDO);	/* c-client's: nobody's message */
	return 1;
}

/* Empty lines in front of the first message are no part of any. */
static int
skip_empty_lines(struct scan *s)
{
	ssize_t n;
	size_t empty;

	while ((n = window(s)) > 0 &&
	    (empty = empty_line(s->next, (size_t)n)) != 0)
		consume(s, empty);
	if (n > 0 && !is_from(s->next, (size_t)n)) {
		errno = EBADMSG;
		return -1;
	}
	return n == -1 ? -1 : 0;
}

static int
add_message(struct maildrop *drop, const struct message *m)
{
	struct message *messages = drop->messages;
	size_t n = drop->count;

	if (n == MESSAGES_MAX) {
		errno = E2BIG;
		return -1;
	}
	/* It doubles when it is full. */
	if ((n & (n - 1)) == 0) {
		messages = reallocarray(messages, n == 0 ? 1 : 2 * n,
		    sizeof(*m));
		if (messages == NULL)
			return -1;
		drop->messages = messages;
	}
	messages[drop->count++] = *m;
	return 0;
}

/* In all of the mailbox, to drop->end. */
static int
find_messages(struct maildrop *drop)
{
	struct message m;
	struct scan s;
	int n = -1;

	if (scan_begin(&s, drop, 0, drop->end, SCAN_SIZE) == -1)
		return failed(drop, "no memory for the scan");
	s.since = seconds();
	s.first = true;
	if (skip_empty_lines(&s) == 0)
		while ((n = next_message(&s, &m)) == 1 &&
		    (n = add_message(drop, &m)) == 0)
			continue;
	if (n == -1 && errno == EBADMSG)
		fail(drop, errno, "not a mailbox: no From_ line at offset "
		    "%lld", (long long)s.at);
	else if (n == -1)
		fail(drop, errno, "cannot scan the mailbox at offset %lld: %s",
		    (long long)s.at, errno == E2BIG ? "too many messages" :
		    strerror(errno));
	scan_end(&s);
	return n;
}

/* ---- the same message? ---- */

/*
 * The same bytes scanned again give the same struct message: so whether one is
 * still there is seen by scanning it.  Its private lines, and other messages,
 * may have changed.
 */

/* Where what belongs to message n ends: with its separator. */
static off_t
message_end(const struct maildrop *drop, size_t n)
{
	return n + 1 < drop->count ? drop->messages[n + 1].start : drop->end;
}

/*
 * What came behind the last message since: nothing, an empty line, or one and
 * another message.  Of that part of a From_ line is enough where no lock keeps
 * a deliverer from having written no more yet.
 */
static bool
is_appended(struct scan *s, off_t size, bool locked)
{
	size_t empty;
	ssize_t n;

	s->end = s->limit = size;
	if ((n = window(s)) == -1)
		return false;
	empty = empty_line(s->next, (size_t)n);
	consume(s, empty);
	n -= (ssize_t)empty;
	return n == 0 || is_from(s->next, (size_t)n) ||
	    (!locked && n < LOOK &&
	    memchr(s->next, '\n', (size_t)n) == NULL &&
	    memcmp(s->next, "From ", MIN((size_t)n, 5)) == 0);
}

/*
 * Whether message n is what it was, in a mailbox of size bytes.  After 0 the
 * scan is where the next one begins.
 */
static int
check_message(struct scan *s, size_t n, off_t size, bool locked)
{
	const struct maildrop *drop = s->drop;
	const struct message *was = &drop->messages[n];
	struct message m;
	ssize_t have;

	scan_jump(s, was->start);
	s->end = s->limit = drop->end;
	errno = 0;
	if (size >= drop->end && (have = window(s)) > 0 &&
	    is_from(s->next, (size_t)have) && next_message(s, &m) == 1 &&
	    m.octets == was->octets && m.id == was->id &&
	    m.from == was->from && m.separator == was->separator &&
	    s->at == message_end(drop, n) &&
	    (s->at < drop->end || is_appended(s, size, locked)))
		return 0;
	if (errno != 0 && errno != ESTALE)
		return failed(s->drop, "cannot look at a message again");
	return fail(s->drop, ESTALE, "mailbox was changed by another program: "
	    "message %zu is not as it was", n + 1);
}

/* ---- reading ---- */

int
message_begin(struct maildrop *drop, size_t n)
{
	const struct message *m = &drop->messages[n];
	struct scan *s = drop->reader;

	if (s == NULL) {
		if ((s = calloc(1, sizeof(*s))) == NULL ||
		    scan_begin(s, drop, 0, 0, READ_SIZE) == -1) {
			free(s);
			return failed(drop, "no memory to read a message");
		}
		drop->reader = s;
	}
	s->next = s->last = s->buf + PAGE;	/* nothing from before */
	s->last[-2] = ' ';	/* it is no empty line that stands before */
	s->last[-1] = '\n';
	s->at = m->start + m->from;
	s->end = s->limit = message_end(drop, n) - m->separator;
	s->header = (m->flags & MSG_PRIVATE) != 0;
	s->kind = ORDINARY;
	drop->reading = n;
	return 0;
}

/*
 * Every time that says otherwise means look again, no more: readers set times,
 * and some set them back; but the ctime nobody can.
 */
int
message_check(struct maildrop *drop)
{
	struct stamp now;
	struct scan s;
	int n;

	if (look_at(drop->fd, "", &now) == -1)
		return failed(drop, "cannot look at the mailbox");
	if (drop->settled && memcmp(&now, &drop->seen, sizeof(now)) == 0)
		return 0;
	drop_pages(drop);
	if (scan_begin(&s, drop, 0, 0, READ_SIZE) == -1)
		return failed(drop, "no memory to look at a message");
	n = check_message(&s, drop->reading, now.size - hidden(drop), false);
	scan_end(&s);
	return n;
}

/* Private lines are left out; where there are none, all of a buffer goes. */
static ssize_t
next_piece(struct scan *s, const char **text)
{
	ssize_t n;

	while (s->header && (n = header_line(s)) != 0) {
		if (n == -1)
			return -1;
		*text = s->next;
		consume(s, (size_t)n);
		if (s->kind != PRIVATE)
			return n;
	}
	s->header = false;
	if ((n = window(s)) > 0) {
		*text = s->next;
		consume(s, (size_t)n);
	}
	return n;
}

ssize_t
message_read(struct maildrop *drop, const char **text)
{
	struct scan *s = drop->reader;
	const struct message *m = &drop->messages[drop->reading];
	bool first = s->at == m->start + m->from;
	ssize_t n;

	if ((n = next_piece(s, text)) == -1)
		return failed(drop, "cannot read the mailbox");
	/* What was read before it was seen to be unchanged is the message. */
	if ((first || s->at == s->end) && message_check(drop) == -1)
		return -1;
	return n;
}

bool
message_ended(const struct maildrop *drop)
{
	return drop->reader->at == drop->reader->end;
}

/* ---- unique-ids ---- */

/*
 * A mailbox can be full of mail made to have ids that fall together in a hash
 * table, so they are mixed with random bits.
 */
int
maildrop_ids(struct maildrop *drop)
{
	struct message *m, *other;
	size_t size = 2, i, at;
	uint32_t *table;	/* the latest message with an id, from 1 */
	uint64_t key;

	if (drop->numbered)
		return 0;
	while (size < 2 * drop->count)
		size *= 2;
	if ((table = calloc(size, sizeof(*table))) == NULL)
		return failed(drop, "no memory for unique-ids");
	arc4random_buf(&key, sizeof(key));
	for (i = 0; i < drop->count; i++) {
		m = &drop->messages[i];
		m->twin = 1;
		for (at = mix(mix(m->id ^ key) ^ key) & (size - 1);
		    table[at] != 0;
		    at = (at + 1) & (size - 1)) {
			other = &drop->messages[table[at] - 1];
			if (other->id == m->id &&
			    ((other->flags ^ m->flags) & MSG_UIDL) == 0) {
				m->twin = other->twin + 1;
				break;
			}
		}
		table[at] = (uint32_t)i + 1;
	}
	free(table);
	drop->numbered = true;
	return 0;
}

/* The text of an X-UIDL line is kept nowhere: few mailboxes have them. */
static int
read_uidl(struct maildrop *drop, size_t n, char *text)
{
	const struct message *was = &drop->messages[n];
	struct message m = { .start = was->start };
	struct scan *s;

	if (message_begin(drop, n) == -1)
		return -1;
	s = drop->reader;
	scan_jump(s, m.start);
	if (take_from(s) == -1 || take_header(s, &m) == -1)
		return failed(drop, "cannot read the mailbox");
	take_id(s, &m, 0);
	if (m.id != was->id)
		return fail(drop, ESTALE, "mailbox was changed by another "
		    "program: message %zu has another X-UIDL line", n + 1);
	strlcpy(text, s->uidl, UNIQUE_ID_SIZE);
	return 0;
}

int
unique_id(struct maildrop *drop, size_t n, char *text)
{
	const struct message *m = &drop->messages[n];
	char twin[sizeof("-4294967295")] = "";

	if (m->twin > 1)
		snprintf(twin, sizeof(twin), "-%lu", (unsigned long)m->twin);
	text[0] = '\0';
	if ((m->flags & MSG_UIDL) && read_uidl(drop, n, text) == -1)
		return -1;
	/* A text that leaves no room for the twin's number does without. */
	if (text[0] == '\0' || strlen(text) + strlen(twin) > UNIQUE_ID_MAX)
		snprintf(text, UNIQUE_ID_SIZE, "%016llx",
		    (unsigned long long)m->id);
	strlcat(text, twin, UNIQUE_ID_SIZE);
	return 0;
}

/* ---- the side file ---- */

/*
 *	0	slot 0		one record of 512 bytes
 *	4096	slot 1		the other
 *	8192	data area	saved bytes of UPDATE, or the index
 *
 * Its fcntl lock is the session lock.  A record is written to the slot that
 * the one before is not in; the valid one with the higher sequence counts, for
 * a torn one fails its checksum.  Both hold numbers as this machine has them.
 */

#define SIDE_SLOTS	4096	/* distance of the slots */
#define SLOT_SIZE	512
#define RECORD_MAGIC	0x706f703364555032ULL	/* "pop3dUP", version 2 */
#define MARK_SIZE	16

enum state { IDLE, HOLE, CUT };		/* see UPDATE */

/* etc/debian/postrm, too, reads the first three. */
struct record {
	uint64_t	magic;
	uint64_t	sequence;
	uint64_t	state;
	int64_t		w, r, n, next;
	int64_t		size;		/* of the mailbox */
	uint64_t	inode;		/* of the mailbox: for a reader only */
	uint8_t		mark[MARK_SIZE];
	uint64_t	before;		/* sums: of what ends at w, */
	uint64_t	live;		/* of what begins at r or next, */
	uint64_t	end;		/* of what ends at the end, */
	uint64_t	saved;		/* of the data area's n bytes, */
	uint64_t	self;		/* and of all the above */
};

static uint64_t
self_sum(const struct record *rec)
{
	return sum(0, rec, offsetof(struct record, self));
}

/* Of another version of this program, or byte order. */
static bool
is_strange(const struct record *slot)
{
	const uint64_t kin = RECORD_MAGIC >> 8;

	return slot->magic != RECORD_MAGIC && (slot->magic >> 8 == kin ||
	    bswap_64(slot->magic) >> 8 == kin);
}

/*
 * The record that counts, and whether it says that something is under way: 1
 * or 0.  None is IDLE, and so is a torn one alone: the first one ever is IDLE,
 * and durable before the next.  If there is one that cannot be understood, or
 * two that no crash can leave, it is one that fits no mailbox.
 */
static int
latest_record(struct maildrop *drop, struct record *rec)
{
	static const struct record empty, unknown = { .state = HOLE, .n = 1 };
	struct record slot;
	int i, torn = 0;

	*rec = empty;
	for (i = 0; drop->side != -1 && i < 2; i++) {
		slot = empty;
		if (read_at(drop->side, &slot, sizeof(slot),
		    i * SIDE_SLOTS) == -1)
			return failed(drop, "cannot read the side file");
		if (is_strange(&slot))
			torn = 2;
		else if (slot.magic == RECORD_MAGIC && slot.state <= CUT &&
		    slot.self == self_sum(&slot)) {
			if (slot.sequence >= rec->sequence)
				*rec = slot;
		} else
			torn += memcmp(&slot, &empty, sizeof(slot)) != 0;
	}
	if (torn >= 2)
		*rec = unknown;
	return rec->state != IDLE;
}

/* Write rec to its slot, as it is, and have it durable. */
static int
write_record(struct maildrop *drop, const struct record *rec)
{
	char slot[SLOT_SIZE] = { 0 };

	memcpy(slot, rec, sizeof(*rec));
	if (write_at(drop->side, slot, sizeof(slot),
	    (off_t)(rec->sequence % 2) * SIDE_SLOTS) == -1 ||
	    fsync(drop->side) == -1)
		return failed(drop, "cannot write the side file");
	return 0;
}

/* Of the data area; if this fails it stays taken.  Leaves errno alone. */
static void
give_back_room(const struct maildrop *drop)
{
	int error = errno;

	if (ftruncate(drop->side, SIDE_DATA) == -1)
		errno = error;
}

/*
 * Give the side file another name, under which nobody touches it any more.
 * There is one such name: who finds it taken leaves all as it is.
 */
static void
set_aside(struct maildrop *drop)
{
	if (move_name(drop, drop->name[SIDE], drop->name[SAVED]) == 0)
		strlcpy(drop->saved, drop->name[SAVED], sizeof(drop->saved));
}

/*
 * Without a side file mail can be read, and all of it deleted.  That it can
 * only be read, or is another's, lets mail only be read.
 */
static int
open_side(struct maildrop *drop)
{
	struct stamp s;
	int n;

	if (look_at(drop->dir, drop->name[SAVED], &s) == 0)
		strlcpy(drop->saved, drop->name[SAVED], sizeof(drop->saved));
	/* usermod(8) gives the mailbox to the new uid, and nothing else. */
	if (look_at(drop->dir, drop->name[SIDE], &s) == 0 &&
	    S_ISREG(s.mode) && s.uid != geteuid() &&
	    look_at(drop->dir, "", &s) == 0 && (s.mode & S_IWOTH) == 0 &&
	    s.uid == 0)
		set_aside(drop);
	if ((n = open_file(drop, SIDE, O_CREAT, &drop->side)) == -1)
		return -1;
	if (n == 1) {
		only_read(drop);	/* it may be anything, and stays */
		close_file(&drop->side);
	} else if (drop->side == -1 && !is_full(errno)) {
		failed(drop, "cannot make the side file");
		only_read(drop);
	}
	return 0;
}

/*
 * A POSIX lock, for it tells the holder's pid: the file is opened once.  Who
 * has it sees to it that the slots have blocks when the disk is full one day.
 */
static int
session_lock(struct maildrop *drop)
{
	static const char zeros[SIDE_DATA];
	struct flock whole = { .l_type = F_WRLCK, .l_whence = SEEK_SET };
	time_t start = seconds();
	struct stamp s;
	char who[40];

	while (fcntl(drop->side, F_SETLK, &whole) == -1) {
		if (errno == EBADF)	/* it can only be read */
			return 0;
		if (errno != EAGAIN && errno != EACCES)
			return failed(drop, "cannot lock the side file");
		if (seconds() - start >= SESSION_SECONDS)
			return fail(drop, EBUSY, "session lock is held by %s; "
			    "tried for %d s", holder(drop->side, F_GETLK,
			    F_WRLCK, who, sizeof(who)), SESSION_SECONDS);
		progress(drop);
		pause_at_random(100, 300);
	}
	if (!is_name_of(drop, drop->name[SIDE], drop->side))
		return fail(drop, EBUSY, "the side file was replaced");
	drop->session = true;
	break_dead_sessions(drop);
	if (look_at(drop->side, "", &s) == 0 && s.size < SIDE_DATA)
		(void)write_at(drop->side, zeros,
		    (size_t)(SIDE_DATA - s.size), s.size);
	return 0;
}

/* ---- the index ---- */

/*
 * What the scan found, kept in the data area while no UPDATE uses it.  It
 * counts only if the mailbox has not changed at all since, and had not just
 * changed then; and if every bit of it is as it was written.  In doubt there is
 * a scan.
 */

#define INDEX_MAGIC	0x706f703364495832ULL	/* "pop3dIX", version 2 */
#define SETTLED_SECONDS	2	/* more than the grain of any file's times */

struct index {
	uint64_t	magic;
	struct stamp	mailbox;
	uint64_t	count;		/* of the messages behind it */
	uint64_t	sum;		/* of the above, and of them */
};

static uint64_t
index_sum(const struct index *x, const struct message *messages)
{
	return sum(sum(0, x, offsetof(struct index, sum)), messages,
	    x->count * sizeof(*messages));
}

/* Whoever wrote it: every message lies in the mailbox, in order. */
static bool
is_plausible(const struct maildrop *drop)
{
	const struct message *m;
	off_t end;
	size_t i;

	for (i = 0; i < drop->count; i++) {
		m = &drop->messages[i];
		end = message_end(drop, i);
		if (m->start < 0 || m->start > end || end > drop->end ||
		    m->from + m->separator > end - m->start ||
		    m->octets < 0 || m->octets > 2 * (end - m->start) + 2 ||
		    (m->flags & ~(MSG_PRIVATE | MSG_UIDL)) != 0)
			return false;
	}
	return true;
}

static void
forget_messages(struct maildrop *drop)
{
	free(drop->messages);
	drop->messages = NULL;
	drop->count = 0;
}

static bool
load_index(struct maildrop *drop)
{
	struct index x;
	size_t size;

	if (hidden(drop) != 0 || drop->seen.size < INDEX_MIN ||
	    read_all(drop->side, &x, sizeof(x), SIDE_DATA) == -1 ||
	    x.magic != INDEX_MAGIC || x.count > MESSAGES_MAX ||
	    memcmp(&x.mailbox, &drop->seen, sizeof(x.mailbox)) != 0)
		return false;
	size = x.count * sizeof(*drop->messages);
	if ((drop->messages = malloc(size + 1)) != NULL &&
	    read_all(drop->side, drop->messages, size,
	    SIDE_DATA + sizeof(x)) == 0 &&
	    x.sum == index_sum(&x, drop->messages)) {
		drop->count = x.count;
		if (is_plausible(drop))
			return true;
	}
	forget_messages(drop);
	return false;
}

/* Nothing is synced, nothing depends on it: a failure is no matter. */
static void
write_index(const struct maildrop *drop)
{
	size_t size = drop->count * sizeof(*drop->messages);
	struct index x = { .magic = INDEX_MAGIC, .mailbox = drop->seen,
	    .count = drop->count };

	if (!drop->session || !drop->writable || !drop->settled ||
	    drop->seen.size < INDEX_MIN || sizeof(x) + size > DATA_AREA_MAX)
		return;
	x.sum = index_sum(&x, drop->messages);
	if (write_at(drop->side, drop->messages, size,
	    SIDE_DATA + sizeof(x)) == -1 ||
	    write_at(drop->side, &x, sizeof(x), SIDE_DATA) == -1)
		give_back_room(drop);
}

/* ---- UPDATE ---- */

/*
 * The mailbox keeps its inode: a deliverer that waits for it with fcntl would
 * else append to a file without a name.  So the live bytes behind the first
 * deleted message are moved down in place, and before every step the side file
 * says how far it went.  A record is durable before what it speaks of begins.
 *
 *	IDLE	Nothing is under way.
 *	HOLE	Bytes [w, r) of the mailbox are dead, all others are live or,
 *		from r on, deleted messages not yet reached.  If n > 0 the data
 *		area holds the n live bytes of [r, next): put at w, they leave
 *		the hole [w + n, next).
 *	CUT	Everything from w on is dead, [w, r) begins and ends with the
 *		mark, and the mailbox is about to be cut to w.
 *
 * A step moves the live bytes of many messages.  If they fit in the hole they
 * overwrite nothing that lives: copy, fsync, new record.  If not, the copy
 * would overwrite its own source, so they go to the data area first: fsync, a
 * record with n, then the mailbox: fsync, new record.  Whichever record a crash
 * leaves, the bytes that it calls live are there: the step can be done again.
 *
 * A cut is not atomic: inside a block a file system writes zeros first, and the
 * new size later.  The mark is a nonce without a zero in it, which no deliverer
 * appends.  Who finds CUT later, and at both ends of [w, r) the mark or what
 * zeros have left of it, knows that the cut did not happen, and that what
 * follows r is new mail; else it did, and what follows w is.  Only deleting
 * everything is a cut without a record: then there is nothing to tell apart.
 *
 * No record knows more than the disk: what it says of the mailbox was synced
 * before.  A record pins the three places that the next steps rely on by sums
 * of bytes there that no step writes, its anchors: what ends at w, what begins
 * at the live bytes, and what ends at the mailbox's end.  In CUT the last two
 * do not count, for the marks tell more.
 *
 * tests/model is this protocol, checked at every crash point.
 */

#define COPY_SIZE	(256 * KIB)
#define ANCHOR		(4 * KIB)	/* bytes, at most */
#define STEPS_MAX	4096		/* of one UPDATE */

struct update {
	struct maildrop	*drop;
	struct record	 rec;	/* the latest that was written */
	off_t		 size;	/* of the mailbox, which is synced to here */
	off_t		 left;	/* live bytes from r on */
	uint8_t		 front;	/* bytes of the empty line before the first
				 * message, or 1 if nothing is there */
	off_t		 room;	/* bytes of the data area, -1: not yet known */
	size_t		 dead;	/* no deleted message before this */
	uint64_t	 copied; /* sum of what copy() copied */
};

/* Where the next deleted message begins, or the mailbox's end. */
static off_t
next_dead(struct update *u)
{
	const struct maildrop *drop = u->drop;

	while (u->dead < drop->count &&
	    (drop->messages[u->dead].flags & MSG_DELETED) == 0)
		u->dead++;
	return u->dead == drop->count ? u->size :
	    drop->messages[u->dead].start;
}

/*
 * The first live byte from r on, over deleted messages that begin there.  If
 * the message in front of them has no separator, the last one's stays: what
 * follows may be a message only after an empty line.
 */
static off_t
skip_dead(struct update *u, off_t r)
{
	const struct maildrop *drop = u->drop;
	const struct message *m = drop->messages;
	size_t first, behind;

	if (r >= u->size || next_dead(u) != r)
		return r;
	first = behind = u->dead;
	while (behind < drop->count && (m[behind].flags & MSG_DELETED) != 0)
		r = message_end(drop, behind++);
	u->dead = behind;
	if (r < u->size &&
	    (first > 0 ? m[first - 1].separator : u->front) == 0)
		r -= m[behind - 1].separator;
	return r;
}

/* How many live bytes there are from r on.  It works on a copy. */
static off_t
count_live(struct update u, off_t r)
{
	off_t dead, n = 0;

	while (r < u.size) {
		dead = next_dead(&u);
		n += dead - r;
		r = skip_dead(&u, dead);
	}
	return n;
}

/* What came since, from a program that takes no lock, is live. */
static int
sync_mailbox(struct update *u)
{
	struct stamp now;

	if (look_at(u->drop->fd, "", &now) == -1 || fsync(u->drop->fd) == -1)
		return failed(u->drop, "cannot sync the mailbox");
	if (now.size < u->size)
		return fail(u->drop, ESTALE, "another program cut the mailbox");
	if (now.size > u->size)
		u->room = -1;
	u->left += now.size - u->size;
	u->size = now.size;
	return 0;
}

/* Since then: syncing takes its time. */
static bool
has_grown(const struct update *u)
{
	struct stamp now;

	return look_at(u->drop->fd, "", &now) == 0 && now.size > u->size;
}

/*
 * Read the next n bytes of the file from, at *r, and move it behind them: if
 * that is the mailbox, the live ones.
 */
static int
gather(struct update *u, int from, off_t *r, char *buf, off_t n)
{
	bool live = from == u->drop->fd;
	off_t run;

	for (; n > 0; n -= run, buf += run) {
		run = live ? MIN(n, next_dead(u) - *r) : n;
		if (read_all(from, buf, (size_t)run, *r) == -1)
			return -1;
		*r = live ? skip_dead(u, *r + run) : *r + run;
	}
	return 0;
}

/* Copy them to offset at of the file to, if that is not -1, and sum them. */
static int
copy(struct update *u, int from, off_t *r, off_t n, int to, off_t at)
{
	static char buf[COPY_SIZE];
	off_t piece;

	for (u->copied = 0; n > 0; n -= piece, at += piece) {
		piece = MIN(n, COPY_SIZE);
		if (gather(u, from, r, buf, piece) == -1 ||
		    (to != -1 && write_at(to, buf, (size_t)piece, at) == -1))
			return failed(u->drop, "cannot copy");
		u->copied = sum(u->copied, buf, (size_t)piece);
		progress(u->drop);
	}
	return 0;
}

/* The record's saved bytes. */
static int
copy_saved(struct update *u, int to, off_t at)
{
	off_t r = SIDE_DATA;

	return copy(u, u->drop->side, &r, u->rec.n, to, at);
}

/* A third of the hole at most: between the marks there is an anchor. */
static off_t
mark_size(const struct record *rec)
{
	off_t third = (rec->r - rec->w) / 3;

	return third < MARK_SIZE ? third : MARK_SIZE;
}

static int
anchor(const struct maildrop *drop, off_t from, off_t to, uint64_t *result)
{
	char buf[ANCHOR];
	size_t size = to > from ? (size_t)(to - from) : 0;

	if (read_all(drop->fd, buf, size, from) == -1)
		return -1;
	*result = sum(0, buf, size);
	return 0;
}

/* The record's anchors, as the mailbox is now. */
static int
take_anchors(const struct maildrop *drop, struct record *rec)
{
	off_t live = rec->n > 0 ? rec->next : rec->r, quiet, mark = 0;

	rec->before = rec->live = rec->end = 0;
	if (rec->state == IDLE)
		return 0;
	if (anchor(drop, MAX(0, rec->w - ANCHOR), rec->w,
	    &rec->before) == -1)
		return -1;
	if (rec->state == CUT)
		return 0;
	/* What no step writes: behind the saved bytes' new place, from the
	 * live ones on, or between the marks. */
	if (rec->n == 0 && rec->r >= rec->size)
		mark = mark_size(rec);
	quiet = rec->n > 0 ? rec->w + rec->n :
	    rec->r < rec->size ? rec->r : rec->w + mark;
	if (anchor(drop, live, MIN(live + ANCHOR, rec->size),
	    &rec->live) == -1)
		return -1;
	return anchor(drop, MAX(quiet, rec->size - mark - ANCHOR),
	    rec->size - mark, &rec->end);
}

/* Write rec, with what is the same for all records, and have it durable. */
static int
commit(struct update *u, struct record *rec)
{
	struct maildrop *drop = u->drop;

	rec->magic = RECORD_MAGIC;
	rec->sequence = u->rec.sequence + 1;
	rec->size = u->size;
	rec->inode = drop->seen.inode;
	if (take_anchors(drop, rec) == -1)
		return failed(drop, "cannot read the mailbox");
	rec->self = self_sum(rec);
	if (write_record(drop, rec) == -1)
		return -1;
	u->rec = *rec;
	return 0;
}

/* One without saved bytes. */
static int
put_record(struct update *u, enum state state, off_t w, off_t r)
{
	struct record rec = u->rec;

	rec.state = state;
	rec.w = w;
	rec.r = r;
	rec.n = rec.next = 0;
	rec.saved = 0;
	return commit(u, &rec);
}

/*
 * As much data area as there may be to move, DATA_AREA_MAX at most, less if
 * there is less room; none if all of it fits in the hole.
 */
static void
make_room(struct update *u)
{
	off_t hole = u->rec.r - u->rec.w, room = 0;

	if (u->left > hole)
		room = MIN(u->left, DATA_AREA_MAX);
	while (room > 0 && fallocate(u->drop->side, 0, SIDE_DATA,
	    room) == -1 && errno != EOPNOTSUPP)
		room = room > SIDE_SLOTS ? room / 2 : 0;
	u->room = room;
}

/* The hole never gets smaller, so the number of steps is known. */
static int
reserve(struct update *u)
{
	off_t hole = u->rec.r - u->rec.w;
	struct rlimit limit;

	if (getrlimit(RLIMIT_FSIZE, &limit) == -1 ||
	    limit.rlim_cur < (rlim_t)u->size + SIDE_DATA)
		return fail(u->drop, EFBIG, "file size limit below what is "
		    "to be written");
	make_room(u);
	if (u->left == 0 || (u->left - 1) / STEPS_MAX < MAX(hole, u->room))
		return 0;
	give_back_room(u->drop);
	return fail(u->drop, ENOSPC, "too little room to delete so little");
}

/* Put what the data area holds into the mailbox, as the record says. */
static int
move_saved(struct update *u)
{
	const struct record *rec = &u->rec;

	if (copy_saved(u, u->drop->fd, rec->w) == -1 || sync_mailbox(u) == -1)
		return -1;
	return put_record(u, HOLE, rec->w + rec->n, rec->next);
}

static int
sync_side(struct maildrop *drop)
{
	return fsync(drop->side) == -1 ?
	    failed(drop, "cannot sync the side file") : 0;
}

/* Move what the hole or the data area can take. */
static int
step(struct update *u)
{
	const struct update before = *u;
	struct maildrop *drop = u->drop;
	struct record rec = u->rec;
	off_t hole = rec.r - rec.w, n = MIN(u->left, MAX(hole, u->room));
	off_t next = rec.r;

	u->left -= n;
	if (n <= hole) {
		if (copy(u, drop->fd, &next, n, drop->fd, rec.w) == -1 ||
		    sync_mailbox(u) == -1)
			return -1;
		return put_record(u, HOLE, rec.w + n, next);
	}
	if (copy(u, drop->fd, &next, n, drop->side, SIDE_DATA) == -1 ||
	    sync_side(drop) == -1) {
		if (!is_full(errno) ||
		    (before.left - 1) / STEPS_MAX >= hole)
			return -1;
		*u = before;	/* there is less room than was promised */
		u->room = 0;
		return 0;
	}
	rec.n = n;
	rec.next = next;
	rec.saved = u->copied;
	return commit(u, &rec) == -1 ? -1 : move_saved(u);
}

static int
finish(struct update *u)
{
	if (sync_mailbox(u) == -1 || put_record(u, IDLE, 0, 0) == -1)
		return -1;
	give_back_room(u->drop);
	return 0;
}

/* From a record that says HOLE to the end, be it UPDATE or recovery. */
static int
close_hole(struct update *u)
{
	const struct record *rec = &u->rec;
	struct maildrop *drop = u->drop;
	size_t mark;

	for (;;) {
		while (u->left > 0) {
			if (u->room == -1)	/* there is more to move */
				make_room(u);
			if (step(u) == -1)
				return -1;
		}
		mark = (size_t)mark_size(rec);
		if (write_at(drop->fd, rec->mark, mark, rec->w) == -1 ||
		    write_at(drop->fd, rec->mark, mark,
		    rec->r - (off_t)mark) == -1)
			return failed(drop, "cannot mark the end");
		if (sync_mailbox(u) == -1)
			return -1;
		/* skip_dead() keeps a separator when something follows. */
		u->left = count_live(*u, rec->r);
		if (u->left == 0) {
			if (put_record(u, CUT, rec->w, rec->r) == -1)
				return -1;
			if (!has_grown(u))
				break;
			if (sync_mailbox(u) == -1)
				return -1;
		}
		/* What came between the marks is in no anchor yet. */
		if (put_record(u, HOLE, rec->w, rec->r) == -1)
			return -1;
	}
	if (ftruncate(drop->fd, rec->w) == -1)
		return failed(drop, "cannot cut the mailbox");
	u->size = rec->w;
	return finish(u);
}

/* c-client's notes may stand in front of the first message. */
static int
look_in_front(struct update *u)
{
	off_t start = u->drop->messages[0].start;
	char end[3];

	u->front = 1;
	if (start < (off_t)sizeof(end))
		return 0;
	if (read_all(u->drop->fd, end, sizeof(end),
	    start - (off_t)sizeof(end)) == -1)
		return failed(u->drop, "cannot read the mailbox");
	u->front = (uint8_t)empty_line_before(end + sizeof(end));
	return 0;
}

/* Under all locks, the deleted messages being where the scan found them. */
static int
update(struct update *u)
{
	struct maildrop *drop = u->drop;
	off_t w, r;
	size_t i;

	if (sync_mailbox(u) == -1 || look_in_front(u) == -1)
		return -1;
	w = next_dead(u);
	r = skip_dead(u, w);
	if (w == 0 && r == u->size && !has_grown(u)) {
		drop->begun = true;
		return ftruncate(drop->fd, 0) == -1 || fsync(drop->fd) == -1 ?
		    failed(drop, "cannot empty the mailbox") : 0;
	}
	if (drop->side == -1)
		return fail(drop, ENOSPC, "without a side file only all "
		    "messages can be deleted");
	if (latest_record(drop, &u->rec) != 0)
		return fail(drop, EIO, "the side file is not as it was left");
	if (u->rec.sequence == 0 && put_record(u, IDLE, 0, 0) == -1)
		return -1;
	for (i = 0; i < MARK_SIZE; i++)
		u->rec.mark[i] = (uint8_t)(1 + arc4random_uniform(255));
	u->rec.w = w;
	u->rec.r = r;
	u->left = count_live(*u, r);
	if (reserve(u) == -1)
		return -1;
	drop->begun = true;
	return put_record(u, HOLE, w, r) == -1 ? -1 : close_hole(u);
}

/*
 * Look at every deleted message again, whatever the mailbox's times say.  What
 * is not deleted goes where it goes, whatever it is by now.  An empty line that
 * came behind the last one goes with it, those in front of the first as well.
 */
static int
check_deleted(struct maildrop *drop)
{
	struct stamp now;
	struct scan s;
	size_t i;
	int n = 0;

	if (look_at(drop->fd, "", &now) == -1)
		return failed(drop, "cannot look at the mailbox");
	if (now.size < drop->end)
		return fail(drop, ESTALE, "mailbox was changed by another "
		    "program: it is shorter than it was");
	if (scan_begin(&s, drop, 0, 0, SCAN_SIZE) == -1)
		return failed(drop, "no memory to look at the messages");
	for (i = 0; n == 0 && i < drop->count; i++)
		if (drop->messages[i].flags & MSG_DELETED)
			n = check_message(&s, i, now.size, true);
	if (n == 0 && s.at > drop->end) {
		drop->messages[i - 1].separator = (uint8_t)(s.at - drop->end);
		drop->end = s.at;
	}
	scan_jump(&s, 0);
	s.end = s.limit = drop->end;
	if (n == 0 && skip_empty_lines(&s) == 0 &&
	    s.at == drop->messages[0].start)
		drop->messages[0].start = 0;
	scan_end(&s);
	return n;
}

/* ---- recovery ---- */

/*
 * UPDATE's loop, from the record on, under all locks and before the scan.  An
 * fsync that failed once may say 0 the next time, and have written nothing; so
 * what is found is written again before it is relied upon.
 *
 * If the mailbox is not the one in the record, because another program rewrote
 * it half-done as it was, it is left alone.  The side file then goes aside if
 * it has bytes that were on their way.
 */

/* Numbers that can be reckoned with, whoever wrote them. */
static bool
is_range(const struct record *rec)
{
	return rec->w >= 0 && rec->w < rec->r && rec->r <= rec->size &&
	    rec->n >= 0 && rec->n <= DATA_AREA_MAX &&
	    (rec->n == 0 || (rec->next >= rec->r && rec->next <= rec->size &&
	    rec->n <= rec->next - rec->r));
}

/*
 * In CUT: whether it happened, so that what follows w is new mail.  1 or 0, or
 * -1 with errno.
 */
static int
was_cut(const struct update *u)
{
	const struct record *rec = &u->rec;
	uint8_t first[MARK_SIZE], last[MARK_SIZE];
	size_t mark = (size_t)mark_size(rec), i;

	if (u->size < rec->r)
		return 1;
	if (read_all(u->drop->fd, first, mark, rec->w) == -1 ||
	    read_all(u->drop->fd, last, mark, rec->r - (off_t)mark) == -1)
		return -1;
	if (memcmp(last, rec->mark, mark) == 0)
		return 0;
	for (i = 0; i < mark; i++)
		if ((first[i] != 0 && first[i] != rec->mark[i]) ||
		    (last[i] != 0 && last[i] != rec->mark[i]))
			return 1;
	return 0;
}

/*
 * Whether the mailbox and the data area are what the record says: 1 or 0, or -1
 * with errno.
 */
static int
matches(struct update *u, bool cut)
{
	const struct record *rec = &u->rec;
	struct record now = *rec;
	struct stamp side;

	if (!is_range(rec) || u->size < (cut ? rec->w : rec->size))
		return 0;
	if (look_at(u->drop->side, "", &side) == -1)
		return -1;
	if (rec->n > 0 && side.size < SIDE_DATA + rec->n)
		return 0;
	if (take_anchors(u->drop, &now) == -1 || copy_saved(u, -1, 0) == -1)
		return -1;
	return now.before == rec->before && now.live == rec->live &&
	    now.end == rec->end && (rec->n == 0 || u->copied == rec->saved);
}

/* Leave the mailbox alone: what the record speaks of is not there any more. */
static int
leave_alone(struct update *u)
{
	struct maildrop *drop = u->drop;

	drop->lost = true;
	if (u->rec.n == 0 && drop->writable && put_record(u, IDLE, 0, 0) == 0)
		return 0;
	fail(drop, ESTALE, "what an UPDATE left half done is not finished");
	only_read(drop);
	if (u->rec.n != 0)
		set_aside(drop);
	return 0;
}

static int
go_on(struct update *u, bool cut)
{
	struct maildrop *drop = u->drop;
	struct record *rec = &u->rec;

	if (copy_saved(u, drop->side, SIDE_DATA) == -1 ||
	    write_record(drop, rec) == -1)
		return -1;
	if (cut)
		return finish(u);
	u->left = u->size - (rec->n > 0 ? rec->next : rec->r);
	/* Mail has come in behind r: the anchors must know it. */
	if ((rec->state == CUT || (rec->n == 0 && rec->r == rec->size &&
	    u->left > 0)) && put_record(u, HOLE, rec->w, rec->r) == -1)
		return -1;
	if (rec->n > 0 && move_saved(u) == -1)
		return -1;
	return reserve(u) == -1 ? -1 : close_hole(u);
}

/* By the record that is the last one written. */
static void
read_through(struct update *u)
{
	struct maildrop *drop = u->drop;
	const struct record *rec = &u->rec;
	struct stamp now;

	if (drop->writable)
		only_read(drop);
	if (look_at(drop->fd, "", &now) == 0)
		u->size = now.size;
	if (rec->state == IDLE || (rec->state == CUT && was_cut(u) != 0))
		return;
	drop->view.w = rec->w;
	drop->view.n = rec->n;
	drop->view.next = rec->n > 0 ? rec->next : rec->r;
}

static int
recover(struct update *u)
{
	struct maildrop *drop = u->drop;
	int n = 0, cut = 0;

	if (drop->fd == -1)
		return leave_alone(u);
	if (look_at(drop->fd, "", &drop->seen) == -1)
		return failed(drop, "cannot look at the mailbox");
	u->size = drop->seen.size;
	if (drop->writable && sync_mailbox(u) == -1)
		only_read(drop);
	if (u->rec.state == CUT && is_range(&u->rec))
		cut = was_cut(u);
	if (cut == -1 || (n = matches(u, cut)) == -1)
		return failed(drop, "cannot recover");
	if (n == 0)
		return leave_alone(u);
	if (drop->writable && go_on(u, cut) == 0)
		drop->recovered = true;
	else
		read_through(u);
	return 0;
}

/* ---- a maildrop's life ---- */

/*
 *	open	the files, while names can be opened
 *	begin	the session lock, until close; the mailbox's locks, exclusive
 *		for recovery, shared for the scan, and released at once
 *	...	no lock that a deliverer could meet; nothing is written
 *	update	the mailbox's locks, exclusive, as long as it takes
 *	close	the end, whatever was done
 *
 * A session may be killed at any time.  Signals can end it in begin but for
 * recovery; where they are blocked is pop3d.c's matter else, but never is
 * UPDATE interrupted.
 */

static void
block_signals(sigset_t *before)
{
	sigset_t all;

	sigfillset(&all);
	sigprocmask(SIG_BLOCK, &all, before);
}

/* Open the mailbox's directory and make the names of the files in it. */
static int
open_directory(struct maildrop *drop, const char *path)
{
	static const char *const around[NAMES][2] = { [MAILBOX] = { "", "" },
	    [LOCK] = { "", ".lock" }, [SIDE] = { ".", ".pop3d" },
	    [SAVED] = { ".", ".pop3d.saved" },
	    [STALE] = { ".", ".pop3d.stale" } };
	char parent[PATH_MAX];
	const char *slash = strrchr(path, '/');
	size_t n = slash == NULL ? 0 : (size_t)(slash - path);
	int i;

	if (slash == NULL || slash[1] == '\0' || n >= sizeof(parent))
		return fail(drop, EPERM, "no path of a mailbox");
	for (i = 0; i < NAMES; i++)
		if (snprintf(drop->name[i], sizeof(drop->name[i]), "%s%s%s",
		    around[i][0], slash + 1, around[i][1]) > NAME_MAX)
			return fail(drop, EPERM, "no path of a mailbox");
	strlcpy(parent, path, n + 1);
	drop->dir = open(n == 0 ? "/" : parent,
	    O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (drop->dir == -1) {
		failed(drop, "cannot open the mailbox's directory");
		if (errno == ENOENT || errno == ENOTDIR || errno == EACCES)
			errno = EPERM;
		return -1;
	}
	return 0;
}

int
maildrop_open(struct maildrop *drop, const char *path)
{
	static const struct maildrop closed = MAILDROP_CLOSED;
	gid_t real, effective;

	*drop = closed;
	drop->writable = true;
	if (getresgid(&real, &effective, &drop->spool) == -1)
		return failed(drop, "cannot tell the saved gid");
	if (open_directory(drop, path) == -1 || open_side(drop) == -1)
		return -1;
	/* Once, and never again: a lock would go with any close of it. */
	if (open_file(drop, MAILBOX, 0, &drop->fd) != 0) {
		if (errno == EACCES)
			errno = EPERM;
		return -1;
	}
	drop->remote = drop->fd != -1 && is_remote(drop->fd);
	return 0;
}

/* Under the locks, so that nobody moves what the record speaks of. */
static int
recover_latest(struct maildrop *drop)
{
	struct update u = { .drop = drop };
	sigset_t before;
	int n;

	if ((n = latest_record(drop, &u.rec)) != 1)
		return n;
	block_signals(&before);
	alarm(0);
	drop->watched = false;
	n = recover(&u);
	drop->watched = true;
	alarm(HANG_SECONDS);
	sigprocmask(SIG_SETMASK, &before, NULL);
	return n;
}

static int
scan(struct maildrop *drop)
{
	time_t now = file_clock(drop);

	if (look_at(drop->fd, "", &drop->seen) == -1)
		return failed(drop, "cannot look at the mailbox");
	drop->end = drop->seen.size - hidden(drop);
	drop->settled = (now != 0 ? now : time(NULL)) -
	    drop->seen.ctime[0] > SETTLED_SECONDS;
	if (load_index(drop))
		return 0;
	if (find_messages(drop) == -1)
		return -1;
	write_index(drop);
	return 0;
}

static int
begin(struct maildrop *drop)
{
	struct record rec;
	bool exclusive;
	int n;

	if (drop->side != -1 && session_lock(drop) == -1)
		return -1;
	if ((n = latest_record(drop, &rec)) == -1)
		return -1;
	exclusive = n == 1 && drop->writable;
	if (lock(drop, exclusive) == -1) {
		if (!exclusive || errno == EAGAIN || errno == ESTALE ||
		    errno == EPERM)
			return -1;
		only_read(drop);	/* no dotlock is to be had */
		if (lock(drop, false) == -1)
			return -1;
	}
	if (recover_latest(drop) == -1)
		return -1;
	return drop->fd == -1 ? 0 : scan(drop);
}

int
maildrop_begin(struct maildrop *drop)
{
	int n;

	drop->watched = true;
	n = begin(drop);
	unlock(drop);
	return n;
}

int
maildrop_update(struct maildrop *drop)
{
	struct update u = { .drop = drop, .size = -1 };
	sigset_t before;
	int n = -1;

	if (next_dead(&u) == u.size)	/* there is none */
		return 0;
	if (!drop->writable)
		return fail(drop, EROFS, "%.200s", drop->note);
	if (drop->session && !is_name_of(drop, drop->name[SIDE], drop->side))
		return fail(drop, EBUSY, "the side file was replaced");
	block_signals(&before);
	drop->watched = false;
	if (lock(drop, true) == 0 && check_deleted(drop) == 0)
		n = update(&u);
	unlock(drop);
	sigprocmask(SIG_SETMASK, &before, NULL);
	return n;
}

void
maildrop_close(struct maildrop *drop)
{
	int error = errno;

	unlock(drop);
	if (drop->reader != NULL)
		scan_end(drop->reader);
	free(drop->reader);
	drop->reader = NULL;
	forget_messages(drop);
	close_file(&drop->fd);
	close_file(&drop->side);	/* and the session lock goes with it */
	close_file(&drop->dir);
	errno = error;
}
