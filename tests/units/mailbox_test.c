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
 * mailbox.o alone: what a transcript cannot show, above all that nothing
 * depends on where in a buffer the octets lie.  "mailbox_test name" runs one
 * test, test_unit.py each.
 */

#include <sys/file.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include <byteswap.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "pop3d.h"

#define KIB		1024
#define SCAN_SIZE	(256 * KIB)	/* mailbox.c's buffers */
#define READ_SIZE	(32 * KIB)
#define PAGE		(4 * KIB)
#define LOOK		KIB
#define SIDE_DATA	8192		/* where the index is */

#define FROM_		"From bob@example.org Thu Nov  5 10:01:00 2026"
#define HEAD		FROM_ "\nSubject: one\n"
#define TWO		FROM_ "\nSubject: two\n\n2\n"
#define NEW		FROM_ "\nSubject: new\n\nnew\n\n"

#define KILLED		3		/* how a process of ours ends */
#define NO_MAIL		4		/* too few fsyncs for it to come */

#ifndef PATIENCE
#define PATIENCE	600	/* seconds for all tests on a slow machine */
#endif

static char dir[] = "/tmp/mailbox_test.XXXXXX";
static char path[48], side[64], saved[80], dotlock[64], stale[80];
static struct maildrop drop;
static char content[2 * SCAN_SIZE];	/* of the mailbox */
static size_t size;

/*
 * What no program can do to a file: make its ctime older, and its times as
 * coarse as those of another file system.  So mailbox.c's statx(2) is made to
 * see it: the linker puts these functions in front.
 */
static struct {
	ino_t	inode;		/* of a dotlock of another program */
	time_t	mtime_age, ctime_age;
	bool	replace;	/* by a new one, once it was looked at */
	bool	replaced_of_then;	/* with the time of the one before */
	time_t	touched;	/* so many seconds later at each look, */
	unsigned int	touched_nsec;	/* or nanoseconds */
} foreign;

static bool whole_seconds;

int __real_utimensat(int, const char *, const struct timespec *, int);

/* So many seconds ago was everything written: the file system's clock. */
static time_t ago;

/*
 * And what does not fail when a test wants it to: one call of a kind does, the
 * one that brings calls to 0.
 */
enum kind { NOTHING, MEMORY, READS, SYNCS, OPENS, CUTS, MOVES, LOOKS,
	MAIL_SYNCED_NOT, MAIL_SYNCED, MAIL_LOOKED, MAIL_ALWAYS };

static struct {
	enum kind	what;
	int		calls;
	int		error;		/* of OPENS */
} failing;

static int	mails;		/* that came in this UPDATE, */
static const char *new_mail = NEW;	/* each of them this */
static unsigned int syncs;
static unsigned int watch;	/* seconds of the latest alarm(2) */
static int	writes_to_live;	/* once mail came, if not 0: then killed */
static int	syncs_to_fail;	/* once mail came, if not 0: then one fails */
static bool	no_disk;	/* nothing is synced: it is the memory's test */

static bool	on_nfs;		/* renameat2(2) knows no flag there */
static time_t	clock_now;	/* if not 0, it stands still */
static time_t	slow_sync;	/* seconds that the next fsync(2) takes */
static bool	stolen;		/* then another has the dotlock's name */
static time_t	slow_reads;	/* and each reading of the mailbox, */
static bool	locked;		/* which the latest one was under locks */
static sigset_t	blocked;	/* when the latest fsync(2) began, */
static unsigned int watch_in_sync;	/* and watch then */
static mode_t	lock_mode;	/* of the dotlock, then */
static unsigned int touches;	/* of files by their name */

static void
append(const char *text)
{
	FILE *f = fopen(path, "a");

	assert_non_null(f);
	fputs(text, f);
	assert_int_equal(fclose(f), 0);
}

static ino_t
put_dotlock(const char *name, mode_t mode, size_t octets)
{
	struct stat st;
	int fd = open(name, O_WRONLY | O_CREAT | O_EXCL, 0600);

	assert_int_not_equal(fd, -1);
	assert_int_equal(ftruncate(fd, (off_t)octets), 0);
	assert_int_equal(fchmod(fd, mode), 0);
	assert_int_equal(fstat(fd, &st), 0);
	close(fd);
	return st.st_ino;
}

static void
make_older(struct statx *st)
{
	char new[sizeof(dotlock) + 4];
	struct timespec times[2];

	if (foreign.inode == 0 || st->stx_ino != foreign.inode)
		return;
	st->stx_mtime.tv_sec -= foreign.mtime_age;
	st->stx_ctime.tv_sec -= foreign.ctime_age;
	foreign.mtime_age -= foreign.touched;
	st->stx_mtime.tv_nsec ^= foreign.touched_nsec;
	foreign.touched_nsec <<= 1;
	if (foreign.replace) {
		foreign.replace = false;
		snprintf(new, sizeof(new), "%s.new", dotlock);
		put_dotlock(new, 0600, 0);
		times[0].tv_sec = times[1].tv_sec = st->stx_mtime.tv_sec;
		times[0].tv_nsec = times[1].tv_nsec = st->stx_mtime.tv_nsec;
		if (foreign.replaced_of_then)
			assert_int_equal(__real_utimensat(AT_FDCWD, new, times,
			    0), 0);
		assert_int_equal(rename(new, dotlock), 0);
	}
}

static int
fails(enum kind what, int error)
{
	if (failing.what != what || --failing.calls != 0)
		return 0;
	errno = error;
	return -1;
}

/* A program without locks delivers. */
static void
deliver(void)
{
	append(new_mail);
	mails++;
}

static void
live_or_die(void)
{
	if (mails > 0 && writes_to_live > 0 && --writes_to_live == 0)
		_exit(KILLED);
}

int __real_statx(int, const char *, int, unsigned int, struct statx *);
void *__real_malloc(size_t);
void *__real_calloc(size_t, size_t);
void *__real_aligned_alloc(size_t, size_t);
void *__real_reallocarray(void *, size_t, size_t);
ssize_t __real_pread64(int, void *, size_t, off_t);
ssize_t __real_pwrite64(int, const void *, size_t, off_t);
int __real_ftruncate64(int, off_t);
int __real_openat64(int, const char *, int, ...);
int __real_renameat2(int, const char *, int, const char *, unsigned int);
int __real_fsync(int);
unsigned int __real_alarm(unsigned int);
int __real_futimens(int, const struct timespec *);
int __real_clock_gettime(clockid_t, struct timespec *);
int __wrap_statx(int, const char *, int, unsigned int, struct statx *);
void *__wrap_malloc(size_t);
void *__wrap_calloc(size_t, size_t);
void *__wrap_aligned_alloc(size_t, size_t);
void *__wrap_reallocarray(void *, size_t, size_t);
ssize_t __wrap_pread64(int, void *, size_t, off_t);
ssize_t __wrap_pwrite64(int, const void *, size_t, off_t);
int __wrap_ftruncate64(int, off_t);
int __wrap_openat64(int, const char *, int, ...);
int __wrap_renameat2(int, const char *, int, const char *, unsigned int);
int __wrap_fsync(int);
unsigned int __wrap_alarm(unsigned int);
int __wrap_futimens(int, const struct timespec *);
int __wrap_utimensat(int, const char *, const struct timespec *, int);
int __wrap_clock_gettime(clockid_t, struct timespec *);

int
__wrap_statx(int fd, const char *name, int flags, unsigned int mask,
    struct statx *st)
{
	int n = fails(LOOKS, EIO) ? -1 :
	    __real_statx(fd, name, flags, mask, st);

	if (n == 0)
		make_older(st);
	if (n == 0 && whole_seconds)
		st->stx_mtime.tv_nsec = st->stx_ctime.tv_nsec = 0;
	if (fails(MAIL_LOOKED, 0))
		deliver();
	return n;
}

void *
__wrap_malloc(size_t n)
{
	return fails(MEMORY, ENOMEM) ? NULL : __real_malloc(n);
}

void *
__wrap_calloc(size_t count, size_t n)
{
	return fails(MEMORY, ENOMEM) ? NULL : __real_calloc(count, n);
}

void *
__wrap_aligned_alloc(size_t grain, size_t n)
{
	return fails(MEMORY, ENOMEM) ? NULL : __real_aligned_alloc(grain, n);
}

void *
__wrap_reallocarray(void *old, size_t count, size_t n)
{
	return fails(MEMORY, ENOMEM) ? NULL :
	    __real_reallocarray(old, count, n);
}

ssize_t
__wrap_pread64(int fd, void *buf, size_t n, off_t at)
{
	if (fd == drop.fd && slow_reads > 0) {
		locked = access(dotlock, F_OK) == 0;
		clock_now += slow_reads;
	}
	return fails(READS, EIO) ? -1 : __real_pread64(fd, buf, n, at);
}

ssize_t
__wrap_pwrite64(int fd, const void *buf, size_t n, off_t at)
{
	live_or_die();
	return __real_pwrite64(fd, buf, n, at);
}

int
__wrap_ftruncate64(int fd, off_t length)
{
	live_or_die();
	return __real_ftruncate64(fd, length);
}

int
__wrap_openat64(int fd, const char *name, int flags, ...)
{
	va_list ap;
	mode_t mode;

	va_start(ap, flags);
	mode = flags & O_CREAT ? va_arg(ap, mode_t) : 0;
	va_end(ap);
	return fails(OPENS, failing.error) ? -1 :
	    __real_openat64(fd, name, flags, mode);
}

int
__wrap_renameat2(int from, const char *name, int to, const char *new,
    unsigned int flags)
{
	if (fails(MOVES, EIO))
		return -1;
	if (!on_nfs)
		return __real_renameat2(from, name, to, new, flags);
	errno = EINVAL;
	return -1;
}

int
__wrap_fsync(int fd)
{
	struct stat st;
	int n;

	syncs++;
	live_or_die();
	lock_mode = stat(dotlock, &st) == 0 ? st.st_mode & 07777 : 0;
	sigprocmask(SIG_BLOCK, NULL, &blocked);
	watch_in_sync = watch;
	/* Another program is so bold. */
	if (fails(CUTS, 0))
		assert_int_equal(truncate(path, 10), 0);
	if (fails(MAIL_SYNCED_NOT, 0))
		deliver();
	clock_now += slow_sync;
	slow_sync = 0;
	if (stolen) {
		stolen = false;
		assert_int_equal(unlink(dotlock), 0);
		put_dotlock(dotlock, 0600, 0);
	}
	if (fails(SYNCS, EIO))
		return -1;
	if (mails > 0 && syncs_to_fail > 0 && --syncs_to_fail == 0) {
		errno = EIO;
		return -1;
	}
	n = no_disk ? 0 : __real_fsync(fd);
	if (fails(MAIL_SYNCED, 0) ||
	    (failing.what == MAIL_ALWAYS && failing.calls-- > 0))
		deliver();
	return n;
}

/* The tests have one of their own. */
unsigned int
__wrap_alarm(unsigned int n)
{
	watch = n;
	return 0;
}

