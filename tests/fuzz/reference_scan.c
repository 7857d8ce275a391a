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


#include <md5.h>
#include <regex.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "reference_scan.h"

#define LONGEST_FROM	1024	/* with its newline */
#define LONGEST_UIDL	1024	/* the line, with its newline */
#define LONGEST_ID	70
#define BODY_IN_ID	1024

struct line {
	const char	*at;
	size_t		 length;	/* with its newline */
};

enum from { NOT_FROM, FROM_AFTER_EMPTY, FROM_ANYWHERE };

static const char *const private_names[] = {
	"Status", "X-Status", "X-Keywords", "X-UID", "X-IMAP", "X-IMAPbase"
};

/* Words of a date, each with the space in front of it. */
#define S	"[ \t]+"
#define WDAY	"(Sun|Mon|Tue|Wed|Thu|Fri|Sat)"
#define MONTH	S "(Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)"
#define DAY	S "[0-9]{1,2}"
#define TIME	S "[0-9]{2}:[0-9]{2}(:[0-9]{2})?"
#define YEAR	S "[0-9]{4}"
#define LETTERS	"[A-Za-z]{1,5}"
#define ZONE	S "([-+][0-9]{4}|" LETTERS ")"
#define CAPITAL	S "[A-Z]{1,5}"
#define BRACKET	S "([(]([-+][0-9]{4}|" LETTERS ")[)]|[-+][0-9]{2})"
#define HALF	S "(AM|PM)"

#define UNIX	WDAY MONTH DAY
#define RFC822	WDAY "," DAY MONTH YEAR TIME

/*
 * The dates that c-client, dovecot and popa3d know.  Of the first three the
 * time with seconds makes a complete one: its number is that of the group.
 */
static const struct {
	const char	*date;
	int		 seconds;
	int		 half;	/* which word it is */
} dates[] = {
	{ UNIX TIME YEAR, 3, 0 },
	{ UNIX TIME ZONE YEAR, 3, 0 },
	{ UNIX TIME YEAR ZONE, 3, 0 },
	{ UNIX TIME CAPITAL CAPITAL YEAR, 0, 0 },
	{ UNIX TIME YEAR CAPITAL CAPITAL, 0, 0 },
	{ UNIX TIME YEAR BRACKET, 0, 0 },
	{ UNIX TIME YEAR ZONE BRACKET, 0, 0 },
	{ UNIX YEAR TIME, 0, 0 },
	{ UNIX YEAR TIME ZONE, 0, 0 },
	{ WDAY DAY MONTH YEAR TIME, 0, 0 },
	{ WDAY DAY MONTH YEAR TIME ZONE, 0, 0 },
	{ WDAY DAY MONTH YEAR TIME HALF, 0, 6 },
	{ WDAY DAY MONTH YEAR TIME HALF ZONE, 0, 6 },
	{ WDAY DAY MONTH TIME YEAR, 0, 0 },
	{ WDAY DAY MONTH TIME ZONE YEAR, 0, 0 },
	{ UNIX TIME HALF YEAR, 0, 5 },
	{ UNIX TIME HALF ZONE YEAR, 0, 5 },
	{ UNIX TIME BRACKET YEAR, 0, 0 },
	{ UNIX TIME HALF BRACKET YEAR, 0, 5 },
	{ RFC822, 0, 0 },
	{ RFC822 ZONE, 0, 0 },
	{ RFC822 ZONE BRACKET, 0, 0 },
};
#define DATES	(sizeof(dates) / sizeof(dates[0]))

/* What a zone may look like, but is not. */
#define NO_ZONE	"^(Sun|Mon|Tue|Wed|Thu|Fri|Sat|Jan|Feb|Mar|Apr|May|Jun|Jul|" \
		"Aug|Sep|Oct|Nov|Dec|AM|PM|from)$"

static void
compile(regex_t *re, const char *text)
{
	if (regcomp(re, text, REG_EXTENDED) != 0)
		abort();
}

