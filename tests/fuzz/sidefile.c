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
 * Anything as side file in front of a mailbox, and two sessions that delete
 * nothing.  mailbox.c is a part of this file, for its records and checksums.
 *
 * Input: octets for the kind of side file, the size of the data area, and the
 * mailbox; then what the side file is made of.
 */

#include "mailbox.c"

#include "fuzz.h"

enum forgery { ANYTHING, INDEX, NOT_WHOLE, OTHER_VERSION, WRONG_SUMS,
    RIGHT_SUMS, KINDS };

static char		 box[16 * 1024];
static size_t		 box_size;
static char		 side[SIDE_DATA + 65536];
static size_t		 side_size;
static struct maildrop	 drop;

static void
write_mailbox(unsigned int mails, struct input *in)
{
	char *p = box;

	for (unsigned int i = 0; i < mails; i++) {
		p += sprintf(p, "From m%u@example.org Thu Nov  5 10:%02u:00 "
		    "2026\nSubject: %u\n\n", i, i, i);
		memset(p, 'a' + (int)i, 1500);
		p += 1500;
		p += sprintf(p, "\n\n");
	}
	box_size = (size_t)(p - box);
	/* What a cut begins with. */
	if (mails > 0 && take_octet(in) % 4 == 0)
		memset(box + box_size - 500, 0, 500);
	put_file(scratch("box"), box, box_size);
}

/* A side file that was set aside is as it was, octet by octet. */
static bool
was_set_aside(void)
{
	const char *path = scratch(".box.pop3d.saved");
	size_t size;
	char *now;

	if (access(path, F_OK) == -1)
		return false;
	now = get_file(path, &size);
	CHECK(size == side_size && memcmp(now, side, size) == 0);
	free(now);
	unlink(path);
	return true;
}

static bool
mailbox_is_as_it_was(size_t size)
{
	size_t now_size;
	char *now = get_file(scratch("box"), &now_size);
	bool same = now_size >= size && memcmp(now, box, size) == 0 &&
	    (size < box_size || now_size == box_size);

	free(now);
	return same;
}

/* A session that reads all; whether it could log in. */
static bool
session(void)
{
	const char *text;
	char id[UNIQUE_ID_SIZE];
	bool good;

	good = maildrop_open(&drop, scratch("box")) == 0 &&
	    maildrop_begin(&drop) == 0;
	for (size_t i = 0; good && i < drop.count; i++) {
		EQUAL(maildrop_ids(&drop), 0);
		unique_id(&drop, i, id);
		EQUAL(message_begin(&drop, i), 0);
		while (message_read(&drop, &text) > 0)
			continue;
	}
	maildrop_close(&drop);
	return good;
}

/* Mostly within the mailbox, and where such things go wrong. */
static int64_t
any_offset(struct input *in)
{
	static const int64_t strange[] = { INT64_MIN, INT64_MIN + 1, -1,
	    INT64_MAX / 2 + 1, INT64_MAX - 1, INT64_MAX };
	uint8_t how = take_octet(in);
	int64_t n = take_number(in, 65536);

	if (how < sizeof(strange) / sizeof(strange[0]))
		return strange[how];
	return how % 16 == 7 ? -n : n % ((int64_t)box_size + 2);
}

/* Sums that are right, for what can be reckoned with. */
static void
sign(struct record *rec)
{
	struct maildrop this = { .fd = open(scratch("box"), O_RDONLY),
	    .side = open(scratch(".box.pop3d"), O_RDONLY) };
	struct update u = { .drop = &this, .rec = *rec };

	CHECK(this.fd != -1 && this.side != -1);
	if (is_range(rec) && rec->size <= (int64_t)box_size &&
	    take_anchors(&this, rec) == 0 &&
	    copy_saved(&u, -1, 0) == 0)
		rec->saved = u.copied;
	close(this.fd);
	close(this.side);
}