int
__wrap_futimens(int fd, const struct timespec *times)
{
	struct timespec now[2] = { { time(NULL) + ago, 0 },
	    { time(NULL) + ago, 0 } };

	return __real_futimens(fd, times == NULL && ago != 0 ? now : times);
}

int
__wrap_utimensat(int fd, const char *name, const struct timespec *times,
    int flags)
{
	touches++;
	return __real_utimensat(fd, name, times, flags);
}

int
__wrap_clock_gettime(clockid_t clock, struct timespec *now)
{
	int n = __real_clock_gettime(clock, now);

	if (clock_now != 0)
		now->tv_sec = clock_now;
	return n;
}

static void
add(const char *text, size_t n)
{
	assert_true(size + n <= sizeof(content));
	memcpy(content + size, text, n);
	size += n;
}

/* n octets of lines that are good in a header too; n is more than 24. */
static void
add_filler(size_t n)
{
	static const char line[] = "Filler: twenty-four oct\n";

	for (; n >= 48; n -= 24)
		add(line, 24);
	for (; n > 1; n--)
		add(".", 1);
	add("\n", 1);
}

/* A mailbox of one message, with so many octets of body. */
static void
make_large(size_t n)
{
	size = 0;
	add(HEAD "\n", strlen(HEAD "\n"));
	add_filler(n);
}

/* Its ctime is another than before, whatever the grain of the clock. */
static void
put_mailbox(void)
{
	struct stat before, now;
	int fd = open(path, O_WRONLY | O_CREAT, 0600);

	assert_int_not_equal(fd, -1);
	assert_int_equal(fstat(fd, &before), 0);
	assert_int_equal(ftruncate(fd, 0), 0);
	assert_int_equal(write(fd, content, size), size);
	do {
		assert_int_equal(fchmod(fd, 0600), 0);
		assert_int_equal(fstat(fd, &now), 0);
	} while (now.st_ctim.tv_sec == before.st_ctim.tv_sec &&
	    now.st_ctim.tv_nsec == before.st_ctim.tv_nsec);
	close(fd);
}

static void
put_text(const char *text)
{
	size = 0;
	add(text, strlen(text));
	put_mailbox();
}

static int
login(void)
{
	int n = maildrop_open(&drop, path);

	if (n == 0)
		n = maildrop_begin(&drop);
	assert_true(n == 0 || n == -1);
	assert_int_equal(drop.dot, -1);
	return n;
}

static void
open_drop(void)
{
	if (login() == -1)
		fail_msg("%s: %s", strerror(errno), drop.why);
}

static void
close_drop(void)
{
	maildrop_close(&drop);
}

/* Without an index of what was there before. */
static void
open_new_drop(void)
{
	unlink(side);
	put_mailbox();
	open_drop();
}

/*
 * What message_read() gives; ends in NUL.  Each piece says whether it begins a
 * line by what can be read before it.
 */
static size_t
read_message(size_t number, char *text)
{
	const char *piece;
	size_t length = 0;
	ssize_t got;

	assert_int_equal(message_begin(&drop, number), 0);
	while ((got = message_read(&drop, &piece)) > 0) {
		assert_int_equal(piece[-1] == '\n',
		    length == 0 || text[length - 1] == '\n');
		memcpy(text + length, piece, (size_t)got);
		length += (size_t)got;
	}
	assert_int_equal(got, 0);
	text[length] = '\0';
	return length;
}

/* Whether it can be read: 0, or -1 with errno. */
static int
try_message(size_t number)
{
	const char *piece;
	ssize_t got;

	assert_int_equal(message_begin(&drop, number), 0);
	do
		got = message_read(&drop, &piece);
	while (got > 0);
	return (int)got;
}

/* The octets of text when it is sent. */
static off_t
octets_of(const char *text, size_t n)
{
	off_t octets = 0;
	size_t i;

	for (i = 0; i < n; i++)
		octets += 1 + (text[i] == '\n' &&
		    (i == 0 || text[i - 1] != '\r'));
	return octets;
}

static off_t
sent(const char *text, size_t n)
{
	return octets_of(text, n) + (n > 0 && text[n - 1] != '\n' ? 2 : 0);
}

static void
expect_message(size_t number, const char *text, size_t n)
{
	static char got[2 * SCAN_SIZE + 8 * KIB];

	assert_int_equal(drop.messages[number].octets, sent(text, n));
	assert_int_equal(read_message(number, got), n);
	assert_memory_equal(got, text, n);
}

/*
 * The first message is HEAD, filler and before, which what has been put to
 * the mailbox up to the piece; the piece adds text to it, and then comes
 * the second message, if there is one.
 */
struct piece {
	const char	*piece;
	const char	*text;		/* what it adds to the first message */
	const char	*second;	/* or NULL */
};

static void
try_piece(const struct piece *p, size_t filler, const char *before)
{
	static char first[2 * SCAN_SIZE];
	size_t n;

	size = 0;
	add(HEAD, strlen(HEAD));
	add(before, strlen(before));
	add_filler(filler - size);
	n = size - (strlen(FROM_) + 1);
	memcpy(first, content + strlen(FROM_) + 1, n);
	strcpy(first + n, p->text);
	add(p->piece, strlen(p->piece));
	open_new_drop();
	assert_int_equal(drop.count, p->second == NULL ? 1 : 2);
	expect_message(0, first, strlen(first));
	if (p->second != NULL)
		expect_message(1, p->second, strlen(p->second));
	close_drop();
}

/* Lay the piece over every edge that a buffer has, octet by octet. */
static void
slide(const struct piece *p, const char *before)
{
	static const size_t edges[] = { sizeof(FROM_) + READ_SIZE - LOOK,
	    sizeof(FROM_) + READ_SIZE, SCAN_SIZE - LOOK, SCAN_SIZE };
	size_t at, i;

	for (i = 0; i < sizeof(edges) / sizeof(edges[0]); i++)
		for (at = edges[i] - strlen(p->piece) - 8; at < edges[i] + 8;
		    at++)
			try_piece(p, at, before);
}

static void
in_body(const char *piece, const char *text, const char *second)
{
	const struct piece p = { piece, text, second };

	slide(&p, "\n");
}

/*
 * The body is scanned in rows of 192 octets: have the piece at each place of
 * some, with enough behind it for a row to begin in the middle of it.
 */
static void
in_block(const char *piece, const char *text, const char *second)
{
	static char rest[2 * KIB], whole[3][sizeof(rest) + 256];
	const struct piece p = { whole[0], whole[1],
	    second != NULL ? whole[2] : NULL };
	size_t at;

	memset(rest, 'z', sizeof(rest) - 1);
	snprintf(whole[0], sizeof(whole[0]), "%s%s\n", piece, rest);
	snprintf(whole[1], sizeof(whole[1]), "%s", text);
	if (second == NULL)
		snprintf(whole[1], sizeof(whole[1]), "%s%s\n", text, rest);
	else
		snprintf(whole[2], sizeof(whole[2]), "%s%s\n", second, rest);
	for (at = 3 * KIB; at < 4 * KIB; at++)
		try_piece(&p, at, "\n");
}

static void
in_header(const char *piece, const char *text, const char *second)
{
	const struct piece p = { piece, text, second };

	slide(&p, "");
}

static void
from_line_at_an_edge(void **state)
{
	(void)state;
	in_body("\n" TWO, "", "Subject: two\n\n2\n");
	in_body("\n" TWO "\n", "", "Subject: two\n\n2\n");
}

static void
anywhere_in_a_block(void **state)
{
	(void)state;
	in_block("one\r\nalone\n", "one\r\nalone\n", NULL);
	in_block("\r\nFrom on\nb\r\rc\n\n" TWO, "\r\nFrom on\nb\r\rc\n",
	    "Subject: two\n\n2\n");
	in_block(TWO, "", "Subject: two\n\n2\n");
}

static void
from_line_without_empty_line_at_an_edge(void **state)
{
	(void)state;
	in_body(TWO, "", "Subject: two\n\n2\n");
}

static void
from_line_with_crlf_at_an_edge(void **state)
{
	(void)state;
	in_body("\r\n" FROM_ "\r\nSubject: two\r\n\r\n2\r\n", "",
	    "Subject: two\r\n\r\n2\r\n");
}

static void
incomplete_date_at_an_edge(void **state)
{
	(void)state;
	in_body("\nFrom bob Thu Nov  5 10:01 2026\n2\n", "", "2\n");
	in_body("From bob Thu Nov  5 10:01 2026\n2\n",
	    "From bob Thu Nov  5 10:01 2026\n2\n", NULL);
}

static void
from_in_text_at_an_edge(void **state)
{
	(void)state;
	in_body("\nFrom here on\nFrom\nFro", "\nFrom here on\nFrom\nFro", NULL);
}

static void
line_ends_at_an_edge(void **state)
{
	(void)state;
	in_body("a\r\nb\r\rc\n\r\r\nd\n", "a\r\nb\r\rc\n\r\r\nd\n", NULL);
}

static void
ends_at_an_edge(void **state)
{
	(void)state;
	in_body("no newline", "no newline", NULL);
	in_body("CR\r", "CR\r", NULL);
	in_body("text\n\n", "text\n", NULL);
	in_body("text\r\n\r\n", "text\r\n", NULL);
	in_body("text\n\n\n", "text\n\n", NULL);
	in_body("", "", NULL);
}

static void
header_end_at_an_edge(void **state)
{
	(void)state;
	in_header("To: me\n\nStatus: text\n", "To: me\n\nStatus: text\n", NULL);
	in_header("To: me\r\n\r\nX-UID: 1\r\n", "To: me\r\n\r\nX-UID: 1\r\n",
	    NULL);
}

static void
private_lines_at_an_edge(void **state)
{
	(void)state;
	in_header("X-Keywords: one\n two\n\tthree\nTo: me\n\n1\n",
	    "To: me\n\n1\n", NULL);
	in_header("X-Keywords: one\r\n two\r\nTo: me\r\n\r\n1\r\n",
	    "To: me\r\n\r\n1\r\n", NULL);
	in_header("To: me\n and you\nX-IMAPbase: 1\n 2", "To: me\n and you\n",
	    NULL);
	in_header("X-UID: 1\nX-Statu: 2\nStatus: O\n\n" TWO, "X-Statu: 2\n",
	    "Subject: two\n\n2\n");
}

/* An id is the same wherever in the mailbox its message lies. */
static void
ids_do_not_depend_on_the_place(void **state)
{
	static const char two[] = TWO "\n" TWO;
	char want[UNIQUE_ID_SIZE] = "", id[UNIQUE_ID_SIZE];
	char twin[UNIQUE_ID_SIZE + 8];
	size_t filler;

	(void)state;
	for (filler = 200; filler < 2 * PAGE; filler += 7) {
		size = 0;
		add(HEAD "\n", strlen(HEAD) + 1);
		add_filler(filler - size);
		add("\n", 1);
		add(two, strlen(two));
		open_new_drop();
		assert_int_equal(drop.count, 3);
		assert_int_equal(maildrop_ids(&drop), 0);
		unique_id(&drop, 1, id);
		if (*want == '\0')
			strcpy(want, id);
		assert_string_equal(id, want);
		unique_id(&drop, 2, id);
		snprintf(twin, sizeof(twin), "%s-2", want);
		assert_string_equal(id, twin);
		close_drop();
	}
}

