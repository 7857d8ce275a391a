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
 * replies or exits: a failure is -1, errno, and words in drop->why.
 */

#include <sys/file.h>
#include <sys/resource.h>
#include <sys/vfs.h>

#include <bsd/stdlib.h>
#include <bsd/string.h>
#include <endian.h>
#include <errno.h>
#include <fcntl.h>
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
#define SCAN_SIZE	(256 * KIB)	/* bytes that the scan reads at once */
#define CHECK_SIZE	(16 * KIB)	/* the same, for a single message */
#define IDS_SIZE	(4 * KIB)	/* and for unique-ids */
#define COPY_SIZE	(256 * KIB)
#define ROW		192		/* bytes that the scan counts at once */
#define LOOK		KIB		/* bytes that tell what a line is */
#define BACK		LOOK		/* bytes kept before the current one */
#define BODY_IN_ID	KIB		/* bytes of the body in a unique-id */

#define SETTLED_SECONDS	2	/* more than the grain of any file's times */
#define STALE_SECONDS	600	/* age of a dotlock that is broken */
#define TOUCH_SECONDS	15	/* our dotlock: maildrop(1) breaks at 60 */
#define DOT_SECONDS	5	/* that the scan waits for the dotlock */

#define SIDE_SLOTS	4096	/* distance of the two record slots */
#define SIDE_DATA	8192	/* where the data area begins */
#define SUMMED		4096	/* bytes in a record's checksums */
#define STEPS_MAX	4096	/* of one UPDATE */
#define MARK_SIZE	16
#define RECORD_MAGIC	0x33706f7055504431ULL
#define INDEX_MAGIC	0x33706f7049445832ULL

/* Limits that a test build makes smaller. */
#ifndef LOCK_SECONDS
#define LOCK_SECONDS	30		/* that locks are tried for */
#endif
#ifndef DATA_AREA_MAX
#define DATA_AREA_MAX	(64 << 20)	/* bytes of the side file's data area */
#endif
#ifndef INDEX_MIN
#define INDEX_MIN	(1 << 20)	/* bytes of a mailbox worth an index */
#endif

struct scan {
	int		 fd;
	off_t		 at;	/* offset in the mailbox of next */
	off_t		 end;	/* where to stop */
	off_t		 limit;	/* where to stop reading ahead */
	size_t		 size;
	char		*buf;
	const char	*next;	/* unread bytes are [next, last) */
	char		*last;
	bool		 first;	/* the next message is the mailbox's first */
	bool		 hiding;	/* the last header line is private */
	off_t		 octets;
	unsigned int	 pseudo;
	size_t		 pending;	/* bytes before next, to be digested */
	struct digest	 digest;
};

enum { PSEUDO_IMAP = 1, PSEUDO_SUBJECT = 2, PSEUDO = 3 };

enum state { IDLE, HOLE, CUT };

struct record {
	uint64_t	magic;
	uint64_t	sequence;
	uint64_t	state;
	int64_t		w, r, n, next;
	uint64_t	mark[2];
	uint64_t	device, inode;
	int64_t		size;
	uint64_t	behind;		/* checksum of what ends at w */
	uint64_t	ahead;		/* and of what begins at r or next */
	uint64_t	self;		/* and of all the above */
};

struct update {
	struct maildrop	*drop;
	struct record	 rec;		/* the latest that was written */
	off_t		 room;		/* bytes of the data area */
	size_t		 dead;		/* no deleted message before this */
};

struct stamp {				/* another one: the mailbox changed */
	uint64_t	device, inode;
	int64_t		size;
	int64_t		mtime[2], ctime[2];
};

struct index {
	uint64_t	magic;
	struct stamp	mailbox;
	uint64_t	count;
	struct digest	messages;	/* checksums of the two arrays */
	struct digest	ids;		/* 0, 0 if there are none */
	struct digest	self;
};

/* ---- small things ---- */

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

/*
 * size bytes, fewer only where the file ends.  No signal interrupts this, nor
 * what else waits here: they are blocked, or end the process.
 */
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

static uint64_t
mix(uint64_t x)
{
	x *= 0x9e3779b97f4a7c15ULL;
	return x ^ x >> 32;
}

/*
 * 128 bits that tell apart what was not made to be confused: headers, records,
 * mails.  Two lanes of multiplications, because MD5 would cost more than all
 * the rest of a scan.  The size of each piece counts.
 */
static void
digest_add(struct digest *d, const void *data, size_t size)
{
	uint64_t a = d->b ^ size, b = d->a, w[2] = { 0, 0 };
	const char *p = data;
	size_t i;

	for (i = 16; i < size; i += 16, p += 16) {
		memcpy(w, p, 16);
		a = mix(a ^ le64toh(w[0]));
		b = mix(b + le64toh(w[1]));
	}
	if (size >= 16)		/* the last 16 may overlap those before */
		memcpy(w, p - (i - size), 16);
	else if (size > 0)
		memcpy(w, p, size);
	a = mix(a ^ le64toh(w[0]));
	b = mix(b + le64toh(w[1]));
	d->a = a;
	d->b = b + a;
}

static time_t
seconds(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec;
}

/* ---- files in the directory of the mailbox ---- */

static bool
same_file(const struct stat *a, const struct stat *b)
{
	return a->st_dev == b->st_dev && a->st_ino == b->st_ino;
}

static struct stamp
stamp_of(const struct stat *st)
{
	return (struct stamp){ .device = st->st_dev, .inode = st->st_ino,
	    .size = st->st_size,
	    .mtime = { st->st_mtim.tv_sec, st->st_mtim.tv_nsec },
	    .ctime = { st->st_ctim.tv_sec, st->st_ctim.tv_nsec } };
}

static bool
has_stamp(const struct stat *st, const struct stamp *was)
{
	struct stamp now = stamp_of(st);

	return memcmp(&now, was, sizeof(now)) == 0;
}

static int
check_file(struct maildrop *drop, const char *what, const struct stat *st)
{
	if (S_ISLNK(st->st_mode))
		return fail(drop, EPERM, "%s is a symbolic link", what);
	if (!S_ISREG(st->st_mode))
		return fail(drop, EPERM, "%s is not a regular file", what);
	if (st->st_uid != geteuid())
		return fail(drop, EPERM, "%s belongs to uid %lu", what,
		    (unsigned long)st->st_uid);
	if (st->st_nlink != 1)
		return fail(drop, EPERM, "%s has %lu links", what,
		    (unsigned long)st->st_nlink);
	return 0;
}

