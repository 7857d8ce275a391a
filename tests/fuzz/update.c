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
 * UPDATE, cut short anywhere: a mailbox of mails of many forms and sizes, any
 * of them deleted, with any size of data area; mail comes in meanwhile.  A
 * system call fails, the process dies in it, or the power fails: then only
 * what was synced is there, and any part of what was not.  The same befalls
 * the recovery.  In the end every kept mail must be there, and all that came
 * in; a deleted one is there as it was, or gone; and gone for good where
 * maildrop_update() said so.  If another program rewrites the mailbox before
 * the recovery, it stays as that program left it.
 *
 * The disk is that of tests/model: a cut is zeros to the end of the block, and
 * later the size; an fsync that fails has lost what it was to write, and the
 * next one says that all is well; a deliverer need not sync.
 */

#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "fuzz.h"
#include "pop3d.h"
#include "reference_scan.h"

#define MAILS_MAX	12
#define MAIL_MAX	2000
#define PIECE		256	/* a write is durable in such pieces */
#define PENDING_MAX	20000

enum fault { NONE, KILL, POWER, FAIL_ONCE, FAIL_ON, FAULTS };
enum { BOX, SIDE, FILES };

struct pending {		/* not durable yet */
	int	 file;
	off_t	 at;
	size_t	 size;
	char	*data;		/* NULL: the file is cut to at */
	bool	 delivered;	/* by a program that did not sync */
};

static struct {			/* what is durable */
	char	*data;
	size_t	 size;
} durable[FILES];

static struct pending	 pending[PENDING_MAX];
static size_t		 pending_count;

static enum fault	 fault;
static unsigned int	 calls_left;	/* before the fault */
static unsigned int	 part;		/* of 256, of the write that it hits */
static uint32_t		 seed;
static off_t		 block;		/* of the file system, in bytes */
static bool		 struck;
static bool		 lost;		/* what was delivered, with the power */
static size_t		 scanned;	/* mails; the others were delivered */
static jmp_buf		 death;

static struct maildrop	 drop;

ssize_t __real_pwrite(int, const void *, size_t, off_t);
int __real_ftruncate(int, off_t);
ssize_t __wrap_pwrite(int, const void *, size_t, off_t);
int __wrap_fsync(int);
int __wrap_ftruncate(int, off_t);
int __wrap_fallocate(int, int, off_t, off_t);

/* Who is killed frees nothing. */
const char *__asan_default_options(void);

const char *
__asan_default_options(void)
{
	return "detect_leaks=0";
}

/* ---- the disk ---- */

static void
change(const struct pending *p)
{
	char **data = &durable[p->file].data;
	size_t *size = &durable[p->file].size;
	size_t end = (size_t)p->at + p->size;

	if (end > *size) {
		if ((*data = realloc(*data, end)) == NULL)
			err(1, NULL);
		memset(*data + *size, 0, end - *size);
		*size = end;
	}
	if (p->data != NULL)
		memcpy(*data + p->at, p->data, p->size);
	else
		*size = (size_t)p->at;
}

static void
add_pending(int file, const char *data, size_t size, off_t at)
{
	struct pending *p;

	CHECK(pending_count < PENDING_MAX);
	p = &pending[pending_count++];
	*p = (struct pending){ file, at, size, NULL, false };
	if (data != NULL) {
		if ((p->data = malloc(size)) == NULL)
			err(1, NULL);
		memcpy(p->data, data, size);
	}
}

/* What is pending happened, at last. */
static void
sync_file(int file)
{
	size_t left = 0;

	for (size_t i = 0; i < pending_count; i++) {
		if (pending[i].file != file) {
			pending[left++] = pending[i];
			continue;
		}
		change(&pending[i]);
		free(pending[i].data);
	}
	pending_count = left;
}

/*
 * Or an fsync failed, and the pages that pop3d wrote are taken for clean.  A
 * journal that fails makes the file system read-only: no size is forgotten.
 */
static void
lose_pages(int file)
{
	size_t left = 0;

	for (size_t i = 0; i < pending_count; i++)
		if (pending[i].file != file || pending[i].data == NULL ||
		    pending[i].delivered)
			pending[left++] = pending[i];
		else
			free(pending[i].data);
	pending_count = left;
}

static const char *
path_of(int file)
{
	return scratch(file == BOX ? "box" : ".box.pop3d");
}

static void
load_durable(int file)
{
	sync_file(file);
	free(durable[file].data);
	durable[file].data = get_file(path_of(file), &durable[file].size);
}

/* Its highest bit: the lower ones come round too soon. */
static bool
toss(void)
{
	seed = seed * 1664525 + 1013904223;
	return seed >> 31;
}