/* An id stays though the last message gets its newline and a neighbour. */
static void
ids_do_not_depend_on_the_last_newline(void **state)
{
	char before[UNIQUE_ID_SIZE], after[UNIQUE_ID_SIZE];

	(void)state;
	put_text(HEAD "\n1");
	open_drop();
	assert_int_equal(maildrop_ids(&drop), 0);
	unique_id(&drop, 0, before);
	close_drop();
	append("\n\n" TWO);
	open_drop();
	assert_int_equal(drop.count, 2);
	assert_int_equal(maildrop_ids(&drop), 0);
	unique_id(&drop, 0, after);
	assert_string_equal(after, before);
	close_drop();
}

static void
twins_are_numbered(void **state)
{
	char first[UNIQUE_ID_SIZE], id[UNIQUE_ID_SIZE];
	char twin[UNIQUE_ID_SIZE + 8];
	unsigned int i;

	(void)state;
	size = 0;
	for (i = 0; i < 1000; i++)
		add(TWO "\n", strlen(TWO) + 1);
	open_new_drop();
	assert_int_equal(drop.count, 1000);
	assert_int_equal(maildrop_ids(&drop), 0);
	unique_id(&drop, 0, first);
	for (i = 1; i < 1000; i++) {
		unique_id(&drop, i, id);
		snprintf(twin, sizeof(twin), "%s-%u", first, i + 1);
		assert_string_equal(id, twin);
	}
	close_drop();
}

#define TEN		"0123456789"
#define SIXTY		TEN TEN TEN TEN TEN TEN

static void
an_x_uidl_line_is_the_id(void **state)
{
	static const struct {
		const char	*line, *id;	/* "": it is not believed */
	} uidls[] = { { "X-UIDL: abc", "abc" }, { "x-uidl:abc \r", "abc-2" },
	    { "X-UIDL: " SIXTY "abcdefghij", SIXTY "abcdefghij" },
	    { "X-UIDL: " SIXTY "abcdefghij", "" },	/* no room for -2 */
	    { "X-UIDL: " SIXTY "abcdefgh", SIXTY "abcdefgh" },
	    { "X-UIDL: " SIXTY "abcdefgh", SIXTY "abcdefgh-2" },
	    { "X-UIDL: " SIXTY "abcdefghijk", "" },
	    { "X-UIDL: two words", "" }, { "X-UIDL: \303\244", "" },
	    { "X-UIDL: a\037", "" }, { "X-UIDL: a\177", "" },
	    { "X-UIDL: !~", "!~" }, { "X-UIDL: 1\nX-UIDL: 2", "1" },
	    { "X-UIDL: like-2", "" }, { "X-UIDL: like-90", "" },
	    { "X-UIDL: like-a2", "like-a2" },
	    { "X-UIDL: -3", "" }, { "X-UIDL: -", "-" },
	    { "X-UIDL: 0123456789abcdef", "0123456789abcdef" },
	    { "X-UIDL: 0123456789abcdef.", "0123456789abcdef." },
	    { "X-UIDL: 0123456789abcde", "0123456789abcde" },
	    { "X-UIDL: 0123456789ABCDEF", "0123456789ABCDEF" } };
	char id[UNIQUE_ID_SIZE], text[256];
	size_t i, n = sizeof(uidls) / sizeof(uidls[0]);
	int session;

	(void)state;
	unlink(side);
	size = 0;
	for (i = 0; i < n; i++) {
		snprintf(text, sizeof(text), FROM_ "\n%s\nSubject: %zu\n\n\n",
		    uidls[i].line, i);
		add(text, strlen(text));
	}
	put_mailbox();
	/* The second knows them from the index. */
	ago = 10;
	for (session = 0; session < 2; session++) {
		open_drop();
		assert_int_equal(maildrop_ids(&drop), 0);
		for (i = 0; i < n; i++) {
			unique_id(&drop, i, id);
			if (*uidls[i].id != '\0')
				assert_string_equal(id, uidls[i].id);
			else
				assert_int_equal(strspn(id,
				    "0123456789abcdef"), 16);
		}
		close_drop();
	}
}

/* This test's mailbox.c takes a thousand, as twins_are_numbered() shows. */
static void
more_messages_than_memory_allows_are_too_many(void **state)
{
	int i;

	(void)state;
	size = 0;
	for (i = 0; i < 1001; i++)
		add(TWO "\n", strlen(TWO) + 1);
	put_mailbox();
	assert_int_equal(login(), -1);
	assert_int_equal(errno, E2BIG);
	close_drop();
}

/* The empty line at the end of a message. */
static const char *
separator(const char *message)
{
	size_t n = strlen(message);

	if (strcmp(message + n - 2, "\n\n") == 0)
		return "\n";
	return strcmp(message + n - 3, "\n\r\n") == 0 ? "\r\n" : "";
}

#define BARE		"From bob@example.org Thu Nov  5 10:01 2026"

/*
 * Delete every subset of the messages.  Where the message in front has no empty
 * line at its end, that of the last one that goes stays: what follows may be a
 * message only after one.
 */
static void
delete_every_subset(const char *const *messages, unsigned int count)
{
	unsigned int mask, i;
	const char *front;	/* the last kept message */
	struct stat before, after;
	char want[KIB], got[KIB];
	int fd;

	for (mask = 0; mask < 1U << count; mask++) {
		size = 0;
		want[0] = '\0';
		front = NULL;
		for (i = 0; i < count; i++) {
			add(messages[i], strlen(messages[i]));
			if ((mask & 1U << i) != 0)
				continue;
			if (i > 0 && (mask & 1U << (i - 1)) != 0 &&
			    front != NULL && *separator(front) == '\0')
				strcat(want, separator(messages[i - 1]));
			strcat(want, messages[i]);
			front = messages[i];
		}
		put_mailbox();
		assert_int_equal(stat(path, &before), 0);
		open_drop();
		assert_int_equal(drop.count, count);
		for (i = 0; i < count; i++)
			if ((mask & 1U << i) != 0)
				drop.messages[i].flags |= MSG_DELETED;
		if (maildrop_update(&drop) == -1)
			fail_msg("%s: %s", strerror(errno), drop.why);
		close_drop();
		assert_int_not_equal(fd = open(path, O_RDONLY), -1);
		assert_int_equal(read(fd, got, sizeof(got)), strlen(want));
		assert_memory_equal(got, want, strlen(want));
		assert_int_equal(fstat(fd, &after), 0);
		assert_int_equal(after.st_ino, before.st_ino);
		close(fd);
	}
}

static void
every_subset_is_deleted(void **state)
{
	static const char *const lf[] = { HEAD "\n1\n\n", TWO "\n",
	    FROM_ "\nSubject: three\n\nlonger than the others\n\n",
	    FROM_ "\n\n", TWO };
	static const char *const crlf[] = { FROM_ "\r\n\r\n1\r\n\r\n",
	    TWO, FROM_ "\r\nSubject: three\r\n\r\n", TWO "\n\n",
	    FROM_ "\nno newline" };
	static const char *const bare[] = { BARE "\n\n1\n", TWO "\n",
	    BARE "\nSubject: three\n\n3\r\n\r\n", BARE "\n\n4\n\n",
	    HEAD "\n5\n", HEAD "\n\n6\n\n", BARE "\n\n7\n" };

	(void)state;
	delete_every_subset(lf, 5);
	delete_every_subset(crlf, 5);
	delete_every_subset(bare, 7);
}

static void
put_indexed_mailbox(void)
{
	unlink(side);
	size = 0;
	add(HEAD "Status: O\n\n1\n\n", strlen(HEAD "Status: O\n\n1\n\n"));
	add(TWO "\n" TWO "\n", 2 * strlen(TWO "\n"));
	add(HEAD "\n", strlen(HEAD "\n"));
	add_filler(SCAN_SIZE);
	put_mailbox();
	ago = 10;
}

static void
expect_indexed_mailbox(char ids[4][UNIQUE_ID_SIZE])
{
	char id[UNIQUE_ID_SIZE];
	size_t i;

	open_drop();
	assert_int_equal(drop.count, 4);
	expect_message(0, "Subject: one\n\n1\n", 16);
	expect_message(1, "Subject: two\n\n2\n", 16);
	assert_int_equal(maildrop_ids(&drop), 0);
	for (i = 0; i < 4; i++) {
		unique_id(&drop, i, id);
		if (ids[i][0] == '\0')
			strcpy(ids[i], id);
		assert_string_equal(id, ids[i]);
	}
	close_drop();
}

static void
the_index_knows_what_the_scan_found(void **state)
{
	char ids[4][UNIQUE_ID_SIZE] = { "" };
	struct stat st;
	int session;

	(void)state;
	put_indexed_mailbox();
	for (session = 0; session < 3; session++)
		expect_indexed_mailbox(ids);
	assert_int_equal(stat(side, &st), 0);
	assert_true(st.st_size > SIDE_DATA);
}

/* Whatever octet of it is wrong. */
static void
a_damaged_index_is_not_trusted(void **state)
{
	char ids[4][UNIQUE_ID_SIZE] = { "" }, octet;
	struct stat st;
	off_t at;
	int fd;

	(void)state;
	put_indexed_mailbox();
	expect_indexed_mailbox(ids);
	assert_int_equal(stat(side, &st), 0);
	assert_true(st.st_size > SIDE_DATA);
	for (at = SIDE_DATA; at < st.st_size; at++) {
		assert_int_not_equal(fd = open(side, O_RDWR), -1);
		assert_int_equal(pread(fd, &octet, 1, at), 1);
		octet ^= 1;
		assert_int_equal(pwrite(fd, &octet, 1, at), 1);
		close(fd);
		expect_indexed_mailbox(ids);
	}
	assert_int_not_equal(truncate(side, st.st_size - 1), -1);
	expect_indexed_mailbox(ids);
}

/* Readers that set the time back, and deliveries. */
static void
an_old_index_is_not_trusted(void **state)
{
	char ids[4][UNIQUE_ID_SIZE] = { "" };
	struct timespec times[2];
	struct stat st;

	(void)state;
	put_indexed_mailbox();
	expect_indexed_mailbox(ids);
	assert_int_equal(stat(path, &st), 0);
	memcpy(content + strlen(HEAD "Status: O\n\n1\n\n"), ">", 1);
	put_mailbox();
	times[0] = st.st_atim;
	times[1] = st.st_mtim;
	assert_int_equal(utimensat(AT_FDCWD, path, times, 0), 0);
	open_drop();
	assert_int_equal(drop.count, 3);
	close_drop();
	append("\n" TWO);
	open_drop();
	assert_int_equal(drop.count, 4);
	close_drop();
}

