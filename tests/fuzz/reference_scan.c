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


#include <ctype.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "reference_scan.h"

#define LONGEST_FROM	1024	/* with its newline */
#define MOST_WORDS	1024	/* that such a line can have */

struct line {
	const char	*at;
	size_t		 length;	/* with its newline */
};

struct word {
	const char	*at;
	size_t		 length;
};

enum from { NOT_FROM, FROM_AFTER_EMPTY, FROM_ANYWHERE };

static const char *const private_names[] = {
	"Status", "X-Status", "X-Keywords", "X-UID", "X-IMAP", "X-IMAPbase"
};

/* A word is like "dd:dd": d stands for a digit, a for a letter. */
static bool
like(struct word word, const char *pattern)
{
	if (word.length != strlen(pattern))
		return false;
	for (size_t i = 0; i < word.length; i++) {
		unsigned char c = (unsigned char)word.at[i];

		if (pattern[i] == 'd' ? !isdigit(c) :
		    pattern[i] == 'a' ? !isalpha(c) : c != pattern[i])
			return false;
	}
	return true;
}

static bool
one_of(struct word word, const char *names)
{
	for (; *names != '\0'; names += 3)
		if (word.length == 3 && memcmp(word.at, names, 3) == 0)
			return true;
	return false;
}

static bool
is_space(char c)
{
	return c == ' ' || c == '\t';
}

static bool
is_zone(struct word word)
{
	return like(word, "+dddd") || like(word, "-dddd") ||
	    like(word, "a") || like(word, "aa") || like(word, "aaa") ||
	    like(word, "aaaa") || like(word, "aaaaa");
}

static bool
is_date(const struct word *word, bool *seconds)
{
	*seconds = like(word[3], "dd:dd:dd");
	return one_of(word[0], "SunMonTueWedThuFriSat") &&
	    one_of(word[1], "JanFebMarAprMayJunJulAugSepOctNovDec") &&
	    (like(word[2], "d") || like(word[2], "dd")) &&
	    (*seconds || like(word[3], "dd:dd"));
}

static bool
is_word(struct word word, const char *string)
{
	return word.length == strlen(string) &&
	    memcmp(word.at, string, word.length) == 0;
}

/* Is it "From SENDER Www Mmm dd hh:mm[:ss] [ZONE] YEAR" or so? */
static enum from
from_line(struct line line)
{
	struct word words[MOST_WORDS];
	size_t n = 0, at, end = line.length;
	bool remote, seconds;

	if (end < 5 || memcmp(line.at, "From ", 5) != 0)
		return NOT_FROM;
	if (line.at[end - 1] == '\n')
		end--;
	if (end >= LONGEST_FROM)
		return NOT_FROM;
	if (line.at[end - 1] == '\r')
		end--;
	for (at = 5; at < end; ) {
		size_t start = at;

		while (at < end && !is_space(line.at[at]))
			at++;
		if (at > start)
			words[n++] = (struct word){ line.at + start,
			    at - start };
		else
			at++;
	}

	remote = n > 3 && is_word(words[n - 3], "remote") &&
	    is_word(words[n - 2], "from");
	if (remote)
		n -= 3;
	if (n > 2 && is_zone(words[n - 1]) && like(words[n - 2], "dddd"))
		n -= 2;
	else if (n > 2 && like(words[n - 1], "dddd") && is_zone(words[n - 2]))
		n -= 2;
	else if (n > 1 && like(words[n - 1], "dddd"))
		n -= 1;
	else
		return NOT_FROM;
	if (n < 5 || !is_date(words + n - 4, &seconds))
		return NOT_FROM;
	return seconds && !remote ? FROM_ANYWHERE : FROM_AFTER_EMPTY;
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
	struct line *lines = calloc(size + 1, sizeof(*lines));
	size_t count, start, next;
	bool first = true;

	drop->messages = calloc(size / 5 + 1, sizeof(*drop->messages));
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
reference_free(struct ref_maildrop *drop)
{
	for (size_t i = 0; i < drop->count; i++)
		free(drop->messages[i].text);
	free(drop->messages);
}