static bool
matches(const regex_t *re, const char *at, const char *end, regmatch_t *m)
{
	m[0].rm_so = 0;
	m[0].rm_eo = (regoff_t)(end - at);
	return regexec(re, at, 16, m, REG_STARTEND) == 0;
}

static bool
is_space(char c)
{
	return c == ' ' || c == '\t';
}

/*
 * Days and months stand in the first four words of a date, its half of the day
 * is the word of number half: no other word is one of these.
 */
static bool
has_good_zones(const char *p, const char *end, int half)
{
	static regex_t no_zone;
	regmatch_t m[16];
	const char *word;

	if (no_zone.re_nsub == 0)
		compile(&no_zone, NO_ZONE);
	for (int number = 1; p < end; number++) {
		while (is_space(*p))
			p++;
		for (word = p; p < end && !is_space(*p); p++)
			continue;
		if (number > 4 && number != half &&
		    matches(&no_zone, word, p, m))
			return false;
	}
	return true;
}

/* Is it "From SENDER Www Mmm dd hh:mm[:ss] [ZONE] YEAR" or so? */
static enum from
from_line(struct line line)
{
	static regex_t res[DATES], remote;
	const char *end = line.at + line.length;
	regmatch_t m[16];
	bool far = false;
	char text[1024];
	size_t i;

	if (line.length < 5 || memcmp(line.at, "From ", 5) != 0)
		return NOT_FROM;
	if (end[-1] == '\n')
		end--;
	if (end - line.at >= LONGEST_FROM)
		return NOT_FROM;
	if (end[-1] == '\r')
		end--;
	if (remote.re_nsub == 0) {
		compile(&remote, S "(remote)" S "from" S "[^ \t]+[ \t]*$");
		for (i = 0; i < DATES; i++) {
			snprintf(text, sizeof(text),
			    "^From ([^\n]*[ \t])?(%s)[ \t]*$", dates[i].date);
			compile(&res[i], text);
		}
	}
	if (matches(&remote, line.at, end, m)) {
		far = true;
		end = line.at + m[0].rm_so;
	}
	for (i = 0; i < DATES; i++) {
		if (!matches(&res[i], line.at, end, m))
			continue;
		if (!has_good_zones(line.at + m[2].rm_so,
		    line.at + m[2].rm_eo, dates[i].half))
			continue;
		return !far && dates[i].seconds != 0 &&
		    m[2 + dates[i].seconds].rm_so != -1 ? FROM_ANYWHERE :
		    FROM_AFTER_EMPTY;
	}
	return NOT_FROM;
}

static size_t
split(const char *box, size_t size, struct line *lines)
{
	size_t count = 0, start = 0;

	for (size_t i = 0; i < size; i++)
		if (box[i] == '\n' || i + 1 == size) {
			lines[count++] = (struct line){ box + start,
			    i + 1 - start };
			start = i + 1;
		}
	return count;
}

static bool
is_empty(struct line line)
{
	return (line.length == 1 && line.at[0] == '\n') ||
	    (line.length == 2 && memcmp(line.at, "\r\n", 2) == 0);
}

static bool
is_private(struct line line)
{
	for (size_t i = 0; i < 6; i++) {
		size_t length = strlen(private_names[i]);

		if (line.length > length && line.at[length] == ':' &&
		    strncasecmp(line.at, private_names[i], length) == 0)
			return true;
	}
	return false;
}

static size_t
octets_of(const char *text, size_t size)
{
	size_t octets = size;

	for (size_t i = 0; i < size; i++)
		if (text[i] == '\n' && (i == 0 || text[i - 1] != '\r'))
			octets++;
	return octets;
}

static bool
is_named(struct line line, const char *name)
{
	size_t length = strlen(name);

	return line.length > length && line.at[length] == ':' &&
	    strncasecmp(line.at, name, length) == 0;
}