/* So quick that the file's times do not tell. */
static void
a_change_in_the_same_instant_is_seen(void **state)
{
	int i;

	(void)state;
	ago = 0;
	whole_seconds = true;
	for (i = 0; i < 10; i++) {
		put_text(HEAD "\n1\n\n" TWO);
		open_drop();
		put_text(TWO "\n" HEAD "\n1\n");
		assert_int_equal(try_message(1), -1);
		assert_int_equal(errno, ESTALE);
		close_drop();
	}
	whole_seconds = false;
}

static void
a_change_is_seen_before_reading(void **state)
{
	(void)state;
	ago = 10;
	put_text(HEAD "\n1\n\n" TWO);
	open_drop();
	append("\n" TWO);
	assert_int_equal(try_message(0), 0);
	assert_int_equal(try_message(1), 0);
	put_text(HEAD "Status: O\n\n1\n\n" TWO);
	assert_int_equal(try_message(1), -1);
	assert_int_equal(errno, ESTALE);
	put_text(HEAD "\n1\n\n");
	assert_int_equal(try_message(0), -1);	/* it lost its neighbour */
	assert_int_equal(errno, ESTALE);
	assert_int_equal(try_message(1), -1);
	assert_int_equal(errno, ESTALE);
	close_drop();
}

/* No octet of it is handed out, though its end is far. */
static void
a_change_is_seen_before_a_large_message_is_read(void **state)
{
	const char *text;

	(void)state;
	make_large(2 * READ_SIZE);
	open_new_drop();
	content[strlen(HEAD "\n")] = 'f';
	put_mailbox();
	assert_int_equal(message_begin(&drop, 0), 0);
	assert_int_equal(message_read(&drop, &text), -1);
	assert_int_equal(errno, ESTALE);
	close_drop();
}

/* How message 2, the last, can be read and deleted with this behind it. */
static void
expect_with(const char *behind, int read_error, int update_error)
{
	put_text(HEAD "\n1\n\n" TWO);
	open_drop();
	append(behind);
	assert_int_equal(try_message(1), read_error == 0 ? 0 : -1);
	if (read_error != 0)
		assert_int_equal(errno, read_error);
	drop.messages[1].flags |= MSG_DELETED;
	assert_int_equal(maildrop_update(&drop), update_error == 0 ? 0 : -1);
	if (update_error != 0)
		assert_int_equal(errno, update_error);
	close_drop();
}

static void
a_delivery_may_have_begun_behind_the_last_message(void **state)
{
	char text[2 * LOOK];

	(void)state;
	expect_with("\n" TWO, 0, 0);
	expect_with(TWO, 0, 0);
	expect_with("\n", 0, 0);
	/* Deliverers that lock have written more than this. */
	expect_with("\nFro", 0, ESTALE);
	expect_with("one more line\n", ESTALE, ESTALE);
	expect_with("\nFrog\n", ESTALE, ESTALE);
	expect_with("\nFrom here on\n", ESTALE, ESTALE);
	/* It is too long for a From_ line, and not yet over. */
	snprintf(text, sizeof(text), "\nFrom %01100d", 0);
	expect_with(text, ESTALE, ESTALE);
}

/* However far from the end: what is gone may have been in front of it. */
static void
no_message_is_read_from_a_mailbox_that_is_cut(void **state)
{
	(void)state;
	size = 0;
	add(HEAD "\n1\n\n" TWO, strlen(HEAD "\n1\n\n" TWO));
	add_filler(4 * READ_SIZE);
	put_mailbox();
	open_drop();
	assert_int_equal(try_message(0), 0);
	assert_int_equal(truncate(path, (off_t)size - 1), 0);
	assert_int_equal(try_message(0), -1);
	assert_int_equal(errno, ESTALE);
	close_drop();
}

static void
update_refuses_a_changed_mailbox(void **state)
{
	static const char changed[] = HEAD "Status: O\n\n1\n\n" TWO;
	char got[KIB];
	int fd;

	(void)state;
	put_text(HEAD "\n1\n\n" TWO);
	open_drop();
	drop.messages[0].flags |= MSG_DELETED;
	put_text(changed);
	assert_int_equal(maildrop_update(&drop), -1);
	assert_int_equal(errno, ESTALE);
	close_drop();
	assert_int_not_equal(fd = open(path, O_RDONLY), -1);
	assert_int_equal(read(fd, got, sizeof(got)), strlen(changed));
	assert_memory_equal(got, changed, strlen(changed));
	close(fd);
}

static void
a_mailbox_that_is_cut_while_it_is_read_has_changed(void **state)
{
	const char *text;
	ssize_t got;

	(void)state;
	make_large(4 * READ_SIZE);
	put_mailbox();
	open_drop();
	assert_int_equal(message_begin(&drop, 0), 0);
	assert_true(message_read(&drop, &text) > 0);
	assert_int_equal(truncate(path, READ_SIZE), 0);
	errno = 0;
	do
		got = message_read(&drop, &text);
	while (got > 0);
	assert_int_equal(got, -1);
	assert_int_equal(errno, ESTALE);
	close_drop();
}

/* Message 1 is one, and then the other, of as many octets in the mailbox. */
static void
expect_change_to_be_seen(const char *was, const char *is)
{
	assert_int_equal(strlen(was), strlen(is));
	size = 0;
	add(was, strlen(was));
	add(TWO, strlen(TWO));
	put_mailbox();
	open_drop();
	assert_int_equal(drop.count, 2);
	assert_int_equal(try_message(0), 0);
	memcpy(content, is, strlen(is));
	put_mailbox();
	assert_int_equal(try_message(1), 0);
	assert_int_equal(try_message(0), -1);
	assert_int_equal(errno, ESTALE);
	close_drop();
}

#define DATE		"Thu Nov  5 10:01:00 2026\n"
#define ID		"Message-ID: <1@example.org>\n"

/* Whatever a session knows of a message, if the rest is as it was. */
static void
a_change_in_one_respect_is_seen(void **state)
{
	(void)state;
	/* Its octets: a CR is sent with each newline. */
	expect_change_to_be_seen(FROM_ "\n" ID "\none\n\n",
	    FROM_ "\n" ID "\non\r\n\n");
	/* Its unique-id. */
	expect_change_to_be_seen(FROM_ "\n" ID "\n1\n\n",
	    FROM_ "\nm" "essage-ID: <1@example.org>\n\n1\n\n");
	/* The length of its From_ line. */
	expect_change_to_be_seen("From b@example.org " DATE ID "\n1\n\n",
	    "From bob " DATE "X-UID: 12\n" ID "\n1\n\n");
	/* That of its separator. */
	expect_change_to_be_seen(FROM_ "\nStatus: RO\n" ID "\n1\n\n",
	    FROM_ "\nStatus: O\n" ID "\n1\n\r\n");
	/* That it begins a message. */
	expect_change_to_be_seen("From bob " DATE ID "\n1\n\n",
	    "Frog bob " DATE ID "\n1\n\n");
}

static void
update_without_a_deletion_writes_nothing(void **state)
{
	struct stat before, after;

	(void)state;
	put_text(HEAD "\n1\n\n" TWO);
	assert_int_equal(stat(path, &before), 0);
	open_drop();
	assert_int_equal(maildrop_update(&drop), 0);
	close_drop();
	assert_int_equal(stat(path, &after), 0);
	assert_memory_equal(&before.st_mtim, &after.st_mtim,
	    sizeof(before.st_mtim));
	assert_memory_equal(&before.st_ctim, &after.st_ctim,
	    sizeof(before.st_ctim));
}

static void
no_signal_comes_in_update(void **state)
{
	int i;

	(void)state;
	put_text(HEAD "\n1\n\n" TWO);
	open_drop();
	drop.messages[0].flags |= MSG_DELETED;
	sigemptyset(&blocked);
	assert_int_equal(maildrop_update(&drop), 0);
	for (i = 1; i < 32; i++)	/* then come those of the libc */
		assert_int_equal(sigismember(&blocked, i),
		    i != SIGKILL && i != SIGSTOP);
	sigprocmask(SIG_BLOCK, NULL, &blocked);
	assert_int_equal(sigismember(&blocked, SIGUSR1), 0);
	close_drop();
}

static void
expect_mailbox(const char *want)
{
	static char got[2 * SCAN_SIZE];
	int fd = open(path, O_RDONLY);

	assert_int_not_equal(fd, -1);
	assert_int_equal(read(fd, got, sizeof(got)), strlen(want));
	assert_memory_equal(got, want, strlen(want));
	close(fd);
}

/* Here the side file's name is taken. */
static void
what_cannot_be_written_is_not_updated(void **state)
{
	(void)state;
	unlink(side);
	assert_int_equal(mkdir(side, 0700), 0);
	put_text(HEAD "\n1\n\n" TWO);
	open_drop();
	assert_false(drop.writable);
	drop.messages[0].flags |= MSG_DELETED;
	assert_int_equal(maildrop_update(&drop), -1);
	assert_int_equal(errno, EROFS);
	close_drop();
	expect_mailbox(HEAD "\n1\n\n" TWO);
	assert_int_equal(rmdir(side), 0);
}

/* It could not be told from another program's. */
static void
a_dotlock_that_cannot_be_kept_is_none(void **state)
{
	(void)state;
	unlink(side);
	put_text(HEAD "\n1\n\n" TWO);
	open_drop();
	drop.messages[0].flags |= MSG_DELETED;
	failing.calls = 1;
	failing.error = ENFILE;
	failing.what = OPENS;
	assert_int_equal(maildrop_update(&drop), -1);
	failing.what = NOTHING;
	assert_int_equal(errno, ENFILE);
	close_drop();
	expect_mailbox(HEAD "\n1\n\n" TWO);
	assert_int_equal(access(dotlock, F_OK), -1);
}

/* By another name others could write it, or read it. */
static void
a_mailbox_with_a_second_name_is_not_updated(void **state)
{
	char second[sizeof(path) + 8];

	(void)state;
	snprintf(second, sizeof(second), "%s.second", path);
	put_text(HEAD "\n1\n\n" TWO);
	open_drop();
	drop.messages[0].flags |= MSG_DELETED;
	assert_int_equal(link(path, second), 0);
	assert_int_equal(maildrop_update(&drop), -1);
	assert_int_equal(errno, EPERM);
	close_drop();
	assert_int_equal(unlink(second), 0);
	expect_mailbox(HEAD "\n1\n\n" TWO);
}

/* ---- what fails ---- */

/*
 * All that a session reads: right, or -1 where something fails.  If there came
 * another message meanwhile, all are looked at again.
 */
static int
read_everything(char ids[3][UNIQUE_ID_SIZE], bool delivery)
{
	char id[UNIQUE_ID_SIZE];
	const char *piece;
	ssize_t got;
	off_t octets;
	size_t i;

	if (login() == -1)
		return -1;
	assert_int_equal(drop.count, 3);
	if (delivery)
		append("\n" TWO);
	if (maildrop_ids(&drop) == -1)
		return -1;
	for (i = 0; i < 3; i++) {
		if (unique_id(&drop, i, id) == -1)
			return -1;
		if (ids[i][0] == '\0')
			strcpy(ids[i], id);
		assert_string_equal(id, ids[i]);
	}
	for (i = 0; i < 3; i++) {
		if (message_begin(&drop, i) == -1)
			return -1;
		for (octets = 0; (got = message_read(&drop, &piece)) > 0;
		    octets += octets_of(piece, (size_t)got))
			continue;
		if (got == -1)
			return -1;
		assert_int_equal(octets, drop.messages[i].octets);
	}
	return 0;
}