/* A record that is wrong in the way that kind says. */
static struct record
forge_record(struct input *in, enum forgery kind)
{
	struct record rec = { .magic = RECORD_MAGIC };
	uint8_t form;

	rec.sequence = take_number(in, 65536) + 1;
	rec.state = take_octet(in) % 4;
	rec.w = any_offset(in);
	rec.r = any_offset(in);
	form = take_octet(in);
	rec.n = form & 1 ? any_offset(in) : 0;
	rec.next = form & 1 ? any_offset(in) : 0;
	rec.size = form & 2 ? any_offset(in) : (int64_t)box_size;
	for (size_t i = 0; i < MARK_SIZE; i++)
		rec.mark[i] = (uint8_t)(1 + take_octet(in) % 255);
	sign(&rec);
	/* As a crash leaves it that came before the cut. */
	if (kind == RIGHT_SUMS && rec.state == CUT && is_range(&rec) &&
	    form & 4) {
		size_t mark = (size_t)mark_size(&rec);

		rec.size = rec.r = (int64_t)box_size;
		memcpy(box + rec.w, rec.mark, mark);
		memcpy(box + rec.r - (off_t)mark, rec.mark, mark);
		put_file(scratch("box"), box, box_size);
		sign(&rec);
	}
	if (kind == WRONG_SUMS)
		*(form & 8 ? &rec.before : form & 16 ? &rec.live : &rec.end)
		    ^= take_number(in, 65535) + 1;
	rec.self = self_sum(&rec);
	if (kind == NOT_WHOLE)
		rec.self ^= take_number(in, 65535) + 1;
	if (kind == OTHER_VERSION)
		rec.magic = form & 8 ? rec.magic ^ (uint64_t)(1 + form % 7) :
		    bswap_64(rec.magic);
	return rec;
}

/* An index that is whole, of messages that are not. */
static void
forge_index(struct input *in)
{
	struct message *m = (void *)(side + SIDE_DATA + sizeof(struct index));
	uint64_t count = take_octet(in) % 8;
	struct index x = { .magic = INDEX_MAGIC, .count = count };

	CHECK(look_at(AT_FDCWD, scratch("box"), &x.mailbox) == 0);
	for (uint64_t i = 0; i < count; i++)
		m[i] = (struct message){ .start = any_offset(in),
		    .octets = any_offset(in), .id = take_octet(in),
		    .from = take_octet(in), .separator = take_octet(in) % 4,
		    .flags = take_octet(in) % 8 };
	/* A number that would need more memory than there is. */
	if (take_octet(in) % 16 == 0)
		x.count = (uint64_t)any_offset(in);
	x.sum = sum(sum(0, &x, offsetof(struct index, sum)), m,
	    count * sizeof(*m));
	memcpy(side + SIDE_DATA, &x, sizeof(x));
	side_size = SIDE_DATA + sizeof(x) + count * sizeof(*m);
}

static void
check_sessions(enum forgery kind, const struct record *rec)
{
	bool first = session(), aside = was_set_aside();

	/* After a record that fits, what is left need not be a mailbox. */
	CHECK(kind == RIGHT_SUMS || (first && session()));
	switch (kind) {
	case OTHER_VERSION:
		CHECK(aside);
		CHECK(mailbox_is_as_it_was(box_size));
		break;
	case WRONG_SUMS:
		EQUAL(aside, rec->state != IDLE && rec->state <= CUT &&
		    rec->n != 0);
		/* FALLTHROUGH */
	case NOT_WHOLE:
	case INDEX:
		CHECK(kind == WRONG_SUMS || !aside);
		/* FALLTHROUGH */
	case ANYTHING:
		CHECK(mailbox_is_as_it_was(box_size));
		break;
	default:
		/* Nothing in front of the hole is ever touched. */
		if (rec->state == IDLE || rec->state > CUT || aside ||
		    !is_range(rec))
			CHECK(mailbox_is_as_it_was(box_size));
		else
			CHECK(mailbox_is_as_it_was((size_t)rec->w));
		if (aside)
			CHECK(rec->n != 0);
	}
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input in = { data, size };
	struct record rec = { 0 };
	enum forgery kind;
	size_t left;

	if (size > 16384)
		return 0;
	unlink(scratch(".box.pop3d.saved"));
	memset(side, 0, sizeof(side));
	side_size = SIDE_DATA;
	kind = take_octet(&in) % KINDS;
	fuzz_area = take_octet(&in) % 3 * 4096;
	write_mailbox(take_octet(&in) % 8, &in);
	/* The data area first: a record has its sum. */
	if (kind >= NOT_WHOLE) {
		size_t data_size = take_number(&in, 8192);

		memset(side + SIDE_DATA, take_octet(&in), data_size);
		side_size += data_size;
		put_file(scratch(".box.pop3d"), side, side_size);
		rec = forge_record(&in, kind);
		memcpy(side + take_octet(&in) % 2 * SIDE_SLOTS, &rec,
		    sizeof(rec));
	} else if (kind == INDEX)
		forge_index(&in);
	else {
		left = in.left;
		memcpy(side, in.next, left);
		side_size = left;
	}
	put_file(scratch(".box.pop3d"), side, side_size);
	check_sessions(kind, &rec);
	return 0;
}