/* popa3d's: facts of its own source, each in turn. */
static bool
makes_id(struct line line, bool received)
{
	if (is_named(line, "Delivered-To"))
		return true;
	if (is_named(line, "X-Delivery-ID") && line.at[0] == 'X')
		return true;
	return !received && (is_named(line, "Received") ||
	    is_named(line, "Date") || is_named(line, "Message-ID"));
}

/* It ends in "-" and digits. */
static bool
is_like_twin(const char *word, size_t length)
{
	static regex_t number;
	regmatch_t m[16];

	if (number.re_nsub == 0)
		compile(&number, "-([0-9]+)$");
	return matches(&number, word, word + length, m);
}

/* The one word of an X-UIDL line, if it may be an id: its length, or 0. */
static size_t
uidl_word(struct line line, const char **word)
{
	const char *p = line.at + strlen("X-UIDL:");
	const char *end = line.at + line.length;
	size_t length = 0;

	if (!is_named(line, "X-UIDL") || line.length > LONGEST_UIDL ||
	    end[-1] != '\n')
		return 0;
	while (end > p && (end[-1] == '\n' || end[-1] == '\r'))
		end--;
	while (end > p && is_space(end[-1]))
		end--;
	while (p < end && is_space(*p))
		p++;
	for (*word = p; p < end; p++, length++)
		if (*p < '!' || *p > '~')
			return 0;
	return length <= LONGEST_ID && !is_like_twin(*word, length) ? length :
	    0;
}

static void
print_id(char *id, MD5_CTX *md5)
{
	uint8_t d[16];

	MD5Final(d, md5);
	snprintf(id, 72, "%02x%02x%02x%02x%02x%02x%02x%02x", d[3], d[2], d[1],
	    d[0], d[7], d[6], d[5], d[4]);
}

/* All lines of the header but those that programs add; the body's beginning. */
static void
plain_id(struct ref_message *m, const struct line *lines, size_t count)
{
	bool left_out = false;
	const char *body, *end;
	MD5_CTX md5;
	size_t i;

	MD5Init(&md5);
	for (i = 1; i < count && !is_empty(lines[i]); i++) {
		if (!is_space(lines[i].at[0]))
			left_out = is_private(lines[i]) ||
			    is_named(lines[i], "Content-Length") ||
			    is_named(lines[i], "Lines") ||
			    is_named(lines[i], "X-UIDL");
		if (!left_out)
			MD5Update(&md5, (const uint8_t *)lines[i].at,
			    lines[i].length);
	}
	if (i < count) {
		body = lines[i].at + lines[i].length;
		end = lines[count - 1].at + lines[count - 1].length;
		if (end - body > BODY_IN_ID)
			end = body + BODY_IN_ID;
		while (end > body && (end[-1] == '\n' || end[-1] == '\r'))
			end--;
		MD5Update(&md5, (const uint8_t *)body, (size_t)(end - body));
	}
	print_id(m->id, &md5);
}

/* Of the message's lines, without its separator. */
static void
make_id(struct ref_message *m, const struct line *lines, size_t count)
{
	bool received = false, chosen = false, found = false;
	const char *word;
	size_t length;
	MD5_CTX md5;

	MD5Init(&md5);
	for (size_t i = 1; i < count && !is_empty(lines[i]); i++) {
		if (m->id[0] == '\0' &&
		    (length = uidl_word(lines[i], &word)) > 0)
			memcpy(m->id, word, length);
		if (!is_space(lines[i].at[0])) {
			chosen = makes_id(lines[i], received);
			if (is_named(lines[i], "Received"))
				received = true;
		}
		if (chosen) {
			MD5Update(&md5, (const uint8_t *)lines[i].at,
			    lines[i].length);
			found = true;
		}
	}
	if (m->id[0] != '\0')
		m->named = strlen(m->id) != 16 ||
		    strspn(m->id, "0123456789abcdef") != 16;
	else if (found)
		print_id(m->id, &md5);
	else
		plain_id(m, lines, count);
}