/* Whether name in the directory is the file that fd is. */
static bool
is_name_of(const struct maildrop *drop, const char *name, int fd)
{
	struct stat there, opened;

	return fd != -1 && fstat(fd, &opened) == 0 &&
	    fstatat(drop->dir, name, &there, AT_SYMLINK_NOFOLLOW) == 0 &&
	    same_file(&there, &opened);
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

static void
remove_name(const struct maildrop *drop, const char *name)
{
	use_gid(drop->spool);
	unlinkat(drop->dir, name, 0);
	use_gid(getgid());
}

/* The clock of the file system, or ours where there is no file to ask it. */
static time_t
file_clock(const struct maildrop *drop)
{
	struct stat st;

	return drop->hitch != -1 && futimens(drop->hitch, NULL) == 0 &&
	    fstat(drop->hitch, &st) == 0 ? st.st_mtime : time(NULL);
}

/* Of the data area; if this fails it stays taken.  Leaves errno alone. */
static void
give_back_room(const struct maildrop *drop)
{
	int error = errno;

	if (ftruncate(drop->side, SIDE_DATA) == -1)
		errno = error;
}

/* ---- the locks: no kind of them excludes every deliverer ---- */

/* On NFS and CIFS the kernel makes one of the other: they would collide. */
static bool
flock_is_fcntl(int fd)
{
	struct statfs fs;

	return fstatfs(fd, &fs) == 0 && (fs.f_type == 0x6969 ||
	    (uint32_t)fs.f_type == 0xff534d42 ||
	    (uint32_t)fs.f_type == 0xfe534d42);
}

static int
kernel_lock(int fd, short type)
{
	struct flock whole = { .l_type = type, .l_whence = SEEK_SET };
	int how = type == F_UNLCK ? LOCK_UN :
	    (type == F_RDLCK ? LOCK_SH : LOCK_EX) | LOCK_NB;

	if (fcntl(fd, F_OFD_SETLK, &whole) == -1) {
		if (errno == EACCES)
			errno = EAGAIN;
		return -1;
	}
	return flock_is_fcntl(fd) ? 0 : flock(fd, how);
}

/*
 * Remove the dotlock if it is the one judged, and not one that came in its
 * place: under another name it can be looked at again.
 */
static void
break_dotlock(struct maildrop *drop, const struct stat *judged)
{
	const char *aside = drop->stale_name;
	struct stat st;

	use_gid(drop->spool);
	if (renameat(drop->dir, drop->lock_name, drop->dir, aside) == 0 &&
	    fstatat(drop->dir, aside, &st, AT_SYMLINK_NOFOLLOW) == 0 &&
	    ((same_file(&st, judged) && st.st_mtime == judged->st_mtime) ||
	    linkat(drop->dir, aside, drop->dir, drop->lock_name, 0) == 0))
		unlinkat(drop->dir, aside, 0);
	use_gid(getgid());
}

/*
 * Break a dotlock that nobody touched for 10 minutes, by the clock of the file
 * system.  The kernel locks are ours here.
 */
static void
break_stale(struct maildrop *drop)
{
	time_t now = file_clock(drop);
	struct stat held;

	if (fstatat(drop->dir, drop->lock_name, &held,
	    AT_SYMLINK_NOFOLLOW) == 0 &&
	    now - held.st_mtime > STALE_SECONDS &&
	    now - held.st_ctime > STALE_SECONDS)
		break_dotlock(drop, &held);
}

static int
dotlock(struct maildrop *drop)
{
	int error;

	if (drop->hitch == -1)
		return fail(drop, EACCES, "cannot make a dotlock");
	break_stale(drop);	/* and touch ours */
	use_gid(drop->spool);
	error = linkat(drop->dir, drop->hitch_name, drop->dir,
	    drop->lock_name, 0) == -1 ? errno : EAGAIN;
	use_gid(getgid());
	/* Over NFS the answer may be lost, so the inode decides. */
	if (!is_name_of(drop, drop->lock_name, drop->hitch))
		return fail(drop, error == EEXIST ? EAGAIN : error,
		    "dotlock: %s", strerror(error));
	drop->touched = seconds();
	return 0;
}

static int
try_locks(struct maildrop *drop, bool exclusive, bool dot)
{
	struct stat st;

	if (kernel_lock(drop->fd, exclusive ? F_WRLCK : F_RDLCK) == -1)
		return fail(drop, errno, "kernel lock");
	if (dot && dotlock(drop) == -1 && (exclusive || errno == EAGAIN))
		return -1;
	if (!is_name_of(drop, drop->name, drop->fd))
		return fail(drop, ESTALE, "the mailbox was replaced");
	if (fstat(drop->fd, &st) == -1)
		return fail(drop, errno, "cannot look at the mailbox");
	return check_file(drop, "mailbox", &st);
}

/* Leaves errno alone. */
static void
unlock(struct maildrop *drop)
{
	int error = errno;

	if (!drop->locked)
		return;
	if (is_name_of(drop, drop->lock_name, drop->hitch))
		remove_name(drop, drop->lock_name);
	kernel_lock(drop->fd, F_UNLCK);
	drop->locked = false;
	sigprocmask(SIG_SETMASK, &drop->signals, NULL);
	errno = error;
}

/* 0.5 to 1.5 s, so that two who wait do not meet again. */
static void
pause_at_random(void)
{
	uint32_t ms = 500 + arc4random_uniform(1000);
	struct timespec t = { ms / 1000, (long)(ms % 1000) * 1000000 };

	nanosleep(&t, NULL);
}

/*
 * All three, or none: never wait for one while holding another.  Shared ones
 * do without the dotlock if it is not to be had: a stale one must not keep a
 * user from reading.  Signals are blocked while the locks are held, so that
 * nothing but SIGKILL leaves a dotlock behind.
 */
static int
lock(struct maildrop *drop, bool exclusive)
{
	time_t start = seconds(), waited;
	sigset_t all;

	if (drop->fd == -1)
		return 0;
	sigfillset(&all);
	for (;;) {
		waited = seconds() - start;
		sigprocmask(SIG_BLOCK, &all, &drop->signals);
		drop->locked = true;
		if (try_locks(drop, exclusive,
		    exclusive || waited < DOT_SECONDS) == 0) {
			drop->why[0] = '\0';	/* of an earlier try */
			return 0;
		}
		unlock(drop);
		if (errno != EAGAIN || waited >= LOCK_SECONDS)
			return -1;
		pause_at_random();
	}
}

static void
touch_dotlock(struct maildrop *drop)
{
	if (seconds() - drop->touched < TOUCH_SECONDS)
		return;
	if (is_name_of(drop, drop->lock_name, drop->hitch))
		futimens(drop->hitch, NULL);
	drop->touched = seconds();
}

/* ---- the mailbox format ---- */

/*
 * A message begins with a line "From ", a sender and a date, in one of the
 * forms that c-client knows,
 *
 *	Wed Dec  2 05:53[:22] [zone] 1992 [zone] [remote from host]
 *
 * at the beginning of the mailbox or after an empty line; without that empty
 * line if the date is complete, with seconds and nothing strange.  It ends
 * before the empty line in front of the next one, or of the end.
 */
enum { NO_DATE, DATE, COMPLETE_DATE };

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

#define DAYS	"SunMonTueWedThuFriSat"
#define MONTHS	"JanFebMarAprMayJunJulAugSepOctNovDec"

/* One of the three-letter names in list. */
static bool
named(const char *w, size_t n, const char *list)
{
	for (; n == 3 && *list != '\0'; list += 3)
		if (memcmp(w, list, 3) == 0)
			return true;
	return false;
}

static bool
is_zone(const char *w, size_t n)
{
	size_t i;

	if (like(w, n, "+0000") || like(w, n, "-0000"))
		return true;
	for (i = 0; i < n; i++)
		if ((w[i] < 'A' || w[i] > 'Z') && (w[i] < 'a' || w[i] > 'z'))
			return false;
	return n >= 1 && n <= 5;
}

/* Of the 24 bytes at w: the date as nearly all programs write it. */
static bool
is_asctime(const char *w)
{
	return named(w, 3, DAYS) && w[3] == ' ' && named(w + 4, 3, MONTHS) &&
	    like(w + 7, 17, w[8] == ' ' ? "  0 00:00:00 0000" :
	    " 00 00:00:00 0000");
}

static int
date_of(const char *p, const char *end)
{
	const char *w;
	bool zone, full;
	size_t n;

	n = word(&p, end, &w);
	if (!named(w, n, DAYS))
		return NO_DATE;
	n = word(&p, end, &w);
	if (!named(w, n, MONTHS))
		return NO_DATE;
	n = word(&p, end, &w);
	if (!like(w, n, "0") && !like(w, n, "00"))
		return NO_DATE;
	n = word(&p, end, &w);
	full = like(w, n, "00:00:00");
	if (!full && !like(w, n, "00:00"))
		return NO_DATE;
	n = word(&p, end, &w);
	if ((zone = is_zone(w, n)))
		n = word(&p, end, &w);
	if (!like(w, n, "0000"))
		return NO_DATE;
	n = word(&p, end, &w);
	if (!zone && is_zone(w, n))
		n = word(&p, end, &w);
	if (n == 0)
		return full ? COMPLETE_DATE : DATE;
	if (!like(w, n, "remote") || word(&p, end, &w) != 4 ||
	    memcmp(w, "from", 4) != 0 || word(&p, end, &w) == 0 ||
	    word(&p, end, &w) != 0)
		return NO_DATE;
	return DATE;
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

/* Whether a message begins at the unread bytes, of which there are n. */
static bool
is_from(const struct scan *s, size_t n)
{
	const char *p = s->next, *end, *w;
	int date = NO_DATE;

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
	if (word(&p, end, &w) == 0)
		return false;
	while (p < end && date == NO_DATE) {
		date = date_of(p, end);
		word(&p, end, &w);
	}
	return date == COMPLETE_DATE ||
	    (date == DATE && empty_line_before(s->next) != 0);
}

/* Bytes of the empty line at p, with n bytes there, or 0. */
static size_t
empty_line(const char *p, size_t n)
{
	if (n >= 1 && p[0] == '\n')
		return 1;
	return n >= 2 && p[0] == '\r' && p[1] == '\n' ? 2 : 0;
}

/* Header lines that local programs keep for themselves. */
static const char *const private_lines[] = { "Status:", "X-Status:",
    "X-Keywords:", "X-UID:", "X-IMAP:", "X-IMAPbase:", NULL };
#define PRIVATE_MAX	sizeof("X-Keywords:")

/* Header lines that no mail program rewrites: what a unique-id is made of. */
static const char *const lasting_lines[] = { "Return-Path:", "Received:",
    "Delivered-To:", "X-Original-To:", "Date:", "From:", "To:", "Subject:",
    "Message-ID:", NULL };

/* Whether the line at p, of which n bytes are there, has one of the names. */
static bool
is_one_of(const char *p, size_t n, const char *const *lines)
{
	size_t length;

	for (; n > 2 && *lines != NULL; lines++) {
		if ((((*lines)[0] ^ p[0]) | ((*lines)[2] ^ p[2])) & 0x1f)
			continue;	/* most, and quickly */
		length = strlen(*lines);
		if (n >= length && strncasecmp(p, *lines, length) == 0)
			return true;
	}
	return false;
}

static bool
is_private(const char *p, size_t n)
{
	int c = *p | 0x20;

	return (c == 's' || c == 'x') && is_one_of(p, n, private_lines);
}

static bool
is_continued(const char *p)
{
	return *p == ' ' || *p == '\t';
}

/* ---- the scan ---- */

/* From offset at to offset end of the mailbox, with a buffer of size bytes. */
static int
scan_begin(struct scan *s, const struct maildrop *drop, off_t at, off_t end,
    size_t size)
{
	memset(s, 0, sizeof(*s));
	s->fd = drop->fd;
	s->at = at;
	s->end = s->limit = end;
	s->size = size;
	if ((s->buf = aligned_alloc(PAGE, PAGE + size)) == NULL)
		return -1;
	s->next = s->last = s->buf + PAGE;
	memset(s->buf + PAGE - BACK, '\n', BACK);
	s->first = at == 0;
	return 0;
}

static void
scan_end(struct scan *s)
{
	int error = errno;

	free(s->buf);
	errno = error;
}

/* Reads are aligned, what is left unread goes in front: copies are cheaper. */
static ssize_t
read_more(struct scan *s)
{
	off_t have = s->last - s->next, want = s->limit - s->at - have;
	char *begin = s->buf + PAGE;
	ssize_t n;

	memmove(begin - have - BACK, s->next - BACK, (size_t)have + BACK);
	s->next = begin - have;
	s->last = begin;
	if (want > (off_t)s->size)
		want = (off_t)s->size;
	n = read_at(s->fd, begin, (size_t)want, s->at + have);
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

static void
consume(struct scan *s, size_t n)
{
	s->next += n;
	s->at += (off_t)n;
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

/* Consume a line, or part of one, of which n bytes were found. */
static inline void
take_line(struct scan *s, size_t n)
{
	consume(s, n);
	if (!s->hiding)
		s->octets += (off_t)n +
		    (s->next[-1] == '\n' && s->next[-2] != '\r');
}

static void
digest_pending(struct scan *s)
{
	digest_add(&s->digest, s->next - s->pending, s->pending);
	s->pending = 0;
}

/*
 * The next n bytes belong in the digest.  It is made of as many lines at once
 * as are not over LOOK bytes, whatever the buffer has of them.
 */
static void
digest_line(struct scan *s, size_t n)
{
	if (s->pending + n > LOOK)
		digest_pending(s);
	s->pending += n;
}

/* Consume the From_ line, with which a message and its digest begin. */
static int
take_from(struct scan *s)
{
	ssize_t n;

	memset(&s->digest, 0, sizeof(s->digest));
	s->pending = 0;
	s->octets = 0;
	do {
		if ((n = line(s)) <= 0)
			return n == 0 ? 0 : -1;
		digest_line(s, (size_t)n);
		consume(s, (size_t)n);
	} while (s->next[-1] != '\n');
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

/* Empty lines in front of the first message are no part of any. */
static int
skip_empty_lines(struct scan *s)
{
	ssize_t n;
	size_t empty;

	while ((n = window(s)) > 0 &&
	    (empty = empty_line(s->next, (size_t)n)) != 0)
		consume(s, empty);
	if (n > 0 && !is_from(s, (size_t)n)) {
		errno = EBADMSG;
		return -1;
	}
	return n == -1 ? -1 : 0;
}

/*
 * How long the next line of the header is, or part of it, and s->hiding says
 * whether it is private; 0: there is none, -1: trouble.
 */
static inline ssize_t
header_line(struct scan *s)
{
	ssize_t n = line(s);

	if (n <= 0 || s->next[-1] != '\n')
		return n;
	if (empty_line(s->next, (size_t)n) != 0 ||
	    (*s->next == 'F' && is_from(s, (size_t)n)))
		return 0;
	if (!is_continued(s->next))
		s->hiding = is_private(s->next, (size_t)n);
	return n;
}

/* When header_line() found none: consume the empty line, if there is one. */
static int
end_header(struct scan *s)
{
	ssize_t n = window(s);
	size_t empty;

	if (n <= 0)
		return (int)n;
	if ((empty = empty_line(s->next, (size_t)n)) != 0) {
		s->octets += 2;
		s->hiding = false;
		consume(s, empty);
	}
	return 0;
}

/* c-client keeps its notes in a message that is none. */
static void
note_pseudo(struct scan *s, size_t n)
{
	static const char subject[] =
	    "Subject: DON'T DELETE THIS MESSAGE -- FOLDER INTERNAL DATA";

	if (n >= 7 && strncasecmp(s->next, "X-IMAP:", 7) == 0)
		s->pseudo |= PSEUDO_IMAP;
	if (n >= sizeof(subject) - 1 &&
	    strncasecmp(s->next, subject, sizeof(subject) - 1) == 0)
		s->pseudo |= PSEUDO_SUBJECT;
}

static int
take_header(struct scan *s, struct message *m)
{
	ssize_t n;

	m->from = (uint16_t)(s->at - m->start);
	s->hiding = false;
	while ((n = header_line(s)) > 0) {
		if (s->hiding)
			m->flags |= MSG_PRIVATE;
		if (s->first)
			note_pseudo(s, (size_t)n);
		digest_line(s, (size_t)n);
		take_line(s, (size_t)n);
	}
	digest_pending(s);
	return n == -1 ? -1 : end_header(s);
}

static void
end_message(struct scan *s, struct message *m)
{
	m->octets = s->octets;
	if (s->at > m->start + m->from) {
		m->separator = (uint8_t)empty_line_before(s->next);
		if (m->separator != 0)
			m->octets -= 2;
		else if (!s->hiding && s->next[-1] != '\n')
			m->octets += 2;	/* the newline that RETR adds */
	}
	m->digest = (uint32_t)(s->digest.b ^ s->digest.b >> 32);
}

/* The message that begins at the unread bytes. */
static int
take_message(struct scan *s, struct message *m)
{
	ssize_t n;

	memset(m, 0, sizeof(*m));
	m->start = s->at;
	s->pseudo = 0;
	if (take_from(s) == -1 || take_header(s, m) == -1)
		return -1;
	while ((n = window(s)) > 0 && !is_from(s, (size_t)n))
		skip_body(s);
	if (n == -1)
		return -1;
	end_message(s, m);
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

static int
add_message(struct maildrop *drop, const struct message *m)
{
	struct message *more;
	size_t count = drop->count;

	if ((count & (count - 1)) == 0) {	/* full: it doubles */
		more = reallocarray(drop->messages, count == 0 ? 1 : 2 * count,
		    sizeof(*more));
		if (more == NULL)
			return -1;
		drop->messages = more;
	}
	drop->messages[drop->count++] = *m;
	return 0;
}

static int
find_messages(struct maildrop *drop)
{
	struct message m;
	struct scan s;
	int n = -1;

	if (scan_begin(&s, drop, 0, drop->seen.st_size, SCAN_SIZE) == -1)
		return fail(drop, errno, "no memory for the scan");
	if (skip_empty_lines(&s) == 0)
		while ((n = next_message(&s, &m)) == 1 &&
		    (n = add_message(drop, &m)) == 0)
			if (drop->count % 256 == 0)
				touch_dotlock(drop);
	if (n == -1)
		fail(drop, errno, errno == EBADMSG ?
		    "not a mailbox: no From_ line at offset %lld" :
		    "cannot read the mailbox at offset %lld", (long long)s.at);
	scan_end(&s);
	return n;
}

/* ---- is it still what it was? ---- */

/*
 * Every time that says otherwise means look again, no more: readers set times,
 * and some set them back; but the ctime nobody can.
 */
static bool
is_unchanged(const struct maildrop *drop, const struct stat *now)
{
	struct stamp seen = stamp_of(&drop->seen);

	return drop->settled && has_stamp(now, &seen);
}

static bool
same_message(const struct message *a, const struct message *b)
{
	return a->start == b->start && a->octets == b->octets &&
	    a->digest == b->digest;
}

int
message_check(struct maildrop *drop, size_t n)
{
	struct message m;
	struct stat now;
	struct scan s;
	ssize_t size;
	off_t end;
	int found = 0;

	if (fstat(drop->fd, &now) == -1)
		return -1;
	if (is_unchanged(drop, &now))
		return 0;
	/* procmail(1) writes the F of "From " alone: that is no change yet. */
	end = now.st_size;
	if (n + 1 == drop->count && end - drop->seen.st_size < 5)
		end = drop->seen.st_size;
	if (scan_begin(&s, drop, drop->messages[n].start, end,
	    CHECK_SIZE) == -1)
		return -1;
	s.first = false;
	if ((size = window(&s)) == -1)
		found = -1;
	else if (size > 0 && is_from(&s, (size_t)size))
		found = next_message(&s, &m);
	scan_end(&s);
	if (found == 1 && same_message(&m, &drop->messages[n]))
		return 0;
	return fail(drop, found == -1 ? errno : ESTALE, "message %zu", n + 1);
}

/* Where what belongs to message n ends: with its separator. */
static off_t
message_end(const struct maildrop *drop, size_t n)
{
	return n + 1 < drop->count ? drop->messages[n + 1].start :
	    drop->seen.st_size;
}

/*
 * Whether m, which ends at end, is what message i was.  If the last one is not,
 * though it begins where it did, a deliverer was still writing it: it can stay,
 * but it can't be deleted.
 */
static bool
is_still(const struct maildrop *drop, size_t i, const struct message *m,
    off_t end)
{
	const struct message *was = &drop->messages[i];

	if (same_message(m, was) && end == message_end(drop, i))
		return true;
	return i == drop->count - 1 && m->start == was->start &&
	    (was->flags & MSG_DELETED) == 0;
}

/* Scan again and compare: for unique-ids, and under the locks of UPDATE. */
static int
check_all(struct maildrop *drop)
{
	struct message m;
	struct stat now;
	struct scan s;
	size_t i = 0;
	int n = -1;

	if (fstat(drop->fd, &now) == -1)
		return -1;
	if (is_unchanged(drop, &now))
		return 0;
	errno = ESTALE;
	if (now.st_size < drop->seen.st_size ||
	    scan_begin(&s, drop, 0, now.st_size, SCAN_SIZE) == -1)
		return -1;
	if (skip_empty_lines(&s) == 0)
		while (i < drop->count && (n = next_message(&s, &m)) == 1 &&
		    is_still(drop, i, &m, s.at))
			if (++i % 256 == 0)
				touch_dotlock(drop);
	scan_end(&s);
	if (i == drop->count)
		return 0;
	if (n != -1 || errno == EBADMSG)
		errno = ESTALE;
	return -1;
}

/* ---- reading a message ---- */

void
message_begin(const struct maildrop *drop, size_t n, struct reading *r)
{
	const struct message *m = &drop->messages[n];

	r->at = m->start + m->from;
	r->end = message_end(drop, n) - m->separator;
	r->header = (m->flags & MSG_PRIVATE) != 0;
	r->line = true;
	r->hiding = false;
}

/*
 * Leave private lines out of the size bytes at buf, where r is, and move r on.
 * Stops short of a line whose name is not all there: it is read again.
 */
static size_t
hide_private(struct reading *r, char *buf, size_t size)
{
	char *p = buf, *end = buf + size, *out = buf, *lf;
	bool more = r->at + (off_t)size < r->end;
	size_t n;

	while (p < end) {
		n = (size_t)(end - p);
		if (r->header && r->line) {
			if (more && n < PRIVATE_MAX)
				break;
			if (empty_line(p, n) != 0)
				r->header = r->hiding = false;
			else if (!is_continued(p))
				r->hiding = is_private(p, n);
		}
		if (r->header) {
			lf = memchr(p, '\n', n);
			r->line = lf != NULL;
			if (lf != NULL)
				n = (size_t)(lf - p) + 1;
		}
		if (!r->hiding) {
			memmove(out, p, n);
			out += n;
		}
		p += n;
	}
	r->at += p - buf;
	return (size_t)(out - buf);
}

ssize_t
message_read(const struct maildrop *drop, struct reading *r, char *buf,
    size_t size)
{
	ssize_t n;
	size_t kept;

	for (;;) {
		if (r->at >= r->end)
			return 0;
		if ((off_t)size > r->end - r->at)
			size = (size_t)(r->end - r->at);
		if ((n = read_at(drop->fd, buf, size, r->at)) == -1)
			return -1;
		if ((size_t)n < size) {
			errno = ESTALE;
			return -1;
		}
		if (!r->header) {
			r->at += n;
			return n;
		}
		if ((kept = hide_private(r, buf, size)) > 0)
			return (ssize_t)kept;
	}
}

/* ---- the index ---- */

/*
 * What the scan found, kept in the data area of the side file while no UPDATE
 * uses it.  It counts only if the mailbox has not changed at all since, and
 * had not just changed then; and if every bit of it is as it was written.  In
 * doubt there is a scan.
 */

static struct digest
digest_of(const void *data, size_t size)
{
	struct digest d = { 1, 1 };

	digest_add(&d, data, size);
	return d;
}

static bool
same_digest(struct digest a, struct digest b)
{
	return a.a == b.a && a.b == b.b;
}

/* Bytes of the messages in an index; their unique-ids follow. */
static size_t
index_size(uint64_t count)
{
	return (size_t)count * sizeof(struct message);
}

static bool
read_index(const struct maildrop *drop, struct index *x)
{
	struct digest self;

	if (drop->side == -1 || read_at(drop->side, x, sizeof(*x),
	    SIDE_DATA) != sizeof(*x))
		return false;
	self = digest_of(x, offsetof(struct index, self));
	return same_digest(self, x->self) && x->magic == INDEX_MAGIC &&
	    has_stamp(&drop->seen, &x->mailbox) &&
	    x->count <= DATA_AREA_MAX / sizeof(struct message);
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
		if (m->start < 0 || m->start > end ||
		    m->from + m->separator > end - m->start ||
		    (m->flags & MSG_DELETED) != 0)
			return false;
	}
	return true;
}

/* One of the two arrays in the index, if it is as it was written. */
static void *
read_array(const struct maildrop *drop, size_t size, size_t at,
    struct digest want)
{
	void *array = calloc(1, size + 1);	/* size may be 0 */

	if (array != NULL && (read_at(drop->side, array, size,
	    (off_t)(SIDE_DATA + sizeof(struct index) + at)) != (ssize_t)size ||
	    !same_digest(digest_of(array, size), want))) {
		free(array);
		return NULL;
	}
	return array;
}

static bool
load_index(struct maildrop *drop)
{
	struct index x;

	if (drop->seen.st_size < INDEX_MIN || !read_index(drop, &x) ||
	    (drop->messages = read_array(drop, index_size(x.count), 0,
	    x.messages)) == NULL)
		return false;
	drop->count = (size_t)x.count;
	if (is_plausible(drop))
		return true;
	free(drop->messages);
	drop->messages = NULL;
	drop->count = 0;
	return false;
}

static bool
load_ids(struct maildrop *drop)
{
	struct index x;

	if (!read_index(drop, &x) || x.count != drop->count)
		return false;
	drop->ids = read_array(drop, drop->count * sizeof(*drop->ids),
	    index_size(x.count), x.ids);
	return drop->ids != NULL;
}

void
maildrop_index(struct maildrop *drop)
{
	size_t size = index_size(drop->count);
	size_t ids = drop->ids == NULL ? 0 :
	    drop->count * sizeof(*drop->ids);
	struct index x = { .magic = INDEX_MAGIC, .count = drop->count };
	struct stat now;

	if (!drop->news || !drop->writable ||
	    drop->seen.st_size < INDEX_MIN ||
	    sizeof(x) + size + ids > DATA_AREA_MAX ||
	    fstat(drop->fd, &now) == -1 || !is_unchanged(drop, &now))
		return;
	x.mailbox = stamp_of(&drop->seen);
	x.messages = digest_of(drop->messages, size);
	if (ids != 0)
		x.ids = digest_of(drop->ids, ids);
	x.self = digest_of(&x, offsetof(struct index, self));
	if (write_at(drop->side, drop->messages, size,
	    SIDE_DATA + sizeof(x)) == -1 ||
	    write_at(drop->side, drop->ids, ids,
	    (off_t)(SIDE_DATA + sizeof(x) + size)) == -1 ||
	    write_at(drop->side, &x, sizeof(x), SIDE_DATA) == -1)
		give_back_room(drop);
}

/* ---- unique-ids ---- */

/* Go to message n, over what need not be read. */
static void
scan_jump(struct scan *s, const struct maildrop *drop, size_t n)
{
	const struct message *m = &drop->messages[n];
	off_t skipped = m->start - s->at;

	if (skipped >= 0 && skipped <= s->last - s->next)
		s->next += skipped;
	else
		s->next = s->last = s->buf + PAGE;
	s->at = m->start;
	s->end = message_end(drop, n) - m->separator;
}

/*
 * Digest the From_ line and the lasting header lines, or, with all, every line
 * that is not private; count the octets.  1 if there were such lines, 0 if
 * not, -1: trouble.
 */
static int
digest_header(struct scan *s, bool all)
{
	bool chosen = false;
	int found = 0;
	ssize_t n;

	if (take_from(s) == -1)
		return -1;
	digest_pending(s);
	s->hiding = false;
	while ((n = header_line(s)) > 0) {
		if (s->next[-1] == '\n' && !is_continued(s->next))
			chosen = all ? !s->hiding : is_one_of(s->next,
			    (size_t)n, lasting_lines);
		if (chosen) {
			digest_add(&s->digest, s->next, (size_t)n);
			found = 1;
		}
		take_line(s, (size_t)n);
	}
	return n == -1 || end_header(s) == -1 ? -1 : found;
}

static int
digest_message(struct scan *s, const struct maildrop *drop, size_t n,
    struct unique_id *id)
{
	const struct message *m = &drop->messages[n];
	off_t body;
	ssize_t size;
	int found;

	scan_jump(s, drop, n);
	found = digest_header(s, false);
	if (found == 0) {
		scan_jump(s, drop, n);
		found = digest_header(s, true);
	}
	if (found == -1 || (size = window(s)) == -1)
		return -1;
	body = (off_t)htole64((uint64_t)(m->octets - s->octets));
	digest_add(&s->digest, &body, sizeof(body));
	if (size > BODY_IN_ID)
		size = BODY_IN_ID;
	/* A missing newline may come later, with the next message. */
	if (s->at + size == s->end && size > 0 && s->next[size - 1] == '\n')
		size--;
	digest_add(&s->digest, s->next, (size_t)size);
	id->digest = s->digest;
	return 0;
}

/* Of identical messages the second is -2, the third -3: by a hash table. */
static int
number_twins(struct maildrop *drop)
{
	struct unique_id *id, *other;
	size_t size = 2, i, at;
	uint32_t *table;	/* the latest message with a digest, from 1 */

	while (size < 2 * drop->count)
		size *= 2;
	if (drop->count > UINT32_MAX / 2 ||
	    (table = calloc(size, sizeof(*table))) == NULL)
		return -1;
	for (i = 0; i < drop->count; i++) {
		id = &drop->ids[i];
		id->twin = 1;
		for (at = id->digest.a & (size - 1); table[at] != 0;
		    at = (at + 1) & (size - 1)) {
			other = &drop->ids[table[at] - 1];
			if (same_digest(other->digest, id->digest)) {
				id->twin = other->twin + 1;
				break;
			}
		}
		table[at] = (uint32_t)i + 1;
	}
	free(table);
	return 0;
}

int
maildrop_ids(struct maildrop *drop)
{
	struct scan s;
	size_t i;
	int n = 0;

	if (drop->ids != NULL || drop->count == 0 || load_ids(drop))
		return 0;
	if (scan_begin(&s, drop, 0, 0, IDS_SIZE) == -1)
		return -1;
	s.limit = drop->seen.st_size;
	drop->ids = calloc(drop->count, sizeof(*drop->ids));
	if (drop->ids == NULL)
		n = -1;
	for (i = 0; n == 0 && i < drop->count; i++)
		n = digest_message(&s, drop, i, &drop->ids[i]);
	scan_end(&s);
	if (n == 0)
		n = check_all(drop);	/* were these still our messages? */
	if (n == 0)
		n = number_twins(drop);
	if (n == -1) {
		free(drop->ids);
		drop->ids = NULL;
	} else
		drop->news = true;
	return n;
}

void
unique_id(const struct maildrop *drop, size_t n, char *text)
{
	const struct unique_id *id = &drop->ids[n];
	int i;

	for (i = 0; i < 32; i++)
		*text++ = "0123456789abcdef"[(i < 16 ? id->digest.a :
		    id->digest.b) >> (60 - i % 16 * 4) & 15];
	*text = '\0';
	if (id->twin > 1)
		snprintf(text, UNIQUE_ID_SIZE - 32, "-%lu",
		    (unsigned long)id->twin);
}

/* ---- UPDATE ---- */

/*
 * The mailbox keeps its inode: a deliverer that waits for it with fcntl would
 * else append to a file without a name.  So the live bytes behind the first
 * deleted message are moved down in place, and before every step the side file
 * says how far it went.  A record is written to the slot that the one before
 * is not in, and is made durable before what it speaks of begins; the valid one
 * with the highest sequence counts, a torn one fails its checksum.
 *
 *	IDLE	Nothing is under way.
 *	HOLE	Bytes [w, r) of the mailbox are dead, all others are live or,
 *		from r on, deleted messages not yet reached.  If n > 0 the data
 *		area holds the n live bytes of [r, next): put at w, they leave
 *		the hole [w + n, next).
 *	CUT	Everything from w on is dead, [w, r) begins with the mark, and
 *		the mailbox is about to be cut to w.
 *
 * A step moves the live bytes of many messages.  If they fit in the hole they
 * overwrite nothing that lives: copy, fsync, new record.  If not, the copy
 * would overwrite its own source, so they go to the data area first: fsync, a
 * record with n, then the mailbox: fsync, new record.  Whichever record a crash
 * leaves, the bytes that it calls live are there: the step can be done again.
 *
 * At the end the mark, a nonce that no deliverer appends, is written into the
 * hole, and only then CUT.  Whoever finds CUT later and the mark gone knows
 * that the mailbox was cut, and that what follows w is new mail; if the mark is
 * there it was not, and what follows r is new mail.
 *
 * Recovery is the same loop from the record on.  It first makes sure that the
 * mailbox is still the one in the record: inode, size, and the bytes around the
 * hole that no step touches.  If another program rewrote it, it is left alone,
 * and the side file, with the bytes on their way, is set aside.
 *
 * The order of writes and fsyncs was checked by a model at every crash point.
 */

/* Where the next deleted message begins, or size. */
static off_t
next_dead(struct update *u, off_t size)
{
	const struct maildrop *drop = u->drop;

	while (u->dead < drop->count &&
	    (drop->messages[u->dead].flags & MSG_DELETED) == 0)
		u->dead++;
	return u->dead < drop->count ? drop->messages[u->dead].start : size;
}

/*
 * The first live byte from r on, over deleted messages that begin there.  If
 * the message in front of them has no separator, the last one's stays: what
 * follows may be a message only after an empty line.
 */
static off_t
skip_dead(struct update *u, off_t r, off_t size)
{
	const struct maildrop *drop = u->drop;
	const struct message *m = drop->messages;
	size_t first, behind;

	if (r >= size || next_dead(u, size) != r)
		return r;
	first = behind = u->dead;
	while (behind < drop->count && (m[behind].flags & MSG_DELETED) != 0)
		r = message_end(drop, behind++);
	u->dead = behind;
	if (r < size && first > 0 && m[first - 1].separator == 0)
		r -= m[behind - 1].separator;
	return r;
}

static uint64_t
self_sum(const struct record *rec)
{
	return digest_of(rec, offsetof(struct record, self)).b;
}

/* The latest valid record, or one that says IDLE. */
static int
latest_record(const struct maildrop *drop, struct record *rec)
{
	struct record slot;
	int i;

	memset(rec, 0, sizeof(*rec));
	for (i = 0; drop->side != -1 && i < 2; i++) {
		memset(&slot, 0, sizeof(slot));
		if (read_at(drop->side, &slot, sizeof(slot),
		    i * SIDE_SLOTS) == -1)
			return -1;
		if (slot.magic == RECORD_MAGIC &&
		    slot.self == self_sum(&slot) &&
		    slot.sequence > rec->sequence)
			*rec = slot;
	}
	return 0;
}

static int
read_all(int fd, char *buf, off_t size, off_t at)
{
	ssize_t n = read_at(fd, buf, (size_t)size, at);

	if (n == size)
		return 0;
	if (n != -1)
		errno = EIO;	/* it is shorter than it was */
	return -1;
}

/*
 * Gather the next live bytes from *r on, room at most, in buf, or only count
 * them if that is NULL.  Returns how many, and *r is where to go on; or -1.
 */
static off_t
gather(struct update *u, off_t *r, off_t size, char *buf, off_t room)
{
	off_t n, run;

	for (n = 0; *r < size && n < room; n += run) {
		run = next_dead(u, size) - *r;
		if (run > room - n)
			run = room - n;
		if (buf != NULL &&
		    read_all(u->drop->fd, buf + n, run, *r) == -1)
			return -1;
		*r = skip_dead(u, *r + run, size);
	}
	return n;
}

/* Copy the next n live bytes to offset at of fd. */
static int
take(struct update *u, off_t size, off_t n, int fd, off_t at)
{
	static char buf[COPY_SIZE];
	off_t r = u->rec.r, end = at + n;

	for (; at < end; at += n) {
		n = end - at < COPY_SIZE ? end - at : COPY_SIZE;
		if (gather(u, &r, size, buf, n) == -1 ||
		    write_at(fd, buf, (size_t)n, at) == -1)
			return -1;
		touch_dotlock(u->drop);
	}
	return 0;
}

/* Whether UPDATE would end: works on a copy, and moves nothing. */
static int
count_steps(struct update u, off_t size)
{
	off_t w = u.rec.w, r = u.rec.r;
	int steps;

	for (steps = 0; r < size; steps++) {
		if (steps == STEPS_MAX)
			return fail(u.drop, ENOSPC, "too little room to "
			    "delete so little");
		w += gather(&u, &r, size, NULL, r - w > u.room ? r - w :
		    u.room);
	}
	return 0;
}

/*
 * Have as much data area as there may be to move, DATA_AREA_MAX at most, less
 * if there is less room; none if all of it fits in the hole.  And see whether
 * UPDATE would end with it.
 */
static int
reserve(struct update *u, off_t size)
{
	const struct record *rec = &u->rec;
	struct rlimit limit;
	off_t most = size - rec->r;

	if (getrlimit(RLIMIT_FSIZE, &limit) == -1 ||
	    limit.rlim_cur < (rlim_t)size || limit.rlim_cur < SIDE_DATA)
		return fail(u->drop, EFBIG, "file size limit below the "
		    "mailbox");
	if (most <= rec->r - rec->w)
		most = 0;
	if (most > DATA_AREA_MAX)
		most = DATA_AREA_MAX;
	if ((rlim_t)most > limit.rlim_cur - SIDE_DATA)
		most = (off_t)(limit.rlim_cur - SIDE_DATA);
	while (most > 0 && posix_fallocate(u->drop->side, SIDE_DATA, most) != 0)
		most = most > SIDE_SLOTS ? most / 2 : 0;
	u->room = most;
	if (count_steps(*u, size) == 0)
		return 0;
	give_back_room(u->drop);
	return -1;
}

static int
sum(int fd, off_t from, off_t to, uint64_t *result)
{
	char buf[SUMMED];
	ssize_t n = 0;

	if (to > from && (n = read_at(fd, buf, (size_t)(to - from),
	    from)) == -1)
		return -1;
	*result = digest_of(buf, (size_t)n).b;
	return 0;
}

/* Of what no step will touch: in front of w, and from r or next on. */
static int
record_sums(const struct maildrop *drop, struct record *rec)
{
	off_t from = rec->n > 0 ? rec->next : rec->r, to = from + SUMMED;

	if (to > rec->size)
		to = rec->size;
	if (sum(drop->fd, rec->w > SUMMED ? rec->w - SUMMED : 0, rec->w,
	    &rec->behind) == -1)
		return -1;
	return sum(drop->fd, from, to, &rec->ahead);
}

static int
put_record(struct update *u, enum state state, off_t w, off_t r, off_t n,
    off_t next)
{
	struct record *rec = &u->rec;
	struct maildrop *drop = u->drop;
	char slot[512] = { 0 };
	struct stat st;

	if (fstat(drop->fd, &st) == -1)
		return -1;
	rec->magic = RECORD_MAGIC;
	rec->sequence++;
	rec->state = state;
	rec->w = w;
	rec->r = r;
	rec->n = n;
	rec->next = next;
	rec->device = st.st_dev;
	rec->inode = st.st_ino;
	rec->size = st.st_size;
	if (record_sums(drop, rec) == -1)
		return -1;
	rec->self = self_sum(rec);
	memcpy(slot, rec, sizeof(*rec));
	if (write_at(drop->side, slot, sizeof(slot),
	    (off_t)(rec->sequence % 2) * SIDE_SLOTS) == -1)
		return -1;
	return fsync(drop->side);
}

/* Put what the data area holds into the mailbox, as the record says. */
static int
move_saved(struct update *u)
{
	static char buf[COPY_SIZE];
	const struct record *rec = &u->rec;
	struct maildrop *drop = u->drop;
	off_t done, n;

	for (done = 0; done < rec->n; done += n) {
		n = rec->n - done < COPY_SIZE ? rec->n - done : COPY_SIZE;
		if (read_all(drop->side, buf, n, SIDE_DATA + done) == -1 ||
		    write_at(drop->fd, buf, (size_t)n, rec->w + done) == -1)
			return -1;
		touch_dotlock(drop);
	}
	if (fsync(drop->fd) == -1)
		return -1;
	return put_record(u, HOLE, rec->w + rec->n, rec->next, 0, 0);
}

/* Move what the hole or the data area can take. */
static int
step(struct update *u, off_t size)
{
	const struct record *rec = &u->rec;
	struct maildrop *drop = u->drop;
	struct update ahead = *u;
	off_t hole = rec->r - rec->w, limit = hole > u->room ? hole : u->room;
	off_t next = rec->r, n;

	n = gather(&ahead, &next, size, NULL, limit);
	if (n <= hole) {
		if (take(u, size, n, drop->fd, rec->w) == -1 ||
		    fsync(drop->fd) == -1)
			return -1;
		return put_record(u, HOLE, rec->w + n, next, 0, 0);
	}
	if (take(u, size, n, drop->side, SIDE_DATA) == -1 ||
	    fsync(drop->side) == -1 ||
	    put_record(u, HOLE, rec->w, rec->r, n, next) == -1)
		return -1;
	return move_saved(u);
}

static int
finish(struct update *u)
{
	if (fsync(u->drop->fd) == -1 ||
	    put_record(u, IDLE, 0, 0, 0, 0) == -1)
		return -1;
	give_back_room(u->drop);
	return 0;
}

static size_t
mark_size(const struct record *rec)
{
	return rec->r - rec->w < MARK_SIZE ? (size_t)(rec->r - rec->w) :
	    MARK_SIZE;
}

/* From a record that says HOLE to the end, be it UPDATE or recovery. */
static int
close_hole(struct update *u)
{
	const struct record *rec = &u->rec;
	struct maildrop *drop = u->drop;
	struct stat st;

	for (;;) {
		if (fstat(drop->fd, &st) == -1)
			return -1;
		if (rec->r >= st.st_size)
			break;
		if (step(u, st.st_size) == -1)
			return -1;
	}
	if (write_at(drop->fd, rec->mark, mark_size(rec), rec->w) == -1 ||
	    fsync(drop->fd) == -1 ||
	    put_record(u, CUT, rec->w, rec->r, 0, 0) == -1 ||
	    ftruncate(drop->fd, rec->w) == -1)
		return -1;
	return finish(u);
}

/* Under all locks, the messages being where the scan found them. */
static int
update(struct update u)
{
	struct maildrop *drop = u.drop;
	struct stat st, side;
	off_t w, r;

	if (fstat(drop->fd, &st) == -1 || fstat(drop->side, &side) == -1)
		return fail(drop, errno, "cannot look at the files");
	w = next_dead(&u, st.st_size);
	r = skip_dead(&u, w, st.st_size);
	if (r == st.st_size) {	/* nothing to keep behind: atomic by itself */
		if (ftruncate(drop->fd, w) == -1 || fsync(drop->fd) == -1)
			return fail(drop, errno, "cannot cut the mailbox");
		return 0;
	}
	if (side.st_nlink != 1)
		return fail(drop, ESTALE, "the side file was removed");
	if (latest_record(drop, &u.rec) == -1)
		return fail(drop, errno, "cannot read the side file");
	arc4random_buf(u.rec.mark, sizeof(u.rec.mark));
	u.rec.w = w;
	u.rec.r = r;
	if (reserve(&u, st.st_size) == -1)
		return -1;
	if (put_record(&u, HOLE, w, r, 0, 0) == -1 || close_hole(&u) == -1)
		return fail(drop, errno, "UPDATE");
	return 0;
}

int
maildrop_update(struct maildrop *drop)
{
	struct update u = { .drop = drop };
	int n;

	if (next_dead(&u, -1) == -1)	/* there is none */
		return 0;
	if (!drop->writable)
		return fail(drop, EROFS, "the maildrop cannot be written");
	if (lock(drop, true) == -1)
		return -1;
	if (check_all(drop) == -1)
		n = fail(drop, errno, "mailbox was changed by another "
		    "program");
	else
		n = update(u);
	unlock(drop);
	return n;
}

/* ---- the side file ---- */

static bool
is_ours(const struct stat *st)
{
	return S_ISREG(st->st_mode) && st->st_uid == geteuid();
}

/*
 * The side file holds the session lock, the records and data area of UPDATE,
 * and the index.  1: it is open; 0: there can be none, or it can only be read,
 * and drop->why says why; -1: nobody knows what its record would say.
 */
static int
open_side_file(struct maildrop *drop)
{
	const int flags = O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK | O_NOCTTY;
	struct stat st;

	use_gid(drop->spool);
	drop->side = openat(drop->dir, drop->side_name,
	    O_RDWR | O_CREAT | flags, 0600);
	use_gid(getgid());
	if (drop->side == -1) {
		fail(drop, errno, "side file: %s", strerror(errno));
		if (fstatat(drop->dir, drop->side_name, &st,
		    AT_SYMLINK_NOFOLLOW) == -1)
			return errno == ENOENT ? 0 : -1;
		if (!is_ours(&st))
			return 0;
		drop->side = openat(drop->dir, drop->side_name,
		    O_RDONLY | flags);
		return drop->side == -1 ? -1 : 0;
	}
	if (fstat(drop->side, &st) == -1)
		return fail(drop, errno, "cannot look at the side file");
	if (check_file(drop, "side file", &st) == 0)
		return 1;
	if (!is_ours(&st)) {
		close(drop->side);
		drop->side = -1;
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
	struct stat st;

	if (fcntl(drop->side, F_SETLK, &whole) == 0) {
		if (fstat(drop->side, &st) == 0 && st.st_size < SIDE_DATA)
			(void)write_at(drop->side, zeros,
			    (size_t)(SIDE_DATA - st.st_size), st.st_size);
		return 0;
	}
	if (errno != EAGAIN && errno != EACCES)
		return fail(drop, errno, "cannot lock the side file");
	if (fcntl(drop->side, F_GETLK, &whole) == -1 ||
	    whole.l_type == F_UNLCK)
		whole.l_pid = 0;
	return fail(drop, EBUSY, "session lock held by pid %ld",
	    (long)whole.l_pid);
}

/*
 * Another program rewrote a half-done mailbox: leave it alone.  The side file
 * goes aside with the last bytes that were on their way, a new one begins.
 */
static int
set_side_aside(struct maildrop *drop)
{
	char aside[sizeof(drop->side_name) + 30], when[20];
	time_t now = time(NULL);
	struct stat st;
	int old = drop->side, n;

	strftime(when, sizeof(when), "%Y%m%dT%H%M%SZ", gmtime(&now));
	snprintf(aside, sizeof(aside), "%s.saved-%s", drop->side_name, when);
	if (fstatat(drop->dir, aside, &st, AT_SYMLINK_NOFOLLOW) == 0)
		return fail(drop, EEXIST, "%.100s is there already", aside);
	use_gid(drop->spool);
	n = renameat(drop->dir, drop->side_name, drop->dir, aside);
	use_gid(getgid());
	if (n == -1)
		return fail(drop, errno, "cannot set the side file aside");
	snprintf(drop->note, sizeof(drop->note), "mailbox was changed by "
	    "another program after an UPDATE was cut short; the side file is "
	    "kept as %.100s", aside);
	n = open_side_file(drop) == 1 ? session_lock(drop) : -1;
	close(old);
	return n;
}

/* ---- recovery ---- */

/* Whether the mailbox is the one in the record: 1, 0, or -1 with errno. */
static int
matches(const struct maildrop *drop, const struct record *rec)
{
	struct record now = *rec;
	struct stat st;

	if (drop->fd == -1)
		return 0;
	if (fstat(drop->fd, &st) == -1)
		return -1;
	/* The device may have another number after a reboot. */
	if (st.st_ino != rec->inode || rec->w < 0 || rec->w >= rec->r ||
	    rec->r > rec->size || rec->n < 0 || rec->n > DATA_AREA_MAX ||
	    (rec->n > 0 && (rec->next < rec->r + rec->n ||
	    rec->next > rec->size)) ||
	    st.st_size < (rec->state == CUT ? rec->w : rec->size))
		return 0;
	if (record_sums(drop, &now) == -1)
		return -1;
	if (rec->state == CUT)		/* what is from r on is new mail */
		now.ahead = rec->ahead;
	return now.behind == rec->behind && now.ahead == rec->ahead;
}

/* If the mark is gone so is all behind w, and what is there now is new. */
static int
recover_cut(struct update *u)
{
	const struct record *rec = &u->rec;
	char now[MARK_SIZE];
	struct stat st;

	if (fstat(u->drop->fd, &st) == -1 ||
	    read_at(u->drop->fd, now, mark_size(rec), rec->w) == -1)
		return -1;
	if (st.st_size < rec->r || memcmp(now, rec->mark, mark_size(rec)) != 0)
		return finish(u);
	return put_record(u, HOLE, rec->w, rec->r, 0, 0);
}

/* At login, under all locks, before the scan. */
static int
recover(struct maildrop *drop, const struct record *rec)
{
	struct update u = { .drop = drop, .rec = *rec };
	struct stat st;
	int n;

	/* A record that a killed process wrote may not be on the disk yet. */
	if (fsync(drop->side) == -1)
		return fail(drop, errno, "cannot write the side file");
	n = matches(drop, rec);
	if (n == 0)
		return set_side_aside(drop);
	if (n == -1 || fstat(drop->fd, &st) == -1)
		return fail(drop, errno, "recovery");
	n = rec->state == CUT ? recover_cut(&u) :
	    rec->n > 0 ? move_saved(&u) : 0;
	if (n == 0 && u.rec.state == HOLE) {
		if (reserve(&u, st.st_size) == -1)
			return -1;
		n = close_hole(&u);
	}
	return n == 0 ? 0 : fail(drop, errno, "recovery");
}

/* ---- opening and closing ---- */

gid_t
maildrop_gid(const char *path, gid_t own)
{
	char dir[PATH_MAX] = "/";
	struct stat st;
	const char *p;

	/* Whoever could rename a part of the path could choose the group. */
	for (p = strchr(path + 1, '/'); p != NULL; p = strchr(p + 1, '/'))
		if (snprintf(dir, sizeof(dir), "%.*s", (int)(p - path),
		    path) >= (int)sizeof(dir) ||
		    lstat(dir, &st) == -1 || st.st_uid != 0)
			return own;
	if (stat(dir, &st) == -1 || !S_ISDIR(st.st_mode) || st.st_uid != 0 ||
	    st.st_gid == 0 || (st.st_mode & S_IWGRP) == 0 ||
	    (st.st_mode & S_IWOTH) != 0)
		return own;
	return st.st_gid;
}

/* Open the mailbox's directory and make the names of the files in it. */
static int
open_directory(struct maildrop *drop, const char *path)
{
	char parent[PATH_MAX];
	const char *slash = strrchr(path, '/');
	size_t n = slash == NULL ? 0 : (size_t)(slash - path);

	if (slash == NULL || slash[1] == '\0' || n >= sizeof(parent) ||
	    strlen(slash + 1) >= sizeof(drop->name))
		return fail(drop, EPERM, "no path of a mailbox");
	strlcpy(parent, path, n + 1);
	drop->dir = open(n == 0 ? "/" : parent,
	    O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (drop->dir == -1)
		return fail(drop, errno == ENOENT || errno == ENOTDIR ||
		    errno == EACCES ? EPERM : errno, "cannot open %s",
		    parent);
	strlcpy(drop->name, slash + 1, sizeof(drop->name));
	snprintf(drop->side_name, sizeof(drop->side_name), ".%s.pop3d",
	    drop->name);
	snprintf(drop->hitch_name, sizeof(drop->hitch_name), ".%s.pop3d.lock",
	    drop->name);
	snprintf(drop->stale_name, sizeof(drop->stale_name),
	    ".%s.pop3d.lock.stale", drop->name);
	snprintf(drop->lock_name, sizeof(drop->lock_name), "%s.lock",
	    drop->name);
	return 0;
}

/*
 * The dotlock is a second name of this file, made before the session is
 * confined.  The session lock is ours, so one that is there is a dead
 * session's, and so is a dotlock that is the same file: break it at once.
 */
static int
open_hitch(struct maildrop *drop)
{
	struct stat left, held;
	char pid[16];
	int n;

	if (fstatat(drop->dir, drop->hitch_name, &left,
	    AT_SYMLINK_NOFOLLOW) == 0) {
		if (fstatat(drop->dir, drop->lock_name, &held,
		    AT_SYMLINK_NOFOLLOW) == 0 && same_file(&left, &held))
			break_dotlock(drop, &held);
		remove_name(drop, drop->stale_name);
		/* While it has another name it says whose that is. */
		if (fstatat(drop->dir, drop->hitch_name, &left,
		    AT_SYMLINK_NOFOLLOW) == 0 && left.st_nlink == 1)
			remove_name(drop, drop->hitch_name);
	}
	use_gid(drop->spool);
	drop->hitch = openat(drop->dir, drop->hitch_name, O_RDWR | O_CREAT |
	    O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
	use_gid(getgid());
	if (drop->hitch == -1)
		return fail(drop, errno, "cannot make a file for the dotlock");
	/* An empty one serves too, on a full disk. */
	n = snprintf(pid, sizeof(pid), "%ld\n", (long)getpid());
	(void)write_at(drop->hitch, pid, (size_t)n, 0);
	return 0;
}

/* Side file, session lock, hitch.  Without these mail can only be read. */
static int
begin_session(struct maildrop *drop)
{
	int n, tries;

	for (tries = 0; tries < 10; tries++) {
		n = open_side_file(drop);
		if (n == -1 || (n == 1 && session_lock(drop) == -1))
			return -1;
		if (n == 1 && !is_name_of(drop, drop->side_name, drop->side)) {
			close(drop->side);	/* set aside as we came */
			continue;
		}
		if (n == 0 || open_hitch(drop) == -1) {
			drop->writable = false;
			strlcpy(drop->note, drop->why, sizeof(drop->note));
		}
		return 0;
	}
	return fail(drop, EAGAIN, "the side file is being replaced");
}

/*
 * Once, and never again: a POSIX lock would go with any close of the file.
 * Whether it still is the file that was looked at is seen under the lock.
 */
static int
open_mailbox(struct maildrop *drop)
{
	const int flags = O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK | O_NOCTTY;
	struct stat st;

	if (fstatat(drop->dir, drop->name, &st, AT_SYMLINK_NOFOLLOW) == -1)
		return errno == ENOENT ? 0 :
		    fail(drop, errno, "cannot look at the mailbox");
	if (check_file(drop, "mailbox", &st) == -1)
		return -1;
	drop->fd = openat(drop->dir, drop->name, O_RDWR | flags);
	if (drop->fd == -1 && (errno == EACCES || errno == EROFS)) {
		drop->writable = false;
		drop->fd = openat(drop->dir, drop->name, O_RDONLY | flags);
	}
	return drop->fd != -1 ? 0 :
	    fail(drop, errno, "cannot open the mailbox");
}

int
maildrop_open(struct maildrop *drop, const char *path)
{
	struct record rec;
	gid_t real, effective;

	memset(drop, 0, sizeof(*drop));
	drop->dir = drop->fd = drop->side = drop->hitch = -1;
	drop->writable = true;
	if (getresgid(&real, &effective, &drop->spool) == -1)
		return fail(drop, errno, "cannot tell the saved gid");
	if (open_directory(drop, path) == -1 || begin_session(drop) == -1 ||
	    open_mailbox(drop) == -1)
		return -1;
	if (latest_record(drop, &rec) == -1)
		return fail(drop, errno, "cannot read the side file");
	if (rec.state == IDLE)
		return lock(drop, false);
	if (!drop->writable)
		return fail(drop, EROFS, "an UPDATE was cut short, and "
		    "cannot be recovered here");
	if (lock(drop, true) == -1)
		return -1;
	return recover(drop, &rec);
}

int
maildrop_scan(struct maildrop *drop)
{
	time_t now = file_clock(drop);
	int n = 0;

	if (drop->fd == -1)
		return 0;
	if (fstat(drop->fd, &drop->seen) == -1)
		n = fail(drop, errno, "cannot look at the mailbox");
	else if ((drop->news = !load_index(drop)))
		n = find_messages(drop);
	drop->settled = now - drop->seen.st_ctime > SETTLED_SECONDS;
	unlock(drop);
	return n;
}

void
maildrop_close(struct maildrop *drop)
{
	struct stat st;

	unlock(drop);
	/* With a second link it tells the next session whose the dotlock is. */
	if (is_name_of(drop, drop->hitch_name, drop->hitch) &&
	    fstat(drop->hitch, &st) == 0 && st.st_nlink == 1)
		remove_name(drop, drop->hitch_name);
	close(drop->hitch);
	close(drop->fd);
	close(drop->side);	/* and the session lock goes with it */
	close(drop->dir);
	drop->hitch = drop->fd = drop->side = drop->dir = -1;
}