/* Let one call after the other fail: how many there are that end a session. */
static int
fail_everywhere(enum kind what, int error, bool delivery)
{
	char ids[3][UNIQUE_ID_SIZE] = { "" };
	int call, n, failures = 0;

	put_mailbox();
	assert_int_equal(read_everything(ids, delivery), 0);
	close_drop();
	for (call = 1;; call++) {
		if (delivery)
			put_mailbox();
		failing.calls = call;
		failing.what = what;
		n = read_everything(ids, delivery);
		failing.what = NOTHING;
		if (n == -1) {
			assert_int_equal(errno, error);
			failures++;
		}
		close_drop();
		if (failing.calls > 0)
			return failures;
	}
}

/* Where an index cannot be read there is a scan. */
static void
expect_failures_to_be_told(enum kind what, int error)
{
	int without;

	unlink(side);
	size = 0;
	add(HEAD "Status: O\n", strlen(HEAD "Status: O\n"));
	add_filler(SCAN_SIZE);
	add("\n1\n\n" TWO, strlen("\n1\n\n" TWO));
	add_filler(SCAN_SIZE / 2);
	add("\n" FROM_ "\nX-UIDL: 3\n\n3\n",
	    strlen("\n" FROM_ "\nX-UIDL: 3\n\n3\n"));
	put_mailbox();
	ago = 0;
	without = fail_everywhere(what, error, true);
	assert_true(without > 0);
	ago = 10;
	assert_true(fail_everywhere(what, error, false) < without);
}

static void
short_memory_is_told(void **state)
{
	(void)state;
	expect_failures_to_be_told(MEMORY, ENOMEM);
}

static void
a_failing_read_is_told(void **state)
{
	(void)state;
	expect_failures_to_be_told(READS, EIO);
}

/* Where it is read on just behind a line that is left out. */
static void
a_failing_read_behind_a_private_line_is_told(void **state)
{
	const size_t behind = READ_SIZE - LOOK - strlen("Subject: one\n");
	int call, n, failures = 0;
	size_t end;

	(void)state;
	for (end = behind; end <= behind + 12; end++) {
		size = 0;
		add(HEAD, strlen(HEAD));
		add_filler(end - strlen("Status: O\n"));
		add("Status: O\n", strlen("Status: O\n"));
		add_filler(4 * KIB);
		add("\n1\n", 3);
		open_new_drop();
		for (call = 1;; call++) {
			failing.calls = call;
			failing.what = READS;
			n = try_message(0);
			failing.what = NOTHING;
			if (failing.calls > 0)
				break;
			assert_int_equal(n, -1);
			failures++;
		}
		close_drop();
	}
	assert_true(failures > 0);
}

/* c-client's. */
#define NOTES		FROM_ "\nX-IMAP: 1 1\nSubject: DON'T DELETE THIS " \
			"MESSAGE -- FOLDER INTERNAL DATA\n\nnotes\n\n"

/* One call fails in UPDATE: then all is there, or it is done later. */
static void
fail_in_update(enum kind what, int error, const char *front)
{
	char all[KIB], left[KIB];
	int call, n;

	snprintf(all, sizeof(all), "%s%s", front, HEAD "\n1\n\n" TWO);
	snprintf(left, sizeof(left), "%s%s", front, TWO);
	for (call = 1;; call++) {
		unlink(side);
		put_text(all);
		open_drop();
		drop.messages[0].flags |= MSG_DELETED;
		failing.calls = call;
		failing.what = what;
		n = maildrop_update(&drop);
		failing.what = NOTHING;
		if (n == -1)
			assert_int_equal(errno, error);
		if (n == 0 || !drop.begun)
			expect_mailbox(n == 0 ? left : all);
		close_drop();
		open_drop();
		assert_true(drop.writable);
		expect_message(drop.count - 1, "Subject: two\n\n2\n", 16);
		close_drop();
		if (failing.calls > 0)
			break;
	}
	expect_mailbox(left);
}

static void
update_tells_what_fails(void **state)
{
	(void)state;
	fail_in_update(MEMORY, ENOMEM, "");
	fail_in_update(READS, EIO, "");
	fail_in_update(READS, EIO, NOTES);
}

/* ---- recovery ---- */

static off_t
size_of(const char *name)
{
	struct stat st;

	return stat(name, &st) == -1 ? -1 : st.st_size;
}

/* An UPDATE that removes the first message, and whose nth fsync fails. */
static void
put_half_done_mailbox(const char *text, int nth)
{
	put_text(text);
	open_drop();
	drop.messages[0].flags |= MSG_DELETED;
	failing.calls = nth;
	failing.what = SYNCS;
	assert_int_equal(maildrop_update(&drop), -1);
	assert_int_equal(errno, EIO);
	assert_int_equal(failing.calls, 0);
	failing.what = NOTHING;
	close_drop();
}

#define SMALL		FROM_ "\n\n1\n\n"

/*
 * What follows is larger than what goes, so it is saved; the step's last fsync
 * fails, and another program rewrites the mailbox.
 */
static void
put_half_done_and_rewritten_mailbox(void)
{
	unlink(side);
	put_half_done_mailbox(SMALL TWO, 6);
	put_text(TWO);
}

static void
saved_bytes_that_fit_nowhere_are_set_aside_once(void **state)
{
	struct stat first, second;

	(void)state;
	put_half_done_and_rewritten_mailbox();
	assert_int_equal(stat(side, &first), 0);
	open_drop();
	assert_true(drop.lost);
	assert_false(drop.writable);
	assert_string_equal(drop.saved, strrchr(saved, '/') + 1);
	expect_message(0, "Subject: two\n\n2\n", 16);
	close_drop();
	assert_int_equal(stat(saved, &second), 0);
	assert_int_equal(second.st_ino, first.st_ino);

	/* The next session begins a new one, and tells of the old. */
	open_drop();
	assert_true(drop.writable);
	assert_string_equal(drop.saved, strrchr(saved, '/') + 1);
	close_drop();

	/* There is one such name. */
	put_half_done_and_rewritten_mailbox();
	assert_int_equal(stat(side, &second), 0);
	open_drop();
	assert_true(drop.lost);
	assert_false(drop.writable);
	expect_message(0, "Subject: two\n\n2\n", 16);
	close_drop();
	assert_int_equal(stat(saved, &second), 0);
	assert_int_equal(second.st_ino, first.st_ino);
	expect_mailbox(TWO);

	assert_int_equal(unlink(saved), 0);
	open_drop();
	close_drop();
	assert_int_equal(unlink(saved), 0);
}

static void
what_cannot_be_set_aside_is_not_said_to_be(void **state)
{
	(void)state;
	put_half_done_and_rewritten_mailbox();
	failing.calls = 1;
	failing.what = MOVES;
	open_drop();
	failing.what = NOTHING;
	assert_int_equal(failing.calls, 0);
	assert_true(drop.lost);
	assert_false(drop.writable);
	assert_string_equal(drop.saved, "");
	close_drop();
	assert_int_equal(unlink(side), 0);
}

/*
 * At each fsync that fails in recovery, wherever UPDATE was cut short: then
 * nothing is relied upon.  Mail has come in since.
 */
static void
recovery_ends_where_an_fsync_fails(void **state)
{
	int nth, call;

	(void)state;
	for (nth = 5; nth <= 10; nth++)
		for (call = 1;; call++) {
			unlink(side);
			put_half_done_mailbox(SMALL TWO "\n", nth);
			append(NEW);
			failing.calls = call;
			failing.what = SYNCS;
			open_drop();
			failing.what = NOTHING;
			assert_int_equal(drop.recovered, failing.calls > 0);
			assert_int_equal(drop.writable, failing.calls > 0);
			close_drop();
			if (failing.calls > 0) {
				expect_mailbox(TWO "\n" NEW);
				break;
			}
		}
}

/* At a login that recovers first: in recovery, and in the scan. */
static void
a_failing_look_is_told(void **state)
{
	int call, n, told = 0;

	(void)state;
	for (call = 1, failing.calls = 0; failing.calls <= 0; call++) {
		unlink(side);
		put_half_done_mailbox(SMALL TWO "\n", 7);
		failing.calls = call;
		failing.what = LOOKS;
		n = login();
		failing.what = NOTHING;
		told += n == -1 && strcmp(drop.why,
		    "cannot look at the mailbox: Input/output error") == 0;
		maildrop_close(&drop);
		open_drop();
		assert_true(drop.writable);
		close_drop();
		expect_mailbox(TWO "\n");
	}
	assert_int_equal(told, 2);
}

static void
a_record_without_saved_bytes_just_ends(void **state)
{
	(void)state;
	put_half_done_mailbox(HEAD "\n1\n\n" TWO, 4);
	put_text(TWO);
	open_drop();
	assert_true(drop.lost);
	assert_true(drop.writable);
	assert_string_equal(drop.saved, "");
	close_drop();
	expect_mailbox(TWO);
	open_drop();
	assert_false(drop.lost);
	close_drop();
}

/* As if one of two files were on a file system that is read-only by now. */
enum { SIDE_FILE = 1, MAILBOX };

static void
open_drop_to_read(int file)
{
	failing.calls = file;
	failing.error = EROFS;
	failing.what = OPENS;
	open_drop();
	failing.what = NOTHING;
	assert_false(drop.writable);
}

/* For who can only read, or cannot have another one written. */
static void
a_record_without_saved_bytes_stays_if_it_must(void **state)
{
	(void)state;
	unlink(side);
	put_half_done_mailbox(HEAD "\n1\n\n" TWO, 4);
	put_text(TWO);
	open_drop_to_read(MAILBOX);
	assert_true(drop.lost);
	close_drop();
	failing.calls = 2;	/* the first is of the mailbox */
	failing.what = SYNCS;
	open_drop();
	failing.what = NOTHING;
	assert_int_equal(failing.calls, 0);
	assert_true(drop.lost);
	assert_false(drop.writable);
	assert_string_equal(drop.saved, "");
	close_drop();
}

static void
a_record_of_a_mailbox_that_is_gone_just_ends(void **state)
{
	(void)state;
	unlink(side);
	put_half_done_mailbox(HEAD "\n1\n\n" TWO, 4);
	assert_int_equal(unlink(path), 0);
	open_drop();
	assert_true(drop.lost);
	assert_true(drop.writable);
	close_drop();
	open_drop();
	assert_false(drop.lost);
	close_drop();
}

