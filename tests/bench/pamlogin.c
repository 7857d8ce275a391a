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
 * pamlogin service user
 *
 * The floor under every session: ask PAM whether the line on stdin is the
 * user's password and the account is good, with the calls that pop3d makes,
 * and answer +OK or -ERR.
 */

#include <security/pam_appl.h>

#include <err.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static char password[512];

static int
converse(int count, const struct pam_message **messages,
    struct pam_response **replies, void *unused)
{
	(void)unused;
	if (count != 1 || messages[0]->msg_style != PAM_PROMPT_ECHO_OFF)
		return PAM_CONV_ERR;
	if ((*replies = calloc(1, sizeof(**replies))) == NULL)
		return PAM_BUF_ERR;
	(*replies)->resp = strdup(password);
	return PAM_SUCCESS;
}

int
main(int argc, char *argv[])
{
	struct pam_conv conv = { converse, NULL };
	pam_handle_t *pam;
	int ok;

	if (argc != 3)
		errx(64, "usage: pamlogin service user");
	if (read(0, password, sizeof(password) - 1) <= 0)
		return 1;
	password[strcspn(password, "\r\n")] = '\0';
	if (pam_start(argv[1], argv[2], &conv, &pam) != PAM_SUCCESS)
		return 1;
	ok = pam_set_item(pam, PAM_RHOST, "127.0.0.1") == PAM_SUCCESS &&
	    pam_set_item(pam, PAM_TTY, "pop3") == PAM_SUCCESS &&
	    pam_authenticate(pam, PAM_SILENT | PAM_DISALLOW_NULL_AUTHTOK) ==
	    PAM_SUCCESS && pam_acct_mgmt(pam, PAM_SILENT) == PAM_SUCCESS;
	pam_end(pam, PAM_SUCCESS);
	return write(1, ok ? "+OK\r\n" : "-ERR\r\n", ok ? 5 : 6) <= 0 || !ok;
}