/*
 * Some of what is pending happened, the rest did not.  Where a cut did not, the
 * blocks behind it are the old ones, and not those that were written later.
 */
static void
power_loss(void)
{
	off_t barrier[FILES] = { INT64_MAX, INT64_MAX };

	for (size_t i = 0; i < pending_count; i++) {
		struct pending *p = &pending[i];
		off_t *end = &barrier[p->file];
		bool happened = toss();

		if (p->data != NULL && p->at + (off_t)p->size > *end)
			p->size = *end > p->at ? (size_t)(*end - p->at) : 0;
		if (happened && (p->data == NULL || p->size > 0))
			change(p);
		else if (p->data == NULL)
			*end = (p->at + block - 1) / block * block;
		if (p->delivered && !happened)
			lost = true;
		free(p->data);
	}
	pending_count = 0;
	for (int file = BOX; file < FILES; file++)
		put_file(path_of(file), durable[file].data,
		    durable[file].size);
}

/* ---- the system calls of mailbox.c ---- */

static int
file_of(int fd)
{
	return fd == drop.fd ? BOX : fd == drop.side ? SIDE : FILES;
}

/* Whether this call is the one. */
static bool
strikes(int fd)
{
	if (fault == NONE || file_of(fd) == FILES || calls_left-- > 0)
		return false;
	struck = true;
	calls_left = fault == FAIL_ON ? 0 : UINT32_MAX;
	errno = EIO;
	return true;
}

ssize_t
__wrap_pwrite(int fd, const void *buf, size_t size, off_t at)
{
	bool strike = strikes(fd);

	if (strike) {
		size = size * part / 256;
		if (size == 0 && fault >= FAIL_ONCE)
			return -1;
	}
	CHECK(__real_pwrite(fd, buf, size, at) == (ssize_t)size);
	for (size_t i = 0; file_of(fd) != FILES && i < size; i += PIECE)
		add_pending(file_of(fd), (const char *)buf + i,
		    size - i < PIECE ? size - i : PIECE, at + (off_t)i);
	if (strike && fault < FAIL_ONCE)
		longjmp(death, 1);
	return (ssize_t)size;
}

int
__wrap_fsync(int fd)
{
	if (strikes(fd)) {
		if (fault < FAIL_ONCE)
			longjmp(death, 1);
		lose_pages(file_of(fd));
		return -1;
	}
	sync_file(file_of(fd));
	return 0;
}

int
__wrap_ftruncate(int fd, off_t size)
{
	static const char zeros[4096];
	off_t end = lseek(fd, 0, SEEK_END);
	off_t rest = (size + block - 1) / block * block;

	if (strikes(fd)) {
		if (fault < FAIL_ONCE)
			longjmp(death, 1);
		return -1;
	}
	if (rest > end)
		rest = end;
	if (rest > size)
		add_pending(file_of(fd), zeros, (size_t)(rest - size), size);
	add_pending(file_of(fd), NULL, 0, size);
	return __real_ftruncate(fd, size);
}

int
__wrap_fallocate(int fd, int mode, off_t at, off_t size)
{
	struct pending more = { SIDE, at + size, 0, NULL, false };

	CHECK(fd == drop.side && mode == 0);
	if (strikes(fd)) {
		if (fault < FAIL_ONCE)
			longjmp(death, 1);
		errno = ENOSPC;
		return -1;
	}
	if (lseek(fd, 0, SEEK_END) < at + size) {
		CHECK(__real_ftruncate(fd, at + size) == 0);
		change(&more);
	}
	return 0;
}

/* ---- mails ---- */

static char *
write_mail(char *p, struct input *in, unsigned int number, bool complete)
{
	unsigned int form = take_octet(in), size = take_number(in, MAIL_MAX);
	const char *eol = form & 1 ? "\r\n" : "\n";

	p += sprintf(p, "From m%u@example.org Thu Nov  5 10:%02u%s 2026%s",
	    number, number % 60, complete || form & 2 ? ":00" : "", eol);
	if (form & 4)
		p += sprintf(p, "Subject: %u%sStatus: RO%s", number, eol, eol);
	if (form & 8)
		p += sprintf(p, "%s", eol);
	p += sprintf(p, "%u%s", number, eol);
	while (size > 0) {
		unsigned int n = size < 70 ? size : 70;

		memset(p, 'a' + (int)(number % 26), n);
		p += n;
		p += sprintf(p, "%s", eol);
		size -= n;
	}
	if (form & 0x70 || !complete)
		p += sprintf(p, "%s", eol);
	return p;
}