/* Another version's record: what it means is not known here. */
static void
set_aside_with_magic(uint64_t magic)
{
	int fd;

	unlink(side);
	put_half_done_mailbox(HEAD "\n1\n\n" TWO, 4);
	assert_int_not_equal(fd = open(side, O_RDWR), -1);
	assert_int_equal(pwrite(fd, &magic, sizeof(magic), 0), sizeof(magic));
	close(fd);
	open_drop();
	assert_true(drop.lost);
	assert_false(drop.writable);
	close_drop();
	assert_int_equal(unlink(saved), 0);
	open_drop();
	assert_true(drop.writable);
	close_drop();
}

static void
a_strange_record_is_set_aside_as_it_is(void **state)
{
	(void)state;
	set_aside_with_magic(0x706f7033645550ffULL);
	set_aside_with_magic(bswap_64(0x706f703364555032ULL));
}

static void
recover_without_signals(time_t lasting)
{
	sigset_t before, after;
	int i;

	unlink(side);
	put_half_done_mailbox(SMALL TWO, 6);
	sigprocmask(SIG_BLOCK, NULL, &before);
	sigemptyset(&blocked);
	clock_now = 1000;
	slow_sync = lasting;
	open_drop();
	assert_true(drop.recovered);
	for (i = 1; i < 32; i++)	/* then come those of the libc */
		assert_int_equal(sigismember(&blocked, i),
		    i != SIGKILL && i != SIGSTOP);
	assert_int_equal(watch_in_sync, 0);
	assert_int_equal(watch, 60);
	sigprocmask(SIG_BLOCK, NULL, &after);
	for (i = 1; i < 32; i++)
		assert_int_equal(sigismember(&after, i),
		    sigismember(&before, i));
	watch = 0;
	clock_now += 2;
	assert_int_equal(try_message(0), 0);
	assert_int_equal(watch, 60);
	clock_now = 0;
	close_drop();
	expect_mailbox(TWO);
}

/* Nor that of an alarm, however long it takes; then all is as it was. */
static void
no_signal_comes_in_recovery(void **state)
{
	(void)state;
	recover_without_signals(0);
	recover_without_signals(2);
}

/* Nothing is moved while it reads, or half of it would be read through. */
static void
a_half_done_mailbox_that_another_reads_is_in_use(void **state)
{
	int fd;

	(void)state;
	unlink(side);
	put_half_done_mailbox(SMALL TWO, 7);
	assert_int_not_equal(fd = open(path, O_RDONLY), -1);
	assert_int_equal(flock(fd, LOCK_SH), 0);
	assert_int_equal(login(), -1);
	assert_int_equal(errno, EAGAIN);
	close_drop();
	close(fd);
	open_drop();
	assert_true(drop.recovered);
	close_drop();
	expect_mailbox(TWO);
}

static void
expect_all_or_nothing_is_deleted(int error)
{
	unlink(side);
	put_text(HEAD "\n1\n\n" TWO);
	failing.calls = 1;
	failing.error = error;
	failing.what = OPENS;
	open_drop();
	failing.what = NOTHING;
	assert_int_equal(size_of(side), -1);
	assert_true(drop.writable);
	drop.messages[0].flags |= MSG_DELETED;
	assert_int_equal(maildrop_update(&drop), -1);
	assert_int_equal(errno, ENOSPC);
	assert_false(drop.begun);
	expect_mailbox(HEAD "\n1\n\n" TWO);
	drop.messages[1].flags |= MSG_DELETED;
	assert_int_equal(maildrop_update(&drop), 0);
	close_drop();
	expect_mailbox("");
}

/* On a disk that is full, or of which the user has his share. */
static void
without_a_side_file_all_can_be_deleted_and_no_less(void **state)
{
	(void)state;
	expect_all_or_nothing_is_deleted(ENOSPC);
	expect_all_or_nothing_is_deleted(EDQUOT);
}

/* Nor can anybody who cannot write it take the lock. */
static void
a_side_file_that_can_only_be_read_is_no_session_lock(void **state)
{
	(void)state;
	put_text(HEAD "\n1\n\n" TWO);
	open_drop();
	close_drop();
	open_drop_to_read(SIDE_FILE);
	assert_int_equal(drop.count, 2);
	close_drop();
}

/* Another session may have the one that is there by now. */
static void
a_side_file_that_is_replaced_is_no_session_lock(void **state)
{
	(void)state;
	put_text(HEAD "\n1\n\n" TWO);
	assert_int_equal(maildrop_open(&drop, path), 0);
	assert_int_equal(unlink(side), 0);
	assert_int_equal(maildrop_begin(&drop), -1);
	assert_int_equal(errno, EBUSY);
	close_drop();
}

static const char *
text_of(const char *message)
{
	return strchr(message, '\n') + 1;
}

/*
 * All of these are there but some that were deleted, those of the mask: read
 * them, and be sure of it.
 */
static void
expect_messages(const char *const *messages, size_t count, unsigned int deleted)
{
	size_t i, at = 0;

	for (i = 0; i < count; i++) {
		const char *text = text_of(messages[i]);
		size_t n = strlen(text) - strlen(separator(messages[i]));
		static char got[SCAN_SIZE];

		if (at < drop.count && drop.messages[at].octets ==
		    sent(text, n) && read_message(at, got) == n &&
		    memcmp(got, text, n) == 0)
			at++;
		else
			assert_true(deleted >> i & 1);
	}
	assert_int_equal(at, drop.count);
}

static void
put_back(const char *name, const char *octets, size_t n)
{
	FILE *f = fopen(name, "w");

	assert_non_null(f);
	assert_int_equal(fwrite(octets, 1, n, f), n);
	assert_int_equal(fclose(f), 0);
}

static size_t
copy_of(const char *name, char *octets, size_t max)
{
	FILE *f = fopen(name, "r");
	size_t n;

	assert_non_null(f);
	n = fread(octets, 1, max, f);
	fclose(f);
	return n;
}

/*
 * One call of a kind after the other fails in recovery: who gets in reads what
 * is right, and the next one finishes it.
 */
static void
recover_badly(enum kind what, const char *const *messages, size_t count,
    unsigned int deleted)
{
	static char half[16 * KIB], records[64 * KIB];
	size_t had = copy_of(path, half, sizeof(half));
	size_t kept = copy_of(side, records, sizeof(records));
	int call, n;

	for (call = 1;; call++) {
		failing.calls = call;
		failing.what = what;
		n = login();
		failing.what = NOTHING;
		if (n == 0)
			expect_messages(messages, count, deleted);
		close_drop();
		open_drop();
		assert_true(drop.writable);
		assert_false(drop.lost);
		expect_messages(messages, count, deleted);
		close_drop();
		put_back(path, half, had);
		put_back(side, records, kept);
		if (failing.calls > 0)
			break;
	}
}

/* An UPDATE fails at each fsync; who cannot write reads all the same. */
static void
cut_short_anywhere(const char *const *messages, size_t count,
    unsigned int deleted)
{
	int nth, n;
	size_t i;

	for (nth = 1;; nth++) {
		unlink(side);
		size = 0;
		for (i = 0; i < count; i++)
			add(messages[i], strlen(messages[i]));
		put_mailbox();
		open_drop();
		for (i = 0; i < count; i++)
			if (deleted >> i & 1)
				drop.messages[i].flags |= MSG_DELETED;
		failing.calls = nth;
		failing.what = SYNCS;
		n = maildrop_update(&drop);
		failing.what = NOTHING;
		close_drop();
		if (ago == 0) {
			recover_badly(READS, messages, count, deleted);
			recover_badly(SYNCS, messages, count, deleted);
		}
		open_drop_to_read(MAILBOX);
		expect_messages(messages, count, deleted);
		close_drop();
		open_drop();
		assert_true(drop.writable);
		expect_messages(messages, count, deleted);
		close_drop();
		if (n == 0)
			break;
	}
	assert_true(nth > 5);
}

static void
half_done_it_is_read_through_the_record(void **state)
{
	static const char *const messages[] = { TWO "\n", SMALL,
	    HEAD "\nof some more octets than the others, all in all\n\n",
	    FROM_ "\n\n4\n\n", FROM_ "\nSubject: five\n\n5\n\n", HEAD
	    "\nThe last one is so long that, whichever goes, it "
	    "still begins in front of the end.\n" };
	static const unsigned int deleted[] = { 1, 2, 4, 0x12, 0x15, 0x20, 0x28,
	    0x1f };
	size_t i;

	(void)state;
	no_disk = true;
	for (ago = 0; ago <= 10; ago += 10)
		for (i = 0; i < sizeof(deleted) / sizeof(deleted[0]); i++)
			cut_short_anywhere(messages, 6, deleted[i]);
	no_disk = false;
}

static void
a_side_file_without_its_saved_bytes_is_set_aside(void **state)
{
	(void)state;
	unlink(side);
	put_half_done_mailbox(SMALL TWO, 6);
	assert_int_equal(truncate(side, SIDE_DATA + 1), 0);
	open_drop();
	assert_true(drop.lost);
	assert_false(drop.writable);
	close_drop();
	assert_int_equal(unlink(saved), 0);
}

/* Who takes no lock may do this; then nothing more is written. */
static void
a_mailbox_that_is_cut_in_update_is_left_alone(void **state)
{
	(void)state;
	unlink(side);
	put_text(SMALL TWO);
	open_drop();
	drop.messages[0].flags |= MSG_DELETED;
	failing.calls = 5;	/* when the record of saved bytes is written */
	failing.what = CUTS;
	assert_int_equal(maildrop_update(&drop), -1);
	failing.what = NOTHING;
	assert_int_equal(errno, ESTALE);
	close_drop();
	assert_true(size_of(path) < (off_t)strlen(SMALL TWO));
}

static const char *const three[] = { SMALL, TWO "\n",
    HEAD "\nlonger than the others\n\n" };

/* Those of the three that are not in the mask, and so many new ones. */
static const char *
left_of_three(int deleted, int new)
{
	static char want[4 * KIB];
	int i;

	want[0] = '\0';
	for (i = 0; i < 3; i++)
		if ((deleted >> i & 1) == 0)
			strcat(want, three[i]);
	while (new-- > 0)
		strcat(want, NEW);
	return want;
}

/*
 * A message that is looked at again is read in many pieces, and so the alarm is
 * put off, once a second.  Nothing does so in UPDATE, which no signal may end.
 */
static void
a_large_message_does_not_hang(void **state)
{
	const char *text;

	(void)state;
	make_large(200 * KIB);
	clock_now = 1000;
	open_new_drop();
	assert_int_equal(watch, 60);
	watch = 0;
	assert_int_equal(message_begin(&drop, 0), 0);
	assert_true(message_read(&drop, &text) > 0);
	assert_int_equal(watch, 0);
	clock_now++;
	assert_int_equal(message_begin(&drop, 0), 0);
	assert_true(message_read(&drop, &text) > 0);
	assert_int_equal(watch, 60);
	clock_now++;
	drop.messages[0].flags |= MSG_DELETED;
	watch = 0;
	assert_int_equal(maildrop_update(&drop), 0);
	assert_int_equal(watch, 0);
	clock_now = 0;
	close_drop();
}

