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
 * Any first line with -P: the session begins only behind a whole PROXY v1
 * header, and the client's address is the one in there.
 */

#include "inside.h"

enum verdict { NO_HEADER, UNKNOWN, ADDRESS };

static bool
is_number(const char *word, unsigned int most)
{
	unsigned int n = 0;

	if (*word == '\0')
		return false;
	for (; *word != '\0'; word++) {
		if (!isdigit((unsigned char)*word))
			return false;
		if (n <= most)
			n = n * 10 + (unsigned int)(*word - '0');
	}
	return n <= most;
}

/* HAProxy's proxy-protocol.txt, 2.1; a few more spaces do no harm. */
static enum verdict
reference(const char *data, size_t size, const char **address)
{
	static char line[PROXY_MAX_OCTETS + 1];
	const char *lf = memchr(data, '\n', size);
	char *word[7] = { NULL }, *rest = line, host[16];
	int n = 0, family;

	if (lf == NULL || lf + 1 - data > PROXY_MAX_OCTETS || lf == data ||
	    lf[-1] != '\r' || memchr(data, '\0', (size_t)(lf - data)) != NULL)
		return NO_HEADER;
	snprintf(line, sizeof(line), "%.*s", (int)(lf - 1 - data), data);
	if (strcmp(line, "PROXY UNKNOWN") == 0 ||
	    strncmp(line, "PROXY UNKNOWN ", 14) == 0)
		return UNKNOWN;
	while (n < 7 && (word[n] = strtok_r(rest, " ", &rest)) != NULL)
		n++;
	if (n != 6 || strcmp(word[0], "PROXY") != 0)
		return NO_HEADER;
	if (strcmp(word[1], "TCP4") == 0)
		family = AF_INET;
	else if (strcmp(word[1], "TCP6") == 0)
		family = AF_INET6;
	else
		return NO_HEADER;
	if (inet_pton(family, word[2], host) != 1 ||
	    inet_pton(family, word[3], host) != 1 ||
	    !is_number(word[4], 65535) || !is_number(word[5], 65535))
		return NO_HEADER;
	*address = word[2];
	if (strncasecmp(word[2], "::ffff:", 7) == 0 &&
	    inet_pton(AF_INET, word[2] + 7, host) == 1)
		*address = word[2] + 7;
	return ADDRESS;
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char *argv[] = { "pop3d", "-P", NULL };
	const char *address = NULL, *text = (const char *)data + 1;
	enum verdict verdict;

	if (size == 0)
		return 0;
	client.most = data[0];
	verdict = reference(text, size - 1, &address);
	serve_client(argv, text, size - 1);
	EQUAL(client.size > 0, verdict != NO_HEADER);
	if (verdict == ADDRESS)
		CHECK(strcmp(session.peer, address) == 0);
	else
		CHECK(strcmp(session.peer, "unknown") == 0);
	EQUAL(session.passwords, verdict == ADDRESS &&
	    (strncmp(address, "127.", 4) == 0 || strcmp(address, "::1") == 0));
	return 0;
}