/* A deliverer's fsync makes durable all that is pending. */
static void
deliver(struct input *in, unsigned int *number, bool syncs)
{
	static char mails[4 * (MAIL_MAX + 500)];
	char *end = mails;
	size_t size;

	for (uint32_t n = take_number(in, 4); n > 0; n--)
		end = write_mail(end, in, (*number)++, true);
	if (end == mails)
		return;
	free(get_file(scratch("box"), &size));
	append_file(scratch("box"), mails, (size_t)(end - mails));
	add_pending(BOX, mails, (size_t)(end - mails), (off_t)size);
	pending[pending_count - 1].delivered = true;
	if (syncs)
		sync_file(BOX);
}

struct mails {
	char			*box;	/* NULL: it was read by pop3d */
	struct ref_maildrop	 drop;
};

static struct mails
look(void)
{
	struct mails m;
	size_t size;

	m.box = get_file(scratch("box"), &size);
	CHECK(reference_scan(m.box, size, &m.drop) == 0);
	return m;
}

/* What the session hands out, maybe through a record. */
static struct mails
read_mails(void)
{
	static char text[32 * 1024];
	struct mails m = { NULL, { NULL, 0 } };
	const char *piece;
	ssize_t n;

	m.drop.messages = calloc(drop.count + 1, sizeof(*m.drop.messages));
	CHECK(m.drop.messages != NULL);
	for (; m.drop.count < drop.count; m.drop.count++) {
		struct ref_message *to = &m.drop.messages[m.drop.count];

		EQUAL(message_begin(&drop, m.drop.count), 0);
		while ((n = message_read(&drop, &piece)) > 0) {
			CHECK(to->size + (size_t)n <= sizeof(text));
			memcpy(text + to->size, piece, (size_t)n);
			to->size += (size_t)n;
		}
		EQUAL(n, 0);
		CHECK((to->text = malloc(to->size + 1)) != NULL);
		memcpy(to->text, text, to->size);
	}
	return m;
}

static void
look_away(struct mails *m)
{
	reference_free(&m->drop);
	free(m->box);
}

static bool
same_mail(const struct mails *a, size_t i, const struct mails *b, size_t j)
{
	struct ref_message *m, *n;

	if (i >= a->drop.count || j >= b->drop.count)
		return false;
	m = &a->drop.messages[i];
	n = &b->drop.messages[j];
	return m->size == n->size && (b->box == NULL ||
	    (m->from == n->from &&
	    memcmp(a->box + m->start, b->box + n->start, m->from) == 0)) &&
	    memcmp(m->text, n->text, m->size) == 0;
}

/* FUZZ_SHOW in the environment: what happened, for the reader of a finding. */
static void
show(const char *what, const struct mails *m)
{
	fprintf(stderr, "%s:\n", what);
	for (size_t i = 0; i < m->drop.count; i++)
		fprintf(stderr,
		    "  %zu at %zu, %zu octets, separator %zu: %.*s", i,
		    m->drop.messages[i].start, m->drop.messages[i].size,
		    m->drop.messages[i].separator,
		    (int)m->drop.messages[i].from,
		    m->box + m->drop.messages[i].start);
}

/*
 * After has every mail of before, but those of the deleted ones that are gone:
 * returns how many; and then what was delivered later, from number on.
 */
static size_t
compare(const struct mails *before, uint32_t deleted, const struct mails *after,
    unsigned int later)
{
	size_t i, j, gone = 0;

	for (i = j = 0; i < before->drop.count; i++) {
		if (same_mail(before, i, after, j))
			j++;
		else if (i < 32 && (deleted >> i & 1))
			gone++;
		else
			CHECK(lost && i >= scanned);
	}
	EQUAL(after->drop.count - j, later);
	return gone;
}

/* ---- sessions ---- */

static void
end(bool killed)
{
	if (killed) {
		close(drop.dot);
		drop.dot = -1;		/* it stays */
	}
	maildrop_close(&drop);
	if (fault == POWER && killed)
		power_loss();
	fault = NONE;
}

/* What is half-done is finished, and nothing is set aside. */
static bool
login(void)
{
	if (maildrop_open(&drop, scratch("box")) == -1 ||
	    maildrop_begin(&drop) == -1) {
		if (getenv("FUZZ_SHOW") != NULL)
			warnx("login: %s", drop.why);
		return false;
	}
	CHECK(!drop.lost && drop.saved[0] == '\0');
	CHECK(struck || drop.writable);
	return true;
}

/*
 * Another program removes some of what it takes for mails, in place: false if
 * it removes nothing.
 */