/* Delete some of the three while mail comes at a call: 0, or -1. */
static int
update_three(int deleted, enum kind mail, int call)
{
	const char *all = left_of_three(0, 0);
	int i, n;

	mails = 0;
	unlink(side);
	put_back(path, all, strlen(all));
	open_drop();
	for (i = 0; i < 3; i++)
		if (deleted >> i & 1)
			drop.messages[i].flags |= MSG_DELETED;
	failing.calls = call;
	failing.what = mail;
	n = maildrop_update(&drop);
	failing.what = NOTHING;
	close_drop();
	return n;
}

/*
 * A program without locks delivers a message in the course of an UPDATE, in
 * front of an fsync, behind one, or when the mailbox has been looked at.  All
 * is kept but what comes between the last of these looks and the cut that
 * follows it at once: nobody can see that, and it is one look of all.
 */
static void
mail_that_comes_in_update_is_kept(void **state)
{
	static const enum kind kinds[] = { MAIL_SYNCED_NOT, MAIL_SYNCED,
	    MAIL_LOOKED };
	int call, deleted, kept, lost;
	size_t i;

	(void)state;
	no_disk = true;
	for (i = 0; i < 3; i++)
		for (deleted = 1; deleted <= 7; deleted++) {
			for (lost = 0, call = 1;; call++) {
				assert_int_equal(update_three(deleted,
				    kinds[i], call), 0);
				if (mails == 0)
					break;
				kept = size_of(path) != (off_t)strlen(
				    left_of_three(deleted, 0));
				expect_mailbox(left_of_three(deleted, kept));
				lost += !kept;
			}
			assert_true(call > 2);
			assert_int_equal(lost, kinds[i] == MAIL_LOOKED);
		}
	no_disk = false;
}

/* At one fsync after the other: UPDATE goes on as long as it takes. */
static void
mail_that_comes_all_through_update_is_kept(void **state)
{
	int calls, deleted;

	(void)state;
	no_disk = true;
	for (deleted = 1; deleted <= 7; deleted++)
		for (calls = 2; calls < 40; calls++) {
			assert_int_equal(update_three(deleted, MAIL_ALWAYS,
			    calls), 0);
			expect_mailbox(left_of_three(deleted, mails));
		}
	no_disk = false;
}

/* However little is deleted, and however much comes. */
static void
a_large_mail_that_comes_in_update_takes_few_steps(void **state)
{
	static const char line[] = "a line of thirty-two characters\n";
	static char large[200 * KIB];
	char *p = large + sprintf(large, "%s\nSubject: large\n\n", FROM_);
	int call;

	(void)state;
	while (p + sizeof(line) < large + sizeof(large))
		p = stpcpy(p, line);
	no_disk = true;
	new_mail = large;
	for (call = 1;; call++) {
		syncs = 0;
		assert_int_equal(update_three(2, MAIL_SYNCED, call), 0);
		if (mails == 0)
			break;
		assert_int_equal(size_of(path), strlen(three[0]) +
		    strlen(three[2]) + strlen(large));
		assert_true(syncs < 40);
	}
	new_mail = NEW;
	no_disk = false;
}

/*
 * Nothing separates the last message that is kept from those that go, so their
 * separator stays for a mail that comes; but not for one that comes later.
 */
static void
mail_that_comes_has_a_separator(void **state)
{
	static char kept[300 * KIB];
	const char *gone = TWO "\n";
	size_t n, first = strlen(SMALL), separated = 0;
	int call;

	(void)state;
	no_disk = true;
	for (call = 1, mails = 1; mails > 0; call++) {
		unlink(side);
		size = 0;
		add(SMALL HEAD "\n", strlen(SMALL HEAD "\n"));
		add_filler(200 * KIB);
		n = size - first;
		memcpy(kept, content + first, n);
		strcpy(kept + n, "\n" NEW);
		add(gone, strlen(gone));
		put_mailbox();
		open_drop();
		assert_int_equal(drop.count, 3);
		assert_int_equal(drop.messages[1].separator, 0);
		drop.messages[0].flags |= MSG_DELETED;
		drop.messages[2].flags |= MSG_DELETED;
		mails = 0;
		failing.calls = call;
		failing.what = MAIL_SYNCED;
		assert_int_equal(maildrop_update(&drop), 0);
		failing.what = NOTHING;
		close_drop();
		if (mails == 0)
			strcpy(kept + n, "");
		else if (size_of(path) == (off_t)strlen(kept))
			separated++;
		else
			strcpy(kept + n, NEW);
		expect_mailbox(kept);
	}
	assert_true(separated > 3);
	no_disk = false;
}

/* The next login makes this of it; all: what was deleted is gone. */
static void
expect_rest_and_mail(int deleted, bool all)
{
	int gone = deleted;

	open_drop();
	assert_true(drop.writable);
	assert_false(drop.lost);
	close_drop();
	for (; !all && gone > 0; gone--)
		if ((gone & ~deleted) == 0 &&
		    size_of(path) == (off_t)strlen(left_of_three(gone, 1)))
			break;
	expect_mailbox(left_of_three(gone, 1));
}

/*
 * It is killed at any write after that: the next login has the mail, once, and
 * what was not deleted.  What was may be there again, for no record names it.
 */
static void
mail_that_came_in_update_outlives_a_kill(void **state)
{
	int call, deleted, lives, status;
	pid_t pid;

	(void)state;
	no_disk = true;
	for (deleted = 1; deleted <= 7; deleted++)
		for (call = lives = 1;; lives++) {
			assert_int_not_equal(pid = fork(), -1);
			if (pid == 0) {
				writes_to_live = lives;
				status = update_three(deleted, MAIL_SYNCED,
				    call);
				_exit(status == 0 && mails == 0 ? NO_MAIL :
				    -status);
			}
			assert_int_equal(waitpid(pid, &status, 0), pid);
			assert_true(WIFEXITED(status));
			if (WEXITSTATUS(status) == NO_MAIL)
				break;
			expect_rest_and_mail(deleted,
			    WEXITSTATUS(status) == 0);
			if (WEXITSTATUS(status) == 0) {
				call++;
				lives = 0;
			} else
				assert_int_equal(WEXITSTATUS(status), KILLED);
		}
	no_disk = false;
}

/* The same if an fsync fails after that. */
static void
mail_that_came_in_update_outlives_a_failing_fsync(void **state)
{
	int call, deleted, n, sync;
	bool failed;

	(void)state;
	no_disk = true;
	for (deleted = 1; deleted <= 7; deleted++)
		for (call = sync = 1;; sync++) {
			syncs_to_fail = sync;
			n = update_three(deleted, MAIL_SYNCED, call);
			failed = mails > 0 && syncs_to_fail == 0;
			syncs_to_fail = 0;
			if (mails == 0)
				break;
			assert_int_equal(n, failed ? -1 : 0);
			expect_rest_and_mail(deleted, n == 0);
			if (n == 0) {
				call++;
				sync = 0;
			}
		}
	no_disk = false;
}

/* No crash can leave them. */
static void
two_torn_records_are_set_aside(void **state)
{
	int fd;

	(void)state;
	unlink(side);
	put_text(HEAD "\n1\n\n" TWO);
	open_drop();
	drop.messages[0].flags |= MSG_DELETED;
	assert_int_equal(maildrop_update(&drop), 0);
	close_drop();
	assert_int_not_equal(fd = open(side, O_RDWR), -1);
	assert_int_equal(pwrite(fd, "torn", 4, 100), 4);
	open_drop();
	assert_true(drop.writable);
	close_drop();
	assert_int_equal(pwrite(fd, "torn", 4, SIDE_DATA / 2 + 100), 4);
	close(fd);
	open_drop();
	assert_true(drop.lost);
	assert_false(drop.writable);
	close_drop();
	assert_int_equal(unlink(saved), 0);
	expect_mailbox(TWO);
}

static void
on_nfs_names_are_moved_too(void **state)
{
	on_nfs = true;
	saved_bytes_that_fit_nowhere_are_set_aside_once(state);
	on_nfs = false;
}

/* ---- the dotlock ---- */

/* How often a dotlock is touched by an UPDATE with a step in the middle. */
static unsigned int
touches_if_the_disk_takes(time_t lasting)
{
	unsigned int n;

	size = 0;
	add(HEAD "\n1\n\n" TWO, strlen(HEAD "\n1\n\n" TWO));
	add_filler(400 * KIB);
	put_mailbox();
	open_drop();
	drop.messages[0].flags |= MSG_DELETED;
	touches = 0;
	clock_now = 1000;
	slow_sync = lasting;
	assert_int_equal(maildrop_update(&drop), 0);
	clock_now = 0;
	n = touches;
	close_drop();
	return n;
}

/* maildrop(1) takes one for stale after a minute. */
static void
a_dotlock_held_for_15_seconds_is_touched(void **state)
{
	(void)state;
	assert_int_equal(touches_if_the_disk_takes(14), 0);
	assert_int_equal(touches_if_the_disk_takes(15), 1);
}

/* Whether the mailbox is locked when the rest of it is read after a while. */
static bool
locked_if_a_read_takes(time_t lasting)
{
	put_text(HEAD "\n1\n\n" TWO);
	assert_int_equal(truncate(path, 300 * 1024), 0);
	clock_now = 1000;
	slow_reads = lasting;
	open_drop();
	assert_int_equal(clock_now, 1000 + 2 * lasting);
	clock_now = slow_reads = 0;
	close_drop();
	return locked;
}

static void
a_scan_keeps_its_locks_for_less_than_3_seconds(void **state)
{
	(void)state;
	assert_true(locked_if_a_read_takes(2));
	assert_false(locked_if_a_read_takes(3));
}

/* A session that was killed could else not be told by it. */
static void
a_dotlock_has_its_mode_whatever_the_umask(void **state)
{
	mode_t mask = umask(077);

	(void)state;
	touches_if_the_disk_takes(0);
	assert_int_equal(lock_mode, 0604);
	assert_int_equal(umask(mask), 077);
}

/* Another program took it for stale, and made its own. */
static void
a_dotlock_of_another_in_the_place_of_ours_is_let_be(void **state)
{
	(void)state;
	stolen = true;
	assert_int_equal(touches_if_the_disk_takes(15), 0);
	assert_int_equal(size_of(dotlock), 0);
	assert_int_equal(unlink(dotlock), 0);
}

static ino_t
put_fifo(const char *name, mode_t mode)
{
	struct stat st;

	assert_int_equal(mkfifo(name, 0600), 0);
	assert_int_equal(chmod(name, mode & 07777), 0);
	assert_int_equal(stat(name, &st), 0);
	return st.st_ino;
}

/* An UPDATE that meets such a dotlock, if it looks so old. */
static int
update_past(mode_t mode, size_t octets, time_t mtime_age, time_t ctime_age)
{
	int n;

	ago = 0;
	put_text(HEAD "\n1\n\n" TWO);
	open_drop();
	drop.messages[0].flags |= MSG_DELETED;
	foreign.inode = S_ISFIFO(mode) ? put_fifo(dotlock, mode) :
	    put_dotlock(dotlock, mode, octets);
	foreign.mtime_age = mtime_age;
	foreign.ctime_age = ctime_age;
	n = maildrop_update(&drop);
	if (n == -1)
		assert_int_equal(errno, EAGAIN);
	close_drop();
	foreign.inode = 0;
	return n;
}