/* The message in lines[0] (its From_ line) to lines[count - 1]. */
static void
message(struct ref_message *m, const struct line *lines, size_t count,
    const char *box)
{
	struct line last = lines[count - 1];
	bool header = true, hiding = false;

	*m = (struct ref_message){ .start = (size_t)(lines->at - box),
	    .from = lines->length };
	if (count > 1 && is_empty(last)) {
		m->separator = last.length;
		count--;
	}
	m->text = malloc((size_t)(last.at + last.length - lines->at));
	if (m->text == NULL)
		abort();
	for (size_t i = 1; i < count; i++) {
		if (is_empty(lines[i]))
			header = false;
		hiding = header && (is_private(lines[i]) ||
		    (hiding && is_space(lines[i].at[0])));
		m->private |= hiding;
		if (hiding)
			continue;
		memcpy(m->text + m->size, lines[i].at, lines[i].length);
		m->size += lines[i].length;
	}
	make_id(m, lines, count);
	m->octets = octets_of(m->text, m->size);
	if (m->size > 0 && m->text[m->size - 1] != '\n')
		m->octets += 2;
}

/* c-client's pseudo message is no mail. */
static bool
is_pseudo(const struct line *lines, size_t count)
{
	static const char subject[] =
	    "Subject: DON'T DELETE THIS MESSAGE -- FOLDER INTERNAL DATA";
	bool imap = false, internal = false;

	for (size_t i = 1; i < count && !is_empty(lines[i]); i++) {
		if (lines[i].length >= 7 &&
		    strncasecmp(lines[i].at, "X-IMAP:", 7) == 0)
			imap = true;
		if (lines[i].length >= sizeof(subject) - 1 &&
		    strncasecmp(lines[i].at, subject, sizeof(subject) - 1) == 0)
			internal = true;
	}
	return imap && internal;
}

int
reference_scan(const char *box, size_t size, struct ref_maildrop *drop)
{
	size_t count = 1, start, next;
	struct line *lines;
	bool first = true;

	for (size_t i = 0; i < size; i++)
		count += box[i] == '\n';
	lines = calloc(count, sizeof(*lines));
	drop->messages = calloc(count, sizeof(*drop->messages));
	drop->count = 0;
	if (lines == NULL || drop->messages == NULL)
		abort();
	count = split(box, size, lines);
	for (start = 0; start < count && is_empty(lines[start]); start++)
		;
	if (start < count && from_line(lines[start]) == NOT_FROM) {
		free(lines);
		return -1;
	}
	for (; start < count; start = next) {
		for (next = start + 1; next < count; next++) {
			enum from from = from_line(lines[next]);

			if (from == FROM_ANYWHERE ||
			    (from == FROM_AFTER_EMPTY &&
			    is_empty(lines[next - 1])))
				break;
		}
		if (!first || !is_pseudo(lines + start, next - start))
			message(&drop->messages[drop->count++], lines + start,
			    next - start, box);
		first = false;
	}
	free(lines);
	return 0;
}

void
reference_id(const struct ref_maildrop *drop, size_t n, char *text)
{
	const struct ref_message *m = &drop->messages[n];
	unsigned int twin = 1;
	char suffix[16] = "";
	MD5_CTX md5;

	for (size_t i = 0; i < n; i++)
		if (drop->messages[i].named == m->named &&
		    strcmp(drop->messages[i].id, m->id) == 0)
			twin++;
	if (twin > 1)
		snprintf(suffix, sizeof(suffix), "-%u", twin);
	if (strlen(m->id) + strlen(suffix) <= LONGEST_ID)
		strcat(strcpy(text, m->id), suffix);
	else {
		MD5Init(&md5);
		MD5Update(&md5, (const uint8_t *)m->id, strlen(m->id));
		print_id(text, &md5);
		strcat(text, suffix);
	}
}

void
reference_free(struct ref_maildrop *drop)
{
	for (size_t i = 0; i < drop->count; i++)
		free(drop->messages[i].text);
	free(drop->messages);
}