static bool
rewrite(struct input *in)
{
	uint32_t gone = take_number(in, 65536);
	struct ref_maildrop found;
	size_t size, left = 0, start, stop;
	char *old = get_file(scratch("box"), &size), *new = malloc(size + 1);
	bool any = false;

	CHECK(new != NULL);
	if (reference_scan(old, size, &found) == 0) {
		for (size_t i = 0; i < found.count; i++) {
			start = i == 0 ? 0 : found.messages[i].start;
			stop = i + 1 == found.count ? size :
			    found.messages[i + 1].start;
			if (gone >> i % 16 & 1) {
				any = true;
				continue;
			}
			memcpy(new + left, old + start, stop - start);
			left += stop - start;
		}
		if (any) {
			put_file(scratch("box"), new, left);
			load_durable(BOX);
		}
	}
	reference_free(&found);
	free(old);
	free(new);
	return any;
}

/* It stays as that program left it, and what came in since. */
static void
check_rewritten(struct input *in, unsigned int *number)
{
	size_t size, size_now;
	char *was, *now;

	deliver(in, number, true);
	was = get_file(scratch("box"), &size);
	CHECK(maildrop_open(&drop, scratch("box")) == 0);
	CHECK(maildrop_begin(&drop) == 0);
	end(false);
	now = get_file(scratch("box"), &size_now);
	EQUAL(size_now, size);
	CHECK(memcmp(now, was, size) == 0);
	free(was);
	free(now);
}

static void
arm(struct input *in)
{
	fault = take_octet(in) % FAULTS;
	calls_left = take_number(in, 1U << take_octet(in) % 11);
	part = take_octet(in);
	seed = take_number(in, 65536);
	struck = false;
	if (getenv("FUZZ_SHOW") != NULL)
		fprintf(stderr, "fault %d after %u calls, part %u\n", fault,
		    calls_left, part);
}

static uint32_t
mark(struct input *in)
{
	uint32_t deleted = take_number(in, 1 << MAILS_MAX);

	deleted &= (1U << drop.count) - 1;
	for (size_t i = 0; i < drop.count; i++)
		if (deleted >> i & 1)
			drop.messages[i].flags |= MSG_DELETED;
	return deleted;
}

static void
write_box(struct input *in, unsigned int *number)
{
	static char mails[MAILS_MAX * (MAIL_MAX + 500)];
	char *last = mails;

	bool complete = take_octet(in) % 2 == 0;

	for (uint32_t n = take_number(in, MAILS_MAX) + 1; n > 0; n--)
		last = write_mail(last, in, (*number)++, complete);
	put_file(scratch("box"), mails, (size_t)(last - mails));
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input in = { data, size };
	struct mails before, after;
	unsigned int number = 0, later;
	uint32_t deleted;
	size_t gone;
	volatile int done = -1;
	volatile bool died = true;

	unlink(scratch(".box.pop3d"));
	unlink(scratch(".box.pop3d.saved"));
	unlink(scratch("box.lock"));
	fuzz_area = take_number(&in, 8) * 2048;
	block = 64 << take_octet(&in) % 7;
	lost = struck = false;
	write_box(&in, &number);
	load_durable(BOX);
	put_file(scratch(".box.pop3d"), "", 0);
	load_durable(SIDE);
	CHECK(login());
	scanned = drop.count;
	deleted = mark(&in);
	deliver(&in, &number, take_octet(&in) % 2 == 0);
	before = look();

	arm(&in);
	if (setjmp(death) == 0) {
		done = maildrop_update(&drop);
		died = false;
		if (done == 0 && take_octet(&in) % 2 == 0) {
			died = true;	/* right after the answer */
			fault = POWER;
		}
	}
	CHECK(done == 0 || struck || errno == ESTALE);
	end(died);

	later = number;
	if (take_octet(&in) % 4 == 0 && rewrite(&in)) {
		check_rewritten(&in, &number);
		look_away(&before);
		return 0;
	}
	deliver(&in, &number, true);
	arm(&in);
	died = true;
	if (setjmp(death) == 0) {
		bool good = login();

		CHECK(good || struck);
		died = false;
		if (good && !drop.writable) {
			after = read_mails();
			(void)compare(&before, deleted, &after,
			    number - later);
			look_away(&after);
		}
	}
	end(died);

	deliver(&in, &number, true);
	struck = false;
	CHECK(login());
	end(false);
	after = look();
	if (getenv("FUZZ_SHOW") != NULL) {
		show("before", &before);
		fprintf(stderr,
		    "deleted %x, update %d, area %u\n", deleted, done,
		    fuzz_area);
		show("after", &after);
	}
	gone = compare(&before, deleted, &after, number - later);
	if (done == 0)
		EQUAL(gone, __builtin_popcount(deleted));
	look_away(&before);
	look_away(&after);
	return 0;
}
