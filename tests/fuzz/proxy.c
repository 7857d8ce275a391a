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

/* Zeros in front do no harm. */
static bool
is_port(const char *word)
{
	return word[strspn(word, "0123456789")] == '\0' &&
	    strtod(word, NULL) <= 65535;
}

/* HAProxy's proxy-protocol.txt, 2.1. */
static enum verdict
reference(const char *data, size_t size, const char **address)
{
	static char line[PROXY_MAX_OCTETS + 1];
	const char *lf = memchr(data, '\n', size);
	char word[5][PROXY_MAX_OCTETS], again[6 * PROXY_MAX_OCTETS], host[16];
	int family;

	if (lf == NULL || lf + 1 - data > PROXY_MAX_OCTETS || lf == data ||
	    lf[-1] != '\r' || memchr(data, '\0', (size_t)(lf - data)) != NULL)
		return NO_HEADER;
	snprintf(line, sizeof(line), "%.*s", (int)(lf - 1 - data), data);
	if (strcmp(line, "PROXY UNKNOWN") == 0 ||
	    strncmp(line, "PROXY UNKNOWN ", 14) == 0)
		return UNKNOWN;
	/* What sscanf() reads must be all that there is. */
	if (sscanf(line, "PROXY %[^ ] %[^ ] %[^ ] %[^ ] %[^ ]", word[0],
	    word[1], word[2], word[3], word[4]) != 5)
		return NO_HEADER;
	snprintf(again, sizeof(again), "PROXY %s %s %s %s %s", word[0],
	    word[1], word[2], word[3], word[4]);
	if (strcmp(line, again) != 0 || !is_port(word[3]) ||
	    !is_port(word[4]))
		return NO_HEADER;
	for (int i = 1; i < 3; i++)	/* no zone */
		if (strchr(word[i], '%') != NULL)
			*strchr(word[i], '%') = '\0';
	family = strcmp(word[0], "TCP4") == 0 ? AF_INET :
	    strcmp(word[0], "TCP6") == 0 ? AF_INET6 : AF_UNSPEC;
	if (family == AF_UNSPEC || inet_pton(family, word[1], host) != 1 ||
	    inet_pton(family, word[2], host) != 1)
		return NO_HEADER;
	snprintf(line, sizeof(line), "%s", word[1]);
	*address = line;
	if (strncasecmp(line, "::ffff:", 7) == 0 &&
	    inet_pton(AF_INET, line + 7, host) == 1)
		*address = line + 7;
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
	client.address = "::1";		/* of the proxy, and no longer so */
	verdict = reference(text, size - 1, &address);
	serve_client(argv, text, size - 1);
	EQUAL(client.size > 0, verdict != NO_HEADER);
	if (verdict == ADDRESS)
		CHECK(strcmp(session.peer, address) == 0);
	if (verdict == UNKNOWN)
		CHECK(strcmp(session.peer, "unknown") == 0);
	EQUAL(session.passwords, verdict == ADDRESS &&
	    (strncmp(address, "127.", 4) == 0 || strcmp(address, "::1") == 0));
	return 0;
}