static int
update_past_dotlock(time_t mtime_age, time_t ctime_age)
{
	return update_past(0600, 0, mtime_age, ctime_age);
}

static void
expect_dotlock_stood(void)
{
	assert_int_equal(unlink(dotlock), 0);
	expect_mailbox(HEAD "\n1\n\n" TWO);
}

static void
a_stale_dotlock_is_broken(void **state)
{
	(void)state;
	assert_int_equal(update_past_dotlock(610, 610), 0);
	assert_int_equal(size_of(dotlock), -1);
	assert_int_equal(size_of(stale), -1);
	expect_mailbox(TWO);
}

static void
a_dotlock_of_less_than_ten_minutes_is_not(void **state)
{
	static const time_t ages[][2] = { { 610, 540 }, { 540, 610 },
	    { 540, 540 }, { 0, 0 }, { 610, 0 } };
	size_t i;

	(void)state;
	for (i = 0; i < sizeof(ages) / sizeof(ages[0]); i++) {
		assert_int_equal(update_past_dotlock(ages[i][0], ages[i][1]),
		    -1);
		expect_dotlock_stood();
	}
}

/* Another program broke it too, and was quicker: its own must stand. */
static void
a_new_dotlock_in_the_place_of_a_stale_one_stands(void **state)
{
	(void)state;
	foreign.replace = true;
	assert_int_equal(update_past_dotlock(610, 610), -1);
	expect_dotlock_stood();
	foreign.replace = foreign.replaced_of_then = true;
	assert_int_equal(update_past_dotlock(610, 610), -1);
	expect_dotlock_stood();
	foreign.replaced_of_then = false;
}

/* It lives: whoever holds it touches it, though the time is an old one. */
static void
a_dotlock_that_is_touched_while_it_is_broken_stands(void **state)
{
	(void)state;
	foreign.touched = 1;
	assert_int_equal(update_past_dotlock(700, 700), -1);
	expect_dotlock_stood();
	foreign.touched = 0;
	foreign.touched_nsec = 1;
	assert_int_equal(update_past_dotlock(700, 700), -1);
	expect_dotlock_stood();
	foreign.touched_nsec = 0;
}

/* Where names cannot be moved without a look first. */
static void
on_nfs_dotlocks_are_broken_too(void **state)
{
	on_nfs = true;
	a_stale_dotlock_is_broken(state);
	a_new_dotlock_in_the_place_of_a_stale_one_stands(state);
	on_nfs = false;
}

/* What is larger is somebody's file. */
static void
a_dotlock_has_no_more_than_100_octets(void **state)
{
	(void)state;
	assert_int_equal(update_past(0600, 100, 610, 610), 0);
	expect_mailbox(TWO);
	assert_int_equal(update_past(0600, 101, 610, 610), -1);
	expect_dotlock_stood();
}

/* No other program makes one of this mode, and no other session is there. */
static void
a_dead_sessions_dotlock_is_known_by_its_mode(void **state)
{
	(void)state;
	assert_int_equal(update_past(0604, 0, 0, 0), 0);
	assert_int_equal(size_of(dotlock), -1);
	expect_mailbox(TWO);
	assert_int_equal(update_past(0604, 1, 0, 0), -1);
	expect_dotlock_stood();
	assert_int_equal(update_past(0644, 0, 0, 0), -1);
	expect_dotlock_stood();
	assert_int_equal(update_past(01604, 0, 0, 0), -1);
	expect_dotlock_stood();
}

/* Nobody who removes it knows what it is. */
static void
what_is_no_file_is_no_dotlock_to_break(void **state)
{
	(void)state;
	assert_int_equal(update_past(S_IFIFO | 0600, 0, 610, 610), -1);
	expect_dotlock_stood();
	assert_int_equal(update_past(S_IFIFO | 0604, 0, 0, 0), -1);
	expect_dotlock_stood();
}

/* Here no side file can be made: it may be that of a session that lives. */
static void
without_the_session_lock_a_dotlock_of_its_mode_stands(void **state)
{
	(void)state;
	unlink(side);
	put_text(HEAD "\n1\n\n" TWO);
	put_dotlock(dotlock, 0604, 0);
	failing.calls = 1;
	failing.error = ENOSPC;
	failing.what = OPENS;
	assert_int_equal(login(), -1);
	failing.what = NOTHING;
	assert_int_equal(errno, EAGAIN);
	close_drop();
	expect_dotlock_stood();
}

static int
make_dir(void **state)
{
	(void)state;
	if (mkdtemp(dir) == NULL)
		return -1;
	snprintf(path, sizeof(path), "%s/alice", dir);
	snprintf(side, sizeof(side), "%s/.alice.pop3d", dir);
	snprintf(saved, sizeof(saved), "%s/.alice.pop3d.saved", dir);
	snprintf(dotlock, sizeof(dotlock), "%s/alice.lock", dir);
	snprintf(stale, sizeof(stale), "%s/.alice.pop3d.stale", dir);
	return 0;
}

static int
remove_dir(void **state)
{
	(void)state;
	unlink(path);
	unlink(side);
	return rmdir(dir);	/* fails if a test left anything else */
}

int
main(int argc, char *argv[])
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(from_line_at_an_edge),
		cmocka_unit_test(anywhere_in_a_block),
		cmocka_unit_test(from_line_without_empty_line_at_an_edge),
		cmocka_unit_test(from_line_with_crlf_at_an_edge),
		cmocka_unit_test(incomplete_date_at_an_edge),
		cmocka_unit_test(from_in_text_at_an_edge),
		cmocka_unit_test(line_ends_at_an_edge),
		cmocka_unit_test(ends_at_an_edge),
		cmocka_unit_test(header_end_at_an_edge),
		cmocka_unit_test(private_lines_at_an_edge),
		cmocka_unit_test(ids_do_not_depend_on_the_place),
		cmocka_unit_test(ids_do_not_depend_on_the_last_newline),
		cmocka_unit_test(twins_are_numbered),
		cmocka_unit_test(an_x_uidl_line_is_the_id),
		cmocka_unit_test(more_messages_than_memory_allows_are_too_many),
		cmocka_unit_test(every_subset_is_deleted),
		cmocka_unit_test(the_index_knows_what_the_scan_found),
		cmocka_unit_test(a_damaged_index_is_not_trusted),
		cmocka_unit_test(an_old_index_is_not_trusted),
		cmocka_unit_test(a_change_in_the_same_instant_is_seen),
		cmocka_unit_test(a_change_is_seen_before_reading),
		cmocka_unit_test(
		    a_change_is_seen_before_a_large_message_is_read),
		cmocka_unit_test(
		    a_delivery_may_have_begun_behind_the_last_message),
		cmocka_unit_test(update_refuses_a_changed_mailbox),
		cmocka_unit_test(no_message_is_read_from_a_mailbox_that_is_cut),
		cmocka_unit_test(
		    a_mailbox_that_is_cut_while_it_is_read_has_changed),
		cmocka_unit_test(a_change_in_one_respect_is_seen),
		cmocka_unit_test(update_without_a_deletion_writes_nothing),
		cmocka_unit_test(no_signal_comes_in_update),
		cmocka_unit_test(what_cannot_be_written_is_not_updated),
		cmocka_unit_test(a_dotlock_that_cannot_be_kept_is_none),
		cmocka_unit_test(a_mailbox_with_a_second_name_is_not_updated),
		cmocka_unit_test(short_memory_is_told),
		cmocka_unit_test(a_failing_read_is_told),
		cmocka_unit_test(a_failing_read_behind_a_private_line_is_told),
		cmocka_unit_test(update_tells_what_fails),
		cmocka_unit_test(
		    saved_bytes_that_fit_nowhere_are_set_aside_once),
		cmocka_unit_test(what_cannot_be_set_aside_is_not_said_to_be),
		cmocka_unit_test(recovery_ends_where_an_fsync_fails),
		cmocka_unit_test(a_failing_look_is_told),
		cmocka_unit_test(a_record_without_saved_bytes_just_ends),
		cmocka_unit_test(a_record_without_saved_bytes_stays_if_it_must),
		cmocka_unit_test(a_record_of_a_mailbox_that_is_gone_just_ends),
		cmocka_unit_test(a_strange_record_is_set_aside_as_it_is),
		cmocka_unit_test(no_signal_comes_in_recovery),
		cmocka_unit_test(
		    a_half_done_mailbox_that_another_reads_is_in_use),
		cmocka_unit_test(
		    without_a_side_file_all_can_be_deleted_and_no_less),
		cmocka_unit_test(
		    a_side_file_that_can_only_be_read_is_no_session_lock),
		cmocka_unit_test(
		    a_side_file_that_is_replaced_is_no_session_lock),
		cmocka_unit_test(half_done_it_is_read_through_the_record),
		cmocka_unit_test(
		    a_side_file_without_its_saved_bytes_is_set_aside),
		cmocka_unit_test(a_mailbox_that_is_cut_in_update_is_left_alone),
		cmocka_unit_test(mail_that_comes_in_update_is_kept),
		cmocka_unit_test(mail_that_comes_all_through_update_is_kept),
		cmocka_unit_test(
		    a_large_mail_that_comes_in_update_takes_few_steps),
		cmocka_unit_test(mail_that_comes_has_a_separator),
		cmocka_unit_test(a_large_message_does_not_hang),
		cmocka_unit_test(
		    mail_that_came_in_update_outlives_a_failing_fsync),
		cmocka_unit_test(mail_that_came_in_update_outlives_a_kill),
		cmocka_unit_test(two_torn_records_are_set_aside),
		cmocka_unit_test(on_nfs_names_are_moved_too),
		cmocka_unit_test(a_dotlock_held_for_15_seconds_is_touched),
		cmocka_unit_test(
		    a_scan_keeps_its_locks_for_less_than_3_seconds),
		cmocka_unit_test(a_stale_dotlock_is_broken),
		cmocka_unit_test(a_dotlock_of_less_than_ten_minutes_is_not),
		cmocka_unit_test(
		    a_new_dotlock_in_the_place_of_a_stale_one_stands),
		cmocka_unit_test(
		    a_dotlock_that_is_touched_while_it_is_broken_stands),
		cmocka_unit_test(on_nfs_dotlocks_are_broken_too),
		cmocka_unit_test(a_dotlock_has_its_mode_whatever_the_umask),
		cmocka_unit_test(
		    a_dotlock_of_another_in_the_place_of_ours_is_let_be),
		cmocka_unit_test(a_dotlock_has_no_more_than_100_octets),
		cmocka_unit_test(a_dead_sessions_dotlock_is_known_by_its_mode),
		cmocka_unit_test(what_is_no_file_is_no_dotlock_to_break),
		cmocka_unit_test(
		    without_the_session_lock_a_dotlock_of_its_mode_stands),
	};

	__real_alarm(PATIENCE);
	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
